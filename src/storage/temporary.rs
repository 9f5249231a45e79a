//! A directory of a command's own for temporary files. It is removed in the end; what a command left that was ended in the middle is removed by
//! the next one.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
};

use super::unfinished::{self, Unfinished};
use crate::error::{Error, Result};

/// What the names of such directories begin with.
const PREFIX: &str = "dynarust-temporary-";

/// The directory.
#[derive(Debug)]
pub struct Temporary(Unfinished);

impl Temporary {
    /// Makes one in the system's directory for temporary files (`TMPDIR`).
    ///
    /// # Errors
    /// `StorageFull`, `Io`.
    pub fn create() -> Result<Self> {
        Self::create_in(&env::temp_dir())
    }

    fn create_in(directory: &Path) -> Result<Self> {
        remove_left(directory);
        // Nobody can guess it, and be there first.
        let random = getrandom::u64().map_err(|error| Error::Io(format!("no randomness: {error}")))?;
        Unfinished::create(directory.join(format!("{PREFIX}{}-{random:016x}", process::id()))).map(Self)
    }

    /// Where something of this name is, which may not be there yet.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Removes what is left of commands that have ended. It takes room, but no command fails for it; another user's cannot be removed.
fn remove_left(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().map_while(|entry| entry.ok());
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let _ = unfinished::remove_left(&entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_removed_in_the_end_and_what_is_left_of_others_at_the_begin() {
        let directory = tempfile::tempdir().expect("a directory");
        let left = directory.path().join(format!("{PREFIX}1-0"));
        let mine = directory.path().join("mine");
        [&left, &mine].into_iter().for_each(|path| fs::create_dir(path).expect("makes"));
        let temporary = Temporary::create_in(directory.path()).expect("makes");
        let other = Temporary::create_in(directory.path()).expect("makes");
        fs::write(temporary.join("a"), "x").expect("the other one has left it alone");
        assert!(!left.exists() && mine.exists());
        drop((temporary, other));
        assert_eq!(fs::read_dir(directory.path()).expect("reads").count(), 1);
    }
}
