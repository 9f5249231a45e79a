//! Streams of changes that survive connections and nodes: after a break they go on where they were, on the same node or on another.
//!
//! Every event has a position. Nodes of a cluster can tell from another's position what was missed, or say that they cannot: then they send
//! the current values, and the stream says [`Event::Resync`] first. A position from within a snapshot is not used to resume, because the rest
//! of the snapshot would be missing.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt, stream, stream::BoxStream};
use hyper::Method;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::time::{sleep, timeout};

use crate::{
    answer::Streaming,
    client::Client,
    entry::Version,
    error::{Error, Result},
    path,
    request::Request,
    sse::{Block, Parser},
};

/// A node says something every 15 s, so a connection that is silent for longer is dead.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// The pause after the first failure to connect to any endpoint. It doubles with each.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause: no longer than what a browser waits.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// One key of a table.
    Key(String, String),
    /// The keys of a table that begin so.
    Prefix(String, String),
    /// A whole table.
    Table(String),
    /// All tables, those that are made later included.
    All,
}

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

    /// Begins after this position, which [`Watch::position`] gave.
    pub fn since(mut self, position: impl Into<String>) -> Self {
        self.position = Some(position.into());
        self
    }

    /// Begins. The first item is an error if no endpoint can be connected. After that the stream connects again whenever it has to, and ends
    /// only with a node's refusal.
    pub fn stream<T: DeserializeOwned + Send + 'static>(self) -> Watch<T> {
        let position = self.position.clone();
        let watcher = Watcher {
            is_synced: !self.is_snapshot,
            watching: self,
            connection: None,
            was_connected: false,
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
    connection: Option<(Streaming, Parser)>,
    was_connected: bool,
    /// Whether the current values are complete, if they were asked for.
    is_synced: bool,
    /// How many times in a row no endpoint was connected.
    failures: u32,
    is_over: bool,
}

impl Watcher {
    async fn next<T: DeserializeOwned>(&mut self) -> Option<Result<Event<T>>> {
        while !self.is_over {
            let Some((answer, parser)) = &mut self.connection else {
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
                Ok(None) => match timeout(SILENCE_MAX, answer.next()).await {
                    Ok(Some(Ok(bytes))) => {
                        parser.push(&bytes);
                        continue;
                    }
                    Ok(Some(Err(error))) => error.to_string(),
                    Ok(None) => "the connection was closed".into(),
                    Err(_) => format!("nothing came for {SILENCE_MAX:?}"),
                },
                Err(error) => error.to_string(),
            };
            return self.disconnect(why).map(Ok);
        }
        None
    }

    fn disconnect<T>(&mut self, why: String) -> Option<Event<T>> {
        let (answer, _) = self.connection.take()?;
        self.watching.client.move_on_from(&answer.endpoint);
        Some(Event::Disconnected { endpoint: answer.endpoint, why })
    }

