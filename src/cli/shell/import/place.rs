//! Where an import stopped: how many rows of a file are done, in a file of its own below `$XDG_STATE_HOME` or `~/.local/state`. It counts
//! only for the same file, not changed since, and the same settings: other nodes, or another key field, have other rows.

use std::{
    fs,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

use crate::cli::{Exit, environment, remote::CommandError};

/// The folder below the directory for state.
const FOLDER: &str = "dynarust/imports";

/// How far an import is.
pub struct Place {
    path: PathBuf,
    noted: Noted,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    file: PathBuf,
    bytes: u64,
    modified_ms: u64,
    #[serde(flatten)]
    settings: Settings,
    rows: u64,
}

/// What the rows of an import depend on beside its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The nodes that it goes to.
    pub endpoint: String,
    /// `--table`.
    pub table: Option<String>,
    /// `--key`.
    pub key: Option<String>,
    /// `--format`.
    pub format: Option<String>,
    /// `--strings`.
    pub strings: bool,
    /// `--new`.
    pub new: bool,
}

impl Place {
    /// Where the import of this file stopped, or its beginning; `None` for what cannot be read again, and where no state can be kept.
    pub fn find(file: &Path, settings: Settings, restart: bool) -> Result<Option<Self>, CommandError> {
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
            bytes: metadata.len(),
            modified_ms: modified.map_or(0, |at| u64::try_from(at.as_millis()).unwrap_or(u64::MAX)),
            settings,
            rows: 0,
            file,
        };
        let name = blake3::hash(noted.file.as_os_str().as_encoded_bytes());
        let path = folder.join(format!("{}.json", &name.to_hex()[..16]));
        let mut place = Self { path, noted };
        if !restart {
            place.resume();
        }
        Ok(Some(place))
    }

    /// Takes the count of an earlier import, if it was the same.
    fn resume(&mut self) {
        let Ok(text) = fs::read(&self.path) else { return };
        match serde_json::from_slice::<Noted>(&text) {
            Ok(before) => match self.noted.difference(&before) {
                None => self.noted.rows = before.rows,
                Some(difference) => eprintln!(
                    "DynaRust: an import of this file was interrupted after row {}, but {difference}: this one begins at the first row",
                    before.rows
                ),
            },
            Err(_) => eprintln!(
                "DynaRust: an import of this file was interrupted, but what {} says of it cannot be read: this one begins at the first row",
                self.path.display()
            ),
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

impl Noted {
    /// In what an earlier import differs, if it was another one.
    fn difference(&self, before: &Self) -> Option<String> {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".into());
        let given = |is_given: bool| (if is_given { "given" } else { "not given" }).to_owned();
        let (now, then) = (&self.settings, &before.settings);
        let settings = [
            ("--endpoint", now.endpoint.clone(), then.endpoint.clone()),
            ("--table", text(&now.table), text(&then.table)),
            ("--key", text(&now.key), text(&then.key)),
            ("--format", text(&now.format), text(&then.format)),
            ("--strings", given(now.strings), given(then.strings)),
            ("--new", given(now.new), given(then.new)),
        ];
        if (self.bytes, self.modified_ms) != (before.bytes, before.modified_ms) {
            return Some("the file was changed since".into());
        }
        let changed = settings.into_iter().find(|(_, now, then)| now != then);
        changed.map(|(name, now, then)| format!("{name} was {then}, and is {now}"))
    }
}

fn folder() -> Option<PathBuf> {
    environment::user_folder("XDG_STATE_HOME", ".local/state").map(|folder| folder.join(FOLDER))
}
