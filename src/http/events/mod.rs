//! Events as clients see them, and the streams of them. A change is rendered once, as the frame of a Server-Sent Event that all subscribers
//! share. A WebSocket sends the JSON object inside that frame.
//!
//! Content cannot break a frame: JSON text has no raw line breaks, serde_json escapes keys, and table names are plain by rule. An event
//! carries an id (a cursor) only if a client may resume from it. `resync` and the values of a snapshot have none, so a client that is cut
//! off during a snapshot repeats its original request.
//!
//! A stream also reports its position without an event: a block with an `id` and no data sets the last event ID of an `EventSource` and
//! dispatches nothing (HTML standard, "9.2.6 Interpreting an event stream", at the blank line). So a client that is cut off before the
//! first event can resume too.

mod frame;
pub mod stream;

use std::fmt::{self, Write};

use crate::{
    error::Error,
    node::{Change, Cursor, Effect, Gone, Notice},
};

pub use self::frame::Frame;

const POSITION: &str = r#"{"event":"position"}"#;
const SYNC: &str = r#"{"event":"sync"}"#;
const RESYNC: &str = r#"{"event":"resync"}"#;
const INCOMPLETE: &str =
    r#"{"event":"incomplete","detail":"values are missing that cannot be read on this node"}"#;
const SHUTDOWN: &str = r#"{"event":"shutdown"}"#;

/// Estimated bytes of a rendered change besides its key, value and table, so that we allocate once.
const FRAME_BYTES: usize = 256;

/// The start of an event stream: which node answers, how long to wait before reconnecting, and the position, if known.
pub fn head(address: &str, position: Option<Cursor>) -> Frame {
    Frame::of(format_args!(": dynarust {address}\nretry: 2000\n{}\n", id_line(position)))
}

/// Keeps an idle event stream open: a comment, which readers skip, and the position, if all events up to there were sent.
pub fn keep_alive(position: Option<Cursor>) -> Frame {
    Frame::of(format_args!(": \n{}\n", id_line(position)))
}

fn id_line(position: Option<Cursor>) -> String {
    position.map(|cursor| format!("id: {cursor}\n")).unwrap_or_default()
}

/// Renders a notice as the frame of an event stream.
pub fn frame(notice: &Notice) -> Frame {
    match notice {
        Notice::Change(change) => frame_of(change),
        Notice::Position(cursor) => Frame::of(format_args!("id: {cursor}\n\n")),
        Notice::Sync(cursor) => Frame::of(format_args!("id: {cursor}\nevent: sync\ndata: {SYNC}\n\n")),
        Notice::Resync(_) => Frame::of(format_args!("event: resync\ndata: {RESYNC}\n\n")),
        Notice::Incomplete => Frame::of(format_args!("event: incomplete\ndata: {INCOMPLETE}\n\n")),
        Notice::Shutdown => Frame::of(format_args!("event: shutdown\ndata: {SHUTDOWN}\n\n")),
        Notice::Failed(error) => Frame::of(format_args!("event: failed\ndata: {}\n\n", failed(error))),
    }
}

/// Renders a change, once for all.
pub fn frame_of(change: &Change) -> Frame {
    Frame::from_chunk(change.rendered(|change| render(change).into_chunk()).clone())
}

