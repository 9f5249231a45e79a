//! The conversation between two replicas: whatever they hold and whatever becomes of its messages, it ends with both holding
//! the newer of each row; and it says little.

mod costs;
mod talk;

use std::{collections::BTreeMap, sync::LazyLock};

use dynarust::core::{
    clock::{NodeId, Timestamp},
    digest::{DigestKey, KeyHash},
    json::Value,
    name::{Key, TableName},
    register::{Payload, Register},
};
use proptest::{collection::vec, prelude::*};

use super::{
    cases,
    reconcile::talk::{Fate, Talk},
    replica::MemoryReplica,
};

/// When all this happens: long after everything was written.
const NOW_MS: u64 = 1_700_000_000_000;
const WRITTEN_MS: u64 = NOW_MS - 3_600_000;
const DIGEST_KEY: DigestKey = DigestKey([9; 32]);

/// Names of rows.
type Name = (TableName, Key);

fn table(number: u8) -> TableName {
    TableName::parse(&format!("table{number}")).expect("a name")
}

fn key(text: &str) -> Key {
    Key::parse(text).expect("a key")
}

/// A replica of these rows.
fn replica<'a>(node: u64, rows: impl IntoIterator<Item = (&'a Name, &'a Register)>) -> MemoryReplica {
    let replica = MemoryReplica::new(NodeId(node), DIGEST_KEY, NOW_MS);
    for ((table, key), register) in rows {
        replica.merge(table, key, register.clone());
    }
    replica.take_changes();
    replica
}

/// Keys of three partitions, so that their trees grow deep, and as many of all.
static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let all = (0..).map(|number: u32| key(&format!("key{number}")));
    let others = all.clone().filter(|key| KeyHash::of(key.as_str().as_bytes()).partition() < 3);
    all.take(1_000).chain(others.take(3_000)).collect()
});

/// A register of few timestamps, so that two often are as old.
fn register() -> impl Strategy<Value = Register> {
    let payload = prop_oneof![
        1 => Just(Payload::Deleted),
        3 => (0..100u32).prop_map(|number| live(number, None)),
        1 => (0..100u32, 0..1_000u64).prop_map(|(number, at)| live(number, Some(WRITTEN_MS + at))),
    ];
    (payload, 0..50u64, 1..4u64).prop_map(|(payload, at, node)| {
        Register::new(payload, Timestamp { hlc: (WRITTEN_MS + at) << 16, node: NodeId(node) })
    })
}

fn live(number: u32, expires_at_ms: Option<u64>) -> Payload {
    let value = Value::parse(&format!("{{\"number\":{number}}}")).expect("JSON");
    Payload::Live { value, expires_at_ms }
}

/// The rows of two replicas.
#[derive(Clone, Debug)]
struct Sides {
    left: BTreeMap<Name, Register>,
    right: BTreeMap<Name, Register>,
}

impl Sides {
    /// What both hold in the end.
    fn merged(&self) -> BTreeMap<Name, Register> {
        let mut merged = self.left.clone();
        for (name, register) in &self.right {
            match merged.get_mut(name) {
                Some(held) => held.merge(register.clone()),
                None => drop(merged.insert(name.clone(), register.clone())),
            }
        }
        merged
    }

    /// What one side of them lacks.
    fn lacking(&self, side: &BTreeMap<Name, Register>) -> Vec<Name> {
        let merged = self.merged();
        merged
            .into_iter()
            .filter(|(name, newest)| side.get(name) != Some(newest))
            .map(|(name, _)| name)
            .collect()
    }
}

/// A lot that both have, and a little that one has, or both in their own way; either side may be empty.
fn sides() -> impl Strategy<Value = Sides> {
    let name = (0..3u8, any::<prop::sample::Index>())
        .prop_map(|(number, index)| (table(number), index.get(&KEYS).clone()));
    let common = prop_oneof![
        4 => Just(0..0usize),
        2 => (0..KEYS.len(), 1..100usize).prop_map(|(from, count)| from..(from + count).min(KEYS.len())),
        1 => Just(0..KEYS.len()),
        1 => Just(1_000..KEYS.len()),
    ];
    let own = vec((name, proptest::option::of(register()), proptest::option::of(register())), 0..40);
    let empty = prop_oneof![8 => Just((false, false)), 1 => Just((true, false)), 1 => Just((false, true))];
    (common, register(), own, empty).prop_map(|(common, register, own, (no_left, no_right))| {
        let mut left: BTreeMap<Name, Register> =
            KEYS[common].iter().map(|key| ((table(0), key.clone()), register.clone())).collect();
        let mut right = left.clone();
        for (name, of_left, of_right) in own {
            of_left.map(|register| left.insert(name.clone(), register));
            of_right.map(|register| right.insert(name, register));
        }
        if no_left {
            left.clear();
        }
        if no_right {
            right.clear();
        }
        Sides { left, right }
    })
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        5 => Just(Fate::Arrives),
        2 => Just(Fate::IsLost),
        1 => Just(Fate::ComesTwice),
        2 => Just(Fate::ComesLate),
    ]
}

fn assert_merged(sides: &Sides, talk: &Talk) -> Result<(), TestCaseError> {
    for replica in talk.replicas() {
        let held: BTreeMap<Name, Register> =
            replica.rows().into_iter().map(|(table, key, register)| ((table, key), register)).collect();
        prop_assert_eq!(&held, &sides.merged());
        prop_assert!(replica.is_consistent());
    }
    prop_assert!(talk.is_equal());
    Ok(())
}

proptest! {
    #![proptest_config(cases(192))]

    #[test]
    fn a_conversation_ends_equal_and_sends_each_row_that_differs_once(sides in sides(), opener in 0..2usize, nonce: u64) {
        let mut talk = Talk::new(replica(1, &sides.left), replica(2, &sides.right), NOW_MS - 2_000);
        talk.open(opener, nonce);
        talk.run(&mut std::iter::empty());
        for (to, side) in [&sides.left, &sides.right].into_iter().enumerate() {
            let mut sent = talk.sent_to(to).to_vec();
            sent.sort();
            prop_assert_eq!(sent, sides.lacking(side));
        }
        assert_merged(&sides, &talk)?;
    }

    #[test]
    fn messages_that_are_lost_or_come_twice_or_late_cost_time_and_no_more(
        sides in sides(),
        fates in vec(fate(), 0..60),
        nonce in 0..u64::MAX / 2,
    ) {
        let mut talk = Talk::new(replica(1, &sides.left), replica(2, &sides.right), NOW_MS - 2_000);
        let mut fates = fates.into_iter();
        let mut openings = 0;
        while !talk.is_equal() {
            openings += 1;
            prop_assert!(openings <= 62, "it does not end");
            talk.open(openings % 2, nonce + openings as u64);
            talk.run(&mut fates);
        }
        assert_merged(&sides, &talk)?;
    }

    #[test]
    fn replicas_that_hold_the_same_say_one_thing(sides in sides(), nonce: u64) {
        let mut talk = Talk::new(replica(1, &sides.left), replica(2, &sides.left), NOW_MS - 2_000);
        prop_assert!(talk.is_equal());
        talk.open(0, nonce);
        talk.run(&mut std::iter::empty());
        prop_assert_eq!(talk.figures().messages, 1);
    }
}
