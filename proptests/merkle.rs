//! Laws of the digest tree: what it says depends on the rows alone, its parts add up, and an instant shows what was current then.

use std::collections::BTreeMap;

use dynarust::core::{
    clock::{NodeId, Timestamp},
    digest::{
        Digest, DigestKey, KeyHash, Path, Sum,
        tree::{BUCKET_ROWS_MAX, COLLAPSE_MS, CONTINUOUS_MS, HORIZON_MS, Leaf, PartitionTree},
    },
    name::TableName,
    register::{Fingerprint, Marker},
};
use proptest::{collection::vec, prelude::*};

use crate::cases;

const NOW_MS: u64 = 1_700_000_000_000;
/// The partition of all keys here.
const PARTITION: u8 = 7;

/// What happens to a replica. Keys are few, so that they meet.
#[derive(Clone, Debug)]
enum Event {
    /// A register comes in: its key, its Unix milliseconds, and what tells it from others of that instant.
    Write(u16, u64, u8),
    /// A key's row is swept.
    Remove(u16),
    /// Milliseconds pass.
    Pass(u64),
}

fn write() -> impl Strategy<Value = (u16, u64, u8)> {
    // Around now, and so far ahead and behind that nothing is remembered.
    (0..6_u16, NOW_MS - 14_000..NOW_MS + 14_000, 0..3_u8)
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    vec(
        prop_oneof![
            8 => write().prop_map(|(key, at_ms, tag)| Event::Write(key, at_ms, tag)),
            1 => (0..6_u16).prop_map(Event::Remove),
            1 => (0..4000_u64).prop_map(Event::Pass),
        ],
        0..60,
    )
}

fn hash(key: u16) -> KeyHash {
    KeyHash(KeyHash::of(&key.to_be_bytes()).0 >> 8 | u32::from(PARTITION) << 24)
}

fn leaf(key: u16, at_ms: u64, tag: u8) -> Leaf {
    let timestamp = Timestamp { hlc: at_ms << 16 | u64::from(tag), node: NodeId(1) };
    let marker = Marker { timestamp, fingerprint: Fingerprint([tag; 8]) };
    let table = TableName::parse("t").expect("a name");
    Leaf { at_ms, digest: DigestKey([9; 32]).leaf(&table, &key.to_be_bytes(), &marker) }
}

/// A tree, the rows it should be of, and what each instant should show of each key.
struct Replica {
    tree: PartitionTree,
    now_ms: u64,
    rows: BTreeMap<u16, (u64, u8)>,
    /// What a key shows, each with the instant from which on it does, in their order; nothing while it is restless.
    shown: BTreeMap<u16, Vec<(u64, Option<Digest>)>>,
    /// The writes of a key that follow each other closely.
    close: BTreeMap<u16, Close>,
}

#[derive(Clone, Copy)]
struct Close {
    /// When the first of them was written.
    since_ms: u64,
    /// What showed before this instant shows until the last of them.
    before_ms: u64,
}

impl Replica {
    fn new(depth: u8) -> Self {
        let tree = PartitionTree::new(depth);
        Self { tree, now_ms: NOW_MS, rows: BTreeMap::new(), shown: BTreeMap::new(), close: BTreeMap::new() }
    }

    fn of(writes: &[(u16, u64, u8)]) -> Self {
        let mut replica = Self::new(0);
        writes.iter().for_each(|&write| replica.merge(write));
        replica
    }

    fn live(events: &[Event]) -> Self {
        let mut replica = Self::new(0);
        for event in events {
            match *event {
                Event::Write(key, at_ms, tag) => replica.merge((key, at_ms, tag)),
                Event::Remove(key) => replica.remove(key),
                Event::Pass(ms) => replica.now_ms += ms,
            }
        }
        replica
    }

    fn merge(&mut self, (key, at_ms, tag): (u16, u64, u8)) {
        let before = self.rows.get(&key).copied();
        if before.is_some_and(|before| before >= (at_ms, tag)) {
            return;
        }
        let old = before.map(|(at_ms, tag)| leaf(key, at_ms, tag));
        let new = leaf(key, at_ms, tag);
        self.rows.insert(key, (at_ms, tag));
        self.tree.replace(hash(key), old, Some(new), self.now_ms);
        let shown = self.shown.entry(key).or_default();
        if at_ms > self.now_ms + HORIZON_MS {
            *shown = vec![(0, Some(new.digest))];
            self.close.remove(&key);
            return;
        }
        let is_close = |before_ms: u64| before_ms + COLLAPSE_MS >= at_ms;
        match before.filter(|before| is_close(before.0)) {
            // Of those that follow closely the last alone shows; and nothing before it, where they go on for long.
            Some(before) => {
                let is_remembered = before.0 + HORIZON_MS >= self.now_ms;
                let close = match self.close.get(&key) {
                    Some(close) if is_remembered => *close,
                    // One that is not remembered is all that is known of what there was before.
                    Some(_) | None => {
                        Close { since_ms: before.0, before_ms: before.0 + u64::from(!is_remembered) }
                    }
                };
                self.close.insert(key, close);
                shown.retain(|&(shown_ms, _)| shown_ms < close.before_ms);
                let since_ms = close.since_ms;
                if since_ms + CONTINUOUS_MS < at_ms {
                    shown.push((since_ms + CONTINUOUS_MS, None));
                }
            }
            None => {
                self.close.remove(&key);
            }
        }
        shown.push((at_ms, Some(new.digest)));
    }

