//! A subscription: missed changes or a snapshot, then live changes. It is a stream to be polled and does nothing by itself, so a reader
//! that stops costs its limited queue and nothing more.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::Stream;
use tokio::task::JoinHandle;
use tracing::{error, warn};

use super::{
    change::{Change, Cursor, Effect, Topic},
    delivery::Sink,
    entry::LoggedChange,
    hub::{Hub, Joined},
    queue::{Subscriber, Waiting},
    snapshot::{Snapshot, as_change, read_page_with_retry},
};
use crate::{
    core::{
        clock::Timestamp,
        name::{Key, TableName},
    },
    error::{Error, Result},
    storage::Store,
};

/// Longest time a change takes from the engine to the queue. A younger row of a snapshot may come again as a change, and is skipped then.
const PUMP_DELAY_MAX_MS: u64 = 10_000;

/// Most versions remembered for that. Beyond it a change may be delivered twice, the same both times.
const DELIVERED_MAX: usize = 4096;

/// Where a subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the next change.
    Now,
    /// With the current values, then `Notice::Sync`, then changes.
    Snapshot,
    /// With the changes after a cursor of any node. If they cannot be told, with `Notice::Resync` and a snapshot.
    After(Cursor),
    /// With `Notice::Resync` and a snapshot: the client's cursor is not one of ours.
    Resync,
}

/// What a subscriber receives.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A change, or a value of a snapshot.
    Change(Arc<Change>),
    /// Everything up to this position was delivered; nothing new.
    Position(Cursor),
    /// The snapshot lacks values that cannot be read here; `Sync` follows.
    Incomplete,
    /// The snapshot is complete; changes after this cursor follow.
    Sync(Cursor),
    /// Changes were missed: drop everything and take the snapshot that follows, which `Sync` ends.
    Resync(Cursor),
    /// The node is stopping; nothing follows.
    Shutdown,
    /// The snapshot cannot be read; nothing follows. A later attempt may succeed.
    Failed(Error),
}

/// A running subscription; dropping it ends it. The stream ends after `Notice::Shutdown` or `Notice::Failed`.
pub struct Subscription {
    store: Store,
    hub: Arc<Hub>,
    id: u64,
    subscriber: Arc<Subscriber>,
    topics: Arc<[Topic]>,
    phase: Phase,
    /// Versions delivered out of order that may still come as changes.
    delivered: HashMap<(TableName, Key), Timestamp>,
    /// A change with a timestamp (Unix milliseconds) from here on cannot be one of those.
    delivered_until_ms: u64,
}

enum Phase {
    /// Changes still to be delivered, and the position after them.
    Replay(VecDeque<Arc<LoggedChange>>, Cursor),
    /// Changes are being read from the store.
    Reading(JoinHandle<Result<Option<VecDeque<Arc<LoggedChange>>>>>, Cursor),
    Resync(Cursor),
    Snapshot(Box<Snapshot>),
    Live,
    Ended,
}

impl Subscription {
    /// Subscribes to `topics` of a store.
    pub(in crate::storage) fn begin(
        store: Store,
        hub: Arc<Hub>,
        topics: Vec<Topic>,
        start: Start,
    ) -> Result<Self> {
        let after = match start {
            Start::After(cursor) => Some(cursor),
            Start::Now | Start::Snapshot | Start::Resync => None,
        };
        let topics: Arc<[Topic]> = topics.into();
        let (id, subscriber, cursor, joined) = hub.join(&topics, after, store.now_ms())?;
        let phase = match (start, joined) {
            (Start::Now, _) => Phase::Live,
            (Start::Snapshot, _) => Phase::Snapshot(Snapshot::new(&store, &topics, cursor)),
            (Start::Resync, _) | (Start::After(_), Joined::Missed) => Phase::Resync(cursor),
            (Start::After(_), Joined::Replay(missed)) if missed.is_empty() => Phase::Live,
            (Start::After(_), Joined::Replay(missed)) => Phase::Replay(missed, cursor),
            (Start::After(from), Joined::Stored) => {
                let (store, topics) = (store.clone(), topics.clone());
                let read = async move { store.backlog(&topics, from.agreed_ms, cursor).await };
                Phase::Reading(tokio::spawn(read), cursor)
            }
        };
        Ok(Self {
            store,
            hub,
            id,
            subscriber,
            topics,
            phase,
            delivered: HashMap::new(),
            delivered_until_ms: 0,
        })
    }

