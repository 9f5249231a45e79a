//! What may take long, and so is done on a thread of its own, where it holds up no other task of a node. All else is done where
//! it comes up: a thread costs more to wake than a round of a cluster that is idle.

use crate::{
    core::protocol::{message::Message, replica::Swept},
    replication::SETTLE_MS,
    storage::Store,
};

/// Batches of more rows are merged where that holds up nothing else.
pub const INLINE_ROWS_MAX: usize = 16;
/// A round quotes the root at an instant that is no longer ago than this.
const ROOT_AGE_MAX_MS: u64 = 2 * SETTLE_MS;

/// Whether a message may take long to deal with.
pub fn may_block(store: &Store, message: &Message) -> bool {
    match message {
        Message::Rows(rows) => {
            rows.tables.iter().map(|(_, rows)| rows.len()).sum::<usize>() > INLINE_ROWS_MAX
        }
        Message::Applied { deleted, .. } => !deleted.is_empty(),
        Message::Round(round) => {
            let swept = Swept { tombstones_ms: round.swept_ms, expired_ms: round.expired_ms };
            // To take over how far others have swept may wait for the disk.
            swept != store.swept() || round_may_block(store)
        }
        Message::Open(_) | Message::Digests(_) | Message::RowFingerprints(_) | Message::Names(_) => true,
        Message::Alive
        | Message::Swim(_)
        | Message::Want(_)
        | Message::Pull(_)
        | Message::Forgotten(_)
        | Message::Superseded { .. }
        | Message::Refused(_)
        | Message::Leaving { .. }
        | Message::StorageFull(_) => false,
    }
}

/// Whether it may take long to say how this node stands.
pub fn round_may_block(store: &Store) -> bool {
    !store.remembers_root(store.now_ms().saturating_sub(ROOT_AGE_MAX_MS))
}