    /// Connects to the next endpoint that answers; `None` if none did, after a pause.
    async fn connect<T>(&mut self) -> Result<Option<Event<T>>> {
        if self.failures > 0 {
            sleep(pause(self.failures)).await;
        }
        let client = self.watching.client.clone();
        let request = self.request()?;
        let failure = match client.send(&request).await {
            Ok(answer) if answer.status.is_success() => {
                let endpoint = answer.endpoint.clone();
                self.connection = Some((answer, Parser::default()));
                self.was_connected = true;
                self.failures = 0;
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
        self.failures = self.failures.saturating_add(1);
        if self.was_connected { Ok(None) } else { Err(failure) }
    }

    fn request(&self) -> Result<Request> {
        let (path, mut query) = target(&self.watching.topics)?;
        // Whoever was connected, and has no position, cannot tell what was missed.
        let is_snapshot = !self.is_synced || self.was_connected && self.watching.position.is_none();
        if is_snapshot {
            query.push(("snapshot", "true".to_owned()));
        }
        let request = self.watching.client.request(Method::GET, path::with_query(&path, &query));
        Ok(match &self.watching.position {
            Some(position) if self.is_synced => request.header("last-event-id", position),
            Some(_) | None => request,
        })
    }

    /// What a block says.
    fn take<T: DeserializeOwned>(&mut self, block: Block) -> Taken<T> {
        let Block { id, event, data } = block;
        let taken = match (event.as_deref(), data) {
            (Some("sync"), _) => {
                self.is_synced = true;
                Taken::Event(Ok(Event::Synced))
            }
            (Some("resync"), _) => {
                self.is_synced = false;
                self.watching.position = None;
                Taken::Event(Ok(Event::Resync))
            }
            (Some("shutdown"), _) => return Taken::End("the node stops".into()),
            (Some("failed"), data) => return Taken::End(detail(data)),
            (Some("incomplete"), data) => Taken::Event(Ok(Event::Incomplete(detail(data)))),
            (None, Some(data)) => Taken::Event(change(&data)),
            // An event of a later version, or a position alone.
            (Some(_), _) | (None, None) => Taken::Nothing,
        };
        if let Some(id) = id.filter(|_| self.is_synced) {
            self.watching.position = Some(id);
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

/// How long to wait after so many failures.
fn pause(failures: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(PAUSE_MAX)
}

/// The path and query that follow these topics.
fn target(topics: &[Topic]) -> Result<(String, Vec<(&'static str, String)>)> {
    let table_of = |topic: &Topic| match topic {
        Topic::Key(table, _) | Topic::Prefix(table, _) | Topic::Table(table) => Some(table.clone()),
        Topic::All => None,
    };
    let Some(first) = topics.first() else {
        return Err(Error::Invalid("there is nothing to follow: name a topic".into()));
    };
    let table =
        table_of(first).filter(|table| topics.iter().all(|topic| table_of(topic).as_ref() == Some(table)));
    let Some(table) = table else {
        let topics = topics.iter().map(|topic| topic_text(topic).map(|text| ("topic", text)));
        return Ok(("/_/subscribe".into(), topics.collect::<Result<_>>()?));
    };
    let path = format!("/{}/subscribe", path::segment(&table));
    if topics.iter().any(|topic| matches!(topic, Topic::Table(_))) {
        return Ok((path, Vec::new()));
    }
    let query = topics.iter().filter_map(|topic| match topic {
        Topic::Key(_, key) => Some(("key", key.clone())),
        Topic::Prefix(_, prefix) => Some(("prefix", prefix.clone())),
        Topic::Table(_) | Topic::All => None,
    });
    Ok((path, query.collect()))
}

/// A topic as the nodes read it.
fn topic_text(topic: &Topic) -> Result<String> {
    match topic {
        Topic::Key(_, key) if key.ends_with('*') => Err(Error::Invalid(format!(
            "the key {key:?} ends in *: follow it together with keys of its table only"
        ))),
        Topic::Key(table, key) => Ok(format!("{table}/{key}")),
        Topic::Prefix(table, prefix) => Ok(format!("{table}/{prefix}*")),
        Topic::Table(table) => Ok(format!("{table}/*")),
        Topic::All => Ok("*".into()),
    }
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
    fn topics_of_one_table_have_its_path_and_others_are_listed() {
        let key = |table: &str, key: &str| Topic::Key(table.into(), key.into());
        let prefix = |table: &str, prefix: &str| Topic::Prefix(table.into(), prefix.into());
        let line = |topics: &[Topic]| target(topics).map(|(path, query)| path::with_query(&path, &query));
        for (topics, expected) in [
            (vec![Topic::Table("t".into())], "/t/subscribe"),
            (vec![key("t", "a/b*")], "/t/subscribe?key=a%2Fb*"),
            (vec![prefix("t", "a"), key("t", "b")], "/t/subscribe?prefix=a&key=b"),
            (vec![key("t", "a"), Topic::Table("t".into())], "/t/subscribe"),
            (vec![key("t", "a"), prefix("u", "b")], "/_/subscribe?topic=t%2Fa&topic=u%2Fb*"),
            (vec![Topic::All], "/_/subscribe?topic=*"),
        ] {
            assert_eq!(line(&topics).expect("topics"), expected);
        }
        assert!(line(&[]).is_err() && line(&[key("t", "a*"), key("u", "b")]).is_err());
    }

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let pauses: Vec<_> = [1, 2, 3, 100].map(|failures| pause(failures).as_millis()).to_vec();
        assert_eq!(pauses, [100, 200, 400, 2000]);
    }
}
