//! What each operation accepts besides its path and body, and what a client needs to be allowed it: query parameters, conditional headers
//! and the right, in one table. A request with anything else is refused before its handler runs. Ignoring it would silently drop what the
//! client asked for: a key would not expire, or a conditional write would always happen. A method without a row has no handler, and a row
//! without a right does not compile.

use hyper::{
    Method,
    header::{self, HeaderName},
};

use super::{Head, condition};
use crate::{
    core::{
        access::Right::{self, Read, Write},
        nearest,
    },
    error::{Error, Result},
    http::{access::QUERY_TOKEN, request::route::Route},
};

/// A query parameter.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name. Case matters.
    pub name: &'static str,
    /// Whether it may occur more than once.
    pub repeatable: bool,
    /// What it does, in a few words for people.
    pub about: &'static str,
}

/// What a client needs to be allowed an operation, where there is access control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: anyone may, without a token.
    Open,
    /// Nothing: other nodes call it, and prove who they are in the handshake of the link.
    Peer,
    /// The right `admin`, or one of the proofs of `routes::admin`.
    Admin,
    /// As `Admin`; but a token needs the right `read` for all tables as well, as the answer has everything in them.
    AdminAndRead,
    /// This right, whatever the tables: it is about the node as a whole. Lists of tables show those that the client may read.
    Node(Right),
    /// This right, for the key or the whole table in the path.
    Path(Right),
    /// This right, for the keys of the table in the path that begin with the query's `prefix`.
    Prefix(Right),
    /// This right, for each key that the query or the body names. The handler checks each.
    Each(Right),
    /// Each operation in the body, or in a message, needs a right of its own. The handler checks each.
    Mixed,
}

impl Access {
    /// Whether it is an operator's action, which the audit log has.
    pub fn is_admin(self) -> bool {
        self.right() == Some(Right::Admin)
    }

    /// The right it needs, if it is one and the same for every request.
    pub fn right(self) -> Option<Right> {
        match self {
            Self::Open | Self::Peer | Self::Mixed => None,
            Self::Admin | Self::AdminAndRead => Some(Right::Admin),
            Self::Node(right) | Self::Path(right) | Self::Prefix(right) | Self::Each(right) => Some(right),
        }
    }
}

/// One method of one resource.
#[derive(Debug)]
pub struct Operation {
    /// The resource.
    pub route: Route,
    /// The method. GET includes HEAD.
    pub method: &'static str,
    /// The paths; `{table}` stands for one segment and `{key}` for all that follow.
    pub paths: &'static [&'static str],
    /// What a client needs to be allowed it.
    pub access: Access,
    /// The query parameters it accepts.
    pub parameters: &'static [&'static Parameter],
    /// The conditional headers it honours, in lower case.
    pub conditions: &'static [&'static str],
}

const fn once(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, repeatable: false, about }
}

const fn repeatable(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, repeatable: true, about }
}

static TTL: Parameter =
    once("ttl", "time to live: seconds, or a duration with ms, s, m, h, d, w, y; 1 ms to 100 years");
static EXPIRES_AT: Parameter = once("expires_at", "when the value expires: Unix milliseconds");
static W: Parameter =
    once("w", "replicas that must hold the write before the answer: a count, majority, or all");
static W_TIMEOUT: Parameter = once("w_timeout", "how long to wait for the replicas: up to 60s");
static WRAP: Parameter = once(
    "wrap",
    "false: the body is the patch, even if it looks like a PUT's; true: its \"value\" is the patch",
);
static FORCE: Parameter = once("force", "true: write a tombstone even if the key is absent");
static META: Parameter = once("meta", "true: with version, timestamp, node and expires_at in the body");
static VALUES: Parameter = once("values", "false: without the values");
static PREFIX: Parameter = once("prefix", "only keys with this prefix");
static START: Parameter = once("start", "only keys from this one on");
static END: Parameter = once("end", "only keys before this one");
static LIMIT: Parameter = once("limit", "most rows to return; the answer says where the next page is");
static CURSOR: Parameter = once("cursor", "where the previous page ended");
static REVERSE: Parameter = once("reverse", "true: from the highest key down");
static ATOMIC: Parameter = once("atomic", "true: all or nothing");
static SNAPSHOT: Parameter = once("snapshot", "true: send the current values first");
static SINCE: Parameter = once("since", "the id of the last event seen");
static CHANGES_SINCE: Parameter =
    once("since", "the cursor to go on from; now: what comes; 0, or nothing: the current values first");
