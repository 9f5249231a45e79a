//! Notes: small things that the node keeps beside the tables, each under a name, each with its checksum.

use super::{Store, engine};
use crate::error::{Error, Result};

/// What the names of all notes begin with in `meta`.
pub const NOTE_PREFIX: &str = "note/";
/// The least name above all of theirs.
pub const NOTES_END: &str = "note0";
/// Longest note: it is one item of the engine, with its name and checksum.
pub const NOTE_BYTES_MAX: usize = engine::ITEM_BYTES_MAX - 1024;
const NAME_BYTES_MAX: usize = 512;
const CHECK_BYTES: usize = 8;

impl Store {
    /// The note of that name, if there is one.
    ///
    /// # Errors
    /// `Corrupt` where its bytes are not what was written, `NotReady` while the storage is being opened again.
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(kept) = self.meta()?.get(&key(name))? else { return Ok(None) };
        let note = unseal(&kept).ok_or_else(|| Error::Corrupt(format!("the note {name:?}")))?;
        Ok(Some(note.to_vec()))
    }

    /// Keeps a note, in place of the one of that name. Durable by the next commit. One that says the same writes nothing.
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
        let (meta, key, kept) = (self.meta()?, key(name), seal(note));
        if meta.get(&key)?.is_some_and(|present| *present == *kept) {
            return Ok(());
        }
        let written = meta.insert(&key, &kept);
        if let Err(Error::StorageFull(reason)) = &written {
            self.0.around.committer.fail(reason);
        }
        written
    }
}

/// Bytes with eight of their hash before them.
pub fn seal(bytes: &[u8]) -> Vec<u8> {
    [&blake3::hash(bytes).as_bytes()[..CHECK_BYTES], bytes].concat()
}

/// What was sealed; `None` where that is not what was kept.
pub fn unseal(kept: &[u8]) -> Option<&[u8]> {
    let (check, bytes) = kept.split_at_checked(CHECK_BYTES)?;
    (*check == blake3::hash(bytes).as_bytes()[..CHECK_BYTES]).then_some(bytes)
}

fn key(name: &str) -> Vec<u8> {
    format!("{NOTE_PREFIX}{name}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::{Scene, close};

    #[test]
    fn a_note_is_there_after_a_restart() {
        let scene = Scene::new();
        let store = scene.open();
        assert_eq!(store.note("members"), Ok(None));
        store.set_note("members", b"two").expect("is kept");
        store.set_note("members", b"three").expect("is kept");
        store.set_note("empty", b"").expect("is kept");
        close(store);
        let store = scene.open();
        assert_eq!(store.note("members"), Ok(Some(b"three".to_vec())));
        assert_eq!(store.note("empty"), Ok(Some(Vec::new())));
        close(store);
    }

    #[test]
    fn a_note_that_is_too_long_is_refused() {
        let scene = Scene::new();
        let store = scene.open();
        store.set_note("n", &[7; NOTE_BYTES_MAX]).expect("is kept");
        let refused = store.set_note("n", &[7; NOTE_BYTES_MAX + 1]);
        assert_eq!(refused, Err(Error::TooLarge { what: "note", limit: NOTE_BYTES_MAX as u64 }));
        assert_eq!(store.note("n").map(|note| note.map(|note| note.len())), Ok(Some(NOTE_BYTES_MAX)));
        close(store);
    }

    #[test]
    fn a_flipped_byte_of_a_note_is_an_error() {
        let scene = Scene::new();
        let store = scene.open();
        let mut kept = seal(b"two");
        kept[9] ^= 1;
        store.meta().and_then(|meta| meta.insert(&key("members"), &kept)).expect("inserts");
        assert!(matches!(store.note("members"), Err(Error::Corrupt(_))));
        close(store);
    }
}
