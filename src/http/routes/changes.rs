//! The change feed: what changed in a table after a position, as one JSON object per line. It takes after CouchDB's `_changes`: one answer
//! with what there is, one that waits for the first change, or a stream that never ends. The objects and positions are those of events.
//!
//! A feed is a subscription that ends where it has caught up. So it has the promises of events, and their `resync`. An answer that is
//! limited ends only at a position: the values of a snapshot have none, so a snapshot comes whole, whatever the limit.

use super::route;
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use hyper::{
    Method,
    header::{self, HeaderValue},
};
use tokio::time::{Interval, MissedTickBehavior, Sleep, interval, sleep};
use warp::{
    filters::BoxedFilter,
    reply::{Reply, Response},
};

use super::{
    listing,
    subscribe::{TOPICS_MAX, X_ACCEL_BUFFERING},
};
use crate::{
    core::{access::Touched, name::TableName, nearest},
    error::{Error, Result},
    http::{
        access::lease::Lease,
        events, keep_alive,
        request::{
            Call, Query, expiry, path,
            permission::{self, Resource},
            route::Route,
            value::start_at,
        },
        response,
    },
    node::{Cursor, Node, Notice, Start, Subscription, Topic},
};

const PATH_OF_ALL_TABLES: &str = "/_/changes";
/// How long `longpoll` waits for a change, at most and unless told otherwise: below the time after which proxies give up.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Between two keep-alives: the least, so that they cost nothing, and the most, so that they keep a connection open.
const HEARTBEATS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
/// Lines go out in chunks of about this size, if that many are ready.
const CHUNK_BYTES: usize = 32 * 1024;

/// `GET /{table}/changes?since=`, `GET /_/changes`.
pub fn routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    route(Route::Changes, target, move |call, target| {
        let node = Arc::clone(&node);
        async move { changes(&node, &call, target).await }
    })
}

/// What to follow.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Table(TableName),
    AllTables,
}

impl Resource for Target {
    fn touched(&self) -> Touched<'_> {
        match self {
            Self::Table(table) => Touched::Table(table),
            Self::AllTables => Touched::AllTables,
        }
    }
}

fn target(path: &str) -> Option<Result<Target>> {
    if path == PATH_OF_ALL_TABLES {
        return Some(Ok(Target::AllTables));
    }
    path::collection(path, "changes").map(|table| table.map(Target::Table))
}

async fn changes(node: &Arc<Node>, call: &Call, target: Target) -> Result<Response> {
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return response::other_method(call);
    }
    let topics = topics(target, call.query())?;
    topics.iter().try_for_each(|topic| call.principal().check_topic(topic))?;
    let options = Options::parse(call.query())?;
    if call.method == Method::HEAD {
        return Ok(answer(options.feed, futures_util::stream::empty()));
    }
    let lease = permission::lease(call)?;
    // A client that has written something finds it in the feed.
    node.published(&topics).await;
    let subscription = node.watch(topics, options.start).await?;
    if options.feed == Feed::Continuous {
        call.connection.expect_events();
    }
    Ok(answer(options.feed, Lines::new(subscription, lease, &options)))
}

fn topics(target: Target, query: Query<'_>) -> Result<Vec<Topic>> {
    let Target::Table(table) = target else { return Ok(vec![Topic::All]) };
    let prefixes = query.all("prefix")?;
    if prefixes.len() > TOPICS_MAX {
        let count = prefixes.len();
        return Err(Error::BadName(format!("{count} prefixes; one feed follows at most {TOPICS_MAX}")));
    }
    if prefixes.is_empty() {
        return Ok(vec![Topic::Prefix(table, String::new())]);
    }
    prefixes.into_iter().map(|prefix| Topic::prefix(table.clone(), prefix.into_owned())).collect()
}

/// When the answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feed {
    /// Once there is nothing more.
    Normal,
    /// The same, but not before the first change, or a timeout.
    LongPoll,
    /// When one side goes away.
    Continuous,
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    feed: Feed,
    start: Start,
    /// Changes after which the answer ends, at the next position.
    limit: Option<usize>,
    timeout: Duration,
    /// If not given, keep-alives share the grid of all streams.
    heartbeat: Option<Duration>,
}