static FEED: Parameter = once("feed", "normal: what there is; longpoll: wait for it; continuous: never end");
static CHANGES_LIMIT: Parameter = once("limit", "changes after which the answer ends, at the next cursor");
static TIMEOUT: Parameter = once("timeout", "how long longpoll waits for a change: up to 60s");
static HEARTBEAT: Parameter = once("heartbeat", "between two lines of an idle feed: 1s to 60s");
static PREFIXES: Parameter = repeatable("prefix", "keys with this prefix");
static KEYS: Parameter = repeatable("keys", "keys, separated by commas");
static KEY: Parameter = repeatable("key", "one key, which may contain commas");
static TOPIC: Parameter = repeatable("topic", "table/key, table/*, table/prefix*, or * for all tables");
static ACCESS_TOKEN: Parameter =
    once(QUERY_TOKEN, "the token, where the client cannot send an Authorization header, as in a browser");
static TABLE: Parameter = once("table", "only this table; for an import, the table of rows that name none");
static MODE: Parameter =
    once("mode", "keep: rows keep their versions, later writes stay; new: rows are new writes and win");
static SURROGATES: Parameter =
    once("surrogates", "keep: accept values with lone surrogates, which old exports may have");
static PARTIAL: Parameter = once("partial", "true: import even an incomplete export");

static READ: Parameter = once(
    "read",
    "of a strong table: linearizable (the default) shows all that was answered before; stale is answered from here",
);
static CONFIRM: Parameter = once("confirm", "the table's name, to delete all its keys");

const TAGS: &[&str] = &["if-match", "if-none-match"];
const NONE: &[&str] = &[];

/// All operations. They also define which methods a resource allows.
pub static OPERATIONS: &[Operation] = &[
    key_operation(
        "GET",
        Access::Path(Read),
        &[&META, &READ],
        &["if-match", "if-none-match", "if-modified-since"],
    ),
    key_operation("PUT", Access::Path(Write), &[&TTL, &EXPIRES_AT, &W, &W_TIMEOUT], TAGS),
    key_operation("PATCH", Access::Path(Write), &[&TTL, &EXPIRES_AT, &WRAP, &W, &W_TIMEOUT], TAGS),
    key_operation("DELETE", Access::Path(Write), &[&FORCE, &W, &W_TIMEOUT], TAGS),
    plain(
        Route::Keys,
        Access::Prefix(Read),
        "GET",
        &["/{table}/keys"],
        &[&PREFIX, &START, &END, &LIMIT, &CURSOR, &REVERSE, &READ],
    ),
    plain(Route::Keys, Access::Each(Read), "POST", &["/{table}/keys"], &[&META, &READ]),
    plain(
        Route::Store,
        Access::Prefix(Read),
        "GET",
        &["/{table}/store"],
        &[&PREFIX, &START, &END, &LIMIT, &CURSOR, &REVERSE, &VALUES, &META, &READ],
    ),
    plain(Route::Count, Access::Prefix(Read), "GET", &["/{table}/count"], &[&PREFIX, &START, &END, &READ]),
    plain(
        Route::Batch,
        Access::Each(Write),
        "POST",
        &["/{table}/batch"],
        &[&ATOMIC, &TTL, &EXPIRES_AT, &W, &W_TIMEOUT],
    ),
    plain(Route::Table, Access::Prefix(Write), "DELETE", &["/{table}"], &[&PREFIX, &CONFIRM, &W, &W_TIMEOUT]),
    plain(
        Route::Subscribe,
        Access::Path(Read),
        "GET",
        &["/{table}/subscribe/{key}"],
        &[&SNAPSHOT, &SINCE, &ACCESS_TOKEN],
    ),
    plain(
        Route::Subscribe,
        Access::Each(Read),
        "GET",
        &["/{table}/subscribe"],
        &[&PREFIXES, &KEY, &KEYS, &SNAPSHOT, &SINCE, &ACCESS_TOKEN],
    ),
    plain(
        Route::Subscribe,
        Access::Each(Read),
        "GET",
        &["/_/subscribe"],
        &[&TOPIC, &SNAPSHOT, &SINCE, &ACCESS_TOKEN],
    ),
    plain(
        Route::Changes,
        Access::Each(Read),
        "GET",
        &["/{table}/changes"],
        &[&CHANGES_SINCE, &FEED, &PREFIXES, &CHANGES_LIMIT, &TIMEOUT, &HEARTBEAT],
    ),
    plain(
        Route::Changes,
        Access::Each(Read),
        "GET",
        &["/_/changes"],
        &[&CHANGES_SINCE, &FEED, &CHANGES_LIMIT, &TIMEOUT, &HEARTBEAT],
    ),
    plain(Route::WebSocket, Access::Mixed, "GET", &["/_/ws"], &[&ACCESS_TOKEN]),
    plain(Route::Link, Access::Peer, "GET", &["/_/link"], &[]),
    plain(Route::Membership, Access::Node(Read), "GET", &["/membership"], &[]),
    plain(Route::Cluster, Access::Node(Read), "GET", &["/_/cluster"], &[]),
    plain(Route::Admin, Access::Open, "GET", &["/_/admin/challenge"], &[]),
    plain(Route::Admin, Access::Admin, "POST", &["/_/admin/forget", "/_/admin/leave", "/_/admin/sync"], &[]),
    plain(
        Route::Strong,
        Access::Admin,
        "POST",
        &["/_/strong/demote", "/_/strong/init", "/_/strong/promote", "/_/strong/transfer"],
        &[],
    ),
    plain(Route::Tables, Access::Node(Read), "GET", &["/_/tables"], &[]),
    plain(Route::TableMode, Access::Path(Write), "PUT", &["/_/tables/{table}"], &[]),
    plain(Route::Transaction, Access::Mixed, "POST", &["/_/txn"], &[]),
    plain(Route::Backup, Access::AdminAndRead, "GET", &["/_/backup"], &[]),
    plain(
        Route::Export,
        Access::Each(Read),
        "GET",
        &["/_/export"],
        &[&TABLE, &PREFIX, &START, &END, &VALUES, &READ],
    ),
    plain(
        Route::Import,
        Access::Each(Write),
        "POST",
        &["/_/import"],
        &[&TABLE, &MODE, &SURROGATES, &PARTIAL, &W, &W_TIMEOUT],
    ),
    plain(Route::Stats, Access::Node(Read), "GET", &["/stats"], &[]),
    plain(Route::Metrics, Access::Node(Read), "GET", &["/metrics"], &[]),
    asset(Route::OpenApi, &["/openapi.json"]),
    asset(Route::Docs, &["/_/docs", "/_/docs/page.js", "/_/docs/page.css"]),
    asset(Route::Dashboard, &["/_/", "/_/dashboard/{file}"]),
    plain(Route::Probe, Access::Open, "GET", &["/healthz", "/readyz", "/version"], &[]),
];

