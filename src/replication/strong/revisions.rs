//! What a member keeps in memory of the table of the etcd API: what the last revisions changed, for watchers on this node, and until when
//! leases last, for when it leads.
//!
//! Entries tell it as they are applied, in their order. So nothing is queued, and a watcher that is slow falls behind in the history and
//! holds up nobody.
//!
//! Of what a snapshot of the log brings ([`Arrivals`]) there are no events: the history begins anew once it is here, and watchers that have not
//! seen all before are canceled.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tracing::warn;

use super::{
    Strong,
    arrivals::Arrivals,
    leases::Leases,
    listeners::Watched,
    rpc::{Call, CallAnswer},
};
use crate::{
    core::{
        clock::NodeId,
        etcd::{
            self,
            evaluate::{Page, Past, Rows, check_is_ours},
            history::{History, Newer, Replaced, UNKNOWN},
            request::{KeyValue, Keys, Problem},
            row::{self, Granted, Head, Named},
        },
        json::Value,
        name::Key,
        protocol::message::Row,
        register::{Payload, Register},
    },
    error::{Error, Result},
    storage::{
        Store,
        commit::timestamps::Timestamps,
        table::{merge::Existing, scan::Range},
    },
};

/// Most rows that are read at a time.
const PAGE_ROWS: usize = 1_000;

/// How long a node may take to say where clients reach the API on it.
const URL_MAX: Duration = Duration::from_millis(500);

/// What a member keeps in memory of the table.
pub struct Revisions {
    /// `None` if this node serves no watchers.
    history: Option<Mutex<Watched>>,
    /// Where clients reach the API on this node.
    pub url: OnceLock<String>,
    /// Until when leases last.
    pub leases: Leases,
    /// Rows that came past the log.
    pub arrivals: Arrivals,
}

impl Default for Revisions {
    fn default() -> Self {
        Self::new(false)
    }
}

impl Revisions {
    /// For a node that serves watchers of the table, or none.
    pub fn new(serves_watchers: bool) -> Self {
        Self {
            history: serves_watchers.then(|| Mutex::new(Watched::new(History::new(Head::default())))),
            url: OnceLock::new(),
            leases: Leases::default(),
            arrivals: Arrivals::default(),
        }
    }

    /// The history, and who waits for what comes there; `None` if this node serves no watchers.
    pub fn history(&self) -> Option<MutexGuard<'_, Watched>> {
        let history = self.history.as_ref()?;
        Some(history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins with what a store has that was just opened.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn open(&self, store: &Store) -> Result<()> {
        self.arrivals.reopen(store)?;
        self.begin(store)
    }

    /// Begins anew with what the store has, unless the history goes up to there.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn begin(&self, store: &Store) -> Result<()> {
        self.begin_with(store, false)
    }

    /// Begins anew with what the store has: some of what was there before was lost.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn begin_anew(&self, store: &Store) -> Result<()> {
        self.begin_with(store, true)
    }

    fn begin_with(&self, store: &Store, is_anew: bool) -> Result<()> {
        let head = match checked_head(store) {
            // A member must start. Nothing is served from it: requests of the API say what is wrong.
            Err(Error::Conflict(why) | Error::Corrupt(why)) => {
                warn!(why, "the table of the etcd API cannot be served");
                UNKNOWN
            }
            read => read?,
        };
        if let Some(mut history) = self.history()
            && (is_anew || history.head() != head)
        {
            history.change(|history| history.reset(head));
        }
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
                history.change(History::damaged);
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
                history.change(|history| history.replaced(Replaced { key, now, before }));
            }
            Some(Named::Head) if value.is_none() => {
                if let Some(mut history) = self.history() {
                    history.change(History::head_deleted);
                }
            }
            Some(Named::Head) => {
                let head = Head::of(value)?;
                if let Some(mut history) = self.history() {
                    history.change(|history| history.completed(head));
                }
            }
            Some(Named::Lease(id)) => self.leases.note(id, value.map(Granted::of).transpose()?),
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

/// The head in a store, where rows without one are an error. Not while an entry is being applied, which writes it last.
///
/// # Errors
/// `Conflict` if the table is not the API's, or its head is missing or damaged; those of the storage.
pub fn checked_head(store: &Store) -> Result<Head> {
    let head = head(store)?;
    if head == Head::default() && store.is_strong(etcd::table()) {
        let rows = Stored(store);
        if rows.row(&row::head())?.is_none() {
            check_is_ours(&rows)?;
        }
    }
    Ok(head)
}

