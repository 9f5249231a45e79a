//! The pause of a link after a batch of new writes, so that frequent writes go out together: a batch costs both nodes
//! as much as several rows, relatively more on a fast link.
//!
//! The pause is proportional to the rows of the batch, up to a limit. A few writes are never held back; many make the
//! batches grow until the limit holds.

use std::time::Duration;

use tokio::time::Instant;

use crate::core::protocol::message::{MESSAGE_BYTES, Message, Row, Rows};

/// Pause per row.
const DELAY_PER_ROW: Duration = Duration::from_micros(250);
/// A shorter pause is skipped: timers are no finer.
const DELAY_MIN: Duration = Duration::from_millis(1);
/// Longest pause: what a write may wait on a node that accepts more than 4,000 a second. With half of it, a replica
/// spends a tenth to a fifth more on each row.
const DELAY_MAX: Duration = Duration::from_millis(10);

/// Why no more batches are sent now, and so what to wait for besides a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// All rows were sent: wait for another write.
    Sent,
    /// Wait for the end of the pause.
    Pacing,
    /// Wait for room in the window or in the link.
    Full,
}

/// When the current pause ends.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    until: Instant,
}

impl Pacing {
    /// No pause at `now`.
    pub fn none(now: Instant) -> Self {
        Self { until: now }
    }

    /// Starts the pause after a batch made at `now`. A full batch needs none because it cannot grow, and batches of
    /// repairs are mostly full.
    pub fn after_batch(&mut self, now: Instant, batch: &Message) {
        let Message::Rows(Rows { repair: false, tables, .. }) = batch else { return };
        let rows = || tables.iter().flat_map(|(_, rows)| rows);
        let is_full = rows().map(Row::cost).sum::<usize>() >= MESSAGE_BYTES;
        self.until = now + if is_full { Duration::ZERO } else { delay(rows().count()) };
    }

    /// When the pause ends.
    pub fn until(self) -> Instant {
        self.until
    }
}

fn delay(rows: usize) -> Duration {
    let delay = DELAY_PER_ROW.saturating_mul(u32::try_from(rows).unwrap_or(u32::MAX)).min(DELAY_MAX);
    if delay < DELAY_MIN { Duration::ZERO } else { delay }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        clock::{NodeId, Timestamp},
        json::Value,
        name::{Key, TableName},
        register::Register,
    };

    fn batch(rows: usize, repair: bool) -> Message {
        let rows = (0..rows).map(|number| row(&number.to_string(), "1".into())).collect();
        Message::Rows(Rows { batch: 1, repair, tables: vec![(table(), rows)] })
    }

    fn table() -> TableName {
        TableName::parse("t").expect("a name")
    }

    fn row(key: &str, value: String) -> Row {
        let timestamp = Timestamp { hlc: 1, node: NodeId(1) };
        let register = Register::live(Value::trusted(value), None, timestamp);
        Row::new(Key::parse(key).expect("a key"), register)
    }

    #[test]
    fn few_rows_need_no_pause_and_many_at_most_the_longest() {
        let now = Instant::now();
        for (rows, delay) in [(0, 0), (1, 0), (3, 0), (4, 1), (8, 2), (40, 10), (1000, 10)] {
            let mut pacing = Pacing::none(now);
            pacing.after_batch(now, &batch(rows, false));
            assert_eq!(pacing.until(), now + Duration::from_millis(delay), "{rows}");
        }
    }

    #[test]
    fn a_full_batch_needs_no_pause() {
        let now = Instant::now();
        let mut delay = Pacing::none(now);
        let rows = (0..4).map(|number| row(&number.to_string(), "1".repeat(MESSAGE_BYTES / 4))).collect();
        delay.after_batch(
            now,
            &Message::Rows(Rows { batch: 1, repair: false, tables: vec![(table(), rows)] }),
        );
        assert_eq!(delay.until(), now);
    }

    #[test]
    fn repairs_do_not_change_the_pause() {
        let now = Instant::now();
        let mut delay = Pacing::none(now);
        delay.after_batch(now, &batch(1000, true));
        assert_eq!(delay.until(), now);
        delay.after_batch(now, &batch(8, false));
        delay.after_batch(now, &batch(1000, true));
        assert_eq!(delay.until(), now + Duration::from_millis(2));
    }
}
