//! Changes of a key's visible value, their positions in the stream, and what a subscriber can ask for.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::OnceLock,
};

use bytes::Bytes;

use super::prefixes::Prefixes;
use crate::{
    core::{
        clock::Timestamp,
        json::Value,
        name::{KEY_BYTES_MAX, Key, TableName},
    },
    error::{Error, Result},
};

/// A position in a node's change stream. Its text is `<epoch>.<sequence>.<agreed>.<cluster>`: eight hexadecimal digits, two decimal
/// numbers, eight hexadecimal digits. If no instant is agreed, the last two are left out, and the cursor is valid on this node only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// New at every start, and whenever the storage is reopened.
    pub epoch: u32,
    /// Number of the last change seen. Changes are numbered from 1.
    pub sequence: u64,
    /// The agreed instant (Unix milliseconds), which makes the cursor valid on every member; see `table::agreed`. 0 if none is known.
    pub agreed_ms: u64,
    /// Identifies the cluster: the instants of another cluster mean nothing here.
    pub cluster: u32,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}.{}", self.epoch, self.sequence)?;
        match self.agreed_ms {
            0 => Ok(()),
            agreed_ms => write!(f, ".{agreed_ms}.{:08x}", self.cluster),
        }
    }
}

impl Cursor {
    /// Parses what `Display` writes; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, place) = text.split_once('.')?;
        let (sequence, agreed) = place.split_once('.').unwrap_or((place, "0.00000000"));
        let (agreed_ms, cluster) = agreed.split_once('.')?;
        let cursor = Self {
            epoch: u32::from_str_radix(epoch, 16).ok()?,
            sequence: sequence.parse().ok()?,
            agreed_ms: agreed_ms.parse().ok()?,
            cluster: u32::from_str_radix(cluster, 16).ok()?,
        };
        // Numbers can be spelled with signs and leading zeros; we write neither.
        (cursor.to_string() == text).then_some(cursor)
    }
}

/// What a subscriber follows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// One key.
    Key(TableName, Key),
    /// All keys of a table with this prefix; empty for the whole table.
    Prefix(TableName, String),
    /// All keys of all tables, those made later included.
    All,
}

/// Why a key has no value any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It was deleted.
    Deleted,
    /// It expired.
    Expired,
}

/// The effect of a change on its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The key now has this value.
    Updated {
        /// The value.
        value: Value,
        /// When it expires, in Unix milliseconds; `None` for never.
        expires_at_ms: Option<u64>,
    },
    /// The key now has no value.
    Deleted(Gone),
}

/// A change of a key's visible value on this node.
#[derive(Debug)]
pub struct Change {
    /// Its position in the stream; `None` in a snapshot.
    pub cursor: Option<Cursor>,
    /// The table.
    pub table: TableName,
    /// The key.
    pub key: Key,
    /// The version that made the change; its `node` is the writer.
    pub timestamp: Timestamp,
    /// The effect on the key.
    pub effect: Effect,
    rendered: OnceLock<Bytes>,
}

impl Change {
    /// Makes a change that is not rendered yet.
    pub fn new(
        cursor: Option<Cursor>,
        table: TableName,
        key: Key,
        timestamp: Timestamp,
        effect: Effect,
    ) -> Self {
        Self { cursor, table, key, timestamp, effect, rendered: OnceLock::new() }
    }

    /// Renders the change with `render`, once for all subscribers. All callers must pass the same function.
    pub fn rendered(&self, render: fn(&Change) -> Bytes) -> &Bytes {
        self.rendered.get_or_init(|| render(self))
    }
}

impl Topic {
    /// The table it belongs to; `None` if it follows all of them.
    pub fn table(&self) -> Option<&TableName> {
        match self {
            Self::Key(table, _) | Self::Prefix(table, _) => Some(table),
            Self::All => None,
        }
    }

    /// The keys of a table that begin with `prefix`.
    ///
    /// # Errors
    /// `BadName` if no key can: a topic is kept for as long as somebody follows it, so it is no longer than a key.
    pub fn prefix(table: TableName, prefix: String) -> Result<Self> {
        match prefix.len() {
            0..=KEY_BYTES_MAX => Ok(Self::Prefix(table, prefix)),
            length => Err(Error::BadName(format!(
                "the prefix has {length} bytes; a key, and so a prefix, has at most {KEY_BYTES_MAX}"
            ))),
        }
    }

    /// Table and key, for a topic of one key.
    pub fn as_key(&self) -> Option<(&TableName, &Key)> {
        match self {
            Self::Key(table, key) => Some((table, key)),
            Self::Prefix(..) | Self::All => None,
        }
    }

    /// Table and prefix, for a topic with a prefix.
    pub fn as_prefix(&self) -> Option<(&TableName, &str)> {
        match self {
            Self::Prefix(table, prefix) => Some((table, prefix)),
            Self::Key(..) | Self::All => None,
        }
    }

    /// Whether the topic includes a key.
    pub fn covers(&self, table: &TableName, key: &Key) -> bool {
        match self {
            Self::Key(of, named) => of == table && named == key,
            Self::Prefix(of, prefix) => of == table && key.as_str().starts_with(prefix),
            Self::All => true,
        }
    }
}

/// Topics in a form that finds many changes fast.
pub struct Wanted<'a> {
    all: bool,
    keys: HashSet<(&'a TableName, &'a Key)>,
    prefixes: HashMap<&'a TableName, Prefixes<()>>,
}

impl<'a> Wanted<'a> {
    /// What these topics include.
    pub fn of(topics: &'a [Topic]) -> Self {
        let mut prefixes: HashMap<_, Prefixes<()>> = HashMap::new();
        for (table, prefix) in topics.iter().filter_map(Topic::as_prefix) {
            prefixes.entry(table).or_default().entry(prefix);
        }
        Self {
            all: topics.contains(&Topic::All),
            keys: topics.iter().filter_map(Topic::as_key).collect(),
            prefixes,
        }
    }

    /// Whether a key is among it.
    pub fn has(&self, table: &TableName, key: &Key) -> bool {
        let has_prefix = || {
            let prefixes = self.prefixes.get(table);
            prefixes.is_some_and(|prefixes| prefixes.of_key(key.as_str()).next().is_some())
        };
        self.all || self.keys.contains(&(table, key)) || has_prefix()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_that_display_writes_is_a_cursor() {
        for text in [
            "3f2a91c0.184467",
            "00000000.0",
            "ffffffff.18446744073709551615",
            "3f2a91c0.184467.1763689000123.0000beef",
            "00000000.0.18446744073709551615.ffffffff",
        ] {
            assert_eq!(Cursor::parse(text).map(|cursor| cursor.to_string()).as_deref(), Some(text));
        }
        let wrong = [
            "",
            ".",
            "1.1",
            "+0000001.1",
            "00000001.+1",
            "0000000A.1",
            "00000001.01",
            "00000001.1 ",
            "00000001.1.0",
            "00000001.1.",
            "00000001.1.1",
            "00000001.1.0.00000000",
            "00000001.1.01.00000000",
            "00000001.1.1.1",
            "00000001.1.1.00000001.1",
        ];
        for text in wrong {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }
}
