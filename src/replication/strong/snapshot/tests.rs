//! Snapshots from one node's store to another node.

use openraft::{SnapshotMeta, storage::RaftStateMachine};
use tokio::{runtime::Handle, task::block_in_place};

use super::*;
use crate::{
    core::{clock::NodeId, json::Value, register::Register, strong::request::Request},
    replication::{
        requests::tests::{nodes, until},
        strong::{
            group::tests::{Alone, Pair, name, put},
            rpc::Consensus,
        },
    },
};

/// The vote of a leader of a term.
fn leads(term: u64) -> Vote {
    Vote::new_committed(term, NodeId(9))
}

fn key(text: &str) -> Key {
    Key::parse(text).expect("a key")
}

/// Writes a row of the strong table as an entry of the log does, stamped by the node's clock once its bound is ahead.
fn write(node: &Alone, text: &str) {
    let bound = node.parts.timestamps.before_writing();
    block_in_place(|| Handle::current().block_on(bound)).expect("the clock goes");
    let timestamp = node.parts.timestamps.tick().expect("the clock goes");
    let register = Register::live(Value::trusted("1".into()), None, timestamp);
    node.parts.store.merge(&name(), &key(text), |_| Ok(register)).expect("merges");
}

/// The keys of the strong table and their versions.
fn rows(node: &Alone) -> Vec<(Key, Marker)> {
    let heads = (0..=u8::MAX)
        .flat_map(|partition| node.parts.store.heads(&name(), Path::partition(partition)).expect("reads"));
    heads.map(|(key, marker, _)| (key, marker)).collect()
}

/// Two nodes with a strong table, of one cluster.
async fn pair() -> (Alone, Alone) {
    let (from, to) = (Alone::start().await, Alone::start().await);
    for node in [&from, &to] {
        assert_eq!(node.strong.create(name()).await, Ok(true));
        node.parts.store.count_rows().expect("counts");
    }
    to.parts.store.rekey(from.parts.store.digest_key()).expect("takes the key");
    to.parts.store.count_rows().expect("counts");
    (from, to)
}

async fn step(to: &Alone, vote: Vote, step: SnapshotStep) -> Result<ConsensusAnswer> {
    step_of(Purpose::Snapshot, to, vote, step).await
}

async fn step_of(purpose: Purpose, to: &Alone, vote: Vote, step: SnapshotStep) -> Result<ConsensusAnswer> {
    let member = to.strong.member().expect("it is a member");
    receive(&member, &to.parts.store, purpose, vote, step).await
}

async fn transfer(from: &Alone, to: &Alone, latest: Timestamp) -> Result<Figures> {
    send(&from.parts.store, Purpose::Snapshot, 1, latest, |body| step(to, leads(9), body)).await
}

async fn stop(nodes: [Alone; 2]) {
    for node in nodes {
        node.stop().await;
    }
}

/// After four comparisons a snapshot was installed, though each removes no more than some thousand rows: the rest of what had been deleted
/// while the receiver was away was there again.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_has_what_the_sender_has_and_nothing_else() {
    let (from, to) = pair().await;
    // Long names: few fit an answer.
    (0..12_000).for_each(|row| write(&to, &format!("{row:0200}")));
    ["both", "ahead"].iter().for_each(|text| write(&to, text));
    write(&from, "both");
    (0..500).for_each(|row| write(&from, &row.to_string()));
    let register = Register::live(Value::trusted("1".into()), None, Timestamp { hlc: 1, node: NodeId(1) });
    from.parts.store.merge(&name(), &key("ahead"), |_| Ok(register)).expect("merges");
    let latest = from.parts.timestamps.tick().expect("the clock goes");
    let figures = transfer(&from, &to, latest).await.expect("it is sent");
    assert!(figures.removed >= 12_001, "{figures:?}");
    assert_eq!(rows(&to), rows(&from));
    assert_eq!(transfer(&from, &to, latest).await, Ok(Figures::default()));
    stop([from, to]).await;
}

