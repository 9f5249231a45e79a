//! Key ranges that cannot be read: where such a range ends, and which ranges of a tree are known.
//!
//! The engine reports a damaged page, but not which keys are on it. It can read on from any given key, so the end of a damaged page is
//! found by probing: it is the least key from which reading works again.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Most ranges kept apart. Beyond that neighbours are merged, so that the list covers too much and never too little.
const GAPS_MAX: usize = 1000;
/// Longest end key searched for: longer than any key can be.
const END_BYTES_MAX: usize = 2048;

/// A range of keys: at or above `from`, below `to`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// Its lowest key.
    pub from: Vec<u8>,
    /// The lowest key above it; `None` if it has no end.
    pub to: Option<Vec<u8>>,
}

impl Gap {
    /// The range of a single key.
    pub fn of_key(key: &[u8]) -> Self {
        Self { from: key.to_vec(), to: Some(successor(key)) }
    }

    /// Whether it contains a key.
    pub fn covers(&self, key: &[u8]) -> bool {
        self.overlaps(key, Some(&successor(key)))
    }

    /// Whether it shares a key with the range from `from` to `to`.
    pub fn overlaps(&self, from: &[u8], to: Option<&[u8]>) -> bool {
        self.to.as_ref().is_none_or(|end| from < end.as_slice())
            && to.is_none_or(|to| self.from.as_slice() < to)
    }
}

impl fmt::Display for Gap {
    /// Keys of rows, without their partition byte.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = |row: &[u8]| row.get(1..).unwrap_or_default().escape_ascii().to_string();
        write!(f, "\"{}\" to \"{}\"", key(&self.from), self.to.as_deref().map(key).unwrap_or_default())
    }
}

/// Key ranges that do not touch.
#[derive(Debug, Default)]
pub struct Gaps(Mutex<BTreeMap<Vec<u8>, Option<Vec<u8>>>>);

impl Gaps {
    /// Adds a range.
    pub fn add(&self, gap: Gap) {
        let mut gaps = self.lock();
        add(&mut gaps, gap);
        while gaps.len() > GAPS_MAX {
            let (first, second) = (gaps.pop_first(), gaps.pop_first());
            let (Some((from, _)), Some((_, to))) = (first, second) else { break };
            gaps.insert(from, to);
        }
    }

    /// All ranges, in order.
    pub fn all(&self) -> Vec<Gap> {
        self.lock().iter().map(|(from, to)| Gap { from: from.clone(), to: to.clone() }).collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// The range that contains a key.
    pub fn covering(&self, key: &[u8]) -> Option<Gap> {
        let gaps = self.lock();
        let (from, to) = gaps.range(..=key.to_vec()).next_back()?;
        let gap = Gap { from: from.clone(), to: to.clone() };
        gap.covers(key).then_some(gap)
    }

    /// Removes all.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Option<Vec<u8>>>> {
        // Each change is one call of the map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(gaps: &mut BTreeMap<Vec<u8>, Option<Vec<u8>>>, mut gap: Gap) {
    let touches = |from: &[u8], to: &Option<Vec<u8>>, gap: &Gap| {
        let begins = gap.to.as_ref().is_none_or(|end| from <= end.as_slice());
        begins && to.as_ref().is_none_or(|to| gap.from <= *to)
    };
    let touching: Vec<Vec<u8>> =
        gaps.iter().filter(|(from, to)| touches(from, to, &gap)).map(|(from, _)| from.clone()).collect();
    for from in touching {
        let Some(to) = gaps.remove(&from) else { continue };
        gap.to = match (gap.to, to) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (None, _) | (_, None) => None,
        };
        gap.from = gap.from.min(from);
    }
    gaps.insert(gap.from, gap.to);
}

