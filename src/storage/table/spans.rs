//! Spans of instants for which the timestamps of rows prove nothing; see [`agreed`](super::agreed).

use super::agreed::numbers;

/// Most spans of late rows; beyond that the two nearest are merged.
const SPANS_MAX: usize = 64;
/// Spans start at a multiple of this, so that late rows in any order cause few writes.
const SPAN_STEP_MS: u64 = 500;

/// Sorted, disjoint spans of instants; both ends are included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans(pub(super) Vec<(u64, u64)>);

impl Spans {
    /// Whether an instant is in a span.
    pub fn cover(&self, at_ms: u64) -> bool {
        self.0.iter().any(|(from_ms, to_ms)| (from_ms..=to_ms).contains(&&at_ms))
    }

    /// Adds a span. Returns false if it was covered already.
    pub(super) fn add(&mut self, from_ms: u64, to_ms: u64) -> bool {
        if self.0.iter().any(|(from, to)| *from <= from_ms && to_ms <= *to) {
            return false;
        }
        let (mut from_ms, mut to_ms) = (from_ms - from_ms % SPAN_STEP_MS, to_ms);
        self.0.retain(|(from, to)| {
            let apart = *to < from_ms || to_ms < *from;
            if !apart {
                (from_ms, to_ms) = (from_ms.min(*from), to_ms.max(*to));
            }
            apart
        });
        self.0.push((from_ms, to_ms));
        self.0.sort_unstable();
        if self.0.len() > SPANS_MAX {
            let gap = |at: &usize| self.0[at + 1].0 - self.0[*at].1;
            let at = (0..self.0.len() - 1).min_by_key(gap).expect("there are two at least");
            let (_, to_ms) = self.0.remove(at + 1);
            self.0[at].1 = to_ms;
        }
        true
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|(from_ms, to_ms)| [from_ms.to_be_bytes(), to_ms.to_be_bytes()].concat())
            .collect()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let numbers = numbers(bytes)?;
        numbers
            .len()
            .is_multiple_of(2)
            .then(|| Self(numbers.chunks(2).map(|span| (span[0], span[1])).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touching_spans_merge_and_their_number_is_limited() {
        let mut spans = Spans::default();
        assert!(spans.add(10_100, 12_000));
        assert!(!spans.add(10_100, 11_000), "covered");
        assert_eq!(spans.0, [(10_000, 12_000)]);
        assert!(spans.add(20_000, 21_000) && spans.add(11_000, 20_500));
        assert_eq!(spans.0, [(10_000, 21_000)]);
        for number in 1..=200 {
            spans.add(number * 100_000, number * 100_000 + number);
        }
        assert_eq!(spans.0.len(), SPANS_MAX);
        assert!((1..=200).all(|number| spans.cover(number * 100_000)) && spans.cover(10_000));
        assert_eq!(Spans::from_bytes(&spans.to_bytes()), Some(spans));
        assert_eq!(Spans::from_bytes(&[0; 15]), None);
        assert_eq!(Spans::from_bytes(&[0; 8]), None);
    }
}
