//! What a session says only after a disk sync, and how it continues if the disk fails.
//!
//! A node whose storage fails keeps its links. It still sends rounds, without a root, and answers. It drops the rows
//! that arrive and acknowledges none of them or of those that follow, so that the sender keeps them. Once the storage
//! accepts rows again the link ends, and the next one continues after the last acknowledgement. A node without room for
//! a peer's table does the same, except that its rounds keep their root, because everything it has is durable.

use std::{mem, time::Duration};

use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Session;
use crate::{
    core::protocol::{
        message::{Message, Round},
        peer::{Output, Then},
    },
    error::{Error, Result},
    storage::commit::Incarnation,
};

/// The result of a sync, how long it took, and what to do next.
pub type Synced = (Result<()>, Duration, Then);

impl Session {
    /// Sends a message, or queues what must wait for a sync of everything merged in this life of the storage.
    pub(in crate::replication::session) fn queue_output(&mut self, incarnation: Incarnation, output: Output) {
        match output {
            Output::Send(message) => self.waiting.push_back(message),
            Output::AfterSync(then) => {
                let inner = self.inner.clone();
                self.syncs.push_back(
                    async move {
                        let begun = Instant::now();
                        let result = inner.sync(incarnation).await;
                        (result, begun.elapsed(), then)
                    }
                    .boxed(),
                );
            }
        }
    }

    /// Does what was waiting for a sync.
    pub(in crate::replication::session) fn after_sync(&mut self, then: Then, is_durable: bool) {
        match allowed_after_sync(then, is_durable, self.accepts_rows) {
            Some(Then::Send(message)) => {
                self.sent_first_round |= matches!(message, Message::Round(_));
                self.waiting.push_back(message);
            }
            Some(Then::Equal(equal)) => {
                let peer = self.peer.as_mut().expect("the peer is here between messages");
                peer.equal(&self.inner.context(), equal);
                debug!(peer = %self.state.node, at_ms = equal.compared.at_ms, "equal");
                let (is_complete, at_ms) =
                    (equal.covered.is_some_and(|flags| flags.complete), equal.compared.at_ms);
                if is_complete && let Err(error) = self.inner.store().restored(at_ms) {
                    debug!(%error, "the record of lost rows stays until the next round");
                }
            }
            None => {}
        }
    }

    /// Passes a result on. `None` if the storage failed: from then on no rows are accepted, and the peer is told.
    pub(in crate::replication::session) fn tolerate_storage_failure<T>(
        &mut self,
        done: Result<T>,
    ) -> Result<Option<T>> {
        match done {
            Ok(done) => Ok(Some(done)),
            // The storage may be reopening.
            Err(error @ (Error::StorageFull(_) | Error::NotReady(_))) => {
                if mem::replace(&mut self.accepts_rows, false) {
                    let why = self.inner.store().failure().unwrap_or_else(|| error.to_string());
                    self.waiting.push_back(Message::StorageFull(why));
                }
                Ok(None)
            }
            Err(Error::TooMany(why)) => {
                if mem::replace(&mut self.accepts_rows, false) {
                    let peer = self.state.node;
                    warn!(%peer, why, "no rows are accepted from a peer: it keeps them and sends them once there is room");
                    self.state.set_rows_refused(why.clone());
                    self.waiting.push_back(Message::StorageFull(why));
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether rows could be accepted again.
    pub(in crate::replication::session) fn can_accept_again(&self) -> bool {
        let store = self.inner.store();
        store.failure().is_none() && (self.state.rows_refused().is_none() || store.has_room_for_tables())
    }
}

/// What may be done after a sync. If the sync failed: nothing that claims what this node holds. If the session no
/// longer accepts rows: no acknowledgement, because it would cover the dropped batches before it.
fn allowed_after_sync(then: Then, is_durable: bool, accepts_rows: bool) -> Option<Then> {
    match then {
        Then::Send(Message::Round(round)) if !is_durable => {
            Some(Then::Send(Message::Round(Round { root: None, ..round })))
        }
        Then::Send(_) | Then::Equal(_) if !is_durable => None,
        Then::Send(Message::Applied { .. }) if !accepts_rows => None,
        then => Some(then),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        digest::RootDigest,
        protocol::{floor::Floor, message::Flags, peer::Equal, replica::Swept},
    };

    #[test]
    fn rows_that_are_not_durable_are_neither_claimed_nor_acknowledged() {
        let applied = || Then::Send(Message::Applied { batch: 1, deleted: Vec::new() });
        let compared = Floor::default().compare(1);
        let equal = || Then::Equal(Equal { compared, swept: Swept::default(), covered: None });
        let round = |root| {
            Then::Send(Message::Round(Round {
                now_ms: 1,
                echo: None,
                behind_ms: 0,
                root,
                rows: 0,
                guarantee_ms: 0,
                agreed_ms: 0,
                swept_ms: 0,
                expired_ms: 0,
                flags: Flags::default(),
            }))
        };
        let root = Some(RootDigest([1; 16]));
        for accepts_rows in [true, false] {
            assert_eq!(allowed_after_sync(applied(), false, accepts_rows), None);
            assert_eq!(allowed_after_sync(equal(), false, accepts_rows), None);
            assert_eq!(allowed_after_sync(round(root), false, accepts_rows), Some(round(None)));
            assert_eq!(allowed_after_sync(round(root), true, accepts_rows), Some(round(root)));
            assert_eq!(allowed_after_sync(equal(), true, accepts_rows), Some(equal()));
        }
        assert_eq!(allowed_after_sync(applied(), true, true), Some(applied()));
        assert_eq!(allowed_after_sync(applied(), true, false), None, "earlier rows may have been dropped");
    }
}
