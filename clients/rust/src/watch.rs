//! Streams of changes that survive connections and nodes: after a break they go on where they were, on the same node or on another.
//!
//! Every event has a position. Nodes of a cluster can tell from another's position what was missed, or say that they cannot: then they send
//! the current values, and the stream says [`Event::Resync`] first. A position from within a snapshot is not used to resume, because the rest
//! of the snapshot would be missing: then the stream says `Resync` itself, and asks for a new snapshot.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt, stream, stream::BoxStream};
use hyper::Method;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::time::sleep;

use crate::{
    answer::Streaming,
    client::Client,
    entry::Version,
    error::{Error, Result},
    path,
    request::Request,
    sse::{Block, Parser},
    topic::{self, Topic},
};

/// A node says something every 15 s, so a connection that is silent for longer is dead.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// The pause once all endpoints have failed. It doubles each time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause: no longer than what a browser waits.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A connection that lasted so long did not fail, even if nothing changed meanwhile.
const STEADY: Duration = Duration::from_secs(10);

/// Something that happened, or that the stream has to say. Of two events for a key the one with the higher version is the newer; after a
/// change of nodes an event may come twice.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event<T> {
    /// The key has this value now.
    Updated {
        /// The table.
        table: String,
        /// The key.
        key: String,
        /// The value.
        value: T,
        /// The write.
        version: Version,
        /// When it was written, in Unix milliseconds.
        timestamp: u64,
        /// When the value expires, in Unix milliseconds.
        expires_at: Option<u64>,
    },
    /// The key is gone.
    Deleted {
        /// The table.
        table: String,
        /// The key.
        key: String,
        /// The deletion.
        version: Version,
        /// When it was deleted, in Unix milliseconds.
        timestamp: u64,
        /// `delete` or `expired`.
        reason: String,
    },
    /// The current values are complete. Changes follow.
    Synced,
    /// Something was missed: forget what you have. The current values follow, and then `Synced`.
    Resync,
    /// Values are missing among the current ones: the node cannot read them, for this reason.
    Incomplete(String),
    /// The stream begins or goes on, at this endpoint.
    Connected(String),
    /// The connection is lost. The stream goes on by itself.
    Disconnected {
        /// The endpoint that was lost.
        endpoint: String,
        /// Why.
        why: String,
    },
}

/// A stream of changes, not begun yet.
#[must_use = "nothing is followed until it is begun"]
#[derive(Clone)]
pub struct Watching {
    client: Client,
    topics: Vec<Topic>,
    is_snapshot: bool,
    position: Option<String>,
}

impl Watching {
    pub(crate) fn new(client: Client, topics: Vec<Topic>) -> Self {
        Self { client, topics, is_snapshot: false, position: None }
    }

    /// Begins with the current values.
    pub fn with_snapshot(mut self) -> Self {
        self.is_snapshot = true;
        self
    }

    /// Begins after this position, which [`Watch::position`] gave. The current values come only if the node cannot tell what was missed since.
    pub fn since(mut self, position: impl Into<String>) -> Self {
        self.position = Some(position.into());
        self
    }

    /// Begins. The first item is an error if no endpoint can be connected. After that the stream connects again whenever it has to, and ends
    /// only with a node's refusal.
    pub fn stream<T: DeserializeOwned + Send + 'static>(self) -> Watch<T> {
        let position = self.position.clone();
        let watcher = Watcher {
            watching: self,
            connection: None,
            was_connected: false,
            is_in_snapshot: false,
            has_values: false,
            must_resync: false,
            failures: 0,
            is_over: false,
        };
        let events = stream::unfold(watcher, |mut watcher| async move {
            let item = watcher.next().await?;
            Some(((item, watcher.watching.position.clone()), watcher))
        });
        Watch { events: events.boxed(), position }
    }
}

impl Client {
    /// Follows any topics: at most 1000.
    pub fn watch(&self, topics: impl IntoIterator<Item = Topic>) -> Watching {
        Watching::new(self.clone(), topics.into_iter().collect())
    }
}