    /// Has a sink take changes while this stream is polled and waits. The sink gets them in order, each in place of an item of the stream.
    pub fn deliver_to(&self, sink: Arc<dyn Sink>) {
        self.subscriber.queue().set_sink(sink);
    }

    /// The cursor from which a client can resume that has received everything so far; `None` while more is on its way. Nothing is delivered
    /// to a sink from here on, until the stream is polled again.
    pub fn position(&self) -> Option<Cursor> {
        match self.phase {
            Phase::Live => self.hub.position(&self.subscriber),
            Phase::Replay(..) | Phase::Reading(..) | Phase::Resync(_) | Phase::Snapshot(_) | Phase::Ended => {
                None
            }
        }
    }

    /// Returns the next missed change, or the position after the last.
    fn poll_replay(&mut self, context: &mut Context<'_>) -> Poll<Option<Notice>> {
        if let Phase::Reading(reading, cursor) = &mut self.phase {
            let cursor = *cursor;
            let read = ready!(Pin::new(reading).poll(context));
            let read =
                read.unwrap_or_else(|e| Err(Error::Io(format!("the reader of a backlog stopped: {e}"))));
            self.phase = match read {
                Ok(Some(missed)) => Phase::Replay(missed, cursor),
                Ok(None) => Phase::Resync(cursor),
                Err(error) => {
                    warn!(%error, "missed changes cannot be read; the subscriber takes a snapshot");
                    Phase::Resync(cursor)
                }
            };
        }
        loop {
            let Phase::Replay(missed, cursor) = &mut self.phase else { return self.poll_resync() };
            let cursor = *cursor;
            let Some(logged) = missed.pop_front() else {
                self.phase = Phase::Live;
                return Poll::Ready(Some(Notice::Position(cursor)));
            };
            let Some(change) = logged.change() else { continue };
            // A change read from the store may also be on its way in the stream.
            if change.cursor.is_none() {
                self.remember(&change.table, &change.key, change.timestamp);
            } else if self.is_already_delivered(&change) {
                continue;
            }
            return Poll::Ready(Some(Notice::Change(change)));
        }
    }

    fn poll_resync(&mut self) -> Poll<Option<Notice>> {
        let Phase::Resync(cursor) = self.phase else { return Poll::Ready(None) };
        self.phase = Phase::Snapshot(Snapshot::new(&self.store, &self.topics, cursor));
        Poll::Ready(Some(Notice::Resync(cursor)))
    }

    /// Remembers a version that was delivered out of order and may still come as a change.
    fn remember(&mut self, table: &TableName, key: &Key, timestamp: Timestamp) {
        let settled_ms = timestamp.unix_ms() + PUMP_DELAY_MAX_MS;
        if settled_ms >= self.store.now_ms() && self.delivered.len() < DELIVERED_MAX {
            self.delivered.insert((table.clone(), key.clone()), timestamp);
            self.delivered_until_ms = self.delivered_until_ms.max(settled_ms);
        }
    }

