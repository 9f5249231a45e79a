//! What a member keeps in memory of the table of the etcd API: what the last revisions changed, for watchers on this node, and until when
//! leases last, for when it leads.
//!
//! Entries tell it as they are applied, in their order. So nothing is queued, and a watcher that is slow falls behind in the history and
//! holds up nobody.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::sync::watch;
use tracing::warn;

use super::{
    Strong,
    leases::Leases,
    rpc::{Call, CallAnswer},
};
use crate::{
    core::{
        clock::NodeId,
        etcd::{
            self,
            history::{History, Newer, Replaced},
            request::KeyValue,
            row::{self, Head, Named},
        },
        json::Value,
        name::Key,
        protocol::message::Row,
        register::Payload,
    },
    error::{Error, Result},
    storage::{Store, table::merge::Existing},
};

/// How long a node may take to say where clients reach the API on it.
const URL_MAX: Duration = Duration::from_millis(500);

/// What a member keeps in memory of the table.
pub struct Revisions {
    /// `None` if this node serves no watchers.
    history: Option<Mutex<History>>,
    newest: watch::Sender<i64>,
    /// Where clients reach the API on this node.
    pub url: OnceLock<String>,
    /// Until when leases last.
    pub leases: Leases,
}

impl Default for Revisions {
    fn default() -> Self {
        Self::new(false)
    }
}

impl Revisions {
    /// For a node that serves watchers of the table, or none.
    pub fn new(serves_watchers: bool) -> Self {
        let head = Head::default();
        Self {
            history: serves_watchers.then(|| Mutex::new(History::new(head))),
            newest: watch::Sender::new(head.revision),
            url: OnceLock::new(),
            leases: Leases::default(),
        }
    }

    /// The history; `None` if this node serves no watchers.
    pub fn history(&self) -> Option<MutexGuard<'_, History>> {
        let history = self.history.as_ref()?;
        Some(history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The newest revision in the history, and its changes.
    pub fn newest(&self) -> watch::Receiver<i64> {
        self.newest.subscribe()
    }

    /// Begins anew with what the store has, unless the history goes up to there.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn begin(&self, store: &Store) -> Result<()> {
        let head = known_head(store)?;
        if let Some(mut history) = self.history()
            && history.head() != head
        {
            history.reset(head);
        }
        self.newest.send_replace(head.revision);
        Ok(())
    }

    /// Begins anew with what the store has: some of what was there before was lost.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn begin_anew(&self, store: &Store) -> Result<()> {
        let head = known_head(store)?;
        if let Some(mut history) = self.history() {
            history.reset(head);
        }
        self.newest.send_replace(head.revision);
        Ok(())
    }

    /// Merges a row of the table into the store, and notes what it changes. With `is_replaced`, a head that another follows within the same entry
    /// is not stored.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn merge(&self, store: &Store, row: Row, is_replaced: bool) -> Result<()> {
        let Some((key, register)) = row.into_register() else {
            return Err(Error::Corrupt(format!("a row of table {} does not match its marker", etcd::TABLE)));
        };
        let value = match register.payload() {
            Payload::Live { value, .. } => Some(value.clone()),
            Payload::Deleted => None,
        };
        let named = Named::of(&key);
        let (mut before, notes) = (Ok(None), self.history.is_some() && matches!(named, Some(Named::Key(_))));
        if !(is_replaced && named == Some(Named::Head)) {
            store.merge(etcd::table(), &key, |existing| {
                if let Some(existing) = existing.filter(|_| notes) {
                    before = known(&key, existing, register.timestamp() > existing.timestamp())?;
                }
                Ok(register)
            })?;
        }
        // What was committed is applied, whatever it is: a node that would not could apply nothing that follows.
        if let Err(error) = self.note(named, value.as_ref(), before) {
            warn!(%error, "a row of the table of the etcd API is none of its: watchers begin anew");
            if let Some(mut history) = self.history() {
                let head = history.head();
                history.reset(head);
            }
        }
        Ok(())
    }

    fn note(
        &self,
        named: Option<Named>,
        value: Option<&Value>,
        before: std::result::Result<Option<KeyValue>, Newer>,
    ) -> Result<()> {
        match named {
            Some(Named::Key(key)) => {
                let Some(mut history) = self.history() else { return Ok(()) };
                let now = value.map(|value| row::parse_key(key.clone(), value)).transpose()?;
                history.replaced(Replaced { key, now, before });
            }
            Some(Named::Head) => {
                let head = Head::of(value)?;
                if let Some(mut history) = self.history() {
                    history.completed(head);
                }
                self.newest.send_if_modified(|newest| {
                    let is_newer = head.revision > *newest;
                    *newest = head.revision.max(*newest);
                    is_newer
                });
            }
            Some(Named::Lease(id)) => self.leases.note(id, value.map(row::lease_ttl_s).transpose()?),
            Some(Named::Leased(..)) | None => {}
        }
        Ok(())
    }
}

impl Strong {
    /// Where clients reach the etcd API, on each node that answers it and can be reached.
    pub async fn etcd_urls(&self) -> BTreeMap<NodeId, String> {
        let (inner, own) = (&self.0, self.0.parts.store.node());
        let asked = inner.linked().map(|node| async move {
            match inner.call(node, Call::EtcdUrl, URL_MAX).await {
                Ok(CallAnswer::EtcdUrl(url)) => Some((node, url?)),
                Ok(_) | Err(_) => None,
            }
        });
        let others = join_all(asked).await.into_iter().flatten();
        let url = inner.parts.revisions.url.get().cloned();
        others.chain(url.map(|url| (own, url))).collect()
    }
}

/// What a row was before a merge.
fn known(
    key: &Key,
    existing: &Existing<'_>,
    is_older: bool,
) -> Result<std::result::Result<Option<KeyValue>, Newer>> {
    if !is_older {
        return Ok(Err(Newer));
    }
    // A deleted one is visible at no time.
    if !existing.visible_at(0) {
        return Ok(Ok(None));
    }
    let Some(Named::Key(name)) = Named::of(key) else { return Ok(Ok(None)) };
    match existing.value().and_then(|value| row::parse_key(name, &value)) {
        Ok(before) => Ok(Ok(Some(before))),
        // It is damaged, or somebody else's; what replaces it is not.
        Err(Error::Corrupt(_)) => Ok(Err(Newer)),
        Err(error) => Err(error),
    }
}

/// The head in a store.
///
/// # Errors
/// Those of the storage.
pub fn head(store: &Store) -> Result<Head> {
    // A table that is not strong is somebody else's.
    if !store.is_strong(etcd::table()) {
        return Ok(Head::default());
    }
    let entry = store.get(etcd::table(), &row::head())?;
    Head::of(entry.map(|entry| entry.value).as_ref())
}

/// The head in a store; the first if it cannot be read: a member must start, and requests of the API say what is wrong.
fn known_head(store: &Store) -> Result<Head> {
    match head(store) {
        Err(Error::Corrupt(why)) => {
            warn!(why, "the head of the table of the etcd API cannot be read");
            Ok(Head::default())
        }
        read => read,
    }
}
