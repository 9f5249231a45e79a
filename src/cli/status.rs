//! `DynaRust status`: whether a running node is ready, and its figures. The exit code is 0 if it is ready, 1 if it runs but is not ready,
//! and 5 if no node answers.

use std::time::{Duration, Instant};

use dynarust_client::{Answer, Client, Error as ClientError, Method, StatusCode};
use serde_json::{Map, Value, json};

use super::{
    Exit,
    members::{format_span, sync_state},
    output,
    remote::{self, CommandError, Target},
};
use crate::error::Result;

/// The time over which rates are measured.
const RATE_PERIOD: Duration = Duration::from_secs(1);

/// Counters that are shown with a rate.
const RATES: [&str; 3] = ["writes", "commits", "changes"];

/// Counters of rare events and errors, by their label and JSON name. Shown only if they are not zero.
const RARE_COUNTERS: [(&str, &str); 8] = [
    ("writes refused", "writes_refused"),
    ("writes superseded", "writes_superseded"),
    ("expired", "expired"),
    ("resyncs", "resyncs"),
    ("corrupt records", "corrupt_records"),
    ("unreadable ranges", "unreadable_ranges"),
    ("damaged frames", "damaged_frames"),
    ("deleted rows refused", "zombies_refused"),
];

/// Which node to ask, and how to print its answer.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
}

/// Gets the status of a node, and prints it.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let node = arguments.target.client()?;
    let is_json = arguments.target.json;
    remote::run_command(async {
        let status = fetch(&node, !is_json).await.map_err(CommandError::from)?;
        let exit = if status.ready { Exit::Success } else { Exit::Failure };
        let address = node.current_endpoint().to_string();
        Ok((exit, if is_json { status.to_json(&address) } else { status.to_text(&address) }))
    })
}

/// What a node reports about itself.
struct Status {
    ready: bool,
    readiness: Map<String, Value>,
    stats: Map<String, Value>,
    cluster: Map<String, Value>,
    /// The figures of the first request, and the time since then.
    before: Option<(Map<String, Value>, Duration)>,
}

/// Gets all figures; for rates, gets the counters twice.
async fn fetch(node: &Client, with_rates: bool) -> std::result::Result<Status, ClientError> {
    let get = |path: &'static str| {
        node.request(Method::GET, path).timeout(remote::TIMEOUT).without_failover().send()
    };
    let readiness = get("/readyz").await?;
    let ready = match readiness.status {
        StatusCode::OK => true,
        StatusCode::SERVICE_UNAVAILABLE => false,
        _ => return Err(refusal(readiness)),
    };
    let mut stats = members(&get("/stats").await?);
    let mut before = None;
    if with_rates {
        let started = Instant::now();
        tokio::time::sleep(RATE_PERIOD).await;
        let later = members(&get("/stats").await?);
        before = Some((std::mem::replace(&mut stats, later), started.elapsed()));
    }
    let cluster = members(&get("/_/cluster").await?);
    Ok(Status { ready, readiness: members(&readiness), stats, cluster, before })
}

/// The error for an answer that is neither ready nor not.
fn refusal(answer: Answer) -> ClientError {
    let other = answer.not_a_node();
    answer.success().err().unwrap_or(other)
}

/// The JSON object of a response; empty if it is none.
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
        let count = |name: &str| self.stats.get(name).and_then(Value::as_u64);
        let text = |name: &str| self.stats.get(name).and_then(Value::as_str).map(str::to_owned);
        let mut rows = vec![("asked", Some(address.to_owned()))];
        rows.extend(self.readiness.iter().map(|(name, value)| (name.as_str(), Some(describe(value)))));
        rows.extend([
            ("node", text("node")),
            ("version", text("version")),
            ("uptime", count("uptime_ms").map(format_span)),
            ("memory", count("memory_bytes").map(format_bytes)),
            ("disk", count("disk_bytes").map(format_bytes)),
        ]);
        rows.extend(summary(&self.cluster));
        let tables = self.stats.get("tables").and_then(Value::as_array).map(Vec::len);
        rows.push(("tables", tables.map(|tables| tables.to_string())));
        rows.push(("keys", count("keys").map(|keys| keys.to_string())));
        rows.push(("subscriptions", count("subscriptions").map(|open| open.to_string())));
        rows.extend(RATES.map(|name| (name, count(name).map(|now| self.with_rate(name, now)))));
        let seldom = |name: &str| count(name).or_else(|| self.cluster.get(name).and_then(Value::as_u64));
        rows.extend(RARE_COUNTERS.map(|(shown, name)| {
            (shown, seldom(name).filter(|count| *count > 0).map(|count| count.to_string()))
        }));
        let known: Vec<_> = rows.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        output::table(&known)
    }

    /// A counter, with its increase per second.
    fn with_rate(&self, name: &str, now: u64) -> String {
        let earlier = self.before.as_ref();
        let earlier = earlier.and_then(|(stats, ago)| Some((stats.get(name)?.as_u64()?, ago.as_secs_f64())));
        match earlier {
            Some((before, seconds)) => {
                format!("{now} ({:.0}/s)", now.saturating_sub(before) as f64 / seconds)
            }
            None => now.to_string(),
        }
    }
}