    fn remove(&mut self, key: u16) {
        if let Some((at_ms, tag)) = self.rows.remove(&key) {
            self.tree.replace(hash(key), Some(leaf(key, at_ms, tag)), None, self.now_ms);
            self.shown.remove(&key);
            self.close.remove(&key);
        }
    }

    /// What the tree should say of an instant.
    fn sum_at(&self, at_ms: u64) -> Sum {
        let current = |shown: &Vec<(u64, Option<Digest>)>| {
            shown.iter().rfind(|(since_ms, _)| *since_ms <= at_ms).copied()
        };
        self.shown.values().filter_map(current).filter_map(|(_, shown)| shown).map(Sum::of).sum()
    }
}

/// A tree that was built from rows that were there.
fn built(depth: u8, keys: impl Iterator<Item = u16>) -> PartitionTree {
    let mut tree = PartitionTree::new(depth);
    keys.for_each(|key| tree.insert(hash(key), leaf(key, 1, 0), NOW_MS));
    tree
}

fn all(tree: &PartitionTree, bits: u8, at_ms: u64) -> Option<Vec<Sum>> {
    tree.sums(Path::partition(PARTITION), bits, at_ms)
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn any_order_of_merges_gives_equal_sums(
        (writes, shuffled) in vec(write(), 0..40).prop_flat_map(|writes| {
            let shuffled = Just(writes.clone()).prop_shuffle();
            (Just(writes), shuffled)
        }),
    ) {
        let (one, other) = (Replica::of(&writes), Replica::of(&shuffled));
        prop_assert!(one.tree.matches(&other.tree));
        prop_assert_eq!(one.tree.total(), other.tree.total());
    }

    #[test]
    fn sums_are_equal_just_where_rows_are(one in events(), other in events()) {
        let (one, other) = (Replica::live(&one), Replica::live(&other));
        prop_assert_eq!(one.tree.matches(&other.tree), one.rows == other.rows);
        prop_assert_eq!(one.tree.total() == other.tree.total(), one.rows == other.rows);
        prop_assert_eq!(one.tree.total().count, one.rows.len() as i64);
    }

    #[test]
    fn children_add_up_to_their_parent_at_every_depth_and_instant(
        keys in 1..2000_u16,
        writes in vec((0..2000_u16, NOW_MS - 9000..NOW_MS + 2000, 0..3_u8), 0..60),
        at_ms in NOW_MS - 12_000..NOW_MS + 3000,
    ) {
        let mut tree = built(6, 0..keys);
        for (key, at_ms, tag) in writes {
            let old = (key < keys).then(|| leaf(key, 1, 0));
            tree.replace(hash(key), old, Some(leaf(key, at_ms, tag)), NOW_MS);
        }
        let depth = tree.depth();
        prop_assert_eq!(all(&tree, 0, at_ms), Some(vec![tree.total_at(at_ms)]));
        for bits in 0..=depth {
            for (index, parent) in all(&tree, bits, at_ms).expect("as deep").into_iter().enumerate() {
                let path = Path::partition(PARTITION).child(bits, index as u32);
                for below in 0..=depth - bits {
                    let children = tree.sums(path, below, at_ms).expect("as deep");
                    prop_assert_eq!(children.len(), 1 << below);
                    prop_assert_eq!(children.into_iter().sum::<Sum>(), parent);
                }
            }
        }
        prop_assert_eq!(all(&tree, depth + 1, at_ms), None);
    }

    #[test]
    fn growing_and_folding_keep_sums(
        keys in 0..3000_u16,
        writes in vec((0..3000_u16, NOW_MS - 9000..NOW_MS, 0..3_u8), 0..60),
        at_ms in NOW_MS - 9000..NOW_MS,
    ) {
        let mut tree = built(0, 0..keys);
        let mut rows: BTreeMap<u16, Leaf> = (0..keys).map(|key| (key, leaf(key, 1, 0))).collect();
        for (key, at_ms, tag) in writes {
            let new = leaf(key, at_ms, tag);
            tree.replace(hash(key), rows.insert(key, new), Some(new), NOW_MS);
        }
        let (total, total_at) = (tree.total(), tree.total_at(at_ms));
        if let Some(depth) = tree.wants_depth() {
            let mut deeper = PartitionTree::new(depth);
            rows.iter().for_each(|(key, leaf)| deeper.insert(hash(*key), *leaf, NOW_MS));
            prop_assert!(tree.matches(&deeper));
            tree.rebuild(deeper);
            prop_assert_eq!(tree.wants_depth(), None);
        }
        prop_assert!(rows.len() as u64 <= BUCKET_ROWS_MAX << tree.depth());
        prop_assert_eq!((tree.total(), tree.total_at(at_ms)), (total, total_at));
        // Rows go one by one, and the tree gets shallow on the way.
        let deep = tree.clone();
        while let Some((key, leaf)) = rows.pop_first() {
            tree.replace(hash(key), Some(leaf), None, NOW_MS);
            if rows.len() as u16 == keys / 8 {
                let mut left = PartitionTree::new(deep.depth());
                rows.iter().for_each(|(key, leaf)| left.insert(hash(*key), *leaf, NOW_MS));
                prop_assert!(tree.matches(&left) && left.matches(&tree));
            }
        }
        prop_assert_eq!((tree.depth(), tree.total()), (0, Sum::default()));
    }

    #[test]
    fn an_instant_shows_the_registers_that_were_current(events in events()) {
        let replica = Replica::live(&events);
        let since_ms = replica.tree.exact_since_ms();
        for at_ms in (since_ms.max(NOW_MS - 15_000)..NOW_MS + 80_000).step_by(97).chain([since_ms]) {
            prop_assert_eq!(replica.tree.total_at(at_ms), replica.sum_at(at_ms), "at {}", at_ms);
        }
        prop_assert_eq!(replica.tree.total_at(replica.tree.settled_ms()), replica.tree.total());
    }

    #[test]
    fn whoever_was_sent_only_the_newest_of_close_writes_agrees_but_where_they_go_on_for_long(
        before in vec(write(), 0..20),
        key in 0..6_u16,
        gaps in vec(0..=COLLAPSE_MS, 1..6),
    ) {
        let (mut all, mut newest) = (Replica::of(&before), Replica::of(&before));
        // Later than what was there, so that every one of them wins, and not as close to it.
        let mut at_ms = before.iter().map(|write| write.1).max().unwrap_or(NOW_MS) + COLLAPSE_MS + 1;
        (all.now_ms, newest.now_ms) = (at_ms, at_ms);
        let mut first_ms = None;
        for gap in gaps {
            at_ms += gap;
            first_ms.get_or_insert(at_ms);
            all.merge((key, at_ms, 5));
        }
        let first_ms = first_ms.expect("there is a gap");
        let (last_ms, tag) = all.rows[&key];
        newest.merge((key, last_ms, tag));
        for at_ms in (NOW_MS - 15_000..NOW_MS + 30_000).step_by(89) {
            if !(first_ms + CONTINUOUS_MS..last_ms).contains(&at_ms) {
                prop_assert_eq!(all.tree.total_at(at_ms), newest.tree.total_at(at_ms), "at {}", at_ms);
            }
        }
    }

    /// A node that was started in the midst of a key's endless writes never agreed with one that had seen their beginning.
    #[test]
    fn whoever_comes_in_the_midst_of_endless_writes_soon_agrees(
        gaps in vec(0..=COLLAPSE_MS, 2..40),
        comes in 0..20_usize,
    ) {
        let (mut all, mut late) = (Replica::new(0), Replica::new(0));
        let mut at_ms = NOW_MS;
        let mut first_ms = None;
        for (step, gap) in gaps.iter().enumerate() {
            at_ms += gap;
            (all.now_ms, late.now_ms) = (at_ms, at_ms);
            all.merge((1, at_ms, 5));
            if step == comes.min(gaps.len() - 1) {
                late.tree.insert(hash(1), leaf(1, at_ms, 5), at_ms);
                late.rows.insert(1, (at_ms, 5));
                first_ms = Some(at_ms);
            } else if first_ms.is_some() {
                late.merge((1, at_ms, 5));
            }
        }
        for at_ms in (first_ms.expect("it came") + CONTINUOUS_MS..at_ms + 3_000).step_by(89) {
            prop_assert_eq!(all.tree.total_at(at_ms), late.tree.total_at(at_ms), "at {}", at_ms);
        }
    }
}
