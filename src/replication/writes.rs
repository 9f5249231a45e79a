//! Local writes: records them in the journal for the peers, and waits for replicas to acknowledge them.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::timeout;

use super::{Inner, Replication};
use crate::core::{
    clock::NodeId,
    name::{Key, TableName},
    protocol::message::Row,
};

impl Replication {
    /// Records rows that this node wrote to a table, for the peers. The rows must be readable already.
    pub fn record_writes(&self, table: &TableName, rows: impl IntoIterator<Item = Row>) {
        let mut journal = self.0.shared.journal();
        if !self.0.has_peers.load(Ordering::Acquire) {
            // A peer that links just now does not have it, so it must not count as the first that does.
            journal.skip();
            return;
        }
        for row in rows {
            journal.append(table.clone(), row.key.clone(), Some(row));
        }
        drop(journal);
        self.0.notify_appended();
    }

    /// Records a row that was written before, to send it to the peers again.
    pub fn announce_again(&self, table: &TableName, key: &Key) {
        let mut journal = self.0.shared.journal();
        if !self.0.has_peers.load(Ordering::Acquire) {
            journal.skip();
            return;
        }
        journal.append(table.clone(), key.clone(), None);
        drop(journal);
        self.0.notify_appended();
    }

    /// The journal number of the last write.
    pub fn last_written(&self) -> u64 {
        self.0.shared.journal().last()
    }

    /// Waits until `wanted` other members durably hold everything up to `entry`. Returns how many do, which is fewer if
    /// the time is up.
    pub async fn wait_for_replicas(&self, entry: u64, wanted: usize, wait_max: Duration) -> usize {
        let _awaiting = self.0.waiters.clone();
        let mut held = 0;
        let waiting = async {
            loop {
                let progressed = self.0.progressed.notified();
                let mut progressed = std::pin::pin!(progressed);
                progressed.as_mut().enable();
                held = self.0.holders(entry);
                if held >= wanted {
                    return;
                }
                progressed.await;
            }
        };
        // The number tells whether the time was up.
        let _ = timeout(wait_max, waiting).await;
        held
    }
}

impl Inner {
    /// How many other members hold a journal entry.
    fn holders(&self, entry: u64) -> usize {
        let members = self.state().members.member_ids();
        let progress = self.shared.progress();
        let holds =
            |node: &&NodeId| progress.acked.get(*node).is_some_and(|acked| entry == 0 || acked.holds(entry));
        members.iter().filter(holds).count()
    }
}
