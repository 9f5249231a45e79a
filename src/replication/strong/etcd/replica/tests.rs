//! Commits applied in the order of etcd.

use super::*;
use crate::{
    core::{
        json::Value,
        name::{Key, TableName},
        protocol::message::Row,
        register::Register,
    },
    storage::{self, Durability, Environment},
};

pub(in crate::replication::strong::etcd) const CLUSTER: u64 = 3;
const NOW_MS: u64 = 1_700_000_000_000;

pub(in crate::replication::strong::etcd) fn open(directory: &std::path::Path) -> Replica {
    let storage = storage::Options {
        data: directory.join("storage.db"),
        durability: Durability::None,
        cache_bytes: 8 * 1024 * 1024,
        buffers: storage::Buffers::default(),
        scrub_bytes_per_second: 0,
        tables_max: 10,
        subscriptions_max: 1,
        set_aside_damaged: false,
        peers: Default::default(),
        environment: Environment::new(Arc::new(|| NOW_MS)),
    };
    let store = Store::open(storage).expect("the store opens");
    let timestamps = Arc::new(Timestamps::new(store.clone(), 500));
    Replica::open(store, timestamps).expect("no place, or a readable one")
}

fn table() -> TableName {
    TableName::parse("t").expect("a name")
}

/// The commit of this number: it makes the table, or writes its number, at an instant of its own.
pub(in crate::replication::strong::etcd) fn commit(number: u64) -> Commit {
    let timestamp = Timestamp { hlc: (NOW_MS << 16) + number, node: NodeId(9) };
    let value = Register::live(Value::trusted(number.to_string()), None, timestamp);
    let row = Row::new(Key::parse("k").expect("a key"), value);
    let effect = if number == 1 { Effect::Create(table()) } else { Effect::Merge(table(), row) };
    let commit =
        Commit::new(100 + number, if number == 1 { 0 } else { 99 + number }, NodeId(9), 0, vec![effect]);
    Commit { revision: 10 * number, ..commit }
}

fn value(replica: &Replica) -> Option<String> {
    let entry = replica.store.get(&table(), &Key::parse("k").expect("a key")).expect("readable")?;
    Some(entry.value.as_str().to_owned())
}

#[tokio::test]
async fn commits_are_applied_in_order_once_and_none_is_left_out() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let replica = open(directory.path());
    assert_eq!((*replica.applied().borrow(), replica.place()), (None, Place::default()));
    assert!(matches!(replica.apply(CLUSTER, &commit(2)).await, Err(NotApplied::Gap)), "the first is missing");
    for number in [1, 2, 1, 2, 3] {
        replica.apply(CLUSTER, &commit(number)).await.expect("the next, or one from before");
    }
    assert!(matches!(replica.apply(CLUSTER, &commit(5)).await, Err(NotApplied::Gap)), "4 is missing");
    assert_eq!((value(&replica).as_deref(), *replica.applied().borrow()), (Some("3"), Some(30)));
    let another = Commit { head: Head { previous: 7, ..commit(4).head }, ..commit(4) };
    assert!(matches!(replica.apply(CLUSTER, &another).await, Err(NotApplied::Gap)), "it follows another");
    assert_eq!(replica.came_after(10, 103), Some(Some(30)));
    assert_eq!(replica.came_after(10, 104), Some(None));
    let stamp = replica.timestamps.tick().map(|stamp| stamp.hlc);
    assert!(stamp.is_err() || stamp.is_ok_and(|hlc| hlc > (NOW_MS << 16) + 3), "later than all commits");
    replica.store.close().expect("closes");
}

#[tokio::test]
async fn a_restart_goes_on_from_the_durable_place() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let replica = open(directory.path());
    for number in 1..=2 {
        replica.apply(CLUSTER, &commit(number)).await.expect("the next");
    }
    replica.checkpoint().await.expect("a disk with room");
    replica.apply(CLUSTER, &commit(3)).await.expect("the next");
    replica.store.close().expect("closes");
    drop(replica);
    let replica = open(directory.path());
    assert_eq!((replica.place().revision, replica.place().cluster), (20, Some(CLUSTER)));
    assert_eq!(replica.came_after(10, 102), None, "it has seen that before the restart");
    replica.apply(CLUSTER, &commit(3)).await.expect("applied again");
    assert_eq!((value(&replica).as_deref(), replica.came_after(20, 103)), (Some("3"), Some(Some(30))));
    replica.store.close().expect("closes");
}