/// The rows of a store as they are, without a past.
struct Stored<'a>(&'a Store);

impl Rows for Stored<'_> {
    fn row(&self, key: &Key) -> Result<Option<Value>> {
        Ok(self.0.get(etcd::table(), key)?.map(|entry| entry.value))
    }

    fn page(&self, low: &str, high: &str) -> Result<Page> {
        page(self.0, low, high)
    }

    fn past(&self, _keys: &Keys, revision: i64) -> std::result::Result<Past, Problem> {
        Err(Problem::Compacted(revision + 1))
    }
}

/// The first rows of the table at or above `low` and below `high`. There are none if the table is not strong: then it is somebody else's.
///
/// # Errors
/// Those of the storage; `Corrupt` if rows cannot be read.
pub fn page(store: &Store, low: &str, high: &str) -> Result<Page> {
    let table = etcd::table();
    if !store.is_strong(table) {
        return Ok(Page::default());
    }
    let range = Range { start: Some(low.into()), end: Some(high.into()), ..Range::default() };
    let page = store.rows(table, &range, PAGE_ROWS)?;
    if page.incomplete {
        return Err(Error::Corrupt(format!("rows of table {table} cannot be read")));
    }
    let last = page.rows.last().filter(|_| page.more).map(|row| row.key.clone());
    let rows = page.rows.into_iter().map(|row| (row.key, row.entry.value)).collect();
    Ok(Page { rows, last })
}

/// Calls `take` with the rows of the table at or above `low` and below `high`, which are read page by page.
///
/// # Errors
/// Those of [`page`] and of `take`.
pub fn each(
    store: &Store,
    low: &str,
    high: &str,
    mut take: impl FnMut(&Key, &Value) -> Result<()>,
) -> Result<()> {
    let mut low = low.to_owned();
    loop {
        let Page { rows, last } = page(store, &low, high)?;
        rows.iter().try_for_each(|(key, value)| take(key, value))?;
        let Some(last) = last else { return Ok(()) };
        // The least name above another is that name and a zero byte.
        low = format!("{}\0", last.as_str());
    }
}

