//! `DynaRust status`: whether a running node serves, and its figures. Also what a container's health check runs, so its
//! exit code says it all: 0 ready, 1 up but not ready, 5 nobody there.

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    Exit,
    members::span,
    output,
    remote::{self, Refusal, Target},
};
use crate::{
    client::{Answer, Client, Endpoint, Unreachable},
    error::Result,
};

/// Which node to ask, and how to print its answer.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
}

/// Asks a node how it is, and prints that.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let node = arguments.target.endpoint()?;
    remote::converse(async {
        let status = ask(&node).await.map_err(Refusal::from)?;
        let exit = if status.ready { Exit::Success } else { Exit::Failure };
        let address = node.to_string();
        Ok((exit, if arguments.target.json { status.to_json(&address) } else { status.to_text(&address) }))
    })
}

/// What a node says of itself.
struct Status {
    ready: bool,
    readiness: Map<String, Value>,
    stats: Map<String, Value>,
    cluster: Map<String, Value>,
}

async fn ask(node: &Endpoint) -> std::result::Result<Status, Unreachable> {
    let mut client = Client::connect(node).await?;
    let readiness = client.get("/readyz").await?;
    let ready = match readiness.status {
        StatusCode::OK => true,
        StatusCode::SERVICE_UNAVAILABLE => false,
        _ => return Err(remote::foreign(node, &readiness)),
    };
    let stats = members(&client.get("/stats").await?);
    let cluster = members(&client.get("/_/cluster").await?);
    Ok(Status { ready, readiness: members(&readiness), stats, cluster })
}

/// The members of an answer that is a JSON object; none of another.
fn members(answer: &Answer) -> Map<String, Value> {
    serde_json::from_slice(&answer.body).unwrap_or_default()
}

impl Status {
    fn to_json(&self, address: &str) -> String {
        let status = json!({
            "address": address,
            "ready": self.ready,
            "readiness": self.readiness,
            "stats": self.stats,
            "cluster": self.cluster,
        });
        format!("{status:#}\n")
    }

    fn to_text(&self, address: &str) -> String {
        let mut rows = vec![("asked".to_owned(), address.to_owned())];
        let listed = |members: &Map<String, Value>| -> Vec<_> {
            members.iter().map(|(name, value)| (name.clone(), describe(value))).collect()
        };
        rows.extend(listed(&self.readiness));
        rows.extend(summary(&self.cluster));
        rows.extend(listed(&self.stats));
        output::table(&rows)
    }
}

/// The cluster in two lines: how many members are how, and how far the furthest of those that count is behind.
fn summary(cluster: &Map<String, Value>) -> Vec<(String, String)> {
    let Some(members) = cluster.get("members").and_then(Value::as_array) else { return Vec::new() };
    let state = |member: &Value| member["state"].as_str().unwrap_or_default().to_owned();
    let counted: Vec<_> =
        members.iter().filter(|member| !matches!(state(member).as_str(), "left" | "forgotten")).collect();
    let mut text = counted.len().to_string();
    let peers = |wanted: &str| counted.iter().filter(|member| state(member) == wanted).count();
    let states = ["alive", "suspect", "down"].map(|name| (name, peers(name)));
    let states: Vec<_> = states.iter().filter(|(_, count)| *count > 0).collect();
    if !states.is_empty() {
        let states: Vec<_> = states.iter().map(|(name, count)| format!("{count} {name}")).collect();
        text.push_str(&format!(" (this one, {})", states.join(", ")));
    }
    let mut rows = vec![("members".to_owned(), text)];
    let lag = counted.iter().filter_map(|member| member["lag_ms"].as_u64()).max();
    rows.extend(lag.map(|lag_ms| ("lag".to_owned(), span(lag_ms))));
    rows
}

/// A value in a line: a text without its quotes, a list by its length.
fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.len().to_string(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_a_line_each() {
        let object = |value: Value| value.as_object().cloned().expect("an object");
        let status = Status {
            ready: true,
            readiness: object(json!({ "phase": "ready" })),
            stats: object(json!({ "node": "3f2a", "tables": [{ "name": "users" }], "writes": 12 })),
            cluster: object(json!({ "members": [
                { "state": "self" },
                { "state": "alive", "lag_ms": 2000 },
                { "state": "down", "lag_ms": 61_000 },
                { "state": "left", "lag_ms": 90_000 },
            ] })),
        };
        assert_eq!(
            status.to_text("127.0.0.1:6660"),
            "asked    127.0.0.1:6660\nphase    ready\nmembers  3 (this one, 1 alive, 1 down)\nlag      1m 1s\nnode     3f2a\n\
             tables   1\nwrites   12\n"
        );
        let json: Value = serde_json::from_str(&status.to_json("127.0.0.1:6660")).expect("JSON");
        assert_eq!(json["cluster"]["members"][0]["state"], "self");
        assert_eq!((&json["ready"], &json["stats"]["writes"]), (&json!(true), &json!(12)));
    }
}
