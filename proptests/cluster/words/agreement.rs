//! What a peer concludes from a row that is absent: see `core::protocol::agreement`.

use dynarust::core::{
    clock::NodeId,
    digest::{DigestKey, RootDigest},
    protocol::{
        message::{Flags, Message, Row, Rows},
        peer::{Equal, Output, Then},
        replica::{Replica, Swept},
    },
    register::Payload,
};

use crate::replica::MemoryReplica;

use super::{NOW_MS, REMOTE, Scene, key, old_row, refused, table};

const SWEPT: Swept = Swept { tombstones_ms: NOW_MS - 30_000, expired_ms: 0 };

/// One byte flipped on a disk took good rows from all nodes: the node that had lost them refused what its peers sent, as it was older than
/// what had been swept, and they removed it.
#[test]
fn an_old_row_of_a_whole_member_is_taken_whatever_was_swept() {
    for complete in [true, false] {
        let mut scene = Scene::new(complete);
        scene.shared.progress().agreement.reach(NOW_MS, [REMOTE]);
        scene.replica.sweep_to(SWEPT);
        scene.told_ms = NOW_MS;
        let round = scene.round(true, SWEPT);
        scene.hear(round);
        let (rows, _) = old_row();
        assert_eq!(refused(scene.hear(rows)), 0);
        assert_eq!(scene.replica.count(), 1);
    }
}

/// Deleted keys came back with a node that had been forgotten, or put back from a backup.
#[test]
fn a_whole_node_refuses_of_one_that_is_not_what_both_are_known_to_have_held_and_nothing_else() {
    let written_ms = NOW_MS - 60_000;
    for (complete, remote_complete, told_ms, agreed_ms, is_refused) in [
        (true, false, written_ms, written_ms, true),
        (true, false, NOW_MS, NOW_MS, true),
        (true, false, written_ms - 1, NOW_MS, false),
        (true, false, NOW_MS, written_ms - 1, false),
        (true, true, NOW_MS, NOW_MS, false),
        (false, false, NOW_MS, NOW_MS, false),
    ] {
        let mut scene = Scene::new(complete);
        scene.shared.progress().agreement.reach(agreed_ms, [REMOTE]);
        scene.told_ms = told_ms;
        let round = scene.round(remote_complete, Swept::default());
        scene.hear(round);
        let (rows, _) = old_row();
        let case = format!("{complete} {remote_complete} {told_ms} {agreed_ms}");
        assert_eq!(refused(scene.hear(rows)), usize::from(is_refused), "{case}");
        assert_eq!(scene.replica.count(), u64::from(!is_refused), "{case}");
    }
}

/// A majority removed rows that it had acknowledged, as a node that came back called them deleted.
#[test]
fn a_row_is_removed_by_a_node_that_is_not_whole_and_that_agreed_to_it_alone() {
    for (complete, agreed_ms, is_removed) in
        [(false, NOW_MS + 10, true), (false, NOW_MS - 1, false), (true, NOW_MS + 10, false)]
    {
        let mut scene = Scene::new(complete);
        let register = scene.write("k", 1);
        scene.shared.progress().agreement.reach(agreed_ms, [REMOTE]);
        let round = scene.round(true, Swept::default());
        scene.hear(round);
        let batch = scene.poll().expect("a batch").batch;
        let deleted = vec![(table(), key("k"), register.marker())];
        scene.hear(Message::Applied { batch, deleted });
        assert_eq!(scene.replica.count(), u64::from(!is_removed), "{complete} {agreed_ms}");
    }
}

/// What is claimed of a row that comes in late would have it removed where the node is away next.
#[test]
fn a_late_row_takes_back_what_was_agreed_before_it_is_stored() {
    let mut scene = Scene::new(true);
    let (rows, register) = old_row();
    let before_ms = register.timestamp().unix_ms() - 1;
    {
        let mut progress = scene.shared.progress();
        progress.agreement.reach(NOW_MS, [REMOTE]);
    }
    scene.equal_at(NOW_MS);
    let compared = scene.shared.progress().floor.compare(NOW_MS);
    scene.hear(rows);
    assert_eq!(scene.shared.progress().agreement.with_all_ms(), before_ms);
    assert_eq!(scene.replica.take_lowered_ms(), Some(before_ms));
    // Roots that were compared before it came do not show it.
    let equal = Equal { compared, swept: Swept::default(), covered: None };
    scene.with(|peer, context| peer.equal(context, equal));
    assert_eq!(scene.shared.progress().floor.guarantee_ms(NOW_MS), before_ms);
    scene.equal_at(NOW_MS);
    assert_eq!(scene.shared.progress().floor.guarantee_ms(NOW_MS), NOW_MS);
}

