//! The write-ahead record of an atomic batch: all its rows are stored in a tree of their own before the first one is set, and removed from
//! there after the last. The engine's log keeps that order, so after a crash either all rows are there to be set again, or none was set.
//!
//! The engine's own batches would do the same under one global lock: no other read or write could run meanwhile.
//!
//! Keys of the tree: table name, a zero byte, number of the piece (u32, big-endian). A piece is one byte that says whether it is the last,
//! then a part of the concatenated entries: length of row (u16), row, length of record (u16), record.

use super::{
    record,
    trees::{BATCHES, ROWS},
};
use crate::{
    core::name::{TABLE_BYTES_MAX, TableName},
    error::{Error, Result},
    storage::engine::{self, Engine, Tree},
};

/// Most bytes of entries in one piece.
const PIECE_BYTES: usize = engine::ITEM_BYTES_MAX - (TABLE_BYTES_MAX + 1 + 4) - 1;

/// Stores the rows of a batch, all or none after a crash. Returns the number of pieces.
pub fn write<'a>(
    tree: &Tree,
    table: &TableName,
    rows: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<u32> {
    let (mut piece, mut number) = (vec![0], 0);
    for (row, record) in rows {
        for part in [&length(row)[..], row, &length(record)[..], record] {
            let mut part = part;
            while !part.is_empty() {
                if piece.len() > PIECE_BYTES {
                    tree.insert(&piece_key(table, number), &piece)?;
                    number += 1;
                    piece.truncate(1);
                }
                let (fits, rest) = part.split_at(part.len().min(1 + PIECE_BYTES - piece.len()));
                piece.extend_from_slice(fits);
                part = rest;
            }
        }
    }
    piece[0] = 1;
    tree.insert(&piece_key(table, number), &piece)?;
    Ok(number + 1)
}

/// Removes a batch whose rows are all set.
pub fn forget(tree: &Tree, table: &TableName, pieces: u32) -> Result<()> {
    // The last piece first: without it nothing is redone after a crash.
    (0..pieces).rev().try_for_each(|number| tree.remove(&piece_key(table, number)))
}

/// Sets the rows of batches that a crash interrupted, and removes those that were not stored completely. Call it before anybody else uses
/// the engine.
///
/// # Errors
/// `StorageDamaged` if a batch cannot be read, and those of the engine.
pub fn redo(engine: &Engine) -> Result<()> {
    let tree = engine.tree(BATCHES)?;
    // The table of the current batch, the number of its next piece, and its entries so far.
    let mut batch: Option<(TableName, u32, Vec<u8>)> = None;
    let mut done = Vec::new();
    for item in tree.range(&[], None) {
        let (key, piece) = item?;
        let (name, number) = parse_key(&key).ok_or_else(unreadable)?;
        let (last, part) = piece.split_first().ok_or_else(unreadable)?;
        let before = batch.take().filter(|(of, next, _)| *of == name && *next == number);
        done.push(key);
        let mut entries = match before {
            Some((_, _, entries)) => entries,
            None if number == 0 => Vec::new(),
            // The rest of a failed batch, whose first pieces a later batch of the table has replaced.
            None => continue,
        };
        entries.extend_from_slice(part);
        if *last == 1 {
            set(&engine.tree(&format!("{ROWS}{name}"))?, &entries)?;
        } else {
            batch = Some((name, number + 1, entries));
        }
    }
    done.iter().rev().try_for_each(|key| tree.remove(key))
}

/// Sets rows, unless the same or a later version is there.
fn set(rows: &Tree, mut entries: &[u8]) -> Result<()> {
    while !entries.is_empty() {
        let (row, rest) = split_field(entries).ok_or_else(unreadable)?;
        let (bytes, rest) = split_field(rest).ok_or_else(unreadable)?;
        let marker = record::decode(row, bytes).map_err(|_| unreadable())?.head.marker;
        let present = rows.get(row)?;
        let present = present.as_deref().and_then(|present| record::decode(row, present).ok());
        if present.is_none_or(|present| present.head.marker < marker) {
            rows.insert(row, bytes)?;
        }
        entries = rest;
    }
    Ok(())
}

fn split_field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

fn length(field: &[u8]) -> [u8; 2] {
    u16::try_from(field.len()).expect("no item of the engine is longer").to_be_bytes()
}

fn piece_key(table: &TableName, number: u32) -> Vec<u8> {
    [table.as_str().as_bytes(), &[0], &number.to_be_bytes()].concat()
}

