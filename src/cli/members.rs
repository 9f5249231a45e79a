//! `DynaRust members`: the members of a cluster as a running node sees them, one a line, and below them the group of the strong tables, if
//! there is one.

use std::time::Duration;

use dynarust_client::Client;
use futures_util::future::join_all;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::{
    Exit,
    connection::parse_address,
    output,
    remote::{self, Target},
};
use crate::error::Result;

const HEADERS: [&str; 9] =
    ["NODE", "ADDRESS", "STATE", "DATA", "KEYS", "ROWS", "TO SEND", "ROUND TRIP", "CLOCK"];
/// Shown if a value is not known.
const UNKNOWN: &str = "-";
/// Members compare their data once a second, as of two seconds ago. A member that was last equal longer ago than this is behind.
const IN_STEP_MS: u64 = 10_000;
/// How long to wait for what another member says of itself. It is left out for a member that this command cannot reach.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(1);

/// Which node to ask.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "DATA: when the member last held the same as the node that is asked. KEYS: as the member itself reports. ROWS: keys and \
                        tombstones, which mark deleted keys. TO SEND: rows that wait to be sent to it. CLOCK: how far its clock is ahead. \
                  STRONG TABLES: the voters and learners of their log, and how many entries each is behind; whom an operator demoted."
)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
}

/// Gets the members from a node, and prints them.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let node = arguments.target.client()?;
    remote::run_command(async {
        let cluster = remote::get(&node, "/_/cluster").await?;
        let members = cluster.get("members").and_then(Value::as_array).cloned().unwrap_or_default();
        if arguments.target.json {
            return Ok((Exit::Success, format!("{:#}\n", Value::from(members))));
        }
        let keys = join_all(members.iter().map(|member| keys(arguments, &node, member))).await;
        let group = group(arguments, &node, &cluster).await;
        Ok((
            Exit::Success,
            to_text(&members, &keys)
                + &group.as_ref().map(group_to_text).unwrap_or_default()
                + &cluster.get("strong_etcd").map(etcd_to_text).unwrap_or_default()
                + &failure_to_text(&cluster),
        ))
    })
}

/// The number of keys that a member reports; `None` if this command cannot reach it.
async fn keys(arguments: &Arguments, asked: &Client, member: &Value) -> Option<u64> {
    let client = match member["state"].as_str()? {
        "self" => asked.clone(),
        "alive" => client_of(arguments, asked, member)?,
        _ => return None,
    };
    let stats = timeout(MEMBER_TIMEOUT, remote::get(&client, "/stats")).await.ok()?.ok()?;
    // By now, or as seen from here, another node may have the address.
    let is_member = stats.get("node") == member.get("node");
    stats.get("keys").and_then(Value::as_u64).filter(|_| is_member)
}

/// How to connect to a member other than the node that is asked.
fn client_of(arguments: &Arguments, asked: &Client, member: &Value) -> Option<Client> {
    let address = member["address"].as_str()?;
    let scheme = if asked.current_endpoint().is_encrypted() { "https" } else { "http" };
    let address = parse_address(&format!("{scheme}://{address}")).ok()?;
    arguments.target.client_of_member(&address).ok()
}

/// The group as its leader sees it, because only the leader knows how far the others are; as the node that is asked sees it, if this
/// command cannot reach the leader. `None` while the group is asleep.
async fn group(arguments: &Arguments, asked: &Client, cluster: &Map<String, Value>) -> Option<Value> {
    let group = cluster.get("strong").filter(|group| group.is_object())?;
    if group["leads"] == true {
        return Some(group.clone());
    }
    let of_leader = async {
        let client = client_of(arguments, asked, &group["leader"])?;
        let cluster = timeout(MEMBER_TIMEOUT, remote::get(&client, "/_/cluster")).await.ok()?.ok()?;
        // By now, another node may lead or have the address.
        cluster.get("strong").filter(|seen| seen["leads"] == true && seen["group"] == group["group"]).cloned()
    };
    Some(of_leader.await.unwrap_or_else(|| group.clone()))
}