/// A damaged node gave up its claims with the first row that it got back. What it still had of keys that were deleted meanwhile could not be
/// proved to be deleted any more, and came back.
#[test]
fn a_row_that_both_agreed_on_takes_nothing_back_from_one_that_lost_it() {
    let written_ms = NOW_MS - 60_000;
    for (complete, remote_complete, told_ms, agreed_ms, is_late) in [
        (false, true, written_ms, NOW_MS, false),
        (false, true, NOW_MS, written_ms, false),
        (false, true, written_ms - 1, NOW_MS, true),
        (false, false, NOW_MS, NOW_MS, true),
        (true, true, NOW_MS, NOW_MS, true),
    ] {
        let mut scene = Scene::new(complete);
        scene.shared.progress().agreement.reach(agreed_ms, [REMOTE]);
        scene.told_ms = told_ms;
        let round = scene.round(remote_complete, Swept::default());
        scene.hear(round);
        let (rows, _) = old_row();
        scene.hear(rows);
        let left_ms = if is_late { written_ms - 1 } else { agreed_ms };
        let case = format!("{complete} {remote_complete} {told_ms} {agreed_ms}");
        assert_eq!(scene.shared.progress().agreement.with_all_ms(), left_ms, "{case}");
    }
}

/// Else the peer would take a row that came in late for one that all members had.
#[test]
fn a_peer_is_told_that_less_is_agreed_before_it_is_sent_more_rows() {
    let mut scene = Scene::new(true);
    scene.shared.progress().agreement.reach(NOW_MS, [REMOTE]);
    scene.with(|peer, context| peer.round(context)).expect("in memory");
    scene.write("k", 1);
    scene.shared.progress().lower_claims(NOW_MS - 10);
    let poll = |scene: &mut Scene| {
        scene.with(|peer, context| peer.poll(context, usize::MAX)).expect("it lies in memory")
    };
    let Some(Message::Round(round)) = poll(&mut scene) else { panic!("no round") };
    assert_eq!((round.agreed_ms, round.root), (NOW_MS - 11, None));
    assert!(matches!(poll(&mut scene), Some(Message::Rows(_))));
    assert_eq!(poll(&mut scene), None);
}

/// A node that was put back to what it was, as it ran, holds itself to be whole: it is told otherwise by how far the others have swept.
#[test]
fn who_hears_of_more_that_was_swept_than_it_guaranteed_is_not_whole() {
    let swept = Swept { tombstones_ms: NOW_MS - 60_000, expired_ms: 0 };
    for (guaranteed_ms, by_complete, stays) in [
        (NOW_MS - 70_000, true, false),
        (NOW_MS - 60_000, true, true),
        // One that is not whole says nothing to heed.
        (NOW_MS - 70_000, false, true),
    ] {
        let mut scene = Scene::new(true);
        scene.shared.progress().guaranteed_ms = guaranteed_ms;
        let round = scene.round(by_complete, swept);
        scene.hear(round);
        let case = format!("guaranteed up to {guaranteed_ms}, told by one that is whole: {by_complete}");
        assert_eq!(scene.shared.progress().complete, stays, "{case}");
        assert_eq!(scene.replica.swept() == swept, by_complete, "{case}");
    }
}

/// A node was told by the first round of a peer that it had missed something. Its own first round had said that it is whole, and the peer took
/// from it what had been deleted.
#[test]
fn a_peer_is_told_that_a_node_is_whole_no_more_before_it_is_sent_more_rows() {
    let mut scene = Scene::new(true);
    scene.with(|peer, context| peer.round(context)).expect("in memory");
    scene.write("k", 1);
    let round = scene.round(true, Swept { tombstones_ms: NOW_MS - 60_000, expired_ms: 0 });
    scene.hear(round);
    let poll = |scene: &mut Scene| {
        scene.with(|peer, context| peer.poll(context, usize::MAX)).expect("it lies in memory")
    };
    let Some(Message::Round(round)) = poll(&mut scene) else { panic!("no round") };
    assert!(!round.flags.complete);
    assert!(matches!(poll(&mut scene), Some(Message::Rows(_))));
    assert_eq!(poll(&mut scene), None);
}