/// A stream of changes.
pub struct Watch<T> {
    events: BoxStream<'static, (Result<Event<T>>, Option<String>)>,
    position: Option<String>,
}

impl<T> Watch<T> {
    /// The position after the last event, for [`Watching::since`]; `None` before it is known.
    pub fn position(&self) -> Option<&str> {
        self.position.as_deref()
    }
}

impl<T> Stream for Watch<T> {
    type Item = Result<Event<T>>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.events.poll_next_unpin(context));
        std::task::Poll::Ready(next.map(|(item, position)| {
            self.position = position;
            item
        }))
    }
}

/// The state of a stream.
struct Watcher {
    /// `position` is the last one outside of a snapshot.
    watching: Watching,
    connection: Option<Connected>,
    was_connected: bool,
    /// Whether the current values arrive.
    is_in_snapshot: bool,
    /// Whether the reader has values that a new snapshot makes void.
    has_values: bool,
    /// Whether `Resync` is the next event.
    must_resync: bool,
    /// How many endpoints failed in a row, without an event in between.
    failures: usize,
    is_over: bool,
}

struct Connected {
    answer: Streaming,
    parser: Parser,
    since: Instant,
}

impl Watcher {
    async fn next<T: DeserializeOwned>(&mut self) -> Option<Result<Event<T>>> {
        while !self.is_over {
            if std::mem::take(&mut self.must_resync) {
                self.has_values = false;
                return Some(Ok(Event::Resync));
            }
            let Some(Connected { answer, parser, .. }) = &mut self.connection else {
                match self.connect().await {
                    Ok(Some(event)) => return Some(Ok(event)),
                    Ok(None) => continue,
                    Err(error) => {
                        self.is_over = true;
                        return Some(Err(error));
                    }
                }
            };
            let why = match parser.next_block() {
                Ok(Some(block)) => match self.take(block) {
                    Taken::Event(event) => return Some(event),
                    Taken::Nothing => continue,
                    Taken::End(why) => why,
                },
                Ok(None) => match answer.next().await {
                    Some(Ok(bytes)) => {
                        parser.push(&bytes);
                        continue;
                    }
                    Some(Err(error)) => error.to_string(),
                    None => "the connection was closed".into(),
                },
                Err(error) => error.to_string(),
            };
            return self.disconnect(why).map(Ok);
        }
        None
    }

