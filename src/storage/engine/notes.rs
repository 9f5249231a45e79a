//! Notes: small named records that the node keeps beside the tables, each with a checksum.

use crate::{
    error::{Error, Result},
    storage::{Store, engine},
};

/// Prefix of all notes in `meta`.
pub const NOTE_PREFIX: &str = "note/";
/// The least name above all of them.
pub const NOTES_END: &str = "note0";
/// Longest note: about a thousand members with long addresses. It is read and written as a whole.
pub const NOTE_BYTES_MAX: usize = 1024 * 1024;
/// Longest piece of a note: one item of the engine, with its name and checksum. Only the last piece is shorter, and it may be empty; so
/// that leftovers of a longer note are not read.
const PIECE_BYTES: usize = engine::ITEM_BYTES_MAX - 1024;
const NAME_BYTES_MAX: usize = 512;
const CHECK_BYTES: usize = 8;

impl Store {
    /// Reads a note, if it exists.
    ///
    /// # Errors
    /// `Corrupt` if its bytes are not what was written, `NotReady` while the storage is being reopened.
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let meta = self.meta()?;
        read(|key| Ok(meta.get(key)?.map(|kept| kept.to_vec())), name)
    }

    /// Stores a note, replacing the one with that name. Durable by the next commit. An unchanged note writes nothing.
    ///
    /// # Errors
    /// `TooLarge` above `NOTE_BYTES_MAX`, `StorageFull`, `NotReady`.
    pub fn set_note(&self, name: &str, note: &[u8]) -> Result<()> {
        assert!(name.len() <= NAME_BYTES_MAX, "a note's name of {} bytes", name.len());
        if note.len() > NOTE_BYTES_MAX {
            return Err(Error::TooLarge { what: "note", limit: NOTE_BYTES_MAX as u64 });
        }
        if let Some(reason) = self.failure() {
            return Err(Error::StorageFull(reason));
        }
        self.write_note(name, note)
    }

    /// Like `set_note`, also while writes are refused: for who is about to accept them again.
    ///
    /// # Errors
    /// `StorageFull`, `NotReady`.
    pub(in crate::storage) fn write_note(&self, name: &str, note: &[u8]) -> Result<()> {
        if self.note(name).is_ok_and(|kept| kept.as_deref() == Some(note)) {
            return Ok(());
        }
        let pieces = (0..=note.len() / PIECE_BYTES).map(|number| {
            let end = note.len().min((number + 1) * PIECE_BYTES);
            (key(name, number), seal(&note[number * PIECE_BYTES..end]))
        });
        let pieces: Vec<_> = pieces.collect();
        let meta = self.meta()?;
        self.0.context.committer.noticed(match &pieces[..] {
            // All else would wait for `insert_all`, and that for the disk.
            [(key, kept)] => meta.insert(key, kept),
            pieces => meta.insert_all(pieces.iter().map(|(key, kept)| (&key[..], &kept[..]))),
        })
    }
}

/// Reads a note with `get`, which returns the value of a key of `meta`.
///
/// # Errors
/// `Corrupt` if its bytes are not what was written, and those of `get`.
pub fn read(get: impl Fn(&[u8]) -> Result<Option<Vec<u8>>>, name: &str) -> Result<Option<Vec<u8>>> {
    let Some(mut kept) = get(&key(name, 0))? else { return Ok(None) };
    let corrupt = || Error::Corrupt(format!("the note {name:?}"));
    let mut note = Vec::new();
    for number in 1.. {
        let piece = unseal(&kept).ok_or_else(corrupt)?;
        note.extend_from_slice(piece);
        if piece.len() < PIECE_BYTES {
            break;
        }
        kept = get(&key(name, number))?.ok_or_else(corrupt)?;
    }
    Ok(Some(note))
}

/// The key of `meta` and the bytes of a note of one piece, for a store that is not open.
pub fn record(name: &str, note: &[u8]) -> (Vec<u8>, Vec<u8>) {
    assert!(note.len() < PIECE_BYTES, "a note of {} bytes has several pieces", note.len());
    (key(name, 0), seal(note))
}

