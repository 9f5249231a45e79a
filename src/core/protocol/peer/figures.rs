//! What is counted and measured of one link.

use crate::core::protocol::message::Message;

/// Figures of one link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Rounds received.
    pub rounds: u64,
    /// Comparisons this side opened.
    pub sessions: u64,
    /// Those that found no row to move.
    pub false_sessions: u64,
    /// Rows sent that the journal named.
    pub rows_pushed: u64,
    /// Rows sent that a comparison found.
    pub rows_repaired: u64,
    /// Rows received.
    pub rows_received: u64,
    /// Rows received that changed what was here.
    pub rows_changed: u64,
    /// Rows refused, as it is proved that they were deleted.
    pub rows_refused: u64,
    /// Rows taken in, while this node was whole, that may have been deleted: nothing proved it.
    pub rows_unproven: u64,
    /// Rows removed here, as a whole member proved that they were deleted.
    pub rows_removed: u64,
    /// Messages sent that find out what differs: all of a comparison but its rows.
    pub comparison_messages: u64,
    /// Their length, encoded.
    pub comparison_bytes: u64,
    /// A bit for each step of the last comparison, of both sides: `Message::step`.
    pub comparison_steps: u32,
    /// Time to the peer and back, in milliseconds.
    pub round_trip_ms: Option<u64>,
    /// How far the peer's clock is ahead of this one, in milliseconds.
    pub clock_offset_ms: Option<i64>,
    /// Rows the peer said it has.
    pub rows_there: Option<u64>,
    /// Whether the peer said that it is whole.
    pub is_complete: Option<bool>,
    /// Whether the peer said that it hands over what it has, to leave for good.
    pub is_leaving: bool,
    /// When the last round came, in Unix milliseconds.
    pub last_round_ms: Option<u64>,
}

impl Figures {
    /// Notes a message that was made to find out what differs.
    pub(in crate::core::protocol::peer) fn count_sent(&mut self, message: &Message) {
        self.comparison_messages += 1;
        self.comparison_bytes += message.encoded_bytes();
        self.count_step(message);
    }

    /// Notes that a message, sent or received, may be a step of a comparison.
    pub(in crate::core::protocol::peer) fn count_step(&mut self, message: &Message) {
        let Some(step) = message.step() else { return };
        // Nothing comes before an opening.
        let before = if step == 0 { 0 } else { self.comparison_steps };
        self.comparison_steps = before | 1 << step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::protocol::message::Comparison;

    #[test]
    fn steps_are_those_of_the_last_comparison_and_bytes_those_of_all() {
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
