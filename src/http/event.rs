//! Events as clients see them. One rendering serves all: the frame of Server-Sent Events is made once per change and
//! shared by every subscriber, and the JSON object inside it is what a WebSocket sends.
//!
//! A frame cannot be broken by what is in it: JSON text has no raw line end, keys are escaped by serde_json, table names
//! are plain by their rule. An event carries an id (a cursor) only where a client may resume from it: `resync` and the
//! values of a snapshot have none, so a client that is cut off inside a snapshot asks for what it asked before.

use std::fmt::{self, Write};

use bytes::Bytes;

use crate::node::{Change, Cursor, Effect, Gone, Notice};

const SYNC: &str = r#"{"event":"sync"}"#;
const RESYNC: &str = r#"{"event":"resync"}"#;
const SHUTDOWN: &str = r#"{"event":"shutdown"}"#;

/// The bytes of a rendered change beside its key, value and table: an estimate, to allocate once.
const FRAME_BYTES: usize = 256;

/// What an event stream begins with: who answers, and how long to wait before coming back to it.
pub fn head(address: &str) -> Bytes {
    Bytes::from(format!(": dynarust {address}\nretry: 2000\n\n"))
}

/// What keeps an idle event stream open: a comment, which readers pass over.
pub fn keep_alive() -> Bytes {
    Bytes::from_static(b": \n\n")
}

/// The frame of an event stream.
pub fn frame(notice: &Notice) -> Bytes {
    match notice {
        Notice::Change(change) => change.rendered(render).clone(),
        Notice::Sync(cursor) => Bytes::from(format!("id: {cursor}\nevent: sync\ndata: {SYNC}\n\n")),
        Notice::Resync(_) => Bytes::from(format!("event: resync\ndata: {RESYNC}\n\n")),
        Notice::Shutdown => Bytes::from(format!("event: shutdown\ndata: {SHUTDOWN}\n\n")),
    }
}

/// The text of a WebSocket message: the event's object, then the `sub` it belongs to (JSON text) and the cursor to resume
/// from, where there are such.
pub fn message(notice: &Notice, sub: Option<&str>) -> String {
    let frame;
    let object = match notice {
        Notice::Change(change) => {
            frame = change.rendered(render);
            object_in(change, frame)
        }
        Notice::Sync(_) => SYNC,
        Notice::Resync(_) => RESYNC,
        Notice::Shutdown => SHUTDOWN,
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
        Notice::Sync(cursor) => Some(*cursor),
        Notice::Resync(_) | Notice::Shutdown => None,
    }
}

const DATA: &str = "data: ";
const END: &str = "\n\n";

fn render(change: &Change) -> Bytes {
    let mut frame = String::with_capacity(FRAME_BYTES + change.key.as_str().len() + value_bytes(change));
    write_frame(&mut frame, change).expect("a String takes whatever is written to it");
    Bytes::from(frame)
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

/// `text` as a JSON string, quotes included.
pub fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn value_bytes(change: &Change) -> usize {
    match &change.effect {
        Effect::Updated { value, .. } => value.as_str().len(),
        Effect::Deleted(_) => 0,
    }
}

/// The JSON object within a change's frame.
fn object_in<'a>(change: &Change, frame: &'a Bytes) -> &'a str {
    let text = std::str::from_utf8(frame).expect("a frame is rendered as text");
    let id_line = if change.cursor.is_some() { text.find('\n').map_or(0, |end| end + 1) } else { 0 };
    &text[id_line + DATA.len()..text.len() - END.len()]
}