fn group_to_text(group: &Value) -> String {
    let count = |name: &str| group[name].as_u64().unwrap_or_default();
    let named = |member: &Value| match (member["address"].as_str(), member["node"].as_str()) {
        (Some(address), _) => address.to_owned(),
        (None, node) => node.unwrap_or(UNKNOWN).to_owned(),
    };
    let log_index = count("log_index");
    let matched = |member: &Value| match member["matched_index"].as_u64() {
        _ if member["differs"] == true => format!("{} (HAS OTHER ROWS: please report this)", named(member)),
        Some(matched) if matched < log_index => {
            format!("{} (behind by {})", named(member), log_index - matched)
        }
        Some(_) | None => named(member),
    };
    let list = |name: &str| {
        let members = group[name].as_array().cloned().unwrap_or_default();
        let demoted = |member: &Value| if member["demoted"] == true { " (demoted)" } else { "" };
        let members: Vec<_> = members.iter().map(|member| matched(member) + demoted(member)).collect();
        if members.is_empty() { UNKNOWN.to_owned() } else { members.join(", ") }
    };
    let leader = if group["leader"].is_object() { named(&group["leader"]) } else { "none known".into() };
    let rows = [
        ("STRONG TABLES", format!("group {}", group["group"].as_str().unwrap_or(UNKNOWN))),
        ("leader", format!("{leader}, term {}", count("term"))),
        ("voters", list("voters")),
        ("learners", list("learners")),
        ("log", format!("{log_index} entries, {} applied there", count("applied_index"))),
    ];
    let mut rows = rows.map(|(name, text)| vec![name.to_owned(), text]).to_vec();
    let foreign = group["foreign"].as_array().cloned().unwrap_or_default();
    rows.extend(foreign.iter().map(|member| {
        let why = "belongs to another group, which cannot be merged with this one";
        vec!["not taken in".to_owned(), format!("{} {why}", named(member))]
    }));
    format!("\n{}", output::columns(&rows))
}

/// The etcd that keeps the strong tables, if one does.
fn etcd_to_text(etcd: &Value) -> String {
    let Some(endpoints) = etcd["endpoints"].as_array() else { return String::new() };
    let endpoints: Vec<_> = endpoints.iter().filter_map(Value::as_str).collect();
    let count = |name: &str| etcd[name].as_u64().unwrap_or_default();
    let answers = if etcd["answers"] == true { "answers" } else { "does not answer" };
    let (applied, known) = (count("applied_revision"), count("known_revision"));
    let rows = [
        ("STRONG TABLES", format!("etcd at {}, {answers}", endpoints.join(", "))),
        ("keys", format!("{}*", etcd["prefix"].as_str().unwrap_or(UNKNOWN))),
        ("revision", format!("{applied} applied there, {known} known")),
    ];
    let rows = rows.map(|(name, text)| vec![name.to_owned(), text]);
    format!("\n{}", output::columns(&rows))
}

/// Why the node that was asked serves no strong tables, if it does not.
fn failure_to_text(cluster: &Map<String, Value>) -> String {
    let failure = cluster.get("strong_failure").and_then(Value::as_str);
    failure.map(|why| format!("\nSTRONG TABLES  {why}\n")).unwrap_or_default()
}

