//! What the window and its client tell each other: commands to the client, messages from it. Plain data.

mod data;

use std::sync::Arc;

pub use self::data::{
    Change, Cluster, Entry, Expected, Expiry, Group, Guard, Member, Mode, Operation, Outcome, Place, Row,
    Table, Transaction, Value,
};
use crate::settings::Connection;

/// What the client is to do. `request` and `generation` come back in the messages that answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Connect, in place of the connection there is.
    Connect(Connection),
    /// Try to connect again at once.
    Retry,
    /// Ask for the tables and the cluster again.
    Refresh,
    /// List the keys of a table with a prefix, and follow their changes, in place of those that are listed.
    Open {
        /// The number of the listing.
        generation: u64,
        /// The table.
        table: String,
        /// The prefix.
        prefix: String,
        /// How often in a row this failed before: the pause after the next failure is longer.
        attempt: u32,
        /// All keys of it are there, with what has changed up to this cursor: only what has changed since is wanted, if that can be had.
        goes_on: Option<String>,
    },
    /// Read what rows show of some keys.
    Details {
        /// The number of the listing.
        generation: u64,
        /// The table.
        table: String,
        /// The prefix of the listing.
        prefix: String,
        /// The first key.
        start: Arc<str>,
        /// How many.
        count: usize,
    },
    /// Read a key.
    Get {
        /// The number of the request.
        request: u64,
        /// Which.
        place: Place,
    },
    /// Set a key.
    Set {
        /// The number of the request.
        request: u64,
        /// Which.
        place: Place,
        /// Its value, as JSON.
        json: String,
        /// When it expires.
        expiry: Expiry,
        /// What must hold.
        guard: Guard,
    },
    /// Delete a key.
    Delete {
        /// The number of the request.
        request: u64,
        /// Which.
        place: Place,
        /// The version that is deleted.
        version: String,
    },
    /// Run a transaction.
    Transact {
        /// The number of the request.
        request: u64,
        /// The transaction.
        transaction: Transaction,
    },
}

/// What the client has to tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// It tries an address.
    Connecting {
        /// The address.
        address: String,
    },
    /// It is connected.
    Connected {
        /// The address.
        address: String,
    },
    /// The connection is gone, or there was none; it tries the next address soon.
    Lost {
        /// The address.
        address: String,
        /// Why.
        why: String,
        /// In how many milliseconds it tries again.
        retry_ms: u64,
    },
    /// The node refuses this client, or the settings are wrong: trying again would not help.
    Refused {
        /// The address.
        address: String,
        /// Why.
        why: String,
    },
    /// The tables, or why they are not known.
    Tables(Result<Vec<Table>, String>),
    /// The cluster, or why it is not known, and how long the answer took.
    Cluster(Result<Cluster, String>, u64),
    /// What has changed meanwhile cannot be had: all keys of a listing that was to go on come anew.
    Anew {
        /// The number of the listing.
        generation: u64,
    },
    /// Keys of a listing, after those before.
    Keys {
        /// The number of the listing.
        generation: u64,
        /// The keys, in order.
        keys: Vec<Arc<str>>,
    },
    /// The end of a listing.
    Listed {
        /// The number of the listing.
        generation: u64,
        /// Whether there are more keys than are listed.
        is_cut: bool,
    },
    /// The end of a listing from which some keys are missing, as the node cannot read them.
    Incomplete {
        /// The number of the listing.
        generation: u64,
        /// Why.
        why: String,
    },
    /// What rows show.
    Details {
        /// The number of the listing.
        generation: u64,
        /// The rows, in order.
        rows: Vec<Row>,
        /// Whether these are all that were asked for.
        is_all: bool,
    },
    /// A change.
    Changed {
        /// The number of the listing.
        generation: u64,
        /// The change.
        change: Change,
    },
    /// Up to where changes were told.
    Position {
        /// The number of the listing.
        generation: u64,
        /// The cursor.
        cursor: String,
    },
    /// The listing has failed, or changes were missed: it is to be opened again.
    Broken {
        /// The number of the listing.
        generation: u64,
        /// Why.
        why: String,
        /// Whether opening it again may help.
        may_retry: bool,
        /// Whether changes were missed, so that it cannot go on where it was.
        missed: bool,
    },
    /// A key as it was read; `None` if it has no value.
    Got {
        /// The number of the request.
        request: u64,
        /// The key.
        entry: Option<Entry>,
    },
    /// A write was made.
    Written {
        /// The number of the request.
        request: u64,
        /// The version of the key now.
        version: String,
        /// When, in Unix milliseconds.
        timestamp_ms: u64,
    },
    /// A write was not made, because its guard did not hold.
    Conflict {
        /// The number of the request.
        request: u64,
        /// The key as it is; `None` if it has no value.
        theirs: Option<Entry>,
    },
    /// A transaction was run.
    Transacted {
        /// The number of the request.
        request: u64,
        /// What it came to.
        outcome: Outcome,
    },
    /// A request has failed.
    Failed {
        /// The number of the request.
        request: u64,
        /// Why.
        why: String,
    },
}

impl Message {
    /// About how many bytes it takes, for those that can be long.
    pub fn bytes(&self) -> usize {
        /// What a message takes besides.
        const OVERHEAD: usize = 128;
        let keys = |keys: &[Arc<str>]| keys.iter().map(|key| key.len() + 32).sum();
        let entry = |entry: &Entry| entry.key.len() + entry.value.length();
        OVERHEAD
            + match self {
                Self::Keys { keys: page, .. } => keys(page),
                Self::Details { rows, .. } => {
                    rows.iter().map(|row| row.key.len() + row.preview.len() + OVERHEAD).sum()
                }
                Self::Changed { change: Change::Set(it), .. }
                | Self::Got { entry: Some(it), .. }
                | Self::Conflict { theirs: Some(it), .. } => entry(it),
                Self::Transacted { outcome, .. } => outcome.results.iter().map(String::len).sum(),
                _ => 0,
            }
    }
}
