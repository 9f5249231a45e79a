//! Which watchers want a key: found by the key, and not by asking each of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::request::Keys;

/// Watchers, by their keys.
///
/// A watcher of one key is found by it, and a watcher of a prefix by each prefix of a key that is as long as one that is watched. Only watchers of other
/// ranges are asked one after the other: clients rarely have such.
#[derive(Debug)]
pub struct Index<Id> {
    keys: HashMap<Vec<u8>, BTreeSet<Id>>,
    prefixes: HashMap<Vec<u8>, BTreeSet<Id>>,
    /// How many watched prefixes there are of each length.
    lengths: BTreeMap<usize, usize>,
    ranges: BTreeMap<Id, Keys>,
}

impl<Id> Default for Index<Id> {
    fn default() -> Self {
        Self {
            keys: HashMap::new(),
            prefixes: HashMap::new(),
            lengths: BTreeMap::new(),
            ranges: BTreeMap::new(),
        }
    }
}

impl<Id: Copy + Ord> Index<Id> {
    /// Adds a watcher.
    pub fn insert(&mut self, id: Id, keys: &Keys) {
        match (keys, prefix(keys)) {
            (Keys::One(key), _) => drop(self.keys.entry(key.clone()).or_default().insert(id)),
            (Keys::Range(..), Some(prefix)) => {
                let watchers = self.prefixes.entry(prefix.to_vec()).or_default();
                if watchers.is_empty() {
                    *self.lengths.entry(prefix.len()).or_default() += 1;
                }
                watchers.insert(id);
            }
            (Keys::Range(..), None) => drop(self.ranges.insert(id, keys.clone())),
        }
    }

    /// Removes a watcher that was added with these keys.
    pub fn remove(&mut self, id: Id, keys: &Keys) {
        match (keys, prefix(keys)) {
            (Keys::One(key), _) => drop(take(&mut self.keys, key, id)),
            (Keys::Range(..), Some(prefix)) => {
                if take(&mut self.prefixes, prefix, id)
                    && let Some(count) = self.lengths.get_mut(&prefix.len())
                {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
            }
            (Keys::Range(..), None) => drop(self.ranges.remove(&id)),
        }
    }

    /// How many places are looked at for a key, beside its watchers.
    pub fn looks(&self) -> usize {
        1 + self.lengths.len() + self.ranges.len()
    }

    /// The watchers that want a key.
    pub fn of<'a>(&'a self, key: &'a [u8]) -> impl Iterator<Item = Id> + 'a {
        let lengths = self.lengths.keys().copied().take_while(|length| *length <= key.len());
        let prefixes = lengths.filter_map(|length| self.prefixes.get(&key[..length]));
        let found = self.keys.get(key).into_iter().chain(prefixes).flatten().copied();
        let ranges = self.ranges.iter().filter(|(_, keys)| keys.contains(key)).map(|(id, _)| *id);
        found.chain(ranges)
    }
}

/// Removes a watcher. Returns whether it was the last one there.
fn take<Id: Ord>(watchers: &mut HashMap<Vec<u8>, BTreeSet<Id>>, key: &[u8], id: Id) -> bool {
    let Some(ids) = watchers.get_mut(key) else { return false };
    ids.remove(&id);
    let is_last = ids.is_empty();
    if is_last {
        watchers.remove(key);
    }
    is_last
}

/// What all of these keys begin with, if they are all keys that do. A single zero byte begins all keys, for whoever asks for all there are.
fn prefix(keys: &Keys) -> Option<&[u8]> {
    match keys {
        Keys::Range(low, None) if low.as_slice() == [0] => Some(&[]),
        Keys::Range(low, Some(high)) => {
            // The least key above all with a prefix: its last byte that is not the greatest, and one more.
            let kept = low.iter().rposition(|byte| *byte < u8::MAX)?;
            let is_end = high.len() == kept + 1
                && high[..kept] == low[..kept]
                && high[kept].checked_sub(1) == Some(low[kept]);
            is_end.then_some(low.as_slice())
        }
        Keys::Range(_, None) | Keys::One(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As asking each of them.
    #[test]
    fn a_key_is_wanted_by_the_watchers_whose_keys_have_it() {
        let range = |low: &[u8], high: &[u8]| Keys::new(low.into(), high.into());
        let watched = [
            range(b"a", b""),
            range(b"a", b""),
            range(b"a/", b"a0"),
            range(b"a", b"b"),
            range(b"b", b"d"),
            range(b"\0", b"\0"),
            range(b"b", b"\0"),
            range(b"\xff", b"\0"),
            range(b"a\xff", b"b"),
            range(b"a\xff", b"a\xff\xff"),
            range(b"c", b"a"),
            range(b"\xff\xff", b"\xff\xff\xff"),
        ];
        let keys: [&[u8]; 10] =
            [b"\0", b"a", b"a/", b"a/b", b"a0", b"a\xff", b"a\xff\xff", b"b", b"cc", b"\xff\xff"];
        let mut index = Index::default();
        let mut there = BTreeMap::new();
        let check = |index: &Index<i64>, there: &BTreeMap<i64, &Keys>| {
            for key in keys {
                let mut found: Vec<_> = index.of(key).collect();
                found.sort_unstable();
                let wanted = there.iter().filter(|(_, keys)| keys.contains(key)).map(|(id, _)| *id);
                assert_eq!(found, wanted.collect::<Vec<_>>(), "{key:?}");
            }
        };
        for (id, keys) in watched.iter().enumerate() {
            index.insert(id as i64, keys);
            there.insert(id as i64, keys);
            check(&index, &there);
        }
        assert_eq!(index.ranges.len(), 6, "only these are no keys and no prefixes");
        for (id, keys) in watched.iter().enumerate() {
            index.remove(id as i64, keys);
            there.remove(&(id as i64));
            check(&index, &there);
        }
        assert!(index.keys.is_empty() && index.prefixes.is_empty() && index.lengths.is_empty());
    }
}
