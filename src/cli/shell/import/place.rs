//! Where an import stopped: how many rows of a file are done, in a file of its own below `$XDG_STATE_HOME` or `~/.local/state`. It counts
//! only for the same file, not changed since, and the same table.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

use crate::cli::{Exit, remote::CommandError};

/// The folder below the directory for state.
const FOLDER: &str = "dynarust/imports";

/// How far an import is.
pub struct Place {
    path: PathBuf,
    noted: Noted,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    file: PathBuf,
    table: Option<String>,
    bytes: u64,
    modified_ms: u128,
    rows: u64,
}

impl Place {
    /// Where the import of this file stopped, or its beginning; `None` for what cannot be read again, and where no state can be kept.
    pub fn find(file: &Path, table: Option<&str>, restart: bool) -> Result<Option<Self>, CommandError> {
        if file == Path::new("-") {
            return Ok(None);
        }
        let cannot = |error: std::io::Error| CommandError {
            exit: Exit::Failure,
            why: format!("cannot read {}: {error}", file.display()),
        };
        let metadata = fs::metadata(file).map_err(cannot)?;
        let Some(folder) = folder().filter(|_| metadata.is_file()) else { return Ok(None) };
        let file = fs::canonicalize(file).map_err(cannot)?;
        let modified = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let noted = Noted {
            table: table.map(str::to_owned),
            bytes: metadata.len(),
            modified_ms: modified.map_or(0, |at| at.as_millis()),
            rows: 0,
            file,
        };
        let name = blake3::hash(format!("{}\n{:?}", noted.file.display(), noted.table).as_bytes());
        let path = folder.join(format!("{}.json", &name.to_hex()[..16]));
        let mut place = Self { path, noted };
        if !restart {
            place.resume();
        }
        Ok(Some(place))
    }

    /// Takes the count of an earlier import, if it was of the same bytes.
    fn resume(&mut self) {
        let text = fs::read(&self.path).unwrap_or_default();
        let Ok(before) = serde_json::from_slice::<Noted>(&text) else { return };
        let rows = before.rows;
        if (Noted { rows: 0, ..before }) == self.noted {
            self.noted.rows = rows;
        }
    }

    /// Rows that are done.
    pub fn rows(&self) -> u64 {
        self.noted.rows
    }

    /// Notes that so many rows are done.
    pub fn note(&mut self, rows: u64) -> Result<(), CommandError> {
        self.noted.rows = rows;
        let write = || {
            if let Some(folder) = self.path.parent() {
                fs::create_dir_all(folder)?;
            }
            // Renaming is atomic. It need not survive a loss of power: rows may be imported twice.
            let new = self.path.with_extension("new");
            fs::write(&new, serde_json::to_vec(&self.noted)?)?;
            fs::rename(new, &self.path)
        };
        write().map_err(|error: std::io::Error| CommandError {
            exit: Exit::Failure,
            why: format!("cannot note in {} how far the import is: {error}", self.path.display()),
        })
    }

    /// The import is complete.
    pub fn remove(self) {
        // There is none if nothing was imported.
        let _ = fs::remove_file(self.path);
    }
}

fn folder() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")))?;
    Some(base.join(FOLDER))
}
