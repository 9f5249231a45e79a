//! Watching: event streams and WebSockets. That nothing came is never tested by waiting: a marker is written after what must
//! not show, and the marker is what comes next.

mod changes;
mod connection;
mod elsewhere;
mod lag;
mod resume;
mod sse;
mod topics;
mod websocket;

use serde_json::Value;

/// What an event says, short enough to compare lists of: `a=1`, `a gone`.
fn summary(event: &Value) -> String {
    let key = event["key"].as_str().unwrap_or_else(|| panic!("no key in {event}"));
    match event["event"].as_str() {
        Some("Updated") => format!("{key}={}", event["value"]),
        Some("Deleted") => format!("{key} gone"),
        other => panic!("{other:?} is no data event: {event}"),
    }
}
