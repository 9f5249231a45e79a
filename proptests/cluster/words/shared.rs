//! What of a node's writes counts as shared with others, and what it hands over where it does not.

use dynarust::core::{
    clock::last_reading,
    journal::Journal,
    message::{Message, Row, Rows},
    register::Payload,
    replica::{Replica, Swept},
};

use super::{NOW_MS, REMOTE, Scene, key, table};
use crate::replica::DRIFT_MAX_MS;

impl Scene {
    fn equal_at(&mut self, at_ms: u64) {
        self.with(|peer, context| peer.equal(context, at_ms, Swept::default(), true));
    }

    fn shared_hlc(&self) -> u64 {
        self.shared.standing().shared_hlc
    }

    fn acknowledge(&mut self, rows: &Rows) {
        self.hear(Message::Applied { batch: rows.batch, zombies: Vec::new() });
    }
}

/// A row goes out as it is then, which may be newer than rows that still wait. An acknowledgement of it was held to say that those
/// were there too: what was lost of them when the node was forgotten was not written anew.
#[test]
fn a_write_is_shared_when_all_before_it_are() {
    let mut scene = Scene::new(true);
    scene.equal_at(NOW_MS - 2_000);
    scene.write("a", 200_000);
    scene.write("b", 200_000);
    scene.write("c", 1);
    let last = scene.write("a", 200_000);
    let first = scene.poll().expect("a batch");
    assert!(!first.tables[0].1.iter().any(|row| row.key == key("c")), "c is still to be sent");
    scene.acknowledge(&first);
    assert_eq!(scene.shared_hlc(), last_reading(NOW_MS - 2_000));
    while let Some(rows) = scene.poll() {
        scene.acknowledge(&rows);
    }
    assert_eq!(scene.shared_hlc(), last.timestamp().hlc);
}

/// Many writes fall into one millisecond. Those of them that the journal did not hold long enough were taken for shared with the rest.
#[test]
fn what_is_shared_ends_with_the_last_write_that_is_there() {
    let mut scene = Scene::new(true);
    scene.equal_at(NOW_MS - 2_000);
    let first = scene.write("a", 1);
    let rows = scene.poll().expect("a batch");
    scene.now_ms -= 1;
    let second = scene.write("b", 1);
    scene.acknowledge(&rows);
    assert_eq!(first.timestamp().unix_ms(), second.timestamp().unix_ms());
    assert_eq!(scene.shared_hlc(), first.timestamp().hlc);
}

/// What a life of before wrote last, or what fell out of the journal, may be missing there though an earlier instant shows nothing of it.
#[test]
fn a_write_says_nothing_of_those_the_journal_does_not_tell_of_until_roots_were_equal_since() {
    let begun_ms = NOW_MS - 1_000;
    let mut scene = Scene::with_journal(true, Journal::new(4));
    scene.shared.standing().acked.clear();
    scene.shared.standing().begun_ms = begun_ms;
    scene.link();
    let write = |scene: &mut Scene| {
        let written = scene.write("k", 1);
        let rows = scene.poll().expect("a batch");
        scene.acknowledge(&rows);
        written.timestamp().hlc
    };
    scene.equal_at(begun_ms - 1);
    write(&mut scene);
    assert_eq!(scene.shared_hlc(), last_reading(begun_ms - 1));
    scene.equal_at(begun_ms);
    let written = write(&mut scene);
    assert_eq!(scene.shared_hlc(), written);

    for _ in 0..5 {
        scene.write("k", 1);
    }
    assert_eq!(scene.poll(), None, "the first of them fell out of the journal");
    let untold_ms = scene.now_ms + 2 * DRIFT_MAX_MS;
    scene.now_ms = untold_ms + 2_000;
    scene.equal_at(untold_ms - 1);
    write(&mut scene);
    assert_eq!(scene.shared_hlc(), last_reading(untold_ms - 1));
    // Nor does another link.
    scene.link();
    scene.equal_at(untold_ms - 1);
    write(&mut scene);
    assert_eq!(scene.shared_hlc(), last_reading(untold_ms - 1));
    scene.equal_at(untold_ms);
    let written = write(&mut scene);
    assert_eq!(scene.shared_hlc(), written);
}

/// A node that had nobody to tell noted nothing. Whoever linked before a write was acknowledged counted as one that has it, as
/// nothing was noted that it had not: a client that wanted two replicas was told of two, and there was one.
#[test]
fn who_links_just_after_a_write_does_not_hold_it() {
    let mut journal = Journal::default();
    journal.skip();
    let mut scene = Scene::with_journal(true, journal);
    let holds = |scene: &Scene, entry| scene.shared.standing().acked[&REMOTE].holds(entry);
    assert!(!holds(&scene, 1));
    scene.write("k", 1);
    let rows = scene.poll().expect("a batch");
    scene.acknowledge(&rows);
    assert!(holds(&scene, 2) && !holds(&scene, 1));
}