/// Rows that are written all the while differ each time, and the log brings them.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_ends_while_rows_are_written() {
    let (from, to) = pair().await;
    (0..50).for_each(|row| write(&from, &row.to_string()));
    let latest = from.parts.timestamps.tick().expect("the clock goes");
    let sent = send(&from.parts.store, Purpose::Snapshot, 1, latest, |body| {
        write(&from, "busy");
        step(&to, leads(9), body)
    });
    let figures = sent.await.expect("it is sent");
    assert_eq!(figures.old_rows, 50);
    stop([from, to]).await;
}

/// The rows were gone with the end of the log, and the member said that it had all up to the snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_whose_rows_the_storage_may_have_lost_is_not_installed() {
    let (from, to) = pair().await;
    write(&from, "row");
    let latest = from.parts.timestamps.tick().expect("the clock goes");
    let member = to.strong.member().expect("it is a member");
    let mut machine = member.machine.clone();
    let before = machine.applied_state().await.expect("is known");
    transfer(&from, &to, latest).await.expect("it is sent");
    to.parts.store.fail("a test");
    until("the storage is open again", || to.parts.store.failure().is_none()).await;
    let meta = SnapshotMeta { last_log_id: before.0, last_membership: before.1, ..SnapshotMeta::default() };
    let refused = machine.install_snapshot(&meta, Box::default()).await.expect_err("some may be lost");
    assert!(refused.to_string().contains("reopened"), "{refused}");
    drop((member, machine));
    stop([from, to]).await;
}

/// A leader that was deposed sent on. What it lacked, as it had been committed since, it removed from the receiver.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_taken_only_while_nothing_else_happened_since_the_snapshot_began() {
    let (from, to) = pair().await;
    let remove =
        || SnapshotStep::Remove(rows(&to).into_iter().map(|(key, marker)| (name(), key, marker)).collect());
    let refused = |answer: Result<ConsensusAnswer>, why: &str| {
        let error = answer.expect_err("it is refused");
        assert!(matches!(&error, Error::Conflict(said) if said.contains(why)), "{error}");
    };
    write(&to, "kept");
    refused(step(&to, leads(9), remove()).await, "not begun");
    refused(step(&to, Vote::new(0, NodeId(1)), SnapshotStep::Tables(vec![name()])).await, "leads no more");
    step(&to, leads(9), SnapshotStep::Tables(vec![name()])).await.expect("it begins");
    refused(step(&to, leads(8), remove()).await, "another leader");
    step(&to, leads(9), SnapshotStep::Remove(Vec::new())).await.expect("it goes on");
    to.strong.submit(put("applied")).await.expect("it is written");
    refused(step(&to, leads(9), remove()).await, "applied since");
    refused(step(&to, leads(9), SnapshotStep::Rows(Vec::new())).await, "applied since");
    assert_eq!(rows(&to).len(), 2);
    let tables = || SnapshotStep::Tables(vec![name()]);
    step(&to, leads(9), tables()).await.expect("it begins anew");
    refused(step_of(Purpose::Repair, &to, leads(9), tables()).await, "a snapshot is arriving");
    step(&to, leads(9), SnapshotStep::Rows(Vec::new())).await.expect("it goes on");
    stop([from, to]).await;
}

