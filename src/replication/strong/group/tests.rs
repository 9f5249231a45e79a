//! The group of a node on its own, in this process.

use std::sync::atomic::AtomicUsize;

use futures_util::{FutureExt, future::BoxFuture};

mod pair;

pub use self::pair::Pair;
use super::*;
use crate::{
    core::write::{Action, Condition, Write},
    core::{
        json::Value,
        name::Key,
        protocol::message::RequestKind,
        register::Register,
        strong::request::{Refusal, Transaction},
    },
    replication::{
        requests::{
            RequestService,
            tests::{
                nodes::{self, TestNode, replicate},
                until,
            },
        },
        strong::{
            catalogue::{Catalogue, Knowledge},
            checkpoint::Checkpoint,
            revisions::Revisions,
            rpc::{Consensus, ConsensusAnswer, SnapshotStep},
            types::{LogId, Metrics, Vote},
        },
    },
};

/// A node without clients.
pub struct Alone {
    pub strong: Strong,
    pub parts: Parts,
    pub node: TestNode,
}

impl Alone {
    pub async fn start() -> Self {
        Self::of(nodes::start(0, None).await).await
    }

    pub async fn of(node: TestNode) -> Self {
        let TestNode { replication, store, timestamps, directory, .. } = &node;
        let parts = Parts {
            replication: replication.clone(),
            store: store.clone(),
            timestamps: timestamps.clone(),
            value_bytes_max: 1024,
            counters: Arc::default(),
            revisions: Arc::new(Revisions::new(true)),
        };
        let strong =
            Strong::start(parts.clone(), directory.path().join("raft")).await.expect("the group starts");
        Self { strong, parts, node }
    }

    pub async fn stop(self) {
        self.strong.stop().await;
        self.parts.replication.stop().await;
        self.parts.store.close().expect("closes");
    }
}

pub fn name() -> TableName {
    TableName::parse("stock").expect("a name")
}

pub fn put(key: &str) -> Request {
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
    let TestNode { store, timestamps, address, directory, .. } = &node.node;
    let parts = Parts { replication: replicate(store, timestamps, *address, None), ..node.parts.clone() };
    let again = Strong::start(parts, directory.path().join("raft")).await.expect("starts again");
    let refused = again.submit(put("a")).await;
    assert!(matches!(&refused, Err(Error::NotReady(why)) if why.contains("not been taken")), "{refused:?}");
    again.0.join(GroupId(5)).await.expect("is taken in");
    assert_eq!(again.member().map(|member| member.group), Some(GroupId(5)));
    again.stop().await;
    node.stop().await;
}

/// A leader that was killed and started again led on in the same term. It decided by the entries that it had applied, though its log had more that
/// were not known to be committed: after all three nodes were killed at once, a comparison succeeded that did not hold.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_restarted_is_elected_anew_before_it_decides_anything() {
    let node = Alone::start().await;
    assert_eq!(node.strong.create(name()).await, Ok(true));
    let term = |strong: &Strong| strong.member().expect("it is a member").metrics().borrow().current_term;
    let before = term(&node.strong);
    node.strong.stop().await;
    let TestNode { store, timestamps, address, directory, .. } = &node.node;
    let parts = Parts { replication: replicate(store, timestamps, *address, None), ..node.parts.clone() };
    let again = Strong::start(parts, directory.path().join("raft")).await.expect("starts again");
    again.submit(put("a")).await.expect("it is elected");
    assert!(term(&again) > before);
    again.stop().await;
    node.stop().await;
}

/// A node that had promised another to belong to a group went on with its start by itself, with voters of its own. So two majorities of the
/// cluster could start one group with voters of which none is common to both, and each elected a leader.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_another_node_began_to_start_is_started_with_the_voters_that_it_chose() {
    let node = Alone::start().await;
    let own = node.parts.store.node();
    let claimed = call(&node, GroupId(5), Call::Claim(vec![NodeId(7)])).await;
    assert!(matches!(claimed, CallAnswer::Claimed(GroupId(5))), "{claimed:?}");
    let later = call(&node, GroupId(6), Call::Claim(vec![NodeId(8), own])).await;
    assert!(matches!(later, CallAnswer::Claimed(GroupId(5))), "{later:?}");
    let refused = node.strong.create(name()).await;
    let why = NodeId(7).to_string();
    assert!(matches!(&refused, Err(Error::NoQuorum(said)) if said.contains(&why)), "{refused:?}");
    let asked = call(&node, GroupId(0), Call::Claimed).await;
    assert!(matches!(asked, CallAnswer::Claim(Some(claim)) if claim.voters == [NodeId(7)]));
    // An operator knows that it is gone.
    assert!(node.strong.init(false).await.is_err_and(|why| why.to_string().contains("--force")));
    assert!(node.strong.init(true).await.is_ok_and(|started| started.is_forced));
    assert_eq!(node.strong.create(name()).await, Ok(true));
    node.stop().await;
}

/// Fails when it is asked for the first time, and has a strong table.
#[derive(Default)]
struct FailsFirst(AtomicUsize);

