//! The rest that a link takes after a batch of fresh writes, so that where many come they go together: a batch costs both nodes
//! as much as several rows, and the more of them the faster the link.
//!
//! It is as long as the batch had rows, up to a bound. So few writes are never held back, and many make batches grow until the
//! bound holds them.

use std::time::Duration;

use tokio::time::Instant;

use crate::core::protocol::message::{MESSAGE_BYTES, Message, Row, Rows};

/// How long a link rests for each row.
const DELAY_PER_ROW: Duration = Duration::from_micros(250);
/// A shorter rest is none: timers are not finer.
const DELAY_MIN: Duration = Duration::from_millis(1);
/// The longest: what a write may have to wait on a node that takes more than 4,000 a second. At half of it a replica spends a tenth to
/// a fifth more on each row.
const DELAY_MAX: Duration = Duration::from_millis(10);

/// Why no more batches go out now, and so what is to be waited for, beside a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// All were sent that there are: for another write.
    Sent,
    /// For the end of the rest.
    Pacing,
    /// For room: in the window, or in the link.
    Full,
}

/// When a link has rested.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    until: Instant,
}

impl Pacing {
    /// None at `now`.
    pub fn none(now: Instant) -> Self {
        Self { until: now }
    }

    /// Begins with a batch that was made at `now`. A full one needs none, as it cannot grow; and those of repairs mostly are.
    pub fn after_batch(&mut self, now: Instant, batch: &Message) {
        let Message::Rows(Rows { repair: false, tables, .. }) = batch else { return };
        let rows = || tables.iter().flat_map(|(_, rows)| rows);
        let is_full = rows().map(Row::cost).sum::<usize>() >= MESSAGE_BYTES;
        self.until = now + if is_full { Duration::ZERO } else { delay(rows().count()) };
    }

    /// When it ends.
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
    fn few_rows_need_no_rest_and_many_not_more_than_the_longest() {
        let now = Instant::now();
        for (rows, delay) in [(0, 0), (1, 0), (3, 0), (4, 1), (8, 2), (40, 10), (1000, 10)] {
            let mut pacing = Pacing::none(now);
            pacing.after_batch(now, &batch(rows, false));
            assert_eq!(pacing.until(), now + Duration::from_millis(delay), "{rows}");
        }
    }

    #[test]
    fn a_full_batch_needs_no_rest() {
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
    fn repairs_leave_a_rest_as_it_is() {
        let now = Instant::now();
        let mut delay = Pacing::none(now);
        delay.after_batch(now, &batch(1000, true));
        assert_eq!(delay.until(), now);
        delay.after_batch(now, &batch(8, false));
        delay.after_batch(now, &batch(1000, true));
        assert_eq!(delay.until(), now + Duration::from_millis(2));
    }
}
