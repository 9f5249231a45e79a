//! A value with what the node knows of it, and the version of a write.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Names one write. Of two writes to a key the one with the higher version wins, on every node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(String);

impl Version {
    /// The version as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Version {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Version {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value and its write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Entry<T> {
    /// The value.
    pub value: T,
    /// The write.
    pub version: Version,
    /// When it was written, in Unix milliseconds.
    pub timestamp: u64,
    /// The id of the node that took the write.
    #[serde(default)]
    pub node: String,
    /// When the value expires, in Unix milliseconds; `None` if it does not.
    #[serde(default)]
    pub expires_at: Option<u64>,
}

/// What a write became.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Written {
    /// The write.
    pub version: Version,
    /// When it was written, in Unix milliseconds.
    pub timestamp: u64,
    /// Whether the key was absent before.
    #[serde(default)]
    pub created: bool,
}
