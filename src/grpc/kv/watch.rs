//! `Watch`: changes as they happen, as subscribers of every protocol get them. The queue is the node's: it is bounded, and a client that reads
//! too slowly gets `resync`.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::Stream;
use tokio::time::Interval;
use tonic::Status;

use super::{key, table, value};
use crate::{
    error::{Error, Result},
    grpc::{
        proto::dynarust::v1::{
            Deletion, Position, Resync, Synced, WatchRequest, WatchResponse, watch_request::Target,
            watch_response::Event,
        },
        request::Caller,
        status,
    },
    http::keep_alive,
    node::{Change, Cursor, Effect, Gone, Node, Notice, Start, Subscription, Topic},
};

/// A running watch.
pub struct Watch {
    subscription: Subscription,
    /// Whether the client wants the current values where its cursor is too old.
    takes_snapshot: bool,
    /// Whether the client has named a cursor.
    has_cursor: bool,
    positions: Positions,
    is_begun: bool,
    is_incomplete: bool,
    is_ended: bool,
}

impl Watch {
    /// The watch that a request asks for.
    ///
    /// # Errors
    /// `BadName`, `BadRequest`, `NotGranted`, `TooMany`, `Draining`.
    pub async fn begin(node: &Node, caller: &Caller, request: WatchRequest) -> Result<Self> {
        let table = table(&request.table)?;
        let topic = match request.target {
            None => Topic::Prefix(table, String::new()),
            Some(Target::Prefix(prefix)) => Topic::prefix(table, prefix)?,
            Some(Target::Key(name)) => Topic::Key(table, key(&name)?),
        };
        caller.principal.check_topic(&topic)?;
        let start = start(&request.cursor, request.snapshot)?;
        Ok(Self {
            subscription: node.watch(vec![topic], start).await?,
            takes_snapshot: request.snapshot,
            has_cursor: !request.cursor.is_empty(),
            positions: Positions { told: None, ticks: keep_alive::timer() },
            is_begun: false,
            is_incomplete: false,
            is_ended: false,
        })
    }

    /// The message of a notice, if it has one.
    fn render(&mut self, notice: &Notice) -> std::result::Result<Option<WatchResponse>, Status> {
        let event = match notice {
            Notice::Change(change) => changed(change),
            Notice::Position(_) => Event::Position(Position {}),
            Notice::Incomplete => {
                self.is_incomplete = true;
                return Ok(None);
            }
            Notice::Sync(_) => Event::Synced(Synced { incomplete: std::mem::take(&mut self.is_incomplete) }),
            Notice::Resync(_) if !self.is_begun && self.has_cursor && !self.takes_snapshot => {
                return Err(status::cursor_gone());
            }
            Notice::Resync(_) => Event::Resync(Resync {}),
            Notice::Shutdown => return Err(status::of(&Error::Draining)),
            Notice::Failed(error) => return Err(status::of(error)),
        };
        self.is_begun = true;
        let cursor = match notice {
            Notice::Change(change) => change.cursor,
            Notice::Position(cursor) | Notice::Sync(cursor) => Some(*cursor),
            Notice::Resync(_) | Notice::Incomplete | Notice::Shutdown | Notice::Failed(_) => None,
        };
        self.positions.told = cursor;
        Ok(Some(message(event, cursor)))
    }

    fn poll_position(&mut self, context: &mut Context<'_>) -> Poll<WatchResponse> {
        let subscription = &self.subscription;
        let position = ready!(self.positions.poll_next(!self.is_begun, || subscription.position(), context));
        self.is_begun = true;
        Poll::Ready(message(Event::Position(Position {}), Some(position)))
    }
}

/// The positions that a client is told while nothing else is.
struct Positions {
    /// The one told last.
    told: Option<Cursor>,
    ticks: Interval,
}

impl Positions {
    /// The position, if it is another than the client knows: at once, or at the next tick.
    fn poll_next(
        &mut self,
        mut is_due: bool,
        now: impl Fn() -> Option<Cursor>,
        context: &mut Context<'_>,
    ) -> Poll<Cursor> {
        loop {
            if let Some(position) = now().filter(|position| is_due && Some(*position) != self.told) {
                self.told = Some(position);
                return Poll::Ready(position);
            }
            // Until it is pending: only then does it wake us up for the next tick.
            ready!(self.ticks.poll_tick(context));
            is_due = true;
        }
    }
}

impl Stream for Watch {
    type Item = std::result::Result<WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.is_ended {
            match Pin::new(&mut self.subscription).poll_next(context) {
                Poll::Ready(Some(notice)) => match self.render(&notice) {
                    Ok(None) => {}
                    Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                    Err(status) => {
                        self.is_ended = true;
                        return Poll::Ready(Some(Err(status)));
                    }
                },
                Poll::Ready(None) => self.is_ended = true,
                Poll::Pending => return self.poll_position(context).map(|message| Some(Ok(message))),
            }
        }
        Poll::Ready(None)
    }
}

/// Where to start.
fn start(cursor: &str, snapshot: bool) -> Result<Start> {
    match (cursor, snapshot) {
        ("", true) => Ok(Start::Snapshot),
        ("", false) => Ok(Start::Now),
        (cursor, _) => Cursor::parse(cursor).map(Start::After).ok_or_else(|| {
            let quoted: String = cursor.chars().take(100).collect();
            Error::BadRequest(format!(
                "cursor {quoted:?} is not a cursor: send the one of the last message seen"
            ))
        }),
    }
}

fn message(event: Event, cursor: Option<Cursor>) -> WatchResponse {
    let cursor = cursor.map(|cursor| cursor.to_string()).unwrap_or_default();
    WatchResponse { event: Some(event), cursor }
}

fn changed(change: &Change) -> Event {
    let (key, timestamp) = (&change.key, change.timestamp);
    match &change.effect {
        Effect::Updated { value, expires_at_ms } => {
            Event::Updated(value::entry(key, Some(value), timestamp, *expires_at_ms))
        }
        Effect::Deleted(gone) => Event::Deleted(Deletion {
            key: key.as_str().to_owned(),
            version: timestamp.to_string(),
            timestamp_ms: timestamp.unix_ms(),
            expired: *gone == Gone::Expired,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn};

    use super::*;

    /// A tick at which there was nothing to tell was the last one: nothing woke the stream up for the next.
    #[tokio::test(start_paused = true)]
    async fn a_position_is_told_after_any_number_of_quiet_periods() {
        let cursor = |text: &str| Cursor::parse(text).expect("a cursor");
        let (first, second) = (cursor("00000001.5"), cursor("00000001.6"));
        let now = Cell::new(Some(first));
        let mut positions = Positions { told: None, ticks: keep_alive::timer() };
        let told = poll_fn(|context| positions.poll_next(true, || now.get(), context)).await;
        assert_eq!(told, first);
        let next = poll_fn(|context| positions.poll_next(false, || now.get(), context));
        let quiet = tokio::time::timeout(keep_alive::PERIOD * 3, next).await;
        assert!(quiet.is_err(), "{quiet:?}");
        let mut next = Box::pin(poll_fn(|context| positions.poll_next(false, || now.get(), context)));
        let quiet = tokio::time::timeout(keep_alive::PERIOD * 3, &mut next).await;
        assert!(quiet.is_err(), "{quiet:?}");
        now.set(Some(second));
        assert_eq!(tokio::time::timeout(keep_alive::PERIOD * 2, next).await, Ok(second));
    }
}
