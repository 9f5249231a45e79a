//! `watch`: changes as they happen, for a person, a program, or a command that is run for each. It goes on over restarts of nodes, and at
//! another endpoint if one is lost.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::{Duration, UNIX_EPOCH},
};

use dynarust_client::{Event, Topic, Watch as Stream};
use futures_util::StreamExt;
use serde_json::{json, value::RawValue};

use super::{Common, Outcome, run, usage};
use crate::{
    cli::{Exit, output, output::Lines, remote::CommandError},
    error::Result,
    node::Cursor,
};

/// What to follow.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  DynaRust watch users --count 1\n  DynaRust watch users alice --snapshot --count 1\n  \
                        DynaRust watch users --prefix a --count 1\n  DynaRust watch --count 1\n  \
                        DynaRust watch users --exec 'cat >> changes.ndjson' --count 1\n\n\
                        On a terminal a change is a line, elsewhere and with --json an object. It goes on until it is interrupted, and over \
                        restarts of the node."
)]
pub struct Watch {
    /// The table; without one, or with *, all tables
    table: Option<String>,
    /// The key; without one, all keys of the table
    key: Option<String>,
    /// Keys that begin with this
    #[arg(long, conflicts_with = "key", requires = "table")]
    prefix: Option<String>,
    /// Begin with the current values
    #[arg(long)]
    snapshot: bool,
    /// Begin after this event: the `cursor` of a line
    #[arg(long, value_name = "CURSOR", conflicts_with = "snapshot", value_parser = parse_cursor)]
    since: Option<String>,
    /// End after so many changes
    #[arg(long, value_name = "CHANGES", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Run this shell command for each change, instead of printing it
    ///
    /// It gets the change as JSON on its standard input, and DYNARUST_EVENT (Updated or Deleted), DYNARUST_TABLE and DYNARUST_KEY in its
    /// environment. Commands run one after the other; changes wait meanwhile.
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// A cursor as `watch` prints it. A node takes any other text for a cursor that it does not know any more, and sends all current values.
fn parse_cursor(text: &str) -> std::result::Result<String, String> {
    match Cursor::parse(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("this is no cursor: take the `cursor` of a line of `DynaRust watch --json`, or of an event's `id`".into()),
    }
}

/// Prints changes, or runs a command for each.
pub fn watch(arguments: &Watch) -> Result<Exit> {
    let client = arguments.common.connection.client(None)?;
    run(async {
        let mut watching = client.watch([topic(arguments)?]);
        if arguments.snapshot {
            watching = watching.with_snapshot();
        }
        if let Some(cursor) = &arguments.since {
            watching = watching.since(cursor);
        }
        follow(arguments, watching.stream()).await
    })
}

fn topic(arguments: &Watch) -> std::result::Result<Topic, CommandError> {
    Ok(match (arguments.table.as_deref(), &arguments.key, &arguments.prefix) {
        (None | Some("*"), None, None) => Topic::All,
        (None | Some("*"), ..) => return Err(usage("to follow keys, name their table")),
        (Some(table), Some(key), _) => Topic::Key(table.to_owned(), key.clone()),
        (Some(table), None, Some(prefix)) => Topic::Prefix(table.to_owned(), prefix.clone()),
        (Some(table), None, None) => Topic::Table(table.to_owned()),
    })
}

async fn follow(arguments: &Watch, mut events: Stream<Box<RawValue>>) -> Outcome {
    let is_for_people = output::is_terminal() && !arguments.common.json;
    let mut lines = Lines::new();
    let mut left = arguments.count;
    let mut is_lost = false;
    while let Some(event) = events.next().await {
        let event = event?;
        match &event {
            Event::Disconnected { endpoint, why } => {
                eprintln!("DynaRust: the connection to {endpoint} ended: {why}. Connecting again");
                is_lost = true;
            }
            Event::Connected(endpoint) if is_lost => eprintln!("DynaRust: connected to {endpoint}"),
            Event::Connected(_) => {}
            event => {
                let is_change = matches!(event, Event::Updated { .. } | Event::Deleted { .. });
                match &arguments.exec {
                    Some(command) if is_change => execute(command, event, events.position()).await?,
                    Some(_) => {}
                    None if is_for_people => lines.print(text(event, output::is_coloured()))?,
                    None => lines.print(to_json(event, events.position()))?,
                }
                lines.flush()?;
                left = left.map(|left| left - u64::from(is_change));
                if !lines.is_open() || left == Some(0) {
                    break;
                }
            }
        }
    }
    Ok(Exit::Success)
}

/// An event as one object, with the position to resume from.
fn to_json(event: &Event<Box<RawValue>>, cursor: Option<&str>) -> String {
    let plain = |name: &str| json!({ "event": name, "cursor": cursor }).to_string();
    match event {
        Event::Updated { table, key, value, version, timestamp, expires_at } => format!(
            "{{\"event\":\"Updated\",\"table\":{},\"key\":{},\"value\":{value},\"version\":{},\"timestamp\":{timestamp},\
             \"expires_at\":{},\"cursor\":{}}}",
            json!(table),
            json!(key),
            json!(version),
            json!(expires_at),
            json!(cursor),
        ),
        Event::Deleted { table, key, version, timestamp, reason } => json!({
            "event": "Deleted", "table": table, "key": key, "version": version, "timestamp": timestamp, "reason": reason, "cursor": cursor,
        })
        .to_string(),
        Event::Incomplete(detail) => json!({ "event": "incomplete", "detail": detail }).to_string(),
        Event::Resync => plain("resync"),
        // Connections are told elsewhere.
        _ => plain("sync"),
    }
}

/// An event for people. Times are those of UTC.
fn text(event: &Event<Box<RawValue>>, is_coloured: bool) -> String {
    let paint = |colour: &str, text: &str| match is_coloured {
        true => format!("\x1b[{colour}m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    match event {
        Event::Updated { table, key, value, timestamp, .. } => format!(
            "{} {}  {value}",
            paint("2", &time_of_day(*timestamp)),
            paint("32", &printable(&format!("{table}/{key}")))
        ),
        Event::Deleted { table, key, timestamp, reason, .. } => format!(
            "{} {}  {}",
            paint("2", &time_of_day(*timestamp)),
            paint("31", &printable(&format!("{table}/{key}"))),
            paint("31", if reason == "expired" { "expired" } else { "deleted" })
        ),
        Event::Resync => paint("33", "changes were missed: the current values follow"),
        Event::Incomplete(detail) => paint("33", &format!("some values are missing: {detail}")),
        _ => paint("2", "these are the current values; changes follow"),
    }
}

/// A key without what a terminal would take for a command.
fn printable(key: &str) -> String {
    key.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

fn time_of_day(unix_ms: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(unix_ms);
    let text = humantime::format_rfc3339_millis(at).to_string();
    text.get(11..).unwrap_or(&text).to_owned()
}

/// Runs a command for a change, and waits for its end.
async fn execute(
    command: &str,
    event: &Event<Box<RawValue>>,
    cursor: Option<&str>,
) -> std::result::Result<(), CommandError> {
    let (name, table, key) = match event {
        Event::Updated { table, key, .. } => ("Updated", table, key),
        Event::Deleted { table, key, .. } => ("Deleted", table, key),
        _ => return Ok(()),
    };
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::piped());
    shell.env("DYNARUST_EVENT", name).env("DYNARUST_TABLE", table).env("DYNARUST_KEY", key);
    let line = format!("{}\n", to_json(event, cursor));
    let ended = tokio::task::spawn_blocking(move || {
        let mut child = shell.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command need not read what happened.
            let _ = stdin.write_all(line.as_bytes());
        }
        child.wait()
    });
    let failed =
        |why: String| CommandError { exit: Exit::Failure, why: format!("cannot run {command:?}: {why}") };
    match ended.await {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(status)) => {
            eprintln!("DynaRust: for {table}/{}: the command ended with {status}", printable(key))
        }
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(error) => return Err(failed(error.to_string())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_an_object_for_programs_and_a_line_for_people() {
        let value: Box<RawValue> = serde_json::from_str("1.10").expect("JSON");
        let updated = Event::Updated {
            table: "t".into(),
            key: "a\x1bb".into(),
            value,
            version: "01-02".into(),
            timestamp: 1_795_887_238_427,
            expires_at: None,
        };
        assert_eq!(
            to_json(&updated, Some("5")),
            "{\"event\":\"Updated\",\"table\":\"t\",\"key\":\"a\\u001bb\",\"value\":1.10,\"version\":\"01-02\",\"timestamp\":1795887238427,\
             \"expires_at\":null,\"cursor\":\"5\"}"
        );
        assert_eq!(text(&updated, false), "17:33:58.427Z t/a\u{fffd}b  1.10");
        assert!(text(&updated, true).contains("\x1b[32mt/a\u{fffd}b\x1b[0m"));
        let deleted: Event<Box<RawValue>> = Event::Deleted {
            table: "t".into(),
            key: "k".into(),
            version: "01-03".into(),
            timestamp: 0,
            reason: "expired".into(),
        };
        assert_eq!(text(&deleted, false), "00:00:00.000Z t/k  expired");
    }
}
