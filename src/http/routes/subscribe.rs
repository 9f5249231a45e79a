//! Follow keys over Server-Sent Events: one key, a prefix or list of keys of a table, or topics of many tables. The same paths with
//! `Upgrade: websocket` send the same events as text frames.

use super::route;
use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::Stream;
use hyper::{
    Method,
    header::{self, HeaderName, HeaderValue},
};
use warp::{
    filters::BoxedFilter,
    reply::{Reply, Response},
};

use crate::{
    core::{
        access::Touched,
        name::{Key, TableName},
    },
    error::{Error, Result},
    http::{
        events::stream::EventStream,
        request::{
            Call, Query,
            hand_over::{Events, Successor},
            path::{self, Address},
            permission::{self, Resource},
            route::Route,
            upgrade,
            value::{ALL_TABLES, start_at},
        },
        response, websocket,
    },
    node::{Node, Start, Topic},
};

/// Most keys, prefixes and tables one stream may name. Each costs an entry in the node's index of subscribers.
pub const TOPICS_MAX: usize = 1000;

const PATH_OF_TOPICS: &str = "/_/subscribe";
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Tells proxies to pass on at once what arrives.
pub const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// `GET /{table}/subscribe/{key}`, `GET /{table}/subscribe?prefix=&keys=`, `GET /_/subscribe?topic=`.
pub fn routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    route(Route::Subscribe, target, move |call, target| {
        let node = Arc::clone(&node);
        async move { follow(&node, &call, target).await }
    })
}

/// What the path asks to follow. The query holds the rest.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Key(Address),
    Table(TableName),
    Topics,
}

impl Resource for Target {
    fn touched(&self) -> Touched<'_> {
        match self {
            Self::Key(address) => address.touched(),
            Self::Table(table) => Touched::Table(table),
            Self::Topics => Touched::Node,
        }
    }
}

fn target(path: &str) -> Option<Result<Target>> {
    if path == PATH_OF_TOPICS {
        return Some(Ok(Target::Topics));
    }
    if let Some(address) = path::keyed(path, "subscribe") {
        return Some(address.map(Target::Key));
    }
    path::collection(path, "subscribe").map(|table| table.map(Target::Table))
}

async fn follow(node: &Arc<Node>, call: &Call, target: Target) -> Result<Response> {
    if call.method != Method::GET && call.method != Method::HEAD {
        return response::other_method(call);
    }
    let topics = topics(target, call.query())?;
    topics.iter().try_for_each(|topic| call.principal().check_topic(topic))?;
    let start = start(call)?;
    if call.method == Method::HEAD {
        return Ok(event_stream(futures_util::stream::empty()));
    }
    if upgrade::is_requested(call) {
        return websocket::stream(node, call, topics, start).await;
    }
    let lease = permission::lease(call)?;
    let subscription = node.watch(topics, start).await?;
    call.connection.expect_events();
    let stream = EventStream::new(node.address(), subscription, lease);
    if !call.can_hand_over() {
        return Ok(event_stream(stream));
    }
    let mut response = event_stream(futures_util::stream::pending());
    let is_last = upgrade::has_token(call, header::CONNECTION, "close");
    Successor::Events(Box::new(Events { stream, is_last })).attach(&mut response);
    Ok(response)
}

/// The topics to follow.
fn topics(target: Target, query: Query<'_>) -> Result<Vec<Topic>> {
    let topics = match target {
        Target::Key(Address { table, key }) => vec![Topic::Key(table, key)],
        Target::Table(table) => topics_of_table(&table, query)?,
        Target::Topics => {
            query.all("topic")?.iter().map(|topic| parse_topic(topic)).collect::<Result<Vec<Topic>>>()?
        }
    };
    match topics.len() {
        0 => Err(Error::BadRequest(
            "say what to follow: ?topic=table/key, ?topic=table/* or ?topic=*, repeated as needed".into(),
        )),
        1..=TOPICS_MAX => Ok(topics),
        count => Err(Error::BadName(format!("{count} topics; one stream follows at most {TOPICS_MAX}"))),
    }
}

/// `?prefix=`, `?key=a` and `?keys=a,b` of one table, all repeatable; without any, the whole table.
fn topics_of_table(table: &TableName, query: Query<'_>) -> Result<Vec<Topic>> {
    let prefixes = query.all("prefix")?;
    let lists = query.all("keys")?;
    let single = query.all("key")?;
    if prefixes.is_empty() && lists.is_empty() && single.is_empty() {
        return Ok(vec![Topic::Prefix(table.clone(), String::new())]);
    }
    let prefixes = prefixes.into_iter().map(|prefix| Topic::prefix(table.clone(), prefix.into_owned()));
    // A comma always separates `keys`, however it is escaped. Use `key` for a key with commas.
    let keys = lists.iter().flat_map(|list| list.split(',')).chain(single.iter().map(AsRef::as_ref));
    prefixes.chain(keys.map(|key| Ok(Topic::Key(table.clone(), Key::parse(key)?)))).collect()
}

/// `*` for all tables, `table/key`, `table/*` for a whole table, or `table/pre*` for a prefix. Use `/{table}/subscribe?key=` for a key that
/// itself ends in `*`.
fn parse_topic(topic: &str) -> Result<Topic> {
    if topic == ALL_TABLES {
        return Ok(Topic::All);
    }
    if topic.starts_with("*/") {
        return Err(Error::BadRequest(format!(
            "{topic:?} is not a topic: use * for all tables, or name the table"
        )));
    }
    let Some((table, key)) = topic.split_once('/') else {
        return Err(Error::BadRequest(format!(
            "{topic:?} is not a topic: use table/key, table/*, table/prefix*, or * for all tables"
        )));
    };
    let table = TableName::parse(table)?;
    match key.strip_suffix('*') {
        Some(prefix) => Topic::prefix(table, prefix.into()),
        None => Ok(Topic::Key(table, Key::parse(key)?)),
    }
}

