//! Snapshots: the current values of a subscription's topics, a page at a time.

use std::{
    collections::VecDeque,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use super::change::{Change, Cursor, Effect, Topic};
use crate::{
    core::name::{Key, TableName},
    error::{Error, Result},
    storage::{
        Store,
        table::scan::{Page, Range, Row},
    },
};

/// Rows that a snapshot reads at a time.
const SNAPSHOT_ROWS: usize = 256;
/// How long a snapshot waits for a storage that is being reopened, and how often it checks.
const REOPENING_MAX: Duration = Duration::from_secs(10);
const REOPENING_PAUSE: Duration = Duration::from_millis(20);

/// A snapshot that is being read.
pub(super) struct Snapshot {
    pub(super) cursor: Cursor,
    /// What it reads: the topics of the subscription, or each table if that follows all.
    pub(super) topics: Arc<[Topic]>,
    pub(super) topic: usize,
    pub(super) after: Option<Key>,
    pub(super) rows: VecDeque<Row>,
    pub(super) reading: Option<JoinHandle<Result<Page<Row>>>>,
    /// Whether rows could not be read and `Incomplete` was not sent yet.
    pub(super) incomplete: bool,
}

impl Snapshot {
    /// Begins with the first topic. A table made later is not in it: the subscriber gets its changes.
    pub(super) fn new(store: &Store, topics: &Arc<[Topic]>, cursor: Cursor) -> Box<Self> {
        let topics = match topics.contains(&Topic::All) {
            true => store
                .all_tables()
                .iter()
                .map(|table| Topic::Prefix(table.name().clone(), String::new()))
                .collect(),
            false => topics.clone(),
        };
        Box::new(Self {
            cursor,
            topics,
            topic: 0,
            after: None,
            rows: VecDeque::new(),
            reading: None,
            incomplete: false,
        })
    }
}

/// A row as its change.
pub(super) fn as_change(table: &TableName, row: Row) -> Arc<Change> {
    let Row { key, entry } = row;
    let effect = Effect::Updated { value: entry.value, expires_at_ms: entry.expires_at_ms };
    Arc::new(Change::new(None, table.clone(), key, entry.timestamp, effect))
}

/// Like `read_page`, but waits while the storage is being reopened, or too many wait for a batch.
pub(super) fn read_page_with_retry(store: &Store, topic: &Topic, after: Option<&Key>) -> Result<Page<Row>> {
    let deadline = Instant::now() + REOPENING_MAX;
    loop {
        match read_page(store, topic, after.cloned()) {
            Err(Error::NotReady(_) | Error::Overloaded(_)) if Instant::now() < deadline => {
                thread::sleep(REOPENING_PAUSE)
            }
            page => return page,
        }
    }
}

/// Reads the next rows of a topic after a key.
fn read_page(store: &Store, topic: &Topic, after: Option<Key>) -> Result<Page<Row>> {
    match topic {
        Topic::Key(..) if after.is_some() => Ok(Page::default()),
        Topic::Key(table, key) => {
            let entry = match store.get(table, key) {
                Err(Error::Corrupt(_)) => return Ok(Page { incomplete: true, ..Page::default() }),
                entry => entry?,
            };
            let rows = entry.into_iter().map(|entry| Row { key: key.clone(), entry }).collect();
            Ok(Page { rows, ..Page::default() })
        }
        Topic::Prefix(table, prefix) => {
            let range = Range { prefix: prefix.clone(), after, ..Range::default() };
            store.rows(table, &range, SNAPSHOT_ROWS)
        }
        // A snapshot reads one table after the other.
        Topic::All => Ok(Page::default()),
    }
}
