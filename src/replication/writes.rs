//! What is written here: noted for the peers to be told, and which of them hold it.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::timeout;

use super::{Inner, Replication};
use crate::core::{
    clock::NodeId,
    name::{Key, TableName},
    protocol::message::Row,
};

impl Replication {
    /// Notes rows that this node wrote to a table, for the peers to be told. They must be readable.
    pub fn record_writes(&self, table: &TableName, rows: impl IntoIterator<Item = Row>) {
        let mut journal = self.0.shared.journal();
        if !self.0.has_peers.load(Ordering::Acquire) {
            // A peer that comes just now does not have it: it must not count as the first that does.
            journal.skip();
            return;
        }
        for row in rows {
            journal.append(table.clone(), row.key.clone(), Some(row));
        }
        drop(journal);
        self.0.notify_appended();
    }

    /// Notes a row that is here already, for the peers to be told of it again.
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

    /// The last write that was noted.
    pub fn last_written(&self) -> u64 {
        self.0.shared.journal().last()
    }

    /// Returns when so many members beside this node hold durably what was noted up to `entry`; with how many did where the time
    /// is over before.
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
        // Whether they came or the time ran out shows in the number.
        let _ = timeout(wait_max, waiting).await;
        held
    }
}

impl Inner {
    /// How many other members hold an entry of the journal.
    fn holders(&self, entry: u64) -> usize {
        let members = self.state().members.member_ids();
        let progress = self.shared.progress();
        let holds =
            |node: &&NodeId| progress.acked.get(*node).is_some_and(|acked| entry == 0 || acked.holds(entry));
        members.iter().filter(holds).count()
    }
}