    fn disconnect<T>(&mut self, why: String) -> Option<Event<T>> {
        let Connected { answer, since, .. } = self.connection.take()?;
        if since.elapsed() >= STEADY {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.watching.client.move_on_from(&answer.endpoint);
        Some(Event::Disconnected { endpoint: answer.endpoint, why })
    }

    /// Connects to the next endpoint that answers; `None` if none did. Pauses first if all have failed.
    async fn connect<T>(&mut self) -> Result<Option<Event<T>>> {
        let client = self.watching.client.clone();
        let endpoints = client.endpoints().count();
        if self.failures >= endpoints {
            sleep(pause(self.failures / endpoints)).await;
        }
        let (request, is_snapshot) = self.request()?;
        let failure = match client.send(&request).await {
            Ok(answer) if answer.status.is_success() => {
                let endpoint = answer.endpoint.clone();
                let (answer, parser) = (answer.silence_limit(SILENCE_MAX), Parser::default());
                self.connection = Some(Connected { answer, parser, since: Instant::now() });
                self.must_resync =
                    is_snapshot && self.was_connected && (self.has_values || !self.watching.is_snapshot);
                self.is_in_snapshot = is_snapshot;
                self.was_connected = true;
                return Ok(Some(Event::Connected(endpoint)));
            }
            Ok(answer) => {
                let is_passing = answer.status.is_server_error() || answer.status.as_u16() == 429;
                let endpoint = answer.endpoint.clone();
                let error = match answer.collect(client.timeout()).await.and_then(|answer| answer.success()) {
                    Err(error) => error,
                    Ok(answer) => answer.not_a_node(),
                };
                if !is_passing {
                    return Err(error);
                }
                client.move_on_from(&endpoint);
                error
            }
            Err(error @ (Error::Unreachable(_) | Error::Unanswered { .. })) => error,
            Err(error) => return Err(error),
        };
        // None of them took it.
        self.failures = self.failures.saturating_add(endpoints);
        if self.was_connected { Ok(None) } else { Err(failure) }
    }

    /// The request that begins or goes on, and whether it asks for the current values. Without a position nobody knows what was missed.
    fn request(&self) -> Result<(Request, bool)> {
        let (path, mut query) = topic::target(&self.watching.topics)?;
        let position = self.watching.position.as_ref();
        let is_snapshot = position.is_none() && (self.watching.is_snapshot || self.was_connected);
        if is_snapshot {
            query.push(("snapshot", "true".to_owned()));
        }
        let request = self.watching.client.request(Method::GET, path::with_query(&path, &query));
        let request = match position {
            Some(position) => request.header("last-event-id", position),
            None => request,
        };
        Ok((request, is_snapshot))
    }

    /// What a block says.
    fn take<T: DeserializeOwned>(&mut self, block: Block) -> Taken<T> {
        let Block { id, event, data } = block;
        let taken = match (event.as_deref(), data) {
            (Some("sync"), _) => {
                self.is_in_snapshot = false;
                Taken::Event(Ok(Event::Synced))
            }
            (Some("resync"), _) => {
                self.is_in_snapshot = true;
                self.has_values = false;
                self.watching.position = None;
                Taken::Event(Ok(Event::Resync))
            }
            (Some("shutdown"), _) => return Taken::End("the node stops".into()),
            (Some("failed"), data) => return Taken::End(detail(data)),
            (Some("incomplete"), data) => Taken::Event(Ok(Event::Incomplete(detail(data)))),
            (None, Some(data)) => {
                self.has_values = true;
                Taken::Event(change(&data))
            }
            // An event of a later version, or a position alone.
            (Some(_), _) | (None, None) => Taken::Nothing,
        };
        if let Some(id) = id.filter(|_| !self.is_in_snapshot) {
            self.watching.position = Some(id);
        }
        // In a snapshot that breaks off again and again there is no progress.
        if matches!(taken, Taken::Event(_)) && !self.is_in_snapshot {
            self.failures = 0;
        }
        taken
    }
}

/// What a block became.
enum Taken<T> {
    Event(Result<Event<T>>),
    Nothing,
    /// The stream ends, for this reason.
    End(String),
}

/// How long to wait after so many rounds over all endpoints.
fn pause(rounds: usize) -> Duration {
    PAUSE_MIN.saturating_mul(1 << rounds.saturating_sub(1).min(10)).min(PAUSE_MAX)
}

/// The members of an event.
#[derive(Deserialize)]
struct Members {
    event: String,
    table: String,
    key: String,
    value: Option<Box<RawValue>>,
    version: Version,
    timestamp: u64,
    expires_at: Option<u64>,
    reason: Option<String>,
}

fn change<T: DeserializeOwned>(data: &str) -> Result<Event<T>> {
    let wrong = |error: serde_json::Error| Error::Decode(format!("an event has another type: {error}"));
    let Members { event, table, key, value, version, timestamp, expires_at, reason } =
        serde_json::from_str(data).map_err(wrong)?;
    if event == "Deleted" {
        return Ok(Event::Deleted { table, key, version, timestamp, reason: reason.unwrap_or_default() });
    }
    // `null` is a value.
    let value = serde_json::from_str(value.as_deref().map_or("null", RawValue::get)).map_err(wrong)?;
    Ok(Event::Updated { table, key, value, version, timestamp, expires_at })
}

fn detail(data: Option<String>) -> String {
    #[derive(Deserialize)]
    struct Detail {
        detail: String,
    }
    let detail = data.and_then(|data| serde_json::from_str::<Detail>(&data).ok());
    detail.map_or_else(|| "the node does not say why".into(), |it| it.detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let pauses: Vec<_> = [1, 2, 3, 100].map(|rounds| pause(rounds).as_millis()).to_vec();
        assert_eq!(pauses, [100, 200, 400, 2000]);
    }
}
