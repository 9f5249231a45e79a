//! The pump: the thread that moves a table's changes from the engine's feed to the hub. It never waits for a subscriber.

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

/// Changes closer together than this count as a burst; then the pump pauses briefly each time it has caught up.
const BUSY_MAX: Duration = Duration::from_millis(1);
const PAUSE: Duration = Duration::from_micros(100);
/// The pause of a table that nobody follows. The feed has room for all that can be written meanwhile.
const PAUSE_UNWATCHED: Duration = Duration::from_millis(2);
/// If a change took longer than this to arrive, the pump was asleep.
const AWAKE_MAX: Duration = Duration::from_micros(20);

/// Drains a table's feed into the hub until the engine is closed.
pub fn run(mut feed: Feed, table: &Arc<Table>, progress: &Progress, hub: &Hub, now_ms: &WallClock) {
    let mut last = None;
    loop {
        let begun = Instant::now();
        let Some(insert) = feed.next() else { return };
        if let Some((key, head, bytes, row)) = change_of(table, insert) {
            // Read the clock under the hub's lock, where the worker publishes expiries too: nothing may follow an expiry. The worker
            // announces the expiry to subscribers that saw this value or an earlier one; those that saw it on another node are told here.
            hub.publish(|| match head.live && !head.visible_at(now_ms()) {
                true => NewChange::of_end(table.name(), key, &head, Gone::Expired, true),
                false => NewChange::of_row(table, key, &head, bytes, row),
            });
        }
        progress.publish();
        // Each insert that finds this thread asleep wakes it twice. In a burst, a short pause collects the next few.
        let now = Instant::now();
        let slept = now - begun > AWAKE_MAX;
        if slept && last.is_some_and(|last| now - last < BUSY_MAX) {
            thread::sleep(if hub.is_watched(table.name()) { PAUSE } else { PAUSE_UNWATCHED });
        }
        last = Some(now);
    }
}

/// Decodes what a change needs of an insert: key, head, cost in memory, and the row itself.
fn change_of(table: &Table, (row, bytes): (Slice, Slice)) -> Option<(Key, Head, usize, (Slice, Slice))> {
    let seen = table
        .decode(&row, &bytes)
        .and_then(|record| Ok((key_of(&row)?, record.head, change_bytes(&row, &bytes, &record))));
    match seen {
        Ok((key, head, cost)) => Some((key, head, cost, (row, bytes))),
        Err(error) => {
            error!(%error, "a change could not be published");
            None
        }
    }
}