const fn key_operation(
    method: &'static str,
    access: Access,
    parameters: &'static [&'static Parameter],
    conditions: &'static [&'static str],
) -> Operation {
    let paths = &["/{table}/key/{key}", "/key/{key}"];
    Operation { route: Route::Key, method, paths, access, parameters, conditions }
}

const fn plain(
    route: Route,
    access: Access,
    method: &'static str,
    paths: &'static [&'static str],
    parameters: &'static [&'static Parameter],
) -> Operation {
    Operation { route, method, paths, access, parameters, conditions: NONE }
}

/// Something that does not change while the node runs.
const fn asset(route: Route, paths: &'static [&'static str]) -> Operation {
    let access = Access::Open;
    Operation { route, method: "GET", paths, access, parameters: &[], conditions: &["if-none-match"] }
}

impl Operation {
    /// The operation that a request asks for; `None` if the resource has no such method.
    pub fn find(route: Route, method: &Method, path: &str) -> Option<&'static Self> {
        let method = if method == Method::HEAD { "GET" } else { method.as_str() };
        let mut of_route = OPERATIONS.iter().filter(|it| it.route == route && it.method == method);
        of_route.find(|operation| operation.paths.iter().any(|template| is_of(template, path)))
    }

    /// Refuses a query with an unknown parameter, or with a repeated one that may occur only once.
    ///
    /// # Errors
    /// `BadRequest` with the nearest known parameter, and those that are allowed.
    pub fn check_query(&self, query: &str) -> Result<()> {
        let mut seen = 0u32;
        for (name, _) in form_urlencoded::parse(query.as_bytes()) {
            let Some(place) = self.parameters.iter().position(|parameter| parameter.name == name) else {
                let known: Vec<_> = self.parameters.iter().map(|parameter| parameter.name).collect();
                return Err(Error::BadRequest(nearest::unknown("parameter", &name, &known)));
            };
            let bit = 1 << place;
            if seen & bit != 0 && !self.parameters[place].repeatable {
                return Err(Error::BadRequest(format!(
                    "the parameter {name:?} occurs more than once in the query: send it once"
                )));
            }
            seen |= bit;
        }
        Ok(())
    }

    /// Refuses conditional and range headers that this operation cannot honour.
    fn check_headers(&self, head: &Head) -> Result<()> {
        for name in head.headers.keys().filter(|name| condition::is_conditional(name)) {
            if *name == header::EXPECT {
                let expected = head.header(header::EXPECT).unwrap_or_default();
                if !expected.eq_ignore_ascii_case("100-continue") {
                    return Err(Error::BadRequest(format!(
                        "Expect: {expected:?}: only 100-continue is supported"
                    )));
                }
            } else if !self.conditions.contains(&name.as_str()) {
                return Err(Error::BadRequest(self.explain_header(name)));
            }
        }
        Ok(())
    }

    fn explain_header(&self, name: &HeaderName) -> String {
        let here = format!("{} {}", self.method, self.paths[0]);
        let what = match (name, self.route) {
            (&header::RANGE | &header::IF_RANGE | &header::CONTENT_RANGE, _) => {
                return format!("{name}: {here} takes whole bodies only, not parts of them: leave it out");
            }
            (&header::IF_MATCH | &header::IF_NONE_MATCH, Route::Batch) => {
                let member = name.as_str().replace('-', "_");
                return format!(
                    "{name}: in a batch, conditions belong to operations: put {member:?} into the one it is for"
                );
            }
            (&header::IF_UNMODIFIED_SINCE | &header::IF_MODIFIED_SINCE, Route::Key) => {
                "a date cannot tell two writes within one second apart"
            }
            (_, Route::Import) => "an import takes no conditions; it never overwrites a later write anyway",
            _ => "this condition does not exist",
        };
        match self.conditions {
            [] => format!("{name}: {here} does not support it: {what}; leave it out"),
            known => format!("{name}: {here} does not support it: {what}; it takes {}", known.join(", ")),
        }
    }
}