impl Options {
    fn parse(query: Query<'_>) -> Result<Self> {
        let feed = match query.get("feed")?.as_deref() {
            None | Some("normal") => Feed::Normal,
            Some("longpoll") => Feed::LongPoll,
            Some("continuous") => Feed::Continuous,
            Some(other) => {
                let known = ["normal", "longpoll", "continuous"];
                return Err(Error::BadRequest(nearest::unknown("feed", other, &known)));
            }
        };
        let since = query.get("since")?;
        let start = match since.as_deref() {
            Some("now") => Start::Now,
            None | Some("" | "0") => Start::Snapshot,
            cursor => start_at(cursor, false),
        };
        let limit = query.get("limit")?.map(|limit| listing::parse_limit(&limit)).transpose()?;
        let timeout = query.get("timeout")?;
        if timeout.is_some() && feed != Feed::LongPoll {
            return Err(Error::BadRequest(
                "timeout is how long feed=longpoll waits for a change: leave it out for other feeds".into(),
            ));
        }
        let heartbeat = query.get("heartbeat")?;
        if heartbeat.is_some() && feed == Feed::Normal {
            return Err(Error::BadRequest(
                "feed=normal answers at once and needs no heartbeat: leave it out, or use feed=longpoll or feed=continuous"
                    .into(),
            ));
        }
        Ok(Self {
            feed,
            start,
            limit: limit.or((feed != Feed::Continuous).then_some(listing::LIMIT_MAX)),
            timeout: timeout.map_or(Ok(TIMEOUT_MAX), |text| {
                duration("timeout", &text, &(Duration::ZERO..=TIMEOUT_MAX), "up to 60s")
            })?,
            heartbeat: heartbeat
                .map(|text| duration("heartbeat", &text, &HEARTBEATS, "from 1s to 60s"))
                .transpose()?,
        })
    }
}

fn duration(
    name: &str,
    text: &str,
    allowed: &std::ops::RangeInclusive<Duration>,
    range: &str,
) -> Result<Duration> {
    expiry::parse_duration(text).ok().filter(|duration| allowed.contains(duration)).ok_or_else(|| {
        Error::BadRequest(format!("{name}={text}: use seconds, or a duration such as 500ms or 10s, {range}"))
    })
}

fn answer(feed: Feed, lines: impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static) -> Response {
    let mut response = warp::reply::stream(lines).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, response::NDJSON);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    if feed != Feed::Normal {
        headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    }
    response
}

/// The body of an answer.
struct Lines {
    subscription: Subscription,
    feed: Feed,
    /// Changes that may still be sent.
    left: Option<usize>,
    has_sent: bool,
    ticks: Interval,
    deadline: Pin<Box<Sleep>>,
    /// Completes when the client may follow no longer.
    lease: Option<Lease>,
    ended: bool,
}