fn to_text(members: &[Value], keys: &[Option<u64>]) -> String {
    let head = HEADERS.map(str::to_owned).to_vec();
    let members = members.iter().filter_map(Value::as_object);
    let rows = members.zip(keys).map(|(member, keys)| row(member, *keys));
    output::columns(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

fn row(member: &Map<String, Value>, keys: Option<u64>) -> Vec<String> {
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
        sync_state(member),
        keys.map_or(UNKNOWN.into(), |keys| keys.to_string()),
        counted("rows"),
        if is_self { UNKNOWN.into() } else { counted("outbox") },
        round_trip.map_or(UNKNOWN.into(), |milliseconds| format!("{milliseconds:.1} ms")),
        offset.map_or(UNKNOWN.into(), |milliseconds| format!("{milliseconds:+} ms")),
    ]
}

/// Its state, since when if it is away, and whether one side refuses rows.
fn state(member: &Map<String, Value>) -> String {
    let mut state = member.get("state").and_then(Value::as_str).unwrap_or(UNKNOWN).to_owned();
    let since_ms = member.get("since_ms").and_then(Value::as_u64);
    if let ("down" | "left" | "forgotten", Some(since_ms)) = (state.as_str(), since_ms) {
        state.push_str(&format!(" {} ago", format_span(since_ms)));
    }
    for (name, what) in [("storage_full", ", takes no rows"), ("rows_refused", ", rows refused")] {
        if matches!(member.get(name), Some(Value::String(_))) {
            state.push_str(what);
        }
    }
    state
}

/// When it last held the same as the node that was asked. For a healthy member that is two or three seconds ago, whatever the write rate.
pub fn sync_state(member: &Map<String, Value>) -> String {
    let lag_ms = member.get("lag_ms").and_then(Value::as_u64);
    match (member.get("state").and_then(Value::as_str), lag_ms) {
        (Some("alive" | "suspect"), Some(lag_ms)) if lag_ms > IN_STEP_MS => {
            format!("behind by {}", format_span(lag_ms))
        }
        (Some("alive" | "suspect"), None) => "not compared yet".into(),
        (Some("self" | "forgotten") | None, _) | (_, None) => UNKNOWN.into(),
        (_, Some(lag_ms)) => format!("in step {} ago", format_span(lag_ms)),
    }
}

/// A duration: in seconds, or from a minute on in its two largest units.
pub fn format_span(milliseconds: u64) -> String {
    if milliseconds < 60_000 {
        return format!("{} s", milliseconds / 1000);
    }
    let text = humantime::format_duration(Duration::from_secs(milliseconds / 1000)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_member_has_a_line_with_dashes_for_unknown_values() {
        let members = [
            json!({
                "node": "00000000000000ab", "address": "a:1", "state": "self", "rows": 12, "outbox": 0, "storage_full": null
            }),
            json!({
                "node": "00000000000000cd", "address": "b:1", "state": "alive", "round_trip_ms": 0.42, "clock_offset_ms": -3,
                "rows": 11, "lag_ms": 2100, "outbox": 4, "last_round_ms": 200, "a field of tomorrow": 1
            }),
            json!({ "node": "00000000000000ef", "address": "c:1", "state": "alive", "storage_full": "no space" }),
        ];
        let text = to_text(&members, &[Some(9), Some(8), None]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[1], ["00000000000000ab", "a:1", "self", "-", "9", "12", "-", "-", "-"]);
        let alive = [
            "00000000000000cd",
            "b:1",
            "alive",
            "in",
            "step",
            "2",
            "s",
            "ago",
            "8",
            "11",
            "4",
            "0.4",
            "ms",
            "-3",
            "ms",
        ];
        assert_eq!(lines[2], alive);
        assert_eq!(lines[3][2..6], ["alive,", "takes", "no", "rows"]);
    }

    /// A healthy idle cluster showed a LAG of 2.1s, and a member that had left showed a growing lag, like one that fails.
    #[test]
    fn a_healthy_member_is_in_step_and_one_that_left_has_left() {
        for (member, expected) in [
            (json!({ "state": "alive", "lag_ms": 2100 }), ("alive", "in step 2 s ago")),
            (json!({ "state": "alive", "lag_ms": 65_000 }), ("alive", "behind by 1m 5s")),
            (json!({ "state": "alive", "lag_ms": null }), ("alive", "not compared yet")),
            (
                json!({ "state": "left", "since_ms": 9000, "lag_ms": 70_000 }),
                ("left 9 s ago", "in step 1m 10s ago"),
            ),
            (
                json!({ "state": "down", "since_ms": 9000, "lag_ms": 11_000 }),
                ("down 9 s ago", "in step 11 s ago"),
            ),
            (json!({ "state": "self", "since_ms": 0 }), ("self", "-")),
        ] {
            let member = member.as_object().expect("an object");
            assert_eq!((state(member).as_str(), sync_state(member).as_str()), expected);
        }
    }

    #[test]
    fn the_group_of_the_strong_tables_shows_who_leads_and_who_is_behind() {
        let group = json!({
            "group": "00000000000000aa", "leads": true, "term": 3, "applied_index": 11, "log_index": 12,
            "leader": { "node": "00000000000000ab", "address": "a:1" },
            "voters": [
                { "node": "00000000000000ab", "address": "a:1", "matched_index": 12 },
                { "node": "00000000000000cd", "address": "b:1", "matched_index": 10 },
            ],
            "learners": [{ "node": "00000000000000ef", "address": null, "matched_index": null, "demoted": true }],
            "foreign": [{ "node": "00000000000000ee", "address": "e:1" }],
        });
        let text = group_to_text(&group);
        for line in [
            "STRONG TABLES  group 00000000000000aa",
            "leader         a:1, term 3",
            "voters         a:1, b:1 (behind by 2)",
            "learners       00000000000000ef (demoted)",
            "not taken in   e:1 belongs to another group, which cannot be merged with this one",
            "log            12 entries, 11 applied there",
        ] {
            assert!(text.lines().any(|found| found.trim_end() == line), "{line} in\n{text}");
        }
        let failed = json!({ "strong": null, "strong_failure": "the log is gone" });
        let failed = failure_to_text(failed.as_object().expect("an object"));
        assert_eq!(failed, "\nSTRONG TABLES  the log is gone\n");
        let headless =
            group_to_text(&json!({ "group": "0", "leader": null, "term": 4, "voters": [], "learners": [] }));
        assert!(headless.contains("none known, term 4"), "{headless}");
    }

    #[test]
    fn spans_are_short() {
        for (milliseconds, text) in
            [(0, "0 s"), (999, "0 s"), (59_999, "59 s"), (61_000, "1m 1s"), (3_723_000, "1h 2m")]
        {
            assert_eq!(format_span(milliseconds), text);
        }
    }
    #[test]
    fn an_etcd_shows_whether_it_answers_and_how_far_the_node_is() {
        let etcd = json!({
            "endpoints": ["10.0.0.1:2379", "10.0.0.2:2379"],
            "prefix": "dynarust/0000000000000001/",
            "answers": false,
            "applied_revision": 7,
            "known_revision": 9,
        });
        assert_eq!(
            etcd_to_text(&etcd),
            "\nSTRONG TABLES  etcd at 10.0.0.1:2379, 10.0.0.2:2379, does not answer\nkeys           \
             dynarust/0000000000000001/*\nrevision       7 applied there, 9 known\n"
        );
        assert_eq!(etcd_to_text(&Value::Null), "");
    }
}
