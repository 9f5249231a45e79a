//! Decides which messages to handle on a blocking thread, so that they hold up no other task. Everything else is
//! handled on the session's task: waking a thread costs more than a round of an idle cluster.

use crate::{
    core::protocol::{message::Message, replica::Swept},
    replication::SETTLE_MS,
    storage::Store,
};

/// Batches with more rows are merged on a blocking thread.
pub const INLINE_ROWS_MAX: usize = 16;
/// A round's root is of an instant no longer ago than this.
const ROOT_AGE_MAX_MS: u64 = 2 * SETTLE_MS;

/// Whether handling a message may take long.
pub fn may_block(store: &Store, message: &Message) -> bool {
    match message {
        Message::Rows(rows) => {
            rows.tables.iter().map(|(_, rows)| rows.len()).sum::<usize>() > INLINE_ROWS_MAX
        }
        Message::Applied { deleted, .. } => !deleted.is_empty(),
        Message::Round(round) => {
            let swept = Swept { tombstones_ms: round.swept_ms, expired_ms: round.expired_ms };
            // Following a sweep may wait for the disk.
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
        | Message::StorageFull(_)
        | Message::Request { .. }
        | Message::Response { .. }
        | Message::Cancel { .. } => false,
    }
}

/// Whether making a round may take long.
pub fn round_may_block(store: &Store) -> bool {
    !store.has_cached_root(store.now_ms().saturating_sub(ROOT_AGE_MAX_MS))
}
