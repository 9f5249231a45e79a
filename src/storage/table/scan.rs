//! Ordered listings. Each partition of a table is ordered by key, so a listing merges 256 of them, one page at a time. Nothing is held
//! between pages, and a slow reader costs nobody anything.
//!
//! Unreadable rows are skipped, and the page whose part of the listing they belong to is marked as incomplete.

use std::{cmp::Ordering, collections::BinaryHeap};

use super::{
    Entry, Found, Table,
    lost::has_keys_between,
    row::{PARTITIONS, key_bytes, key_of},
    trees::Trees,
};
use crate::{
    core::name::{Key, TableName},
    error::{Error, Result},
    storage::{
        Store,
        engine::{
            Items, Slice, Tree,
            gaps::{self, Gap},
        },
    },
};

/// Bytes of values in a page, approximately: it ends when it has more.
const PAGE_BYTES: usize = 256 * 1024;

/// Which keys a listing returns, ordered by their bytes.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// Only keys with this prefix; empty for all.
    pub prefix: String,
    /// Only keys at or above this one.
    pub start: Option<String>,
    /// Only keys below this one.
    pub end: Option<String>,
    /// Only keys after this one in the direction of the listing: the last key of the previous page.
    pub after: Option<Key>,
    /// Descending order.
    pub reverse: bool,
}

impl Range {
    /// The lowest key in the range, and the lowest key above it.
    fn bounds(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let after = self.after.as_ref().map(|key| key.as_str().as_bytes());
        let mut low =
            self.prefix.as_bytes().max(self.start.as_deref().unwrap_or_default().as_bytes()).to_vec();
        let mut high = self.end.clone().map(String::into_bytes);
        let mut lower_high =
            |bytes: Vec<u8>| high = Some(high.take().map_or(bytes.clone(), |high| high.min(bytes)));
        if let Some(above) = first_above_prefix(self.prefix.as_bytes()) {
            lower_high(above);
        }
        match after {
            Some(key) if self.reverse => lower_high(key.to_vec()),
            // The least key above another is that key and a zero byte.
            Some(key) => low = low.max([key, &[0]].concat()),
            None => {}
        }
        (low, high)
    }
}

/// One page of a listing.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The rows, in order.
    pub rows: Vec<T>,
    /// Whether more rows may follow.
    pub more: bool,
    /// Whether unreadable rows may be missing.
    pub incomplete: bool,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), more: false, incomplete: false }
    }
}

/// A number of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Readable keys.
    pub keys: u64,
    /// Whether there may be unreadable ones besides.
    pub incomplete: bool,
}

/// A count that is under way. It goes on part by part, so it can be given up between them.
#[derive(Clone, Debug, Default)]
pub struct Counting {
    /// What is counted so far.
    pub counted: Counted,
    /// Where it goes on: in this partition of the table,
    partition: usize,
    /// at or above this key; `None` where the partition begins.
    from: Option<Vec<u8>>,
}

impl Counting {
    /// Whether everything is counted.
    pub fn is_done(&self) -> bool {
        self.partition == PARTITIONS
    }

    /// The same, if there is nothing more to count.
    pub fn done(&self) -> Self {
        Self { counted: self.counted, partition: PARTITIONS, from: None }
    }
}

/// A visible row of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: Key,
    /// Its value.
    pub entry: Entry,
}

/// A page of a table's visible keys, at most `rows_max`.
pub fn keys(table: &Table, range: &Range, rows_max: usize) -> Result<Page<Key>> {
    page(table, range, rows_max, |_, row, bytes| {
        Ok(if table.visible(row, bytes)? { Some((key_of(row)?, row.len())) } else { None })
    })
}

/// A page of a table's visible rows: at most `rows_max`, and about a quarter MiB.
pub fn rows(table: &Table, range: &Range, rows_max: usize) -> Result<Page<Row>> {
    page(table, range, rows_max, |trees, row, bytes| {
        let mut bytes = bytes.clone();
        loop {
            match table.entry(trees, row, &bytes, Table::load)? {
                Found::Visible(entry) => {
                    let cost = row.len() + entry.value.as_str().len();
                    return Ok(Some((Row { key: key_of(row)?, entry }, cost)));
                }
                Found::Hidden => return Ok(None),
                Found::Superseded => table.check_replaced(trees, row, &bytes)?,
            }
            match table.stored(trees, row)? {
                Some(now) => bytes = now,
                None => return Ok(None),
            }
        }
    })
}

