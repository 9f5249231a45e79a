//! The group of a node on its own, in this process.

use tempfile::TempDir;

use super::*;
use crate::{
    core::write::{Action, Condition, Write},
    core::{
        json::Value,
        name::Key,
        strong::request::{Refusal, Transaction},
    },
    replication::{
        self, Replication, link,
        strong::catalogue::{Catalogue, Knowledge},
    },
    storage::{
        self, Durability, Environment, Store, commit::timestamps::Timestamps,
        environment::wall_clock::system_ms,
    },
};

fn replication(store: &Store, timestamps: &Arc<Timestamps>) -> Replication {
    let options = replication::Options {
        join: Vec::new(),
        advertise: None,
        listen: ([127, 0, 0, 1], 1).into(),
        secrets: link::secret::Secrets::new(["sixteen letters!"]).expect("long enough"),
        tombstone_grace_ms: 1,
        forget_after_ms: 1,
        round_ms: 1_000,
        clock_drift_max_ms: 500,
        network: Arc::new(link::connect::SystemNetwork),
    };
    Replication::start(options, store.clone(), timestamps.clone()).expect("replication starts")
}

/// A node on its own, without clients.
pub struct Alone {
    pub strong: Strong,
    pub parts: Parts,
    /// Removed when this is dropped.
    pub directory: TempDir,
}

impl Alone {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let storage = storage::Options {
            data: directory.path().join("storage.db"),
            durability: Durability::None,
            cache_bytes: 8 * 1024 * 1024,
            buffers: storage::Buffers::default(),
            scrub_bytes_per_second: 0,
            tables_max: 10,
            subscriptions_max: 1,
            set_aside_damaged: false,
            peers: Default::default(),
            environment: Environment::new(Arc::new(system_ms)),
        };
        let store = Store::open(storage).expect("the store opens");
        let timestamps = Arc::new(Timestamps::new(store.clone(), 500));
        let replication = replication(&store, &timestamps);
        let parts = Parts { replication, store, timestamps, value_bytes_max: 1024, counters: Arc::default() };
        let strong =
            Strong::start(parts.clone(), directory.path().join("raft")).await.expect("the group starts");
        Self { strong, parts, directory }
    }

    pub async fn stop(self) {
        self.strong.stop().await;
        self.parts.replication.stop().await;
        self.parts.store.close().expect("closes");
    }
}

fn name() -> TableName {
    TableName::parse("stock").expect("a name")
}

fn put(key: &str) -> Request {
    let action = Action::Put { value: Value::trusted("1".into()), expiry: None };
    let write = Write { key: Key::parse(key).expect("a key"), action, condition: Condition::Always };
    Request::Write { table: name(), writes: vec![write] }
}

async fn call(node: &Alone, group: GroupId, call: Call) -> CallAnswer {
    let body = rpc::encode(&Envelope { group, body: call });
    let answer = node.strong.0.clone().serve_call(NodeId(7), body).await.expect("answers");
    rpc::decode(&answer).expect("an answer")
}

/// The leader did not look at the group of what it was asked: a node of another group could write here.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_of_another_group_asks_is_refused() {
    let node = Alone::start().await;
    assert_eq!(node.strong.create(name()).await, Ok(true));
    let own = node.strong.member().expect("it is a member").group;
    let other = GroupId(own.0 ^ 1);
    for asked in [
        Call::Propose(put("a")),
        Call::Propose(Request::Transaction(Transaction::default())),
        Call::ReadIndex,
        Call::Retire,
        Call::Digest,
    ] {
        match call(&node, other, asked).await {
            CallAnswer::OtherGroup(Refusal::Unavailable(why)) => {
                assert!(why.contains("another group") && why.contains("Export"), "{why}");
            }
            answered => panic!("{answered:?}"),
        }
    }
    let written = call(&node, own, Call::Propose(put("b"))).await;
    assert!(matches!(written, CallAnswer::Proposed(Ok(_))), "{written:?}");
    let is_there =
        |key: &str| node.parts.store.get(&name(), &Key::parse(key).expect("a key")).expect("reads");
    assert_eq!((is_there("a").is_some(), is_there("b").is_some()), (false, true));
    // Whoever takes part in no group yet may ask which one there is.
    let found = call(&node, GroupId(0), Call::Group).await;
    assert!(matches!(found, CallAnswer::Group(Some((group, true))) if group == own), "{found:?}");
    node.stop().await;
}

/// A node that has learned which tables are strong may stop before the leader has taken it into the group. It has no log
/// then, which is no damage.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_knows_strong_tables_and_has_no_log_yet_is_taken_into_the_group() {
    let node = Alone::start().await;
    let catalogue = Catalogue { group: Some(GroupId(5)), tables: vec![name()], knowledge: Knowledge::Full };
    node.strong.0.learn(NodeId(7), catalogue).await.expect("learns");
    node.strong.stop().await;
    let parts =
        Parts { replication: replication(&node.parts.store, &node.parts.timestamps), ..node.parts.clone() };
    let again = Strong::start(parts, node.directory.path().join("raft")).await.expect("starts again");
    let refused = again.submit(put("a")).await;
    assert!(matches!(&refused, Err(Error::NotReady(why)) if why.contains("not been taken")), "{refused:?}");
    again.0.join(GroupId(5)).await.expect("is taken in");
    assert_eq!(again.member().map(|member| member.group), Some(GroupId(5)));
    again.stop().await;
    node.stop().await;
}