/// Only who went on without it knows what a node missed: one that was forgotten with it may not know so yet.
#[test]
fn who_returns_is_whole_by_a_peer_that_says_that_both_were_apart() {
    for apart in [false, true] {
        let mut scene = Scene::new(false);
        scene.shared.progress().floor.set_members([REMOTE, NodeId(3)]);
        scene.shared.progress().begin_returning(NOW_MS);
        let root = scene.replica.root(NOW_MS - 2_000).expect("it lies in memory");
        let Message::Round(mut round) = scene.round_of(true, Swept::default(), true, root) else {
            panic!("no round")
        };
        round.flags.detached = apart;
        let outputs = scene.hear(Message::Round(round));
        let [Output::AfterSync(Then::Equal(equal))] = outputs[..] else { panic!("not equal: {outputs:?}") };
        scene.with(|peer, context| peer.equal(context, equal));
        assert_eq!(scene.shared.progress().complete, apart);
    }
}

/// A node that was restarted took what was swept elsewhere as the sign that it had missed something, at every sweep.
#[test]
fn who_became_whole_guarantees_what_it_held_then() {
    let mut scene = Scene::new(false);
    let flags = Flags { complete: true, ..Flags::default() };
    let compared = scene.shared.progress().floor.compare(NOW_MS - 2_000);
    let equal = Equal { compared, swept: Swept::default(), covered: Some(flags) };
    scene.with(|peer, context| peer.equal(context, equal));
    let round = scene.round(true, Swept { tombstones_ms: NOW_MS - 2_000, expired_ms: 0 });
    scene.hear(round);
    assert!(scene.shared.progress().complete);
}

/// Two members swept a key that the second had seen deleted after it held the same as the third, which had returned just before and of which the
/// first did not know yet: from there the key came back.
#[test]
fn a_late_deletion_takes_back_that_others_have_it() {
    let mut scene = Scene::new(true);
    let elsewhere = MemoryReplica::new(REMOTE, DigestKey([1; 32]), NOW_MS - 60_000);
    let tombstone = elsewhere.write(&table(), &key("old"), Payload::Deleted);
    let before_ms = tombstone.timestamp().unix_ms() - 1;
    scene.shared.progress().agreement.reach(NOW_MS, [REMOTE]);
    scene.equal_at(NOW_MS);
    let rows = vec![Row::new(key("old"), tombstone)];
    scene.hear(Message::Rows(Rows { batch: 1, repair: true, tables: vec![(table(), rows)] }));
    let progress = scene.shared.progress();
    assert_eq!((progress.floor.guarantee_ms(NOW_MS), progress.agreement.with_all_ms()), (before_ms, NOW_MS));
}

/// A node that was restarted took from one that had been forgotten what had been deleted meanwhile, before it met a member that knew.
#[test]
fn nobody_that_is_not_whole_compares_with_one_that_is_apart_as_long_as_others_may_tell() {
    const OTHER: NodeId = NodeId(3);
    for (detached, members, opens) in
        [(false, vec![REMOTE, OTHER], true), (true, vec![REMOTE, OTHER], false), (true, vec![REMOTE], true)]
    {
        let mut scene = Scene::new(false);
        scene.shared.progress().floor.set_members(members.clone());
        scene.write("k", 1);
        scene.now_ms += 5_000;
        scene.replica.set_now(scene.now_ms);
        let Message::Round(mut round) =
            scene.round_of(false, Swept::default(), true, Some(RootDigest([7; 16])))
        else {
            panic!("no round")
        };
        round.flags.detached = detached;
        let mut opened = false;
        for _ in 0..3 {
            opened |= !scene.hear(Message::Round(round.clone())).is_empty();
        }
        assert_eq!(opened, opens, "{detached} {members:?}");
        assert_eq!(scene.shared.progress().agreement.is_detached(REMOTE), detached);
    }
}