impl Lines {
    fn new(subscription: Subscription, lease: Option<Lease>, options: &Options) -> Self {
        let ticks = options.heartbeat.map_or_else(keep_alive::timer, |period| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            ticks.reset();
            ticks
        });
        Self {
            subscription,
            feed: options.feed,
            left: options.limit,
            has_sent: false,
            ticks,
            deadline: Box::pin(sleep(options.timeout)),
            lease,
            ended: false,
        }
    }

    /// Adds the line of a notice, and what follows from it.
    fn push(&mut self, chunk: &mut Vec<u8>, notice: &Notice) {
        let position = match notice {
            Notice::Change(change) => {
                self.left = self.left.map(|left| left.saturating_sub(1));
                change.cursor
            }
            Notice::Sync(cursor) => Some(*cursor),
            // It is told with the last line, or with a keep-alive.
            Notice::Position(cursor) => {
                if self.left == Some(0) {
                    self.end(chunk, *cursor, true);
                }
                return;
            }
            Notice::Shutdown | Notice::Failed(_) => {
                self.ended = true;
                None
            }
            Notice::Incomplete | Notice::Resync(_) => None,
        };
        self.has_sent = true;
        push_line(chunk, &events::message(notice, None));
        if let (Some(position), Some(0)) = (position, self.left) {
            self.end(chunk, position, true);
        }
    }

    /// Adds the last line: from where to go on, and whether there was a limit to what was sent.
    fn end(&mut self, chunk: &mut Vec<u8>, position: Cursor, limited: bool) {
        push_line(chunk, &format!(r#"{{"event":"position","cursor":"{position}","more":{limited}}}"#));
        self.ended = true;
    }

    /// Whether it is time for a keep-alive.
    fn is_due(&mut self, context: &mut Context<'_>) -> bool {
        self.feed != Feed::Normal && self.ticks.poll_tick(context).is_ready()
    }

    /// Whether the answer is complete when there is nothing new.
    fn is_complete(&mut self, context: &mut Context<'_>) -> bool {
        match self.feed {
            Feed::Normal => true,
            Feed::LongPoll => self.has_sent || self.deadline.as_mut().poll(context).is_ready(),
            Feed::Continuous => false,
        }
    }
}

fn push_line(chunk: &mut Vec<u8>, line: &str) {
    chunk.extend_from_slice(line.as_bytes());
    chunk.push(b'\n');
}

impl Stream for Lines {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut chunk = Vec::new();
        if let (false, Some(lease)) = (this.ended, &mut this.lease)
            && let Poll::Ready(end) = lease.as_mut().poll(context)
        {
            this.ended = true;
            push_line(&mut chunk, &events::unauthorized(end.reason()));
        }
        while !this.ended && chunk.len() < CHUNK_BYTES {
            match Pin::new(&mut this.subscription).poll_next(context) {
                Poll::Ready(Some(notice)) => this.push(&mut chunk, &notice),
                Poll::Ready(None) => this.ended = true,
                Poll::Pending => {
                    let position = this.subscription.position();
                    if let Some(position) = position
                        && this.is_complete(context)
                    {
                        this.end(&mut chunk, position, false);
                    } else if chunk.is_empty() && this.is_due(context) {
                        let line = position.map(|at| events::message(&Notice::Position(at), None));
                        push_line(&mut chunk, &line.unwrap_or_default());
                    } else if chunk.is_empty() {
                        return Poll::Pending;
                    }
                    break;
                }
            }
        }
        Poll::Ready((!chunk.is_empty()).then(|| Ok(chunk.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Options> {
        Options::parse(Query(query))
    }

    #[test]
    fn a_feed_is_bounded_unless_it_is_continuous() {
        let normal = Options {
            feed: Feed::Normal,
            start: Start::Snapshot,
            limit: Some(listing::LIMIT_MAX),
            timeout: TIMEOUT_MAX,
            heartbeat: None,
        };
        assert_eq!(parse(""), Ok(normal));
        assert_eq!(parse("feed=longpoll&limit=5").map(|options| options.limit), Ok(Some(5)));
        assert_eq!(parse("feed=continuous").map(|options| options.limit), Ok(None));
        assert_eq!(
            parse("feed=continuous&heartbeat=2").map(|it| it.heartbeat),
            Ok(Some(Duration::from_secs(2)))
        );
        assert_eq!(parse("feed=longpoll&timeout=500ms").map(|it| it.timeout), Ok(Duration::from_millis(500)));
    }

    #[test]
    fn a_feed_starts_at_the_beginning_now_or_after_a_cursor() {
        let start = |query| parse(query).expect("a query").start;
        assert_eq!(start(""), Start::Snapshot);
        assert_eq!(start("since=0"), Start::Snapshot);
        assert_eq!(start("since=now"), Start::Now);
        assert_eq!(start("since=yesterday"), Start::Resync);
        let cursor = Cursor { epoch: 0x3f2a_91c0, sequence: 7, agreed_ms: 0, cluster: 0 };
        assert_eq!(start("since=3f2a91c0.7"), Start::After(cursor));
    }

    #[test]
    fn what_a_feed_cannot_do_is_refused() {
        for (query, said) in [
            ("feed=continous", "did you mean \"continuous\"?"),
            ("feed=", "unknown feed"),
            ("limit=0", "use 1 to 10000"),
            ("timeout=1s", "feed=longpoll"),
            ("feed=longpoll&timeout=2m", "up to 60s"),
            ("heartbeat=5s", "feed=continuous"),
            ("feed=continuous&heartbeat=10ms", "from 1s to 60s"),
            ("feed=continuous&heartbeat=often", "from 1s to 60s"),
        ] {
            let refused = parse(query);
            assert!(
                matches!(&refused, Err(Error::BadRequest(why)) if why.contains(said)),
                "{query}: {refused:?}"
            );
        }
    }

    #[test]
    fn a_path_names_a_table_or_all() {
        let table = |path| target(path).and_then(Result::ok);
        assert_eq!(table("/_/changes"), Some(Target::AllTables));
        let changes = TableName::parse("changes").expect("a name");
        assert_eq!(table("/changes/changes"), Some(Target::Table(changes)));
        for path in ["/changes", "/key/changes", "/t/changes/", "/t/changes/a"] {
            assert_eq!(target(path), None, "{path}");
        }
    }
}
