//! Counters and measurements of one link.

use crate::core::protocol::message::Message;

/// The counters and measurements of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Rounds received.
    pub rounds: u64,
    /// Comparisons this side opened.
    pub sessions: u64,
    /// Comparisons that found no row to send.
    pub false_sessions: u64,
    /// Rows sent from the journal.
    pub rows_pushed: u64,
    /// Rows sent because a comparison found them.
    pub rows_repaired: u64,
    /// Rows received.
    pub rows_received: u64,
    /// Rows received that changed something here.
    pub rows_changed: u64,
    /// Rows refused because they are proved to be deleted.
    pub rows_refused: u64,
    /// Rows accepted, while this node was complete, that may have been deleted: nothing proved it.
    pub rows_unproven: u64,
    /// Rows removed here because a complete member proved that they were deleted.
    pub rows_removed: u64,
    /// Messages sent to find differences: all of a comparison except its rows.
    pub comparison_messages: u64,
    /// Their encoded length, in bytes.
    pub comparison_bytes: u64,
    /// A bit for each step of the last comparison, of both sides: `Message::step`.
    pub comparison_steps: u32,
    /// Round trip time, in milliseconds.
    pub round_trip_ms: Option<u64>,
    /// How far the peer's clock is ahead of this one, in milliseconds.
    pub clock_offset_ms: Option<i64>,
    /// The peer's row count.
    pub rows_there: Option<u64>,
    /// Whether the peer is complete. `None` before its first round.
    pub is_complete: Option<bool>,
    /// Whether the peer is handing over its rows to leave for good.
    pub is_leaving: bool,
    /// When the last round came, in Unix milliseconds.
    pub last_round_ms: Option<u64>,
}

impl Figures {
    /// Counts a message of a comparison that was sent.
    pub(in crate::core::protocol::peer) fn count_sent(&mut self, message: &Message) {
        self.comparison_messages += 1;
        self.comparison_bytes += message.encoded_bytes();
        self.count_step(message);
    }

    /// Records the comparison step of a message that was sent or received, if it is one.
    pub(in crate::core::protocol::peer) fn count_step(&mut self, message: &Message) {
        let Some(step) = message.step() else { return };
        // An opening starts over.
        let before = if step == 0 { 0 } else { self.comparison_steps };
        self.comparison_steps = before | 1 << step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::protocol::message::Comparison;

    #[test]
    fn steps_are_of_the_last_comparison_and_bytes_of_all() {
        let opening = Message::Open(Comparison { nonce: 1, at_ms: 2, nodes: Vec::new() });
        let names = Message::Names(Comparison { nonce: 1, at_ms: 2, nodes: Vec::new() });
        let mut figures = Figures::default();
        figures.count_sent(&opening);
        figures.count_step(&names);
        figures.count_step(&names);
        figures.count_step(&Message::Swim(vec![1]));
        assert_eq!(figures.comparison_steps.count_ones(), 2);
        assert_eq!((figures.comparison_messages, figures.comparison_bytes), (1, opening.encoded_bytes()));
        figures.count_sent(&opening);
        assert_eq!(figures.comparison_steps.count_ones(), 1);
        assert_eq!((figures.comparison_messages, figures.comparison_bytes), (2, 2 * opening.encoded_bytes()));
    }
}
