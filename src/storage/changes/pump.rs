//! The pump: the thread that carries what the engine says of a table's writes to the subscribers, and never waits for any of them.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tracing::error;

use super::{
    change::Gone,
    entry::{NewChange, change_bytes},
    hub::Hub,
};
use crate::{
    core::name::Key,
    storage::{
        WallClock,
        engine::{Feed, Slice},
        table::{Table, progress::Progress, record::Head, row::key_of},
    },
};

/// Changes that come within this time of each other come fast; then the pump rests so long when it has caught up.
const BUSY_MAX: Duration = Duration::from_millis(1);
const PAUSE: Duration = Duration::from_micros(100);
/// As long where nobody watches the table. The feed has room for all that can be written meanwhile.
const PAUSE_UNWATCHED: Duration = Duration::from_millis(2);
/// A change that took longer than this to come found the pump asleep.
const AWAKE_MAX: Duration = Duration::from_micros(20);

/// Drains a table's feed into the hub, until the engine is closed.
pub fn run(mut feed: Feed, table: &Arc<Table>, progress: &Progress, hub: &Hub, now_ms: &WallClock) {
    let mut last = None;
    loop {
        let begun = Instant::now();
        let Some(insert) = feed.next() else { return };
        if let Some((key, head, bytes, row)) = change_of(table, insert) {
            // Looked at under the lock, under which the sweep tells of the end: nothing may follow that. Of a value that has expired
            // already the sweep tells those who saw it, or one before it; those who saw it elsewhere are told here.
            hub.publish(|| match head.live && !head.visible_at(now_ms()) {
                true => NewChange::of_end(table.name(), key, &head, Gone::Expired, true),
                false => NewChange::of_row(table, key, &head, bytes, row),
            });
        }
        progress.publish();
        // Each insert that finds this thread asleep wakes it twice. When they come fast, a moment's rest gathers the next few.
        let now = Instant::now();
        let slept = now - begun > AWAKE_MAX;
        if slept && last.is_some_and(|last| now - last < BUSY_MAX) {
            thread::sleep(if hub.is_watched(table.name()) { PAUSE } else { PAUSE_UNWATCHED });
        }
        last = Some(now);
    }
}

/// What the change of an insert is to be made of: key, head, cost in memory, and the row itself.
fn change_of(table: &Table, (row, bytes): (Slice, Slice)) -> Option<(Key, Head, usize, (Slice, Slice))> {
    let seen = table
        .decode(&row, &bytes)
        .and_then(|record| Ok((key_of(&row)?, record.head, change_bytes(&row, &bytes, &record))));
    match seen {
        Ok((key, head, cost)) => Some((key, head, cost, (row, bytes))),
        Err(error) => {
            error!(%error, "a change was not published");
            None
        }
    }
}