    /// Returns the next value of the snapshot, or `Sync` at its end.
    fn poll_snapshot(&mut self, context: &mut Context<'_>) -> Poll<Option<Notice>> {
        let Phase::Snapshot(snapshot) = &mut self.phase else { return Poll::Ready(None) };
        loop {
            if let Some(row) = snapshot.rows.pop_front() {
                let (earlier, rest) = snapshot.topics.split_at(snapshot.topic);
                let Some(table) = rest.first().and_then(Topic::table) else { continue };
                snapshot.after = Some(row.key.clone());
                if earlier.iter().any(|topic| topic.covers(table, &row.key)) {
                    continue;
                }
                let change = as_change(table, row);
                self.remember(&change.table, &change.key, change.timestamp);
                return Poll::Ready(Some(Notice::Change(change)));
            }
            let Some(reading) = &mut snapshot.reading else {
                let Some(topic) = snapshot.topics.get(snapshot.topic) else {
                    if std::mem::take(&mut snapshot.incomplete) {
                        return Poll::Ready(Some(Notice::Incomplete));
                    }
                    let cursor = snapshot.cursor;
                    self.phase = Phase::Live;
                    return Poll::Ready(Some(Notice::Sync(cursor)));
                };
                let (store, topic, after) = (self.store.clone(), topic.clone(), snapshot.after.clone());
                snapshot.reading = Some(tokio::task::spawn_blocking(move || {
                    read_page_with_retry(&store, &topic, after.as_ref())
                }));
                continue;
            };
            let page = ready!(Pin::new(reading).poll(context));
            snapshot.reading = None;
            let page =
                page.unwrap_or_else(|e| Err(Error::Io(format!("the reader of a snapshot stopped: {e}"))));
            match page {
                Ok(page) => {
                    snapshot.incomplete |= page.incomplete;
                    snapshot.rows = page.rows.into();
                    if !page.more && snapshot.rows.is_empty() {
                        snapshot.topic += 1;
                        snapshot.after = None;
                    }
                }
                Err(error) => {
                    error!(%error, "a snapshot failed");
                    self.phase = Phase::Ended;
                    return Poll::Ready(Some(Notice::Failed(error)));
                }
            }
        }
    }

    fn poll_live(&mut self, context: &mut Context<'_>) -> Poll<Option<Notice>> {
        loop {
            // A sink cannot tell what was delivered already.
            let waiting = self.subscriber.queue().take(context.waker(), self.delivered.is_empty());
            match waiting {
                Waiting::Nothing => return Poll::Pending,
                Waiting::Change(logged) => {
                    if let Some(change) = logged.change().filter(|change| !self.is_already_delivered(change))
                    {
                        return Poll::Ready(Some(Notice::Change(change)));
                    }
                }
                Waiting::Lagged => {
                    let cursor = self.hub.restart(&self.subscriber);
                    self.phase = Phase::Snapshot(Snapshot::new(&self.store, &self.topics, cursor));
                    return Poll::Ready(Some(Notice::Resync(cursor)));
                }
                Waiting::Ended => {
                    self.phase = Phase::Ended;
                    return Poll::Ready(Some(Notice::Shutdown));
                }
            }
        }
    }

    fn is_already_delivered(&mut self, change: &Change) -> bool {
        if self.delivered.is_empty() {
            return false;
        }
        if self.store.now_ms() > self.delivered_until_ms
            || change.timestamp.unix_ms() > self.delivered_until_ms
        {
            self.delivered = HashMap::new();
            return false;
        }
        let delivered = self.delivered.get(&(change.table.clone(), change.key.clone()));
        // The end of a value without a tombstone carries the value's timestamp.
        let ends = matches!(change.effect, Effect::Deleted(_));
        delivered
            .is_some_and(|delivered| *delivered > change.timestamp || *delivered == change.timestamp && !ends)
    }
}

impl Store {
    /// Ends every subscription and accepts no new one.
    pub fn end_subscriptions(&self) {
        self.0.hub.end();
    }
}

impl Stream for Subscription {
    type Item = Notice;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Notice>> {
        let this = &mut *self;
        if let Phase::Replay(..) | Phase::Reading(..) | Phase::Snapshot(_) | Phase::Resync(_) = this.phase
            && this.subscriber.queue().ended(context.waker())
        {
            this.phase = Phase::Ended;
            return Poll::Ready(Some(Notice::Shutdown));
        }
        match this.phase {
            Phase::Ended => Poll::Ready(None),
            Phase::Live => this.poll_live(context),
            Phase::Replay(..) | Phase::Reading(..) => this.poll_replay(context),
            Phase::Resync(_) => this.poll_resync(),
            Phase::Snapshot(_) => this.poll_snapshot(context),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Phase::Reading(reading, _) = &self.phase {
            reading.abort();
        }
        self.hub.leave(self.id, &self.topics);
    }
}