/// A repair goes on while the log does: what is applied meanwhile may be ahead of the leader, and stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_makes_old_rows_equal_while_entries_are_applied() {
    let (from, to) = pair().await;
    (0..50).for_each(|row| write(&to, &format!("undeleted {row}")));
    (0..50).for_each(|row| write(&from, &row.to_string()));
    let latest = from.parts.timestamps.tick().expect("the clock goes");
    // The two are of one cluster: the clock of one is not behind what the other has heard of.
    to.parts.timestamps.observe(latest).expect("is near");
    let mut steps = 0;
    let repair = send(&from.parts.store, Purpose::Repair, 1, latest, |body| {
        steps += 1;
        write(&to, &format!("applied {steps:03}"));
        step_of(Purpose::Repair, &to, leads(9), body)
    });
    let figures = repair.await.expect("it is sent");
    assert_eq!((figures.old_rows, figures.removed), (50, 50));
    let member = to.strong.member().expect("it is a member");
    let own_vote = member.own_vote().await.expect("openraft runs");
    member.machine.end_repair(&leads(9), own_vote).await.expect("it ends");
    member.machine.end_repair(&leads(9), own_vote).await.expect_err("it has ended");
    let mut kept: Vec<_> =
        rows(&to).into_iter().filter(|row| !rows(&from).contains(row)).map(|(key, _)| key).collect();
    // Rows come by partition.
    kept.sort();
    let applied: Vec<_> = (1..=steps).map(|step| key(&format!("applied {step:03}"))).collect();
    assert_eq!(kept, applied);
    stop([from, to]).await;
}

/// A row that the leader read before it was deleted came back here, where its tombstone was gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_ends_when_tombstones_are_removed() {
    let (from, to) = pair().await;
    let tables = || SnapshotStep::Tables(vec![name()]);
    step_of(Purpose::Repair, &to, leads(9), tables()).await.expect("it begins");
    to.strong.submit(put("applied")).await.expect("it is written");
    step_of(Purpose::Repair, &to, leads(9), SnapshotStep::Rows(Vec::new())).await.expect("it goes on");
    step(&to, leads(9), SnapshotStep::Rows(Vec::new())).await.expect_err("it is no snapshot");
    to.strong.submit(Request::Sweep(1)).await.expect("tombstones are removed");
    let answer = step_of(Purpose::Repair, &to, leads(9), SnapshotStep::Rows(Vec::new())).await;
    let error = answer.expect_err("it is refused");
    assert!(matches!(&error, Error::Conflict(why) if why.contains("tombstones")), "{error}");
    stop([from, to]).await;
}

/// A member that had stood for election while it was cut off refused the steps of a snapshot, and the leader never learned why: it led on, and the
/// member never got what it had missed.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_learns_of_a_later_vote_when_it_sends_a_snapshot() {
    let pair = Pair::start().await;
    let own_vote = pair.leader.own_vote().await.expect("openraft runs");
    let [begins, installs] = pair.snapshot();
    let earlier = Vote::new_committed(0, pair.other.store.node());
    for step in [begins, installs] {
        let step = match step {
            Consensus::Snapshot(_, step) => Consensus::Snapshot(earlier, step),
            Consensus::Install(_, meta) => Consensus::Install(earlier, meta),
            other => panic!("{other:?}"),
        };
        let answer = pair.leader.serve(step).await.expect("an answer");
        assert!(matches!(answer, ConsensusAnswer::Outvoted(vote) if vote == own_vote), "{answer:?}");
    }
    pair.stop().await;
}

/// Replicas that did not know yet what they held were taken for equal, and the snapshot was installed without anything sent.
#[test]
fn nothing_is_compared_before_the_rows_are_counted() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let open = || nodes::open(directory.path(), false);
    let store = open();
    make_strong(&store, &name()).expect("makes");
    let register = Register::live(Value::trusted("1".into()), None, Timestamp { hlc: 1, node: NodeId(1) });
    store.merge(&name(), &key("a"), |_| Ok(register)).expect("merges");
    store.close().expect("closes");
    drop(store);
    let store = open();
    let opened = comparison::open(&Rows(&store), 1, ALL_MS);
    assert!(matches!(opened, Err(Error::NotReady(_))), "{opened:?}");
    store.count_rows().expect("counts");
    let opened = comparison::open(&Rows(&store), 1, ALL_MS).expect("it knows what it holds");
    assert!(matches!(opened, Message::Open(comparison) if comparison.nodes.len() == 1));
    store.close().expect("closes");
}
