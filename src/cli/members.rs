//! `DynaRust members`: the members of a cluster as a running node sees them, a line each.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    Exit, output,
    remote::{self, Target},
};
use crate::error::Result;

const HEAD: [&str; 9] =
    ["NODE", "ADDRESS", "STATE", "ROUND TRIP", "CLOCK", "ROWS", "LAG", "OUTBOX", "LAST ROUND"];
/// What stands where nothing is known.
const UNKNOWN: &str = "-";

/// Which node to ask.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
}

/// Asks a node for its cluster, and prints the members.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let node = arguments.target.endpoint()?;
    remote::converse(async {
        let cluster = remote::look(&node, "/_/cluster").await?;
        let members = cluster.get("members").and_then(Value::as_array).cloned().unwrap_or_default();
        let text =
            if arguments.target.json { format!("{:#}\n", Value::from(members)) } else { to_text(&members) };
        Ok((Exit::Success, text))
    })
}

fn to_text(members: &[Value]) -> String {
    let head = HEAD.map(str::to_owned).to_vec();
    let rows = members.iter().filter_map(Value::as_object).map(row);
    output::columns(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

fn row(member: &Map<String, Value>) -> Vec<String> {
    let text = |name: &str| member.get(name).and_then(Value::as_str).unwrap_or(UNKNOWN).to_owned();
    let count = |name: &str| member.get(name).and_then(Value::as_u64);
    let counted = |name: &str| count(name).map_or(UNKNOWN.into(), |count| count.to_string());
    let round_trip = member.get("round_trip_ms").and_then(Value::as_f64);
    let offset = member.get("clock_offset_ms").and_then(Value::as_i64);
    // Nothing waits to be sent to the node itself.
    let is_self = member.get("state").and_then(Value::as_str) == Some("self");
    vec![
        text("node"),
        text("address"),
        state(member),
        round_trip.map_or(UNKNOWN.into(), |milliseconds| format!("{milliseconds:.1}ms")),
        offset.map_or(UNKNOWN.into(), |milliseconds| format!("{milliseconds:+}ms")),
        counted("rows"),
        count("lag_ms").map_or(UNKNOWN.into(), span),
        if is_self { UNKNOWN.into() } else { counted("outbox") },
        count("last_round_ms").map_or(UNKNOWN.into(), |age_ms| format!("{} ago", span(age_ms))),
    ]
}

/// How it is, and which way no rows go.
fn state(member: &Map<String, Value>) -> String {
    let mut state = member.get("state").and_then(Value::as_str).unwrap_or(UNKNOWN).to_owned();
    for (name, what) in [("storage_full", ", takes no rows"), ("rows_refused", ", rows refused")] {
        if matches!(member.get(name), Some(Value::String(_))) {
            state.push_str(what);
        }
    }
    state
}

/// A time in a line: to a tenth of a second, and from a minute on in its two largest units.
pub fn span(milliseconds: u64) -> String {
    if milliseconds < 60_000 {
        return format!("{}.{}s", milliseconds / 1000, milliseconds % 1000 / 100);
    }
    let text = humantime::format_duration(Duration::from_secs(milliseconds / 1000)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_a_line_each_and_what_is_not_known_is_a_dash() {
        let text = to_text(&[
            json!({
                "node": "00000000000000ab", "address": "a:1", "state": "self", "rows": 12, "outbox": 0, "storage_full": null
            }),
            json!({
                "node": "00000000000000cd", "address": "b:1", "state": "alive", "round_trip_ms": 0.42, "clock_offset_ms": -3,
                "rows": 11, "lag_ms": 2100, "outbox": 4, "last_round_ms": 200, "a field of tomorrow": 1
            }),
            json!({ "node": "00000000000000ef", "address": "c:1", "state": "alive", "storage_full": "no space" }),
        ]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[1], ["00000000000000ab", "a:1", "self", "-", "-", "12", "-", "-", "-"]);
        assert_eq!(
            lines[2],
            ["00000000000000cd", "b:1", "alive", "0.4ms", "-3ms", "11", "2.1s", "4", "0.2s", "ago"]
        );
        assert_eq!(lines[3][2..6], ["alive,", "takes", "no", "rows"]);
    }

    #[test]
    fn spans_are_short() {
        for (milliseconds, text) in
            [(0, "0.0s"), (999, "0.9s"), (59_999, "59.9s"), (61_000, "1m 1s"), (3_723_000, "1h 2m")]
        {
            assert_eq!(span(milliseconds), text);
        }
    }
}