/// Whether a listing is known to be incomplete.
pub fn has_unreadable(table: &Table, range: &Range) -> Result<bool> {
    let (low, high) = range.bounds();
    let damaged = table.with_trees(|trees| Ok(trees.rows.gaps().all()))?;
    Ok(damaged.iter().any(|gap| has_keys_between(gap, &low, high.as_deref()))
        || !table.lost_between(&low, high.as_deref()).is_empty())
}

impl Store {
    /// Counts the visible keys of a range.
    pub fn count(&self, table: &TableName, range: &Range) -> Result<Counted> {
        self.count_part(table, range, &Counting::default(), usize::MAX).map(|counting| counting.counted)
    }

    /// Goes on with a count, by at most `rows_max` rows.
    pub fn count_part(
        &self,
        table: &TableName,
        range: &Range,
        counting: &Counting,
        rows_max: usize,
    ) -> Result<Counting> {
        self.read_table(table, counting.done(), |table| count_part(table, range, counting, rows_max))
    }
}

fn count_part(table: &Table, range: &Range, counting: &Counting, rows_max: usize) -> Result<Counting> {
    let (low, high) = range.bounds();
    let (mut counted, mut from) = (counting.counted, counting.from.as_deref());
    counted.incomplete |= !table.lost_between(&low, high.as_deref()).is_empty();
    table.with_trees(|trees| {
        let mut rows_left = rows_max;
        for number in counting.partition..PARTITIONS {
            let from = from.take().unwrap_or(&low);
            for item in partition(&trees.rows, number as u8, from, high.as_deref()) {
                let Some((row, bytes)) = table.readable(item)? else {
                    counted.incomplete = true;
                    continue;
                };
                let visible = sound(table.visible(&row, &bytes))?;
                counted.keys += u64::from(visible == Some(true));
                counted.incomplete |= visible.is_none();
                rows_left -= 1;
                if rows_left == 0 {
                    let from = Some(gaps::successor(key_bytes(&row)));
                    return Ok(Counting { counted, partition: number, from });
                }
            }
        }
        Ok(Counting { counted, ..counting.done() })
    })
}