/// Adds eight bytes of their hash before the bytes.
pub fn seal(bytes: &[u8]) -> Vec<u8> {
    [&blake3::hash(bytes).as_bytes()[..CHECK_BYTES], bytes].concat()
}

/// The bytes of `seal`; `None` if the hash does not match.
pub fn unseal(kept: &[u8]) -> Option<&[u8]> {
    let (check, bytes) = kept.split_at_checked(CHECK_BYTES)?;
    (*check == blake3::hash(bytes).as_bytes()[..CHECK_BYTES]).then_some(bytes)
}

/// Whether a key of `meta` is that of a note, or of a piece of it.
pub fn is_piece_of(kept: &[u8], name: &str) -> bool {
    let piece = kept.strip_prefix(NOTE_PREFIX.as_bytes()).and_then(|rest| rest.strip_prefix(name.as_bytes()));
    piece.is_some_and(|piece| piece.is_empty() || piece.starts_with(b"/"))
}

fn key(name: &str, piece: usize) -> Vec<u8> {
    match piece {
        0 => format!("{NOTE_PREFIX}{name}").into_bytes(),
        _ => format!("{NOTE_PREFIX}{name}/{piece}").into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::{Fixture, close};

    #[test]
    fn a_note_survives_a_restart() {
        let fixture = Fixture::new();
        let store = fixture.open();
        assert_eq!(store.note("members"), Ok(None));
        store.set_note("members", b"two").expect("is kept");
        store.set_note("members", b"three").expect("is kept");
        store.set_note("empty", b"").expect("is kept");
        close(store);
        let store = fixture.open();
        assert_eq!(store.note("members"), Ok(Some(b"three".to_vec())));
        assert_eq!(store.note("empty"), Ok(Some(Vec::new())));
        close(store);
    }

    #[test]
    fn a_note_that_is_too_long_is_refused() {
        let fixture = Fixture::new();
        let store = fixture.open();
        store.set_note("n", &[7; NOTE_BYTES_MAX]).expect("is kept");
        let refused = store.set_note("n", &[7; NOTE_BYTES_MAX + 1]);
        assert_eq!(refused, Err(Error::TooLarge { what: "note", limit: NOTE_BYTES_MAX as u64 }));
        assert_eq!(store.note("n").map(|note| note.map(|note| note.len())), Ok(Some(NOTE_BYTES_MAX)));
        close(store);
    }

    /// The members of a cluster with long names did not fit into one item, and from then on nothing was stored or swept.
    #[test]
    fn a_long_note_is_stored_in_pieces_and_replaced_by_a_shorter_one() {
        let fixture = Fixture::new();
        let mut store = fixture.open();
        let long: Vec<u8> = (0..300 * 280).map(|number| (number / 7) as u8).collect();
        for length in [long.len(), 2 * PIECE_BYTES + 1, 2 * PIECE_BYTES, PIECE_BYTES, 1, 0, 3 * PIECE_BYTES] {
            store.set_note("n", &long[..length]).expect("is kept");
            store.set_note("o", &long[1..length.max(1)]).expect("is kept");
            close(store);
            store = fixture.open();
            assert!(store.note("n") == Ok(Some(long[..length].to_vec())), "{length}");
        }
        close(store);
    }

    #[test]
    fn a_lost_piece_of_a_note_is_an_error() {
        let fixture = Fixture::new();
        let store = fixture.open();
        store.set_note("n", &[7; 2 * PIECE_BYTES]).expect("is kept");
        store.meta().and_then(|meta| meta.remove(&key("n", 1))).expect("removes");
        assert!(matches!(store.note("n"), Err(Error::Corrupt(_))));
        store.set_note("n", &[7; 2 * PIECE_BYTES]).expect("is kept");
        assert_eq!(store.note("n").map(|note| note.map(|note| note.len())), Ok(Some(2 * PIECE_BYTES)));
        close(store);
    }

    #[test]
    fn a_flipped_byte_of_a_note_is_an_error() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let mut kept = seal(b"two");
        kept[9] ^= 1;
        store.meta().and_then(|meta| meta.insert(&key("members", 0), &kept)).expect("inserts");
        assert!(matches!(store.note("members"), Err(Error::Corrupt(_))));
        close(store);
    }
}
