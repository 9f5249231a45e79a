//! `DynaRust status`: whether a running node serves, and its figures. Also what a container's health check runs, so its
//! exit code says it all: 0 ready, 1 up but not ready, 5 nobody there.

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use super::{Exit, output};
use crate::{
    client::{Answer, Client, Unreachable},
    config::kinds::{Address, Kind},
    error::{Error, Result},
};

/// Which node to ask, and how to print its answer.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The node's address
    #[arg(value_name = "ADDRESS", default_value = "127.0.0.1:6660", value_parser = parse_address)]
    address: Address,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_address(text: &str) -> std::result::Result<Address, String> {
    Address::parse(text)
}

/// Asks a node how it is, and prints that.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::io("cannot start the runtime", &error))?;
    let address = arguments.address.as_str();
    match runtime.block_on(ask(address)) {
        Ok(status) => {
            output::print(&if arguments.json { status.to_json(address) } else { status.to_text(address) })?;
            Ok(if status.ready { Exit::Success } else { Exit::Failure })
        }
        Err(unreachable) => {
            eprintln!("DynaRust: {unreachable}");
            Ok(Exit::Unreachable)
        }
    }
}

/// What a node says of itself.
struct Status {
    ready: bool,
    readiness: Map<String, Value>,
    stats: Map<String, Value>,
}

async fn ask(address: &str) -> std::result::Result<Status, Unreachable> {
    let mut client = Client::connect(address).await?;
    let readiness = client.get("/readyz").await?;
    let ready = match readiness.status {
        StatusCode::OK => true,
        StatusCode::SERVICE_UNAVAILABLE => false,
        // Another program's port, or one that wants HTTPS.
        status => {
            let why = members(&readiness).get("detail").map(describe).unwrap_or_default();
            return Err(Unreachable(format!("{address} answers, but not as a node does: {status} {why}")));
        }
    };
    Ok(Status { ready, readiness: members(&readiness), stats: members(&client.get("/stats").await?) })
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
        });
        format!("{status:#}\n")
    }

    fn to_text(&self, address: &str) -> String {
        let mut rows = vec![("asked".to_owned(), address.to_owned())];
        for members in [&self.readiness, &self.stats] {
            rows.extend(members.iter().map(|(name, value)| (name.clone(), describe(value))));
        }
        output::table(&rows)
    }
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
        };
        assert_eq!(
            status.to_text("127.0.0.1:6660"),
            "asked   127.0.0.1:6660\nphase   ready\nnode    3f2a\ntables  1\nwrites  12\n"
        );
        let json: Value = serde_json::from_str(&status.to_json("127.0.0.1:6660")).expect("JSON");
        assert_eq!((&json["ready"], &json["stats"]["writes"]), (&json!(true), &json!(12)));
    }
}