fn parse_key(key: &[u8]) -> Option<(TableName, u32)> {
    let (rest, number) = key.split_last_chunk::<4>()?;
    let name = TableName::parse(std::str::from_utf8(rest.strip_suffix(&[0])?).ok()?).ok()?;
    Some((name, u32::from_be_bytes(*number)))
}

fn unreadable() -> Error {
    Error::StorageDamaged("a batch that a crash interrupted cannot be read".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{
        Range,
        tests::{Fixture, close, key, long_value, put, table},
    };

    fn rows_of(store: &crate::storage::Store) -> Vec<(String, String)> {
        let page = store.rows(&table(), &Range::default(), 1000).expect("reads");
        page.rows.into_iter().map(|row| (row.key.to_string(), row.entry.value.as_str().to_owned())).collect()
    }

    /// After a crash, a batch that was stored but not completely set is there in full; a batch that was not stored leaves nothing.
    #[test]
    fn a_batch_interrupted_by_a_crash_is_complete_or_absent() {
        let long = long_value(8000);
        let (fixture, made) = (Fixture::new(), Fixture::new());
        let other = made.open();
        let writes: Vec<_> = (0..20)
            .map(|number| {
                let register = put(&long, None, number + 10);
                (key(&number.to_string()), move |_: Option<&crate::storage::table::merge::Existing<'_>>| {
                    Ok(register)
                })
            })
            .collect();
        other.merge_all(&table(), writes).expect("merges");
        close(other);
        let store = fixture.open();
        // Later than the batch's version.
        store.merge(&table(), &key("3"), |_| Ok(put("\"later\"", None, 100))).expect("merges");
        close(store);
        let engine = Engine::open(&made.data(), 1 << 20).expect("opens");
        let rows: Vec<_> = engine.tree("rows/t").expect("a tree").range(&[], None).flatten().collect();
        drop(engine);
        let crash = |kept_pieces: u32| {
            let engine = Engine::open(&fixture.data(), 1 << 20).expect("opens");
            let tree = engine.tree(BATCHES).expect("a tree");
            let pieces =
                write(&tree, &table(), rows.iter().map(|(row, bytes)| (&**row, &**bytes))).expect("kept");
            assert!(pieces > 2, "{pieces} pieces");
            (kept_pieces.min(pieces)..pieces).for_each(|number| {
                tree.remove(&piece_key(&table(), number)).expect("removes");
            });
            if kept_pieces >= pieces {
                let (row, bytes) = &rows[0];
                engine.tree("rows/t").expect("a tree").insert(row, bytes).expect("inserts");
            }
        };
        crash(1);
        let store = fixture.open();
        assert_eq!(rows_of(&store), [("3".to_owned(), "\"later\"".to_owned())]);
        close(store);
        crash(u32::MAX);
        let store = fixture.open();
        let found = rows_of(&store);
        assert_eq!(found.len(), 20);
        assert!(found.iter().all(|(name, value)| if name == "3" {
            value == "\"later\""
        } else {
            *value == long
        }));
        store.count_rows().expect("counts");
        assert_eq!(store.tables()[0].1.live, 20);
        close(store);
        assert_eq!(crate::storage::tests::keys_in(&fixture.data(), BATCHES), 0);
    }

    #[test]
    fn leftovers_of_a_failed_batch_behind_another_are_removed() {
        let fixture = Fixture::new();
        let store = fixture.open();
        store.merge(&table(), &key("k"), |_| Ok(put("1", None, 1))).expect("merges");
        close(store);
        let engine = Engine::open(&fixture.data(), 1 << 20).expect("opens");
        let tree = engine.tree(BATCHES).expect("a tree");
        tree.insert(&piece_key(&table(), 1), &[0, 9, 9, 9]).expect("inserts");
        tree.insert(&piece_key(&table(), 2), &[1, 9, 9, 9]).expect("inserts");
        redo(&engine).expect("there is nothing to do");
        assert_eq!(tree.range(&[], None).count(), 0);
    }

    #[test]
    fn an_invalid_batch_is_damage() {
        let fixture = Fixture::new();
        close(fixture.open());
        let engine = Engine::open(&fixture.data(), 1 << 20).expect("opens");
        let tree = engine.tree(BATCHES).expect("a tree");
        for (key, piece) in
            [(&b"t\0\0\0\0\0"[..], &[1, 0][..]), (b"t\0\0\0\0\0", &[]), (b"../x\0\0\0\0\0", &[1])]
        {
            tree.insert(key, piece).expect("inserts");
            assert!(matches!(redo(&engine), Err(Error::StorageDamaged(_))), "{key:?} {piece:?}");
            tree.remove(key).expect("removes");
        }
    }
}
