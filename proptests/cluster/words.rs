//! What single peers say, where whole clusters seldom come to it.

mod agreement;
mod handover;

use dynarust::core::{
    clock::NodeId,
    digest::{DigestKey, RootDigest},
    json::Value,
    name::{Key, TableName},
    protocol::{
        journal::Journal,
        message::{Flags, Message, Round, Row, Rows},
        peer::{Context, Equal, Options, Output, Peer, Then},
        progress::Shared,
        replica::{Replica, Swept},
    },
    register::{Payload, Register},
};

use crate::replica::{DRIFT_MAX_MS, MemoryReplica};

const NOW_MS: u64 = 1_700_000_000_000;
const LOCAL: NodeId = NodeId(1);
const REMOTE: NodeId = NodeId(2);

/// One peer, and all it works on.
struct Scene {
    replica: MemoryReplica,
    shared: Shared,
    peer: Option<Peer>,
    now_ms: u64,
    /// Up to when the peer says that both held the same rows.
    told_ms: u64,
}

impl Scene {
    fn new(complete: bool) -> Self {
        Self::with_journal(complete, Journal::default())
    }

    fn with_journal(complete: bool, journal: Journal) -> Self {
        let shared = Shared::new(journal);
        shared.progress().complete = complete;
        shared.progress().floor.set_members([REMOTE]);
        let mut scene = Self {
            replica: MemoryReplica::new(LOCAL, DigestKey([1; 32]), NOW_MS),
            shared,
            peer: None,
            now_ms: NOW_MS,
            told_ms: 0,
        };
        scene.link();
        scene
    }

    /// A link comes up, in place of the one before.
    fn link(&mut self) {
        let options = Options { settle_ms: 2_000, clock_drift_max_ms: DRIFT_MAX_MS };
        self.peer = Some(Peer::new(&self.context(), (LOCAL, REMOTE), options, 7));
    }

    fn context(&self) -> Context<'_, MemoryReplica> {
        Context { replica: &self.replica, shared: &self.shared, now_ms: self.now_ms }
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Peer, &Context<'_, MemoryReplica>) -> T) -> T {
        let mut peer = self.peer.take().expect("it is there");
        let done = act(&mut peer, &self.context());
        self.peer = Some(peer);
        done
    }

    fn hear(&mut self, message: Message) -> Vec<Output> {
        self.with(|peer, context| peer.handle(context, message)).expect("a message as it should be")
    }

    /// A client's write a millisecond later.
    fn write(&mut self, name: &str, bytes: usize) -> Register {
        self.now_ms += 1;
        self.replica.set_now(self.now_ms);
        let register = self.replica.write(&table(), &key(name), put(bytes));
        self.shared.journal().append(table(), key(name), None);
        register
    }

    fn poll(&mut self) -> Option<Rows> {
        let message = self.with(|peer, context| peer.poll(context, usize::MAX)).expect("it lies in memory");
        message.map(|message| match message {
            Message::Rows(rows) => rows,
            other => panic!("no rows: {other:?}"),
        })
    }

    fn round(&self, complete: bool, swept: Swept) -> Message {
        self.round_of(complete, swept, false, None)
    }

    fn round_of(&self, complete: bool, swept: Swept, is_all: bool, root: Option<RootDigest>) -> Message {
        Message::Round(Round {
            now_ms: self.now_ms,
            echo: None,
            behind_ms: 2_000,
            root,
            rows: 0,
            guarantee_ms: 0,
            agreed_ms: self.told_ms,
            swept_ms: swept.tombstones_ms,
            expired_ms: swept.expired_ms,
            flags: Flags { complete, is_all, ..Flags::default() },
        })
    }
}

fn table() -> TableName {
    TableName::parse("t").expect("a name")
}

fn key(name: &str) -> Key {
    Key::parse(name).expect("a key")
}

fn put(bytes: usize) -> Payload {
    let value = Value::parse(&format!("\"{}\"", "x".repeat(bytes))).expect("JSON");
    Payload::Live { value, expires_at_ms: None }
}

/// A row that was written long ago, in a batch.
fn old_row() -> (Message, Register) {
    let elsewhere = MemoryReplica::new(REMOTE, DigestKey([1; 32]), NOW_MS - 60_000);
    let register = elsewhere.write(&table(), &key("old"), put(1));
    let rows = vec![Row::new(key("old"), register.clone())];
    (Message::Rows(Rows { batch: 1, repair: false, tables: vec![(table(), rows)] }), register)
}

