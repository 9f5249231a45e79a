//! What a node hands over of its own, and what counts as there.

use dynarust::core::{
    protocol::{
        journal::Journal,
        message::{Message, Row, Rows},
        peer::Equal,
        replica::{Replica, Swept},
    },
    register::Payload,
};

use super::{NOW_MS, REMOTE, Scene, key, table};

impl Scene {
    pub fn equal_at(&mut self, at_ms: u64) {
        let compared = self.shared.progress().floor.compare(at_ms);
        let equal = Equal { compared, swept: Swept::default(), covered: None };
        self.with(|peer, context| peer.equal(context, equal));
    }

    fn acknowledge(&mut self, rows: &Rows) {
        self.hear(Message::Applied { batch: rows.batch, deleted: Vec::new() });
    }
}

/// A node that had nobody to tell noted nothing. Whoever linked before a write was acknowledged counted as one that has it, as
/// nothing was noted that it had not: a client that wanted two replicas was told of two, and there was one.
#[test]
fn who_links_just_after_a_write_does_not_hold_it() {
    let mut journal = Journal::default();
    journal.skip();
    let mut scene = Scene::with_journal(true, journal);
    let holds = |scene: &Scene, entry| scene.shared.progress().acked[&REMOTE].holds(entry);
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