/// What it wrote while it was no member had an effect on nobody: its expired values and tombstones were removed as soon as it heard how
/// far the members had swept, and what they had ended lived on.
#[test]
fn what_is_dead_is_handed_over_before_it_is_swept() {
    let mut scene = Scene::new(false);
    let deleted = scene.replica.write(&table(), &key("k"), Payload::Deleted);
    scene.now_ms += 10_000;
    scene.replica.set_now(scene.now_ms);
    let swept = Swept { tombstones_ms: NOW_MS + 5_000, expired_ms: 0 };
    for _ in 0..2 {
        let round = scene.round(true, swept);
        scene.hear(round);
        assert_eq!(scene.replica.swept(), Swept::default());
    }
    let rows = scene.poll().expect("a batch");
    assert_eq!(rows.tables, [(table(), vec![Row::new(key("k"), deleted)])]);
    let round = scene.round(true, swept);
    scene.hear(round.clone());
    assert_eq!(scene.replica.count(), 1, "it is on its way");
    scene.acknowledge(&rows);
    scene.hear(round);
    assert_eq!((scene.replica.swept(), scene.replica.count()), (swept, 0));
    assert_eq!(scene.poll(), None);
}

/// How far others have swept grows while what is dead is on its way, or after it came: what dies by that is handed over as well.
#[test]
fn what_dies_by_a_later_sweep_of_others_is_handed_over_too() {
    let mut scene = Scene::new(false);
    let first = scene.replica.write(&table(), &key("first"), Payload::Deleted);
    scene.now_ms += 10_000;
    scene.replica.set_now(scene.now_ms);
    let second = scene.replica.write(&table(), &key("second"), Payload::Deleted);
    scene.now_ms += 10_000;
    scene.replica.set_now(scene.now_ms);
    for (swept_ms, name, deleted) in [(NOW_MS + 5_000, "first", first), (NOW_MS + 15_000, "second", second)] {
        let swept = Swept { tombstones_ms: swept_ms, expired_ms: 0 };
        let round = scene.round(true, swept);
        scene.hear(round.clone());
        let rows = scene.poll().expect("a batch");
        assert_eq!(rows.tables, [(table(), vec![Row::new(key(name), deleted)])]);
        scene.acknowledge(&rows);
        scene.hear(round);
        assert_eq!(scene.replica.swept(), swept);
    }
    assert_eq!(scene.replica.count(), 0);
}

/// A comparison finds again what had no room among the repairs; nothing finds again what is dead once it is swept.
#[test]
fn all_that_is_dead_is_handed_over_however_much_it_is() {
    const DEAD: usize = 131_073;
    let mut scene = Scene::new(false);
    for number in 0..DEAD {
        scene.replica.write(&table(), &key(&number.to_string()), Payload::Deleted);
    }
    scene.replica.sync_to(scene.replica.place());
    scene.now_ms += 60_000;
    scene.replica.set_now(scene.now_ms);
    let round = scene.round(true, Swept { tombstones_ms: NOW_MS + 30_000, expired_ms: 0 });
    scene.hear(round);
    let mut sent = 0;
    while let Some(rows) = scene.poll() {
        sent += rows.tables.iter().map(|(_, rows)| rows.len()).sum::<usize>();
        scene.acknowledge(&rows);
    }
    assert_eq!(sent, DEAD);
}

/// What a node that was forgotten had alone was taken in by one member, and then refused by another, which had swept a little
/// further: as it was on a member it was removed, and by that from all.
#[test]
fn what_a_forgotten_node_had_alone_is_not_shared_before_all_have_it() {
    let mut scene = Scene::new(true);
    scene.with(|peer, context| peer.equal(context, NOW_MS - 9_000, Swept::default(), true));
    scene.shared.standing().begin_anew(NOW_MS);
    assert!(!scene.shared.standing().whole);
    scene.with(|peer, context| peer.equal(context, NOW_MS + 1, Swept::default(), true));
    assert_eq!(scene.shared_hlc(), last_reading(NOW_MS - 9_000));
    {
        let mut standing = scene.shared.standing();
        standing.floor.announced(REMOTE, NOW_MS + 1);
        let guarantee_ms = standing.floor.guarantee_ms(NOW_MS);
        assert_eq!(standing.floor.raise(guarantee_ms), NOW_MS + 1);
    }
    scene.with(|peer, context| peer.equal(context, NOW_MS + 2, Swept::default(), true));
    assert_eq!(scene.shared_hlc(), last_reading(NOW_MS + 2));
}