/// The cluster in two lines: the number of members by state, and how far the last of the present ones is behind.
fn summary(cluster: &Map<String, Value>) -> Vec<(&'static str, Option<String>)> {
    let Some(members) = cluster.get("members").and_then(Value::as_array) else { return Vec::new() };
    let state = |member: &Value| member["state"].as_str().unwrap_or_default().to_owned();
    let counted = |wanted: &str| members.iter().filter(|member| state(member) == wanted).count();
    let states = ["alive", "suspect", "down", "left"].map(|name| (name, counted(name)));
    let present: usize = states.iter().filter(|(name, _)| *name != "left").map(|(_, count)| count).sum();
    let states: Vec<_> = states.iter().filter(|(_, count)| *count > 0).collect();
    let mut text = (present + counted("self")).to_string();
    if !states.is_empty() {
        let states: Vec<_> = states.iter().map(|(name, count)| format!("{count} {name}")).collect();
        text.push_str(&format!(" (this one, {})", states.join(", ")));
    }
    let here = members
        .iter()
        .filter_map(Value::as_object)
        .filter(|member| matches!(member.get("state").and_then(Value::as_str), Some("alive" | "suspect")));
    let furthest = here.max_by_key(|member| member.get("lag_ms").and_then(Value::as_u64).unwrap_or(u64::MAX));
    vec![("members", Some(text)), ("data", furthest.map(sync_state))]
}

/// A number of bytes in a readable unit.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scaled = bytes as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    match bytes {
        0..1024 => format!("{bytes} B"),
        _ => format!("{scaled:.1} {}", UNITS[unit]),
    }
}

/// A value in one line: a string without quotes, an array as its length.
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

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("an object")
    }

    fn status() -> Status {
        Status {
            ready: true,
            readiness: object(json!({ "phase": "ready" })),
            stats: object(json!({
                "node": "3f2a", "uptime_ms": 3_723_000, "memory_bytes": 35_861_299, "disk_bytes": 512,
                "tables": [{ "name": "users" }], "keys": 7, "writes": 12, "resyncs": 0, "corrupt_records": 1
            })),
            cluster: object(json!({ "members": [
                { "state": "self" },
                { "state": "alive", "lag_ms": 2000 },
                { "state": "alive", "lag_ms": 3000 },
                { "state": "down", "lag_ms": 61_000 },
                { "state": "left", "lag_ms": 90_000 },
            ] })),
            before: Some((object(json!({ "writes": 2 })), Duration::from_millis(2000))),
        }
    }

    #[test]
    fn figures_have_a_line_each_and_rare_counters_are_shown_if_not_zero() {
        assert_eq!(
            status().to_text("127.0.0.1:6660"),
            "asked            127.0.0.1:6660\nphase            ready\nnode             3f2a\nuptime           1h 2m\n\
             memory           34.2 MiB\ndisk             512 B\nmembers          4 (this one, 2 alive, 1 down, 1 left)\n\
             data             in step 3 s ago\ntables           1\nkeys             7\nwrites           12 (5/s)\n\
             corrupt records  1\n"
        );
    }

    #[test]
    fn json_has_everything_that_the_node_reports() {
        let json: Value = serde_json::from_str(&status().to_json("127.0.0.1:6660")).expect("JSON");
        assert_eq!(json["cluster"]["members"][0]["state"], "self");
        assert_eq!((&json["ready"], &json["stats"]["writes"]), (&json!(true), &json!(12)));
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (35_861_299, "34.2 MiB"), (3 << 40, "3.0 TiB")]
        {
            assert_eq!(format_bytes(bytes), text);
        }
    }
}
