//! A change of a key's visible value, its place in the stream, and what a subscriber can ask for.

use std::{fmt, sync::OnceLock};

use bytes::Bytes;

use crate::core::{
    clock::Timestamp,
    json::Value,
    name::{Key, TableName},
};

/// A place in a node's change stream. As text `<epoch>.<sequence>.<agreed>.<cluster>`: eight hexadecimal digits, two decimal numbers, and
/// eight digits again. Without the last two, where nothing is agreed, it is a place in this stream alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Fresh at every start of a node, and whenever its storage was opened again.
    pub epoch: u32,
    /// The number of the last change seen; changes are numbered from 1.
    pub sequence: u64,
    /// The instant (Unix milliseconds) that makes it a place in the stream of any member; see `agreed`. 0 where none is known.
    pub agreed_ms: u64,
    /// What tells the cluster from others, whose instants say nothing here.
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
        // Numbers have other spellings, with signs and zeros: none of them is ours.
        (cursor.to_string() == text).then_some(cursor)
    }
}

/// What a subscriber asks to be told about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// One key.
    Key(TableName, Key),
    /// All keys of a table that begin so; empty for the whole table.
    Prefix(TableName, String),
}

/// Why a key's value is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Somebody deleted it.
    Deleted,
    /// Its time had come.
    Expired,
}

/// What a change made of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It has this value now.
    Updated {
        /// The value.
        value: Value,
        /// Unix milliseconds at which it expires, if it does.
        expires_at_ms: Option<u64>,
    },
    /// It has none now.
    Deleted(Gone),
}

/// The visible value of a key changed on this node.
#[derive(Debug)]
pub struct Change {
    /// Its place in the stream; `None` in a snapshot, which has none.
    pub cursor: Option<Cursor>,
    /// The table.
    pub table: TableName,
    /// The key.
    pub key: Key,
    /// The version that did it; its `node` is who wrote.
    pub timestamp: Timestamp,
    /// What became of the key.
    pub effect: Effect,
    rendered: OnceLock<Bytes>,
}

impl Change {
    /// A change that nobody rendered yet.
    pub fn new(
        cursor: Option<Cursor>,
        table: TableName,
        key: Key,
        timestamp: Timestamp,
        effect: Effect,
    ) -> Self {
        Self { cursor, table, key, timestamp, effect, rendered: OnceLock::new() }
    }

    /// The change as `render` writes it: called once, whatever the number of subscribers. All callers pass one function.
    pub fn rendered(&self, render: fn(&Change) -> Bytes) -> &Bytes {
        self.rendered.get_or_init(|| render(self))
    }
}

impl Topic {
    /// The table it is about.
    pub fn table(&self) -> &TableName {
        match self {
            Self::Key(table, _) | Self::Prefix(table, _) => table,
        }
    }

    /// The key, of one key's.
    pub fn as_key(&self) -> Option<(&TableName, &Key)> {
        match self {
            Self::Key(table, key) => Some((table, key)),
            Self::Prefix(..) => None,
        }
    }

    /// The table and the prefix, of one with a prefix.
    pub fn as_prefix(&self) -> Option<(&TableName, &str)> {
        match self {
            Self::Prefix(table, prefix) => Some((table, prefix)),
            Self::Key(..) => None,
        }
    }

    /// Whether a key is among those it is about.
    pub fn covers(&self, table: &TableName, key: &Key) -> bool {
        match self {
            Self::Key(of, named) => of == table && named == key,
            Self::Prefix(of, prefix) => of == table && key.as_str().starts_with(prefix),
        }
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
