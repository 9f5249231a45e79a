//! The contexts file: named endpoints, each with what to present there, and which of them is in use. It may hold tokens, so only its owner
//! can read it.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::environment;
use crate::{
    core::nearest,
    error::{Error, Result},
};

/// The file below the directory for configuration, `$XDG_CONFIG_HOME` or `~/.config`.
const FILE: &str = "dynarust/contexts.toml";

/// The contexts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The name of the one in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// All of them, by name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// Where to connect, and what to present there.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// An address, or several, separated by commas.
    pub endpoint: String,
    /// The token to present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The certificate to trust: a PEM file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
}

impl std::fmt::Debug for Context {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({})", self.endpoint)
    }
}

impl Contexts {
    /// The contexts of the file; none if there is no file.
    ///
    /// # Errors
    /// `Io` if it cannot be read, `Config` if it is damaged.
    pub fn read() -> Result<Self> {
        match path() {
            Some(path) => Self::read_file(&path),
            None => Ok(Self::default()),
        }
    }

    fn read_file(path: &Path) -> Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|error| Error::Config(format!("{}: {}", path.display(), error.message()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::io(format_args!("cannot read {}", path.display()), &error)),
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// `Io` if it cannot be written, `Config` if nothing says where it belongs.
    pub fn write(&self) -> Result<()> {
        let path = path()
            .ok_or_else(|| Error::Config("contexts need a home: set HOME, or XDG_CONFIG_HOME".into()))?;
        self.write_file(&path)
            .map_err(|error| Error::io(format_args!("cannot write {}", path.display()), &error))
    }

    fn write_file(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let text = toml::to_string(self).map_err(io::Error::other)?;
        // Renaming is atomic: readers see the whole file or none.
        let new = path.with_extension("toml.new");
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(new, path)
    }

    /// The context of this name.
    ///
    /// # Errors
    /// `Config` if there is none, with the name that may have been meant.
    pub fn get(&self, name: &str) -> Result<Context> {
        self.contexts.get(name).cloned().ok_or_else(|| self.unknown(name))
    }

    /// The context in use.
    ///
    /// # Errors
    /// `Config` if the file names one that is not in it.
    pub fn in_use(&self) -> Result<Option<Context>> {
        self.current.as_ref().map(|name| self.get(name)).transpose()
    }

    /// The error for a name that no context has.
    pub fn unknown(&self, name: &str) -> Error {
        let known: Vec<_> = self.contexts.keys().map(String::as_str).collect();
        Error::Config(match known.is_empty() {
            true => format!("there is no context {name:?}: add it with DynaRust context add {name} ADDRESS"),
            false => nearest::unknown("context", name, &known),
        })
    }
}

/// Where the file belongs; `None` if nothing says so.
pub fn path() -> Option<PathBuf> {
    environment::user_folder("XDG_CONFIG_HOME", ".config").map(|folder| folder.join(FILE))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_only_its_owner_can() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        assert_eq!(Contexts::read_file(&path), Ok(Contexts::default()));
        let context = Context { endpoint: "a:1,b:1".into(), token: Some("secret".into()), tls_cert: None };
        let mut contexts = Contexts { current: Some("home".into()), ..Contexts::default() };
        contexts.contexts.insert("home".into(), context.clone());
        contexts.write_file(&path).expect("written");
        assert_eq!(Contexts::read_file(&path), Ok(contexts.clone()));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(contexts.in_use(), Ok(Some(context)));
        let why = contexts.get("hmoe").expect_err("unknown").to_string();
        assert!(why.contains("did you mean \"home\"?"), "{why}");
        assert!(!format!("{contexts:?}").contains("secret"));
        fs::write(&path, "colour = 1").expect("written");
        assert!(Contexts::read_file(&path).is_err(), "an unknown field is an error");
    }
}