/// The result of a read; `None` if it is damaged.
fn sound<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(Error::Corrupt(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn page<T>(
    table: &Table,
    range: &Range,
    rows_max: usize,
    mut take: impl FnMut(&Trees, &Slice, &Slice) -> Result<Option<(T, usize)>>,
) -> Result<Page<T>> {
    let (low, high) = range.bounds();
    table.with_trees(|trees| {
        let mut merge = Merge::new(table, &trees.rows, &low, high.as_deref(), range.reverse)?;
        let mut page = Page::default();
        let mut bytes_left = PAGE_BYTES;
        let mut last: Option<Slice> = None;
        while let Some((row, bytes)) = merge.next()? {
            if page.rows.len() == rows_max || bytes_left == 0 {
                page.more = true;
                break;
            }
            match sound(take(trees, &row, &bytes))? {
                Some(Some((taken, cost))) => {
                    page.rows.push(taken);
                    bytes_left = bytes_left.saturating_sub(cost);
                    last = Some(row);
                }
                Some(None) => {}
                None => page.incomplete = true,
            }
        }
        // What is behind the last row is for the next page to report.
        let last = last.filter(|_| page.more);
        let (low, high) = match &last {
            Some(last) if range.reverse => (last[1..].to_vec(), high),
            Some(last) => (low, Some(gaps::successor(&last[1..]))),
            None => (low, high),
        };
        page.incomplete |= merge.passed.iter().any(|gap| has_keys_between(gap, &low, high.as_deref()))
            || !table.lost_between(&low, high.as_deref()).is_empty();
        Ok(page)
    })
}

/// Merges the items of all partitions, ordered by key.
struct Merge<'a> {
    table: &'a Table,
    partitions: Vec<Items>,
    /// The ranges that could not be read.
    passed: Vec<Gap>,
    heads: BinaryHeap<Head>,
    reverse: bool,
}

impl<'a> Merge<'a> {
    fn new(table: &'a Table, rows: &Tree, low: &[u8], high: Option<&[u8]>, reverse: bool) -> Result<Self> {
        let partitions = (0..PARTITIONS).map(|number| partition(rows, number as u8, low, high)).collect();
        let heads = BinaryHeap::with_capacity(PARTITIONS);
        let mut merge = Self { table, partitions, passed: Vec::new(), heads, reverse };
        for number in 0..PARTITIONS {
            merge.advance(number)?;
        }
        Ok(merge)
    }

    fn next(&mut self) -> Result<Option<(Slice, Slice)>> {
        let Some(head) = self.heads.pop() else { return Ok(None) };
        self.advance(head.partition)?;
        Ok(Some((head.row, head.bytes)))
    }

    fn advance(&mut self, partition: usize) -> Result<()> {
        let items = &mut self.partitions[partition];
        while let Some(item) = if self.reverse { items.next_back() } else { items.next() } {
            if let Some((row, bytes)) = self.table.readable(item)? {
                self.heads.push(Head { row, bytes, partition, reverse: self.reverse });
                break;
            }
            self.passed.extend(items.gap());
        }
        Ok(())
    }
}

/// The next item of one partition. The greatest is the next of the listing.
struct Head {
    row: Slice,
    bytes: Slice,
    partition: usize,
    reverse: bool,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        let forward = self.row[1..].cmp(&other.row[1..]);
        if self.reverse { forward } else { forward.reverse() }
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

/// The rows of one partition with keys at or above `low` and below `high`.
fn partition(rows: &Tree, number: u8, low: &[u8], high: Option<&[u8]>) -> Items {
    let from = [&[number], low].concat();
    let to = match high {
        Some(high) => Some([&[number], high].concat()),
        None => number.checked_add(1).map(|next| vec![next]),
    };
    // The engine treats an inverted range as a bug of the caller.
    if to.as_ref().is_some_and(|to| *to < from) {
        return rows.range(&from, Some(&from));
    }
    rows.range(&from, to.as_deref())
}

/// The least byte string above all that start with `prefix`; `None` if there is none.
fn first_above_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut above = prefix[..=last].to_vec();
    above[last] += 1;
    Some(above)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::{Fixture, close, deleted, merge, table, write_rows};

    fn bounds(range: &Range) -> (Vec<u8>, Option<Vec<u8>>) {
        range.bounds()
    }

    #[test]
    fn bounds_are_the_narrowest_of_all_given() {
        let key = |text: &str| Some(Key::parse(text).expect("a key"));
        let range = Range { prefix: "ab".into(), ..Range::default() };
        assert_eq!(bounds(&range), (b"ab".to_vec(), Some(b"ac".to_vec())));
        assert_eq!(bounds(&Range { after: key("abx"), ..range.clone() }).0, b"abx\0");
        assert_eq!(
            bounds(&Range { start: Some("abc".into()), end: Some("z".into()), ..range.clone() }).0,
            b"abc"
        );
        let down = Range { after: key("abx"), reverse: true, ..range };
        assert_eq!(bounds(&down), (b"ab".to_vec(), Some(b"abx".to_vec())));
        assert_eq!(bounds(&Range::default()), (vec![], None));
    }

    #[test]
    fn a_count_in_parts_is_that_of_the_whole() {
        let fixture = Fixture::new();
        let store = fixture.open();
        write_rows(&store, 1000);
        for number in 0..100 {
            merge(&store, &format!("deleted{number}"), deleted(number));
        }
        let range = Range { prefix: "1".into(), ..Range::default() };
        for (range, keys) in [(Range::default(), 1000), (range, 111)] {
            assert_eq!(store.count(&table(), &range), Ok(Counted { keys, incomplete: false }));
            for rows_max in [1, 2, 7, 100, 10_000] {
                let (mut counting, mut parts) = (Counting::default(), 0);
                while !counting.is_done() {
                    let before = counting.counted.keys;
                    counting = store.count_part(&table(), &range, &counting, rows_max).expect("counts");
                    assert!(counting.counted.keys - before <= rows_max as u64);
                    parts += 1;
                }
                assert_eq!(counting.counted, Counted { keys, incomplete: false });
                assert!(parts >= keys.div_ceil(rows_max as u64), "{parts} parts of {rows_max}");
            }
        }
        close(store);
    }
}