impl RequestService for FailsFirst {
    fn call(
        &self,
        _: NodeId,
        _: RequestKind,
        body: Vec<u8>,
    ) -> BoxFuture<'static, std::result::Result<Vec<u8>, String>> {
        let asked: Envelope<Call> = rpc::decode(&body).expect("a call");
        let is_first = self.0.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            assert!(matches!(asked.body, Call::Tables));
            if is_first {
                return Err("the storage takes nothing for now".to_owned());
            }
            let catalogue = Catalogue { group: None, tables: vec![name()], knowledge: Knowledge::Full };
            Ok(rpc::encode(&CallAnswer::Tables(catalogue)))
        }
        .boxed()
    }
}

/// A node whose storage failed for a moment when it was asked was taken for one that has no strong tables, and never asked again. What was
/// written here to one of that name was eventual.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fails_when_it_is_asked_for_its_tables_is_asked_again() {
    let other = nodes::start(0, None).await;
    other.replication.serve(Arc::new(FailsFirst::default()));
    let node = Alone::of(nodes::start(0, Some(other.address)).await).await;
    until("it knows", || node.parts.store.is_strong(&name())).await;
    node.strong.until_tables_are_known().await;
    node.stop().await;
    other.replication.stop().await;
}

/// The storage may come back after a failure of the disk without the last of what was applied. The leader evaluated requests on that before it was
/// applied again: a write that asks for the key to be absent succeeded, though the key had a value that was answered.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_decides_nothing_on_a_store_that_has_lost_what_was_applied() {
    let node = Alone::start().await;
    assert_eq!(node.strong.create(name()).await, Ok(true));
    let store = &node.parts.store;
    node.strong.submit(put("a")).await.expect("is written");
    let member = node.strong.member().expect("it is a member");
    let held = member.machine.hold().await;
    let before = store.incarnation();
    store.fail("a test");
    until("the storage is open again", || store.failure().is_none() && store.incarnation() != before).await;
    let key = Key::parse("a").expect("a key");
    if let Some(row) = store.read_row(&name(), &key).expect("reads") {
        store.remove(vec![(name(), key.clone(), row.marker)]).expect("is lost");
    }
    let action = Action::Put { value: Value::trusted("2".into()), expiry: None };
    let write = Write { key, action, condition: Condition::Absent };
    let request = Request::Write { table: name(), writes: vec![write] };
    let last = member.metrics().borrow().last_log_index;
    let (strong, asked) = (node.strong.clone(), request.clone());
    let asked = tokio::spawn(async move { strong.submit(asked).await });
    let mut metrics = member.metrics();
    let proposed = metrics.wait_for(|metrics| metrics.last_log_index > last);
    assert!(timeout(Duration::from_millis(300), proposed).await.is_err(), "it decided on what is left");
    drop(held);
    let refused = asked.await.expect("ends");
    assert!(matches!(refused, Err(Error::PreconditionFailed { .. } | Error::NotReady(_))), "{refused:?}");
    let refused = node.strong.submit(request).await;
    assert!(matches!(refused, Err(Error::PreconditionFailed { .. })), "{refused:?}");
    drop((member, metrics));
    node.stop().await;
}

/// What was committed was not applied on a node at `--max-tables`: it tried again for ever, and nothing that followed was applied either.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_applied_at_the_limit_of_tables_and_no_more_tables_are_made() {
    let node = Alone::start().await;
    assert_eq!(node.strong.create(name()).await, Ok(true));
    for number in 0..4 {
        let table = TableName::parse(&format!("eventual{number}")).expect("a name");
        let timestamp = node.parts.timestamps.tick().expect("ticks");
        let register = Register::live(Value::trusted("1".into()), None, timestamp);
        let key = Key::parse("a").expect("a key");
        node.parts.store.merge(&table, &key, |_| Ok(register)).expect("merges");
    }
    node.strong.submit(put("a")).await.expect("is applied");
    let refused = node.strong.create(TableName::parse("more").expect("a name")).await;
    let names_setting = |why: &str| why.contains("--max-tables");
    assert!(matches!(&refused, Err(Error::NotReady(why)) if names_setting(why)), "{refused:?}");
    node.stop().await;
}

/// openraft has the log purged while the snapshot that replaces it is being installed. After a power cut in between, or one before the record of it
/// was durable, the node had neither the entries nor the record, and did not start.
#[tokio::test(flavor = "multi_thread")]
async fn entries_stay_in_the_log_until_the_record_of_the_snapshot_that_has_them_is_durable() {
    let pair = Pair::start().await;
    let ([begins, installs], serving) = (pair.snapshot(), pair.leader.clone());
    serving.serve(begins).await.expect("begins");
    let held = pair.leader.machine.hold().await;
    let installing = tokio::spawn(async move { serving.serve(installs).await });
    let directory = pair.node.node.directory.path().join("pair");
    let purged = || pair.leader.machine.log().purged().map(|purged| purged.index);
    let early = timeout(Duration::from_millis(300), until("it is purged", || purged() == Some(100))).await;
    assert!(early.is_err(), "entries are gone that no durable record covers");
    drop(held);
    installing.await.expect("ends").expect("is installed");
    until("it is purged", || purged() == Some(100)).await;
    let Pair { leader, node, other, .. } = pair;
    leader.stop().await;
    drop(leader);
    Checkpoint::default().write(&node.parts.store).expect("is lost");
    let damaged = Member::open(GroupId(1), &directory, node.parts.clone()).await.map(drop);
    assert!(matches!(damaged, Err(Error::StorageDamaged(_))), "{damaged:?}");
    other.replication.stop().await;
    node.stop().await;
}
