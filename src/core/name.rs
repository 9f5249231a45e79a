//! Names of tables and keys, validated once where they enter.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Longest table name, in bytes. It appears in every path and metric label.
pub const TABLE_BYTES_MAX: usize = 64;
/// Longest key, in bytes. sled keeps whole keys in its index pages.
pub const KEY_BYTES_MAX: usize = 1024;

/// A table's name: `[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`, not `key`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "Arc<str>")]
pub struct TableName(Arc<str>);

impl TryFrom<String> for TableName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(&text)
    }
}

impl From<TableName> for Arc<str> {
    fn from(name: TableName) -> Self {
        name.0
    }
}

impl TableName {
    /// Checks `name` against the rule.
    ///
    /// # Errors
    /// `BadName`, with the rule in its text.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric();
        let bytes = name.as_bytes();
        let fits = (1..=TABLE_BYTES_MAX).contains(&bytes.len())
            && plain(bytes[0])
            && bytes.iter().all(|&b| plain(b) || matches!(b, b'_' | b'.' | b'-'));
        if !fits || name == "key" {
            return Err(Error::BadName(format!(
                "{name:?} is not a table name: use 1 to 64 of A-Z a-z 0-9 _ . -, beginning with a letter or digit, and not \"key\""
            )));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key: 1 to 1024 bytes of UTF-8, any characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "Arc<str>")]
pub struct Key(Arc<str>);

impl TryFrom<String> for Key {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(&text)
    }
}

impl From<Key> for Arc<str> {
    fn from(name: Key) -> Self {
        name.0
    }
}

impl Key {
    /// Checks the length of `key`.
    ///
    /// # Errors
    /// `BadName` if it is empty or too long.
    pub fn parse(key: &str) -> Result<Self, Error> {
        match key.len() {
            0 => Err(Error::BadName("the key is empty; a key has 1 to 1024 bytes".into())),
            1..=KEY_BYTES_MAX => Ok(Self(key.into())),
            length => {
                Err(Error::BadName(format!("the key has {length} bytes; a key has 1 to {KEY_BYTES_MAX}")))
            }
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