/// Where to start. A cursor beats `?snapshot`, and the header beats `?since`: a browser that reconnects repeats its first URL and adds the
/// header.
fn start(call: &Call) -> Result<Start> {
    let query = call.query();
    let snapshot = query.flag("snapshot")?;
    let since = query.get("since")?;
    // An id that is not text is not ours, but it shows that the client has seen events. So tell it to start over.
    let last_event_id = call.headers.get(LAST_EVENT_ID).map(|id| id.to_str().unwrap_or("not text"));
    let cursor = last_event_id.or(since.as_deref()).filter(|cursor| !cursor.is_empty());
    Ok(start_at(cursor, snapshot))
}

fn event_stream(events: impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static) -> Response {
    let mut response = warp::reply::stream(events).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Cursor;

    fn table(name: &str) -> TableName {
        TableName::parse(name).expect("a table name")
    }

    fn key(table_name: &str, key: &str) -> Topic {
        Topic::Key(table(table_name), Key::parse(key).expect("a key"))
    }

    fn prefix(table_name: &str, prefix: &str) -> Topic {
        Topic::Prefix(table(table_name), prefix.into())
    }

    #[test]
    fn a_path_names_a_key_a_table_or_topics() {
        let found = |path| target(path).and_then(Result::ok);
        let address = |key: &str| Address { table: table("t"), key: Key::parse(key).expect("a key") };
        assert_eq!(found("/t/subscribe/a%2Fb/c"), Some(Target::Key(address("a/b/c"))));
        assert_eq!(found("/t/subscribe"), Some(Target::Table(table("t"))));
        assert_eq!(found("/_/subscribe"), Some(Target::Topics));
        for path in ["/subscribe/a", "/_/subscribe/a", "/_/subscribe/", "/t/subscriber", "/key/subscribe"] {
            assert_eq!(target(path), None, "{path}");
        }
        assert!(matches!(target("/t/subscribe/"), Some(Err(Error::BadName(_)))));
        assert!(matches!(target("/t/subscribe/%zz"), Some(Err(Error::BadKey(_)))));
    }

    #[test]
    fn a_topic_is_a_key_a_table_or_a_prefix() {
        let cases = [
            ("users/alice", key("users", "alice")),
            ("users/a/b", key("users", "a/b")),
            ("users/*", prefix("users", "")),
            ("users/a*", prefix("users", "a")),
            ("users/a**", prefix("users", "a*")),
            ("users/a*b", key("users", "a*b")),
            ("*", Topic::All),
        ];
        for (topic, expected) in cases {
            assert_eq!(parse_topic(topic), Ok(expected), "{topic}");
        }
        for topic in ["", "users", "**", "*/*", "*/a"] {
            assert!(matches!(parse_topic(topic), Err(Error::BadRequest(_))), "{topic}");
        }
        for topic in ["/a", "users/", "../x", "key/a"] {
            assert!(matches!(parse_topic(topic), Err(Error::BadName(_))), "{topic}");
        }
    }

    #[test]
    fn a_query_names_prefixes_and_keys_or_the_whole_table() {
        let topics = |query: &'static str| topics(Target::Table(table("t")), Query(query));
        assert_eq!(topics(""), Ok(vec![prefix("t", "")]));
        assert_eq!(topics("prefix="), Ok(vec![prefix("t", "")]));
        assert_eq!(topics("keys=a,b%20c&keys=d"), Ok(vec![key("t", "a"), key("t", "b c"), key("t", "d")]));
        assert_eq!(topics("prefix=p%2F&keys=a"), Ok(vec![prefix("t", "p/"), key("t", "a")]));
        assert_eq!(topics("key=a%2Cb&key=c&keys=d"), Ok(vec![key("t", "d"), key("t", "a,b"), key("t", "c")]));
        assert!(matches!(topics("keys=a,,b"), Err(Error::BadName(_))));
        assert!(matches!(topics("key="), Err(Error::BadName(_))));
    }

    #[test]
    fn a_stream_follows_at_least_one_topic_and_not_too_many() {
        let topics = |count: usize| {
            let query = vec!["topic=t/k"; count].join("&");
            super::topics(Target::Topics, Query(&query)).map(|topics| topics.len())
        };
        assert!(matches!(topics(0), Err(Error::BadRequest(_))));
        assert_eq!(topics(TOPICS_MAX), Ok(TOPICS_MAX));
        assert!(matches!(topics(TOPICS_MAX + 1), Err(Error::BadName(_))));
    }

    #[test]
    fn a_cursor_beats_a_snapshot_and_a_foreign_one_starts_over() {
        let cursor = Cursor { epoch: 0x3f2a_91c0, sequence: 184_467, agreed_ms: 0, cluster: 0 };
        assert_eq!(start_at(Some("3f2a91c0.184467"), true), Start::After(cursor));
        let cursor = Cursor { agreed_ms: 5, ..cursor };
        assert_eq!(start_at(Some("3f2a91c0.184467.5.00000000"), true), Start::After(cursor));
        assert_eq!(start_at(Some("1763689000123"), false), Start::Resync);
        assert_eq!(start_at(None, true), Start::Snapshot);
        assert_eq!(start_at(None, false), Start::Now);
    }
}