fn refused(outputs: Vec<Output>) -> usize {
    match outputs.into_iter().next() {
        Some(Output::AfterSync(Then::Send(Message::Applied { deleted, .. }))) => deleted.len(),
        other => panic!("no acknowledgement: {other:?}"),
    }
}

/// The offset of the clocks was reckoned in signed numbers, which overflowed, and a build with such checks ended the link by a panic.
#[test]
fn a_round_may_have_any_numbers_in_it() {
    const EXTREMES: [u64; 6] = [0, 1, NOW_MS, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX];
    for now_ms in EXTREMES {
        for sent_ms in EXTREMES {
            for behind_ms in [0, 1, u32::MAX] {
                let mut scene = Scene::new(true);
                let Message::Round(round) = scene.round(true, Swept::default()) else { panic!("no round") };
                let echo = Some((sent_ms, u32::MAX));
                let round = Round { now_ms, echo, behind_ms, rows: now_ms, guarantee_ms: sent_ms, ..round };
                let heard = scene.with(|peer, context| peer.handle(context, Message::Round(round)));
                let is_ahead = now_ms > NOW_MS + DRIFT_MAX_MS;
                assert_eq!(heard.is_err(), is_ahead, "{now_ms} {sent_ms} {behind_ms}: {heard:?}");
            }
        }
    }
}

/// Where it is not held it is read, as it is by then.
#[test]
fn a_row_that_the_journal_holds_goes_out_as_it_was_written() {
    let mut scene = Scene::new(true);
    let first = Row::new(key("a"), scene.write("a", 1));
    scene.shared.journal().append(table(), key("b"), Some(Row { key: key("b"), ..first.clone() }));
    let rows = scene.poll().expect("a batch").tables.remove(0).1;
    assert_eq!(rows, [first.clone(), Row { key: key("b"), ..first }]);
}

/// It may have been deleted since, and even the tombstone be gone.
#[test]
fn what_was_noted_before_the_link_came_up_goes_out_as_it_is_now() {
    let (_, register) = old_row();
    let mut journal = Journal::default();
    journal.append(table(), key("gone"), Some(Row::new(key("gone"), register)));
    let mut scene = Scene::with_journal(true, journal);
    assert_eq!(scene.poll().expect("it goes on to the end of the journal").tables, []);
    let row = Row::new(key("a"), scene.write("a", 1));
    scene.shared.journal().append(table(), key("gone"), Some(Row { key: key("gone"), ..row.clone() }));
    let rows = scene.poll().expect("a batch").tables.remove(0).1;
    assert_eq!(
        rows,
        [row.clone(), Row { key: key("gone"), ..row }],
        "what comes after is sent as it was written"
    );
}

/// Only who has not finished its first sync asks for that.
#[test]
fn a_round_says_whether_its_root_shows_all_that_is_here() {
    let mut scene = Scene::new(true);
    let round = |scene: &mut Scene| said(scene.with(|peer, context| peer.round(context)).expect("in memory"));
    assert!(round(&mut scene).flags.is_all);
    scene.write("k", 1);
    assert!(!round(&mut scene).flags.is_all);
    scene.now_ms += 2_500;
    scene.replica.set_now(scene.now_ms);
    assert!(round(&mut scene).flags.is_all);
    let heard = scene.round(true, Swept::default());
    scene.hear(heard);
    assert!(!round(&mut scene).flags.is_all);
}

#[test]
fn a_full_window_has_room_again_when_what_was_sent_is_acknowledged() {
    let mut scene = Scene::new(true);
    let mut sent = 0;
    while scene.with(|peer, _| peer.has_room(usize::MAX)) {
        scene.write("k", 1);
        sent = scene.poll().expect("there is room").batch;
        assert!(!scene.with(|peer, _| peer.is_acknowledged()));
    }
    scene.write("k", 1);
    assert_eq!(scene.poll(), None);
    scene.hear(Message::Applied { batch: sent, deleted: Vec::new() });
    assert!(scene.with(|peer, _| peer.has_room(usize::MAX) && peer.is_acknowledged()));
    assert!(scene.poll().is_some());
}

