//! Prefixes, and which of them a key begins with: a lookup for each length that one has, however many there are.

use std::collections::{BTreeMap, HashMap};

/// Values by prefix.
#[derive(Debug)]
pub struct Prefixes<T> {
    values: HashMap<Box<str>, T>,
    /// How many prefixes are of each length, in bytes.
    lengths: BTreeMap<usize, usize>,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self { values: HashMap::new(), lengths: BTreeMap::new() }
    }
}

impl<T: Default> Prefixes<T> {
    /// The value of a prefix, made if it has none.
    pub fn entry(&mut self, prefix: &str) -> &mut T {
        if !self.values.contains_key(prefix) {
            *self.lengths.entry(prefix.len()).or_default() += 1;
        }
        self.values.entry(prefix.into()).or_default()
    }
}

impl<T> Prefixes<T> {
    /// The value of a prefix.
    pub fn get_mut(&mut self, prefix: &str) -> Option<&mut T> {
        self.values.get_mut(prefix)
    }

    /// Removes a prefix.
    pub fn remove(&mut self, prefix: &str) {
        if self.values.remove(prefix).is_none() {
            return;
        }
        let count = self.lengths.entry(prefix.len()).or_default();
        *count -= 1;
        if *count == 0 {
            self.lengths.remove(&prefix.len());
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All prefixes, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.values.iter().map(|(prefix, value)| (&**prefix, value))
    }

    /// The values of the prefixes that a key begins with, the shortest first.
    pub fn of_key<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a T> {
        let lengths = self.lengths.range(..=key.len());
        lengths.filter_map(|(length, _)| self.values.get(key.get(..*length)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(prefixes: &[&str]) -> Prefixes<Vec<usize>> {
        let mut all: Prefixes<Vec<usize>> = Prefixes::default();
        for (number, prefix) in prefixes.iter().enumerate() {
            all.entry(prefix).push(number);
        }
        all
    }

    #[test]
    fn a_key_has_the_prefixes_that_it_begins_with() {
        let all = of(&["a", "", "ab", "b", "abc", "ab", "é", "ü"]);
        let found = |key: &str| all.of_key(key).flatten().copied().collect::<Vec<_>>();
        assert_eq!(found("abd"), [1, 0, 2, 5]);
        assert_eq!(found("ab"), [1, 0, 2, 5]);
        assert_eq!(found("abcd"), [1, 0, 2, 5, 4]);
        // Two bytes, of which the first is that of another character too.
        assert_eq!(found("ü"), [1, 7]);
        assert_eq!(found("\u{e9}\u{e9}"), [1, 6]);
        // Two bytes are half of its character.
        assert_eq!(found("€"), [1]);
        assert_eq!(found(""), [1]);
    }

    #[test]
    fn a_prefix_that_was_removed_is_found_no_more_and_others_of_its_length_are() {
        let mut all = of(&["aa", "ab", "a"]);
        all.remove("aa");
        all.remove("aa");
        all.remove("ac");
        let found =
            |all: &Prefixes<Vec<usize>>, key: &str| all.of_key(key).flatten().copied().collect::<Vec<_>>();
        assert_eq!((found(&all, "aa"), found(&all, "ab")), (vec![2], vec![2, 1]));
        assert!(all.get_mut("aa").is_none() && all.get_mut("ab").is_some());
        all.remove("ab");
        all.remove("a");
        assert!(all.is_empty() && all.lengths.is_empty());
        assert_eq!(all.iter().count(), 0);
    }
}