/// The methods that a path allows, as the `Allow` header lists them.
pub fn methods(route: Route, path: &str) -> String {
    let here = |it: &&Operation| it.route == route && it.paths.iter().any(|template| is_of(template, path));
    let mut methods: Vec<_> = OPERATIONS.iter().filter(here).map(|operation| operation.method).collect();
    if let Some(get) = methods.iter().position(|method| *method == "GET") {
        methods.insert(get + 1, "HEAD");
    }
    methods.push("OPTIONS");
    methods.join(", ")
}

/// Refuses a request with a parameter or conditional header that its operation does not know.
///
/// # Errors
/// `BadRequest` with the nearest known name, and those that are allowed.
pub fn check(operation: &Operation, head: &Head) -> Result<()> {
    let query = head.uri.query().unwrap_or_default();
    let has_body = head.method == Method::DELETE && head.has_body();
    // Most requests have none of these and skip the search.
    if query.is_empty() && !has_body && !head.headers.keys().any(condition::is_conditional) {
        return Ok(());
    }
    if has_body {
        return Err(Error::BadRequest(
            "a DELETE takes no body: send conditions as headers, and force as ?force=true".into(),
        ));
    }
    operation.check_query(query)?;
    operation.check_headers(head)
}

/// Whether `path` matches `template`. Every request asks; bytes are split quicker than text where the parts are short.
fn is_of(template: &str, path: &str) -> bool {
    let mut steps = path.as_bytes().split(|byte| *byte == b'/');
    for expected in template.as_bytes().split(|byte| *byte == b'/') {
        match (expected, steps.next()) {
            (b"{key}", Some(_)) => return true,
            // No table can have these names.
            (b"{table}", Some(b"_" | b"key")) => return false,
            (b"{table}" | b"{file}", Some(_)) => {}
            (literal, Some(step)) if literal == step => {}
            _ => return false,
        }
    }
    steps.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::Call;

    fn operation(method: &Method, route: Route, path: &str) -> &'static Operation {
        Operation::find(route, method, path).expect("an operation")
    }

    #[test]
    fn every_route_says_what_it_takes() {
        for route in Route::ALL.iter().copied().filter(|route| *route != Route::Unknown) {
            assert!(OPERATIONS.iter().any(|operation| operation.route == route), "{}", route.name());
        }
        for operation in OPERATIONS {
            assert!(operation.parameters.len() <= 32, "{operation:?}");
            assert!(
                operation
                    .conditions
                    .iter()
                    .all(|name| condition::is_conditional(&HeaderName::from_static(name)))
            );
        }
    }

    #[test]
    fn a_path_allows_the_methods_of_its_operations() {
        for (route, path, allowed) in [
            (Route::Key, "/key/a/b", "GET, HEAD, PUT, PATCH, DELETE, OPTIONS"),
            (Route::Keys, "/t/keys", "GET, HEAD, POST, OPTIONS"),
            (Route::Table, "/t", "DELETE, OPTIONS"),
            (Route::Admin, "/_/admin/challenge", "GET, HEAD, OPTIONS"),
            (Route::Admin, "/_/admin/sync", "POST, OPTIONS"),
            (Route::Strong, "/_/strong/init", "POST, OPTIONS"),
        ] {
            assert_eq!(methods(route, path), allowed, "{path}");
        }
    }

    #[test]
    fn an_operation_is_found_by_its_path() {
        let found = |path| operation(&Method::GET, Route::Subscribe, path).paths[0];
        assert_eq!(found("/t/subscribe/a/b"), "/{table}/subscribe/{key}");
        assert_eq!(found("/t/subscribe"), "/{table}/subscribe");
        assert_eq!(found("/_/subscribe"), "/_/subscribe");
        assert_eq!(operation(&Method::HEAD, Route::Key, "/key/a").method, "GET");
        assert!(Operation::find(Route::Key, &Method::POST, "/t/key/a").is_none());
    }

    #[test]
    fn an_unknown_or_repeated_parameter_is_refused() {
        let put = operation(&Method::PUT, Route::Key, "/t/key/a");
        for fine in ["", "&", "ttl=5s", "ttl=5s&&w=all&", "%74tl=1", "w"] {
            assert_eq!(put.check_query(fine), Ok(()), "{fine}");
        }
        for (query, said) in [
            ("tll=5s", "did you mean \"ttl\"?"),
            ("W=all", "did you mean \"w\"?"),
            ("ttl=1&ttl=2", "more than once"),
            ("ttl=1&%74tl=2", "more than once"),
            ("=1", "allowed here: ttl, expires_at, w, w_timeout"),
            ("ttl =1", "did you mean \"ttl\"?"),
            ("%zz=1", "unknown parameter"),
        ] {
            let refused = put.check_query(query);
            assert!(
                matches!(&refused, Err(Error::BadRequest(why)) if why.contains(said)),
                "{query}: {refused:?}"
            );
        }
        let follow = operation(&Method::GET, Route::Subscribe, "/t/subscribe");
        assert_eq!(follow.check_query("key=a&key=b,c&keys=d,e&prefix=f&prefix=g"), Ok(()));
    }

    #[test]
    fn an_unsupported_condition_is_refused() {
        let checked = |method: &Method, route, path: &str, name: &str, value: &str| {
            let request = hyper::Request::builder().method(method).uri(path).header(name, value);
            let operation = Operation::find(route, method, path).expect("an operation");
            check(operation, &Call::of(request.body(()).expect("a request")))
        };
        let key = |method: &Method, name, value| checked(method, Route::Key, "/t/key/a", name, value);
        for (method, name, value) in [
            (Method::GET, "if-modified-since", "Sat, 28 Nov 2026 03:00:00 GMT"),
            (Method::PUT, "if-match", "*"),
            (Method::DELETE, "If-None-Match", "*"),
            (Method::PUT, "expect", "100-Continue"),
            (Method::GET, "accept-encoding", "gzip"),
        ] {
            assert_eq!(key(&method, name, value), Ok(()), "{name}");
        }
        for (method, name, value, said) in [
            (
                Method::PUT,
                "if-unmodified-since",
                "Sat, 28 Nov 2026 03:00:00 GMT",
                "takes if-match, if-none-match",
            ),
            (Method::GET, "range", "bytes=0-", "whole"),
            (Method::PUT, "content-range", "bytes 0-1/2", "whole"),
            (Method::PUT, "expect", "a miracle", "100-continue"),
        ] {
            let refused = key(&method, name, value);
            assert!(
                matches!(&refused, Err(Error::BadRequest(why)) if why.contains(said)),
                "{name}: {refused:?}"
            );
        }
        let batch = checked(&Method::POST, Route::Batch, "/t/batch", "if-none-match", "*");
        assert!(matches!(batch, Err(Error::BadRequest(why)) if why.contains("\"if_none_match\" into the")));
        assert!(checked(&Method::GET, Route::Probe, "/healthz", "if-none-match", "*").is_err());
    }
}