#[test]
fn nothing_is_acknowledged_before_a_sync() {
    let mut scene = Scene::new(true);
    let (rows, _) = old_row();
    let outputs = scene.hear(rows);
    assert!(
        matches!(outputs[..], [Output::AfterSync(Then::Send(Message::Applied { batch: 1, .. }))]),
        "{outputs:?}"
    );
    let round = scene.with(|peer, context| peer.round(context)).expect("it lies in memory");
    assert!(matches!(round, Output::AfterSync(Then::Send(Message::Round(_)))), "{round:?}");
}

#[test]
fn a_clock_too_far_ahead_ends_the_link_and_moves_no_clock() {
    let mut scene = Scene::new(true);
    scene.now_ms += DRIFT_MAX_MS + 3_000;
    let round = scene.round(true, Swept::default());
    scene.now_ms = NOW_MS;
    let heard = scene.with(|peer, context| peer.handle(context, round));
    assert!(heard.is_err(), "{heard:?}");
    assert!(scene.write("k", 1).timestamp().unix_ms() <= NOW_MS + 1);
}

/// The round that a peer sends.
fn said(output: Output) -> Round {
    match output {
        Output::AfterSync(Then::Send(Message::Round(round))) => round,
        other => panic!("no round after a sync: {other:?}"),
    }
}

#[test]
fn what_is_written_after_a_root_was_taken_lies_above_its_instant_though_the_wall_clock_is_set_back() {
    for own in [true, false] {
        let mut scene = Scene::new(true);
        let at_ms = scene.now_ms - 2_000;
        if own {
            assert_eq!(
                said(scene.with(|peer, context| peer.round(context)).expect("it lies in memory")).at_ms(),
                at_ms
            );
        } else {
            let root = scene.replica.root(at_ms).expect("it lies in memory");
            let round = scene.round_of(true, Swept::default(), false, root);
            scene.hear(round);
        }
        scene.now_ms -= 600_000;
        let written = scene.write("k", 1).timestamp();
        assert!(written.unix_ms() > at_ms, "{written} after {at_ms}");
    }
}

/// As many rows were held to be all: a node that had an older version of one than its source was whole, and showed that to clients.
#[test]
fn equal_roots_count_when_they_are_durable_and_make_whole_who_has_all() {
    // What its source had when the link came up may be dated as far ahead as rows may be.
    let all_ms = 2_000 + 2 * DRIFT_MAX_MS;
    for (later_ms, is_all, is_complete) in
        [(0, false, false), (0, true, true), (all_ms - 1, false, false), (all_ms, false, true)]
    {
        let mut scene = Scene::new(false);
        scene.now_ms += later_ms;
        scene.replica.set_now(scene.now_ms);
        let at_ms = scene.now_ms - 2_000;
        let root = scene.replica.root(at_ms).expect("it lies in memory");
        let round = scene.round_of(true, Swept::default(), is_all, root);
        let covered = is_complete.then_some(Flags { complete: true, is_all, ..Flags::default() });
        let compared = scene.shared.progress().floor.compare(at_ms);
        let equal = Equal { compared, swept: Swept::default(), covered };
        assert_eq!(scene.hear(round), [Output::AfterSync(Then::Equal(equal))]);
        assert!(!scene.shared.progress().complete, "not before the sync");
        scene.with(|peer, context| peer.equal(context, equal));
        assert_eq!(scene.shared.progress().complete, is_complete);
    }
}

#[test]
fn a_peer_too_slow_for_the_journal_is_told_of_a_gap() {
    let mut scene = Scene::with_journal(true, Journal::new(4));
    scene.equal_at(NOW_MS - 2_000);
    let mut sent = 0;
    for _ in 0..20 {
        scene.write("k", 1);
        sent += u64::from(scene.poll().is_some());
    }
    assert!(sent < 20, "the window has an end");
    let gap = |scene: &mut Scene| {
        said(scene.with(|peer, context| peer.round(context)).expect("it lies in memory")).flags.gap
    };
    assert!(!gap(&mut scene), "nobody looked yet");
    scene.hear(Message::Applied { batch: sent, deleted: Vec::new() });
    assert_eq!(scene.poll(), None);
    assert!(gap(&mut scene));
    scene.write("l", 1);
    let rows = scene.poll().expect("it goes on where the journal is");
    assert_eq!(rows.tables[0].1[0].key, key("l"));
}