/// Renders a notice as a WebSocket message: the event's object, plus `sub` (JSON text) and the cursor to resume from, if there are any.
pub fn message(notice: &Notice, sub: Option<&str>) -> String {
    let (frame, failure);
    let object = match notice {
        Notice::Change(change) => {
            frame = frame_of(change);
            object_in(change, frame.text())
        }
        Notice::Position(_) => POSITION,
        Notice::Sync(_) => SYNC,
        Notice::Resync(_) => RESYNC,
        Notice::Incomplete => INCOMPLETE,
        Notice::Shutdown => SHUTDOWN,
        Notice::Failed(error) => {
            failure = failed(error);
            &failure
        }
    };
    let sub = sub.map(|sub| format!(r#","sub":{sub}"#)).unwrap_or_default();
    let cursor = cursor(notice).map(|cursor| format!(r#","cursor":"{cursor}""#)).unwrap_or_default();
    let open = object.strip_suffix('}').expect("an event is a JSON object");
    [open, &sub, &cursor, "}"].concat()
}

/// Where a client that has seen this event and all before it may resume.
fn cursor(notice: &Notice) -> Option<Cursor> {
    match notice {
        Notice::Change(change) => change.cursor,
        Notice::Position(cursor) | Notice::Sync(cursor) => Some(*cursor),
        Notice::Resync(_) | Notice::Incomplete | Notice::Shutdown | Notice::Failed(_) => None,
    }
}

/// The last event of a stream whose token is no longer valid, as the frame of an event stream.
pub fn unauthorized_frame(why: &str) -> Frame {
    Frame::of(format_args!("event: unauthorized\ndata: {}\n\n", unauthorized(why)))
}

/// The same as a WebSocket message.
pub fn unauthorized(why: &str) -> String {
    serde_json::json!({ "event": "unauthorized", "detail": why }).to_string()
}

/// The object that explains why a subscription failed.
fn failed(error: &Error) -> String {
    serde_json::json!({ "event": "failed", "detail": error.to_string() }).to_string()
}

const DATA: &str = "data: ";
const END: &str = "\n\n";

fn render(change: &Change) -> Frame {
    let bytes = FRAME_BYTES + change.key.as_str().len() + value_bytes(change);
    Frame::written(bytes, |frame| write_frame(frame, change))
}

fn write_frame(frame: &mut String, change: &Change) -> fmt::Result {
    if let Some(cursor) = change.cursor {
        writeln!(frame, "id: {cursor}")?;
    }
    frame.push_str(DATA);
    write_object(frame, change)?;
    frame.push_str(END);
    Ok(())
}

fn write_object(out: &mut String, change: &Change) -> fmt::Result {
    let event = match &change.effect {
        Effect::Updated { .. } => "Updated",
        Effect::Deleted(_) => "Deleted",
    };
    let key = json_string(change.key.as_str());
    write!(out, r#"{{"event":"{event}","table":"{}","key":{key}"#, change.table)?;
    if let Effect::Updated { value, .. } = &change.effect {
        write!(out, r#","value":{}"#, value.as_str())?;
    }
    let timestamp = change.timestamp;
    write!(
        out,
        r#","version":"{timestamp}","timestamp":{},"node":"{}""#,
        timestamp.unix_ms(),
        timestamp.node
    )?;
    match &change.effect {
        Effect::Updated { expires_at_ms: Some(expires_at_ms), .. } => {
            write!(out, r#","expires_at":{expires_at_ms}}}"#)
        }
        Effect::Updated { expires_at_ms: None, .. } => out.write_char('}'),
        Effect::Deleted(Gone::Deleted) => out.write_str(r#","reason":"delete"}"#),
        Effect::Deleted(Gone::Expired) => out.write_str(r#","reason":"expired"}"#),
    }
}

/// `text` as a JSON string with its quotes.
pub fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn value_bytes(change: &Change) -> usize {
    match &change.effect {
        Effect::Updated { value, .. } => value.as_str().len(),
        Effect::Deleted(_) => 0,
    }
}

/// The JSON object inside the text of a change's frame.
fn object_in<'a>(change: &Change, text: &'a str) -> &'a str {
    let id_line = if change.cursor.is_some() { text.find('\n').map_or(0, |end| end + 1) } else { 0 };
    &text[id_line + DATA.len()..text.len() - END.len()]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::{
        clock::{NodeId, Timestamp},
        json::Value,
        name::{Key, TableName},
    };

    const CURSOR: Cursor = Cursor { epoch: 0x3f2a_91c0, sequence: 184_467, agreed_ms: 0, cluster: 0 };
    const VERSION: &str = "0001998877665544-00000000000000ab";

    fn change(cursor: Option<Cursor>, key: &str, effect: Effect) -> Notice {
        let table = TableName::parse("default").expect("a table name");
        let timestamp = Timestamp { hlc: 0x0001_9988_7766_5544, node: NodeId(0xab) };
        let key = Key::parse(key).expect("a key");
        Notice::Change(Arc::new(Change::new(cursor, table, key, timestamp, effect)))
    }

    fn updated(value: &str, expires_at_ms: Option<u64>) -> Effect {
        Effect::Updated { value: Value::parse(value).expect("json"), expires_at_ms }
    }

    #[test]
    fn an_update_is_one_unnamed_event_with_an_id() {
        let notice = change(Some(CURSOR), "mykey", updated(r#"{"n": 1.10}"#, None));
        let expected = format!(
            "id: 3f2a91c0.184467\ndata: {{\"event\":\"Updated\",\"table\":\"default\",\"key\":\"mykey\",\
             \"value\":{{\"n\":1.10}},\"version\":\"{VERSION}\",\"timestamp\":6870824806,\
             \"node\":\"00000000000000ab\"}}\n\n"
        );
        assert_eq!(frame(&notice).text(), expected);
    }

    #[test]
    fn a_delete_says_why() {
        for (gone, reason) in [(Gone::Deleted, "delete"), (Gone::Expired, "expired")] {
            let text = message(&change(Some(CURSOR), "k", Effect::Deleted(gone)), None);
            let object: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!((&object["event"], &object["reason"]), (&"Deleted".into(), &reason.into()));
            assert_eq!(object.get("value"), None);
        }
    }

    #[test]
    fn no_key_or_value_breaks_a_frame() {
        for text in
            ["\r", "\n", "\r\n\r\n", "data: x", "\0", "\u{2028}\u{2029}\u{85}", "\"}\\", "id: 1\n\nevent: x"]
        {
            let value = json_string(text);
            let notice = change(Some(CURSOR), text, updated(&value, None));
            let frame = frame(&notice);
            let frame = frame.text();
            let lines: Vec<&str> = frame.split(['\r', '\n']).collect();
            assert_eq!(lines.len(), 4, "{frame:?}");
            assert!(lines[0].starts_with("id: ") && lines[2..] == ["", ""], "{frame:?}");
            let data = lines[1].strip_prefix("data: ").expect("one line of data");
            let object: serde_json::Value = serde_json::from_str(data).expect("JSON");
            assert_eq!((&object["key"], &object["value"]), (&text.into(), &text.into()));
        }
    }

    #[test]
    fn a_client_cannot_resume_from_snapshot_values_or_a_resync() {
        let notices = [change(None, "k", updated("1", None)), Notice::Resync(CURSOR), Notice::Shutdown];
        for notice in notices {
            let frame = frame(&notice);
            let frame = frame.text();
            assert!(frame.lines().all(|line| !line.starts_with("id")), "{frame}");
            assert!(!message(&notice, None).contains("cursor"));
        }
    }

    #[test]
    fn control_events_are_named_and_a_client_can_resume_from_sync() {
        let sync = "id: 3f2a91c0.184467\nevent: sync\ndata: {\"event\":\"sync\"}\n\n";
        assert_eq!(frame(&Notice::Sync(CURSOR)).text(), sync);
        assert_eq!(frame(&Notice::Resync(CURSOR)).text(), "event: resync\ndata: {\"event\":\"resync\"}\n\n");
        assert_eq!(frame(&Notice::Shutdown).text(), "event: shutdown\ndata: {\"event\":\"shutdown\"}\n\n");
    }

    #[test]
    fn a_position_is_an_id_without_data() {
        let cursor = Cursor { agreed_ms: 1_763_689_000_123, cluster: 0xbeef, ..CURSOR };
        assert_eq!(frame(&Notice::Position(cursor)).text(), "id: 3f2a91c0.184467.1763689000123.0000beef\n\n");
        assert_eq!(head("a:1", Some(CURSOR)).text(), ": dynarust a:1\nretry: 2000\nid: 3f2a91c0.184467\n\n");
        assert_eq!(head("a:1", None).text(), ": dynarust a:1\nretry: 2000\n\n");
        assert_eq!(
            (keep_alive(Some(CURSOR)).text(), keep_alive(None).text()),
            (": \nid: 3f2a91c0.184467\n\n", ": \n\n")
        );
        let message = message(&Notice::Position(CURSOR), None);
        assert_eq!(message, r#"{"event":"position","cursor":"3f2a91c0.184467"}"#);
    }

    #[test]
    fn a_message_is_the_event_object_with_its_subscription_and_cursor() {
        let notice = change(Some(CURSOR), "k", updated("[1]", Some(5)));
        let object: serde_json::Value = serde_json::from_str(&message(&notice, Some("7"))).expect("JSON");
        let members =
            ["event", "table", "key", "value", "version", "timestamp", "node", "expires_at", "sub", "cursor"];
        assert!(object.as_object().is_some_and(|object| object.keys().eq(members)), "{object}");
        assert_eq!((&object["sub"], &object["cursor"]), (&7.into(), &"3f2a91c0.184467".into()));
        assert_eq!(message(&Notice::Sync(CURSOR), None), r#"{"event":"sync","cursor":"3f2a91c0.184467"}"#);
        assert_eq!(message(&Notice::Resync(CURSOR), Some("\"a\"")), r#"{"event":"resync","sub":"a"}"#);
        assert_eq!(message(&Notice::Shutdown, None), r#"{"event":"shutdown"}"#);
    }

    #[test]
    fn a_change_is_rendered_once() {
        let notice = change(Some(CURSOR), "k", updated("1", None));
        assert_eq!(frame(&notice).text().as_ptr(), frame(&notice).text().as_ptr());
    }
}