/// Raises the revision of the table, if it is used, beyond all that clients may have been told of, and marks as compacted what was before: some of
/// that may be lost, and its revisions must not come again with other writes.
///
/// # Errors
/// Those of the storage and of the clock.
pub async fn raise(store: &Store, timestamps: &Timestamps) -> Result<()> {
    let head = match checked_head(store) {
        // An operator writes it again, and is told how far.
        Err(Error::Conflict(why) | Error::Corrupt(why)) => {
            warn!(why, "the revision of the etcd API cannot be raised");
            return Ok(());
        }
        head => head?,
    };
    if head == Head::default() {
        return Ok(());
    }
    if let Some(entry) = store.get(etcd::table(), &row::head())? {
        timestamps.observe_stored(entry.timestamp);
    }
    timestamps.before_writing().await?;
    let raised = head.raised();
    let register = Register::live(raised.value(), None, timestamps.tick()?);
    store.merge(etcd::table(), &row::head(), |_| Ok(register))?;
    warn!(
        from = head.revision,
        to = raised.revision,
        "the revision of the etcd API was raised, because some of the last writes may be lost: watchers read all again"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{
            etcd::request::{Operation, Put},
            strong::request::{Outcome, Request},
            write::{Action, Condition, Write},
        },
        replication::strong::{group::tests::Alone, state_machine::receiving::Purpose},
    };

    fn put(key: &str) -> Request {
        let put = Put { key: key.into(), ..Put::default() };
        Request::Etcd(etcd::request::Request::Operation(Operation::Put(put)))
    }

    async fn revision(node: &Alone, key: &str) -> Result<i64> {
        match node.strong.submit(put(key)).await? {
            Outcome::Etcd(Ok(answer)) => Ok(answer.revision),
            other => panic!("{other:?}"),
        }
    }

    fn write_head(node: &Alone, value: &str) {
        let register = Register::live(
            Value::trusted(value.into()),
            None,
            node.parts.timestamps.tick().expect("a timestamp"),
        );
        node.parts.store.merge(etcd::table(), &row::head(), |_| Ok(register)).expect("is stored");
    }

    /// A damaged head was taken for that of an empty table by watchers: the history began again at revision 1.
    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_begins_again_where_the_head_is_damaged_until_it_is_written_again() {
        let node = Alone::start().await;
        assert_eq!(node.strong.create(etcd::table().clone()).await, Ok(true));
        for (key, expected) in [("a", 2), ("b", 3)] {
            assert_eq!(revision(&node, key).await, Ok(expected));
        }
        write_head(&node, r#"{"revision":"three"}"#);
        let refused = revision(&node, "c").await.map_err(|error| error.to_string());
        assert!(refused.is_err_and(|why| why.contains("PUT /etcd/key/head")));
        let watched = Revisions::new(true);
        watched.begin(&node.parts.store).expect("a member starts");
        let history_head = || watched.history().expect("it keeps one").head();
        assert_eq!(history_head(), UNKNOWN);
        raise(&node.parts.store, &node.parts.timestamps).await.expect("a group starts");
        assert!(checked_head(&node.parts.store).is_err());
        let value = Value::trusted(r#"{"revision":50,"compacted":50}"#.into());
        let action = Action::Put { value, expiry: None };
        let write = Write { key: row::head(), action, condition: Condition::Always };
        let write = Request::Write { table: etcd::table().clone(), writes: vec![write] };
        node.strong.submit(write).await.expect("is repaired");
        assert_eq!(revision(&node, "c").await, Ok(51));
        watched.begin(&node.parts.store).expect("begins");
        assert_eq!(history_head().revision, 51);
        node.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_revision_is_raised_over_a_head_that_a_faster_clock_wrote() {
        let node = Alone::start().await;
        raise(&node.parts.store, &node.parts.timestamps).await.expect("there is none");
        assert_eq!(node.strong.create(etcd::table().clone()).await, Ok(true));
        raise(&node.parts.store, &node.parts.timestamps).await.expect("there is none");
        assert_eq!(head(&node.parts.store), Ok(Head::default()));
        assert_eq!(revision(&node, "a").await, Ok(2));
        let mut ahead = node.parts.timestamps.tick().expect("a timestamp");
        ahead.hlc += 1 << 20;
        let register = Register::live(Head { revision: 2, compacted: -1 }.value(), None, ahead);
        node.parts.store.merge(etcd::table(), &row::head(), |_| Ok(register)).expect("is stored");
        raise(&node.parts.store, &node.parts.timestamps).await.expect("is raised");
        let raised = Head { revision: 1_000_000_002, compacted: 1_000_000_002 };
        assert_eq!(head(&node.parts.store), Ok(raised));
        assert_eq!(revision(&node, "b").await, Ok(raised.revision + 1));
        node.stop().await;
    }

    /// Rows of a snapshot come one after the other: reads in between showed some of them.
    #[tokio::test(flavor = "multi_thread")]
    async fn rows_that_come_past_the_log_are_no_state_of_it_until_that_is_settled() {
        let node = Alone::start().await;
        assert_eq!(node.strong.create(etcd::table().clone()).await, Ok(true));
        assert_eq!(revision(&node, "a").await, Ok(2));
        let arrivals = &node.parts.revisions.arrivals;
        assert!(arrivals.is_settled(arrivals.count()), "these came with the log");
        let member = node.strong.member().expect("it is a member");
        let name = row::key(b"a").expect("is short");
        let row = node.parts.store.read_known_row(etcd::table(), &name).expect("reads").expect("a row");
        let vote = member.own_vote().await.expect("a vote");
        member.machine.begin_receiving(Purpose::Snapshot, &vote, vote).expect("begins");
        let marker = row.marker;
        let merged = member.machine.applying().await.merge(vec![(etcd::table().clone(), row)]).await;
        merged.expect("is merged");
        let count = arrivals.count();
        assert_eq!((count, arrivals.is_settled(count)), (1, false));
        let again = Arrivals::default();
        again.reopen(&node.parts.store).expect("reads");
        assert!(!again.is_settled(again.count()), "a restart is no end");
        arrivals.settle(&node.parts.store, count).expect("is noted");
        assert!(arrivals.is_settled(count));
        let again = Arrivals::default();
        again.reopen(&node.parts.store).expect("reads");
        assert!(again.is_settled(again.count()));
        let names = vec![(etcd::table().clone(), name, marker)];
        member.machine.applying().await.remove(names).await.expect("is removed");
        assert!(!arrivals.is_settled(count), "there came more since");
        assert!(!arrivals.is_settled(arrivals.count()));
        drop(member);
        node.stop().await;
    }
}