/// The least key above `key`.
pub fn successor(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// The least key above `from` and below `to` from which reading works; `None` if there is none. `reads` must return false for `from`. If
/// several pages are damaged, the result may lie behind a later one.
pub fn end(from: &[u8], to: Option<&[u8]>, reads: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    // Keys below `from` are on the page before, which can be read.
    let reads = |at: &[u8]| at > from && to.is_none_or(|to| at < to) && reads(at);
    // Try ever larger keys, starting with those that share the longest prefix with `from`: near keys before far ones.
    let (mut prefix, mut found) = (0..=from.len()).rev().find_map(|length| {
        let next = from.get(length).map_or(Some(0), |digit| digit.checked_add(1))?;
        let found = least_digit(&from[..length], next, reads)?;
        Some((from[..length].to_vec(), found))
    })?;
    // Reading works from `prefix` and the digit `found`, but not from `prefix` and the digit before it: the end lies between.
    let mut end = [&prefix[..], &[found]].concat();
    while end.len() < END_BYTES_MAX {
        let Some(before) = found.checked_sub(1) else { break };
        prefix.push(before);
        let Some(next) = least_digit(&prefix, 0, reads) else { break };
        found = next;
        end = [&prefix[..], &[found]].concat();
    }
    Some(end)
}

/// The least byte at or above `from` which, appended to `prefix`, gives a key from which reading works.
fn least_digit(prefix: &[u8], from: u8, reads: impl Fn(&[u8]) -> bool) -> Option<u8> {
    let works = |digit: u8| reads(&[prefix, &[digit]].concat());
    // Nearest first: a far key may lie behind another damaged page.
    let (mut low, mut step) = (u16::from(from), 1);
    let mut high = loop {
        let at = u8::try_from(low + step - 1).unwrap_or(u8::MAX);
        if works(at) {
            break u16::from(at);
        }
        if at == u8::MAX {
            return None;
        }
        (low, step) = (u16::from(at) + 1, step * 2);
    };
    while low < high {
        let middle = low.midpoint(high);
        if works(middle as u8) { high = middle } else { low = middle + 1 }
    }
    Some(high as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gap(from: &str, to: &str) -> Gap {
        Gap { from: from.into(), to: Some(to.into()) }
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let gaps = Gaps::default();
        for (from, to) in [("b", "c"), ("x", "y"), ("d", "e"), ("c", "d")] {
            gaps.add(gap(from, to));
        }
        assert_eq!(gaps.all(), [gap("b", "e"), gap("x", "y")]);
        assert!(gaps.covering(b"b").is_some() && gaps.covering(b"dz").is_some());
        assert!(gaps.covering(b"a").is_none() && gaps.covering(b"e").is_none());
        gaps.add(Gap { from: b"dd".to_vec(), to: None });
        assert_eq!(gaps.all(), [Gap { from: b"b".to_vec(), to: None }]);
    }

    #[test]
    fn too_many_ranges_are_merged_and_cover_at_least_as_much() {
        let gaps = Gaps::default();
        for number in 0..2 * GAPS_MAX as u32 {
            gaps.add(Gap::of_key(&number.to_be_bytes()));
        }
        assert_eq!(gaps.all().len(), GAPS_MAX);
        assert!((0..2 * GAPS_MAX as u32).all(|number| gaps.covering(&number.to_be_bytes()).is_some()));
    }

    proptest! {
        /// Reading works from `bound` on, as after a damaged page. No text contains the byte 255.
        #[test]
        fn the_end_is_found_exactly(
            from in proptest::collection::vec(0..u8::MAX, 0..20),
            bound in proptest::collection::vec(0..u8::MAX, 1..20),
        ) {
            prop_assume!(from < bound);
            let found = end(&from, None, |at| at >= &bound[..]);
            prop_assert_eq!(found, Some(bound));
        }

        /// Reading works below `from` too, on the page before. A key there was taken for the end if the page behind begins with the next digit:
        /// the scan returned the same rows again and again, and never ended.
        #[test]
        fn the_end_is_above_the_start(from in proptest::collection::vec(0..u8::MAX, 1..20), digit in any::<usize>()) {
            let mut bound = from[..=digit % from.len()].to_vec();
            *bound.last_mut().expect("a digit") += 1;
            let found = end(&from, None, |at| at < &from[..] || at >= &bound[..]);
            prop_assert_eq!(found, Some(bound));
        }

        #[test]
        fn an_end_beyond_the_range_is_none(from in "[a-m]{1,9}", to in "[n-z]{1,9}") {
            prop_assert_eq!(end(from.as_bytes(), Some(to.as_bytes()), |at| at >= to.as_bytes()), None);
        }
    }
}
