//! Watch (skeleton): the change stream's types.
use std::{
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::Stream;

use crate::core::{
    clock::Timestamp,
    json::Value,
    name::{Key, TableName},
};

/// A place in a node's change stream. As text `<epoch>.<sequence>`: eight hexadecimal digits, a dot, a decimal number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Fresh at every start of a node (and whenever its storage was reopened).
    pub epoch: u32,
    /// The number of the last change seen; changes are numbered from 1.
    pub sequence: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}.{}", self.epoch, self.sequence)
    }
}

impl Cursor {
    /// Parses what `Display` writes; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, sequence) = text.split_once('.')?;
        Some(Self { epoch: u32::from_str_radix(epoch, 16).ok()?, sequence: sequence.parse().ok()? })
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

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the next change.
    Now,
    /// With the present values, then `Notice::Sync`, then changes.
    Snapshot,
    /// With what came after the cursor; where the ring no longer has that, with `Notice::Resync` and a snapshot.
    After(Cursor),
    /// With `Notice::Resync` and a snapshot: the client has a cursor that is not one of ours.
    Resync,
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
    /// The change as `render` writes it: called once, whatever the number of subscribers. All callers pass one function.
    pub fn rendered(&self, render: fn(&Change) -> Bytes) -> &Bytes {
        self.rendered.get_or_init(|| render(self))
    }
}

/// What a subscriber is told.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A change, or a value of a snapshot.
    Change(Arc<Change>),
    /// The snapshot is complete; changes after this cursor follow.
    Sync(Cursor),
    /// Something was missed: forget all and take the snapshot that follows, which `Sync` ends.
    Resync(Cursor),
    /// The node is stopping; nothing follows.
    Shutdown,
}

/// A running subscription; dropping it ends it. A stream without errors that ends after `Notice::Shutdown`.
pub struct Subscription;

impl Stream for Subscription {
    type Item = Notice;

    fn poll_next(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Notice>> {
        todo!()
    }
}
