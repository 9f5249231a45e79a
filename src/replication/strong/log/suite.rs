//! openraft's own suite for logs, over this one. It also asks for a state machine, so there is one in memory.

use std::sync::{Arc, Mutex, MutexGuard};

use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, RaftTypeConfig, Snapshot, SnapshotMeta,
    StoredMembership,
    storage::RaftStateMachine,
    testing::{StoreBuilder, Suite},
};
use tempfile::TempDir;

use super::{RaftLog, tests::environment};
use crate::{
    core::{clock::NodeId, strong::entry::Applied},
    replication::strong::types::{Group, LogEntry, LogId, SnapshotData, StorageError},
    storage::{Environment, Threads},
};

type Node = <Group as RaftTypeConfig>::Node;
type Membership = StoredMembership<NodeId, Node>;
type Meta = SnapshotMeta<NodeId, Node>;

impl From<u64> for NodeId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Contents>>);

#[derive(Default)]
struct Contents {
    applied: Option<LogId>,
    membership: Membership,
    snapshot: Option<Meta>,
}

impl Memory {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().expect("no test panics here")
    }
}

impl RaftSnapshotBuilder<Group> for Memory {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Group>, StorageError> {
        let mut contents = self.contents();
        let meta = SnapshotMeta {
            last_log_id: contents.applied,
            last_membership: contents.membership.clone(),
            snapshot_id: "snapshot".into(),
        };
        contents.snapshot = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: Box::new(SnapshotData) })
    }
}

impl RaftStateMachine<Group> for Memory {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        let contents = self.contents();
        Ok((contents.applied, contents.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut contents = self.contents();
        let apply = |entry: LogEntry| {
            contents.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                contents.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            Applied::Done
        };
        Ok(entries.into_iter().map(apply).collect())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotData>, StorageError> {
        Ok(Box::new(SnapshotData))
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        _snapshot: Box<SnapshotData>,
    ) -> Result<(), StorageError> {
        let (applied, membership) = (meta.last_log_id, meta.last_membership.clone());
        *self.contents() = Contents { applied, membership, snapshot: Some(meta.clone()) };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Group>>, StorageError> {
        let meta = self.contents().snapshot.clone();
        Ok(meta.map(|meta| Snapshot { meta, snapshot: Box::new(SnapshotData) }))
    }
}

struct Builder(Environment);

impl StoreBuilder<Group, RaftLog, Memory, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, RaftLog, Memory), StorageError> {
        let directory = tempfile::tempdir().expect("a directory");
        let log = RaftLog::open(&directory.path().join("raft"), &self.0).expect("a log");
        Ok((directory, log, Memory::default()))
    }
}

#[test]
fn the_log_does_what_openraft_asks_of_one() {
    Suite::test_all(Builder(environment(Threads::Many))).expect("the suite passes");
}
