//! The admin token: 256 random bits that a node makes at its first start and keeps in its data directory. Whoever can read that file may
//! command the node; they could take its data anyway. Where a request comes from proves nothing, because requests through a local proxy
//! come from the node's own machine.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use blake3::Hash;

use crate::{
    error::{Error, Result},
    storage::Environment,
};

/// The token's file in the data directory.
pub const TOKEN_FILE: &str = "dynarust.admin-token";
/// The context for deriving the key that proves the token.
const KEY_CONTEXT: &str = "dynarust 2026 admin token";

/// One node's token.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken(Hash);

impl fmt::Debug for AdminToken {
    /// Hides the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken")
    }
}

impl AdminToken {
    /// Reads the token of the node with this data directory.
    ///
    /// # Errors
    /// `Unauthorized` if it is missing, unreadable or invalid; the text says why and what to do.
    pub fn read(data: &Path) -> Result<Self> {
        let path = data.join(TOKEN_FILE);
        let shown = path.display();
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&path, &text).map_err(|error| Error::Unauthorized(error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Unauthorized(format!(
                "there is no admin token at {shown}: run this on the node's machine, and give the node's data directory with --data"
            ))),
            Err(error) => Err(Error::Unauthorized(format!(
                "the admin token at {shown} cannot be read ({error}): run this as the user that the node runs as"
            ))),
        }
    }

    /// Reads the token in the data directory, or makes one if there is none.
    ///
    /// # Errors
    /// `StorageUnusable` if the file does not hold a token; `StorageFull` and `Io` as the file system reports.
    pub fn read_or_make(data: &Path, environment: &Environment) -> Result<Self> {
        let path = data.join(TOKEN_FILE);
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(&path, environment),
            Err(error) => Err(Error::io(format_args!("reading {}", path.display()), &error)),
        }
    }

    fn make(path: &Path, environment: &Environment) -> Result<Self> {
        let mut bytes = [0; 32];
        environment.fill_random(&mut bytes)?;
        let token = Self(Hash::from_bytes(bytes));
        token.write(path).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => Error::StorageFull(format!("writing {}: {error}", path.display())),
            _ => Error::io(format_args!("writing {}", path.display()), &error),
        })?;
        Ok(token)
    }

    /// Writes atomically, and never readable by others.
    fn write(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("new");
        // The file of an interrupted start may have other permissions.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        writeln!(file, "{}", self.0)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        Hash::from_hex(text.trim()).map(Self).map_err(|_| {
            Error::StorageUnusable(format!(
                "{} does not hold an admin token, which is 64 hexadecimal digits: delete it, and the node makes a new one when it starts",
                path.display()
            ))
        })
    }

    /// Whether `text` is the token. Takes the same time for every wrong token.
    pub fn is(&self, text: &str) -> bool {
        Hash::from_hex(text).is_ok_and(|hash| hash == self.0)
    }

    /// The key that answers a challenge.
    pub fn key(&self) -> [u8; 32] {
        blake3::derive_key(KEY_CONTEXT, self.0.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn environment() -> Environment {
        Environment::new(crate::node::wall_clock())
    }

    #[test]
    fn a_token_is_made_once_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = AdminToken::read_or_make(folder.path(), &environment()).expect("made");
        let path = folder.path().join(TOKEN_FILE);
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        assert_eq!(AdminToken::read_or_make(folder.path(), &environment()), Ok(made.clone()));
        assert_eq!(AdminToken::read(folder.path()), Ok(made.clone()));
        let text = fs::read_to_string(&path).expect("text");
        assert!(
            made.is(text.trim()) && !made.is(&text) && !made.is("") && !made.is(&"0".repeat(64)),
            "{text}"
        );
        let other = tempfile::tempdir().expect("a folder");
        assert_ne!(AdminToken::read_or_make(other.path(), &environment()), Ok(made));
    }

    #[test]
    fn a_missing_or_invalid_token_is_reported_with_the_remedy() {
        let folder = tempfile::tempdir().expect("a folder");
        let why = |read: Result<AdminToken>| read.expect_err("none").to_string();
        let absent = why(AdminToken::read(folder.path()));
        assert!(absent.contains(TOKEN_FILE) && absent.contains("--data"), "{absent}");
        fs::write(folder.path().join(TOKEN_FILE), "hunter2").expect("written");
        for none in [
            why(AdminToken::read(folder.path())),
            why(AdminToken::read_or_make(folder.path(), &environment())),
        ] {
            assert!(none.contains("delete it") && !none.contains("hunter2"), "{none}");
        }
    }
}
