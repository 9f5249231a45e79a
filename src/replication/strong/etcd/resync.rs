//! Reads all rows from etcd, as of one revision, and makes this node's copy the same: for a node that is new, or that missed commits which
//! etcd no longer keeps.

use std::{collections::HashSet, sync::Arc};

use tracing::{debug, info};

use super::{
    follower::{Ended, lost, range, read_head},
    gateway::{Channel, Failure, TOO_LARGE},
    layout::{Head, Layout},
    replica::{Place, Replica},
};
use crate::{
    core::{
        clock::Timestamp,
        name::{Key, TableName},
        protocol::message::Row,
        register::Register,
        strong::entry::Effect,
    },
    error::{Error, Result as Outcome},
    storage::table::scan,
};

/// Rows of a page, as long as they are short.
const PAGE_ROWS: u64 = 256;
/// Keys of this node's own that are looked at in one step.
const PAGE_KEYS: usize = 1_000;

/// The state of etcd that is read.
struct State<'a> {
    replica: &'a Arc<Replica>,
    layout: &'a Layout,
    /// The revision of etcd that all pages are read as of.
    revision: u64,
    head: Head,
}

/// Makes this node's copy what etcd has.
///
/// # Errors
/// Those of etcd and of the storage; `Failed` if etcd lacks what this node has applied.
pub async fn resync(
    replica: &Arc<Replica>,
    layout: &Layout,
    channel: &mut Channel,
    own: u64,
) -> Result<(), Ended> {
    let _one = replica.applying.lock().await;
    replica.rewind();
    if let Some(why) = replica.store.failure() {
        return Err(Ended::Again(why));
    }
    let (incarnation, began_ms) = (replica.store.incarnation(), replica.store.now_ms());
    let (revision, head) = read_head(layout, channel).await?;
    let Some((committed, head)) = head.filter(|(committed, _)| *committed >= replica.place().revision) else {
        return Err(Ended::Failed(lost()));
    };
    check_history(replica.place(), layout, channel).await?;
    replica.resyncs.increment();
    let state = State { replica, layout, revision, head };
    let tables = layout.tables(&range(channel, &layout.read_tables(revision)).await?.kvs)?;
    if replica.store.strong_tables().iter().any(|table| !tables.contains(table)) {
        return Err(Ended::Failed(lost()));
    }
    let mut rows = 0;
    // Linearizable reads of several keys wait meanwhile; stale ones show what is here.
    let _step = replica.steps.begin().await;
    for table in &tables {
        replica.take(&Effect::Create(table.clone()), committed).await?;
        rows += state.read(channel, table).await?;
    }
    replica.jump_to(own, committed, &state.head);
    if replica.store.suspects_strong_loss() || replica.store.has_unreadable_strong() {
        replica.store.durable(incarnation).await?;
        replica.store.clear_strong_loss(incarnation);
        replica.store.restored_strong(began_ms)?;
    }
    info!(tables = tables.len(), rows, "read the strong tables from etcd");
    Ok(())
}

/// Checks that the last commit that this node has applied is one of etcd's. An etcd that was restored from a backup may have had others since,
/// and what this node has beyond them would be deleted. Where etcd has compacted that commit, nobody can tell.
async fn check_history(place: Place, layout: &Layout, channel: &mut Channel) -> Result<(), Ended> {
    if place.revision == 0 {
        return Ok(());
    }
    match range(channel, &layout.read_head_at(place.revision)).await {
        Ok(then) => match layout.head(&then.kvs)? {
            Some((_, head)) if head.id == place.id => Ok(()),
            _ => Err(Ended::Failed(lost())),
        },
        Err(Failure::Refused(why)) if why.contains("compacted") => Ok(()),
        Err(failure) => Err(failure.into()),
    }
}

impl State<'_> {
    /// Reads a table. Returns how many rows it has.
    async fn read(&self, channel: &mut Channel, table: &TableName) -> Result<u64, Ended> {
        let (mut after, mut limit, mut rows) = (None::<Key>, PAGE_ROWS, 0);
        loop {
            let page = self.layout.read_rows(table, after.as_ref(), limit, self.revision);
            let page = match range(channel, &page).await {
                Ok(page) => page,
                // The rows are long.
                Err(Failure::Refused(why)) if limit > 1 && why.contains(TOO_LARGE) => {
                    limit /= 2;
                    debug!(limit, "reading smaller pages");
                    continue;
                }
                Err(failure) => return Err(failure.into()),
            };
            let here: Vec<_> = page.kvs.iter().map(|kv| self.layout.parse_row(kv)).collect::<Outcome<_>>()?;
            let last = here.last().map(|(_, row)| row.key.clone()).filter(|_| page.more);
            let keys: HashSet<_> = here.iter().map(|(_, row)| row.key.clone()).collect();
            rows += here.len() as u64;
            for (_, row) in here {
                self.take(table, row).await?;
            }
            self.delete_others(table, after, last.as_ref(), &keys).await?;
            if last.is_none() {
                return Ok(rows);
            }
            after = last;
        }
    }

    /// Takes a row, unless it is here.
    async fn take(&self, table: &TableName, row: Row) -> Result<(), Ended> {
        let own = match self.replica.store.read_known_row(table, &row.key) {
            // It is lost, and comes back.
            Err(Error::Corrupt(_)) if self.replica.store.is_unknown(table, &row.key) => None,
            read => read?,
        };
        match own {
            Some(own) if own.marker == row.marker => Ok(()),
            // Whatever is here was committed, so etcd had it.
            Some(own) if own.marker.timestamp > row.marker.timestamp => Err(Ended::Failed(lost())),
            Some(_) | None => {
                let effect = Effect::Merge(table.clone(), row);
                Ok(self.replica.take(&effect, self.revision).await?)
            }
        }
    }

    /// Deletes the keys after `after` and up to `last` that etcd does not have.
    async fn delete_others(
        &self,
        table: &TableName,
        after: Option<Key>,
        last: Option<&Key>,
        keys: &HashSet<Key>,
    ) -> Result<(), Ended> {
        // The smallest text above a key is the key followed by a zero.
        let end = last.map(|last| format!("{}\0", last.as_str()));
        let mut rest = scan::Range { after, end, ..scan::Range::default() };
        loop {
            let page = self.replica.store.keys(table, &rest, PAGE_KEYS)?.rows;
            let Some(seen) = page.last().cloned() else { return Ok(()) };
            for key in page.into_iter().filter(|key| !keys.contains(key)) {
                self.delete(table, key).await?;
            }
            rest.after = Some(seen);
        }
    }

    /// Deletes a key that etcd does not have. Its tombstone is no later than the last commit, so that whatever comes after replaces it.
    async fn delete(&self, table: &TableName, key: Key) -> Result<(), Ended> {
        let deleted = Timestamp { hlc: self.head.latest_hlc, node: self.head.node };
        let own = self.replica.store.read_known_row(table, &key)?;
        if own.is_some_and(|own| own.marker.timestamp.hlc > deleted.hlc) {
            return Err(Ended::Failed(lost()));
        }
        let tombstone = Row::new(key, Register::deleted(deleted));
        Ok(self.replica.take(&Effect::Merge(table.clone(), tombstone), self.revision).await?)
    }
}
