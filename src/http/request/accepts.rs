//! What each operation takes besides its path and its body: the parameters of its query, and the headers that make it conditional. One
//! table; a request with anything else is refused before its handler runs, because what nobody reads would be a wish that is
//! silently not met: a key that should have expired, a write that should not have happened.

use std::borrow::Cow;

use hyper::{
    Method,
    header::{self, HeaderName},
};

use super::{Head, condition, path};
use crate::{
    core::nearest,
    error::{Error, Result},
    http::request::route::Route,
};

/// A parameter of a query.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name. Upper and lower case differ.
    pub name: &'static str,
    /// Whether it may be there more than once.
    pub repeatable: bool,
    /// What it does, for people.
    pub about: &'static str,
}

/// One method of one resource.
#[derive(Debug)]
pub struct Operation {
    /// The resource.
    pub route: Route,
    /// The method. GET is HEAD too.
    pub method: &'static str,
    /// The paths, with `{table}` for one segment and `{key}` for all that follow.
    pub paths: &'static [&'static str],
    /// What its query may have.
    pub parameters: &'static [&'static Parameter],
    /// The headers that it can keep, in lower case, of those that make a request conditional.
    pub conditions: &'static [&'static str],
}

const fn once(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, repeatable: false, about }
}

const fn repeatable(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, repeatable: true, about }
}

static TTL: Parameter = once(
    "ttl",
    "how long the value is to be seen: seconds, or a duration with ms, s, m, h, d, w, y; 1 ms to 100 years",
);
static EXPIRES_AT: Parameter = once("expires_at", "until when the value is to be seen: Unix milliseconds");
static W: Parameter = once("w", "answer when so many replicas hold the write: a count, majority, or all");
static W_TIMEOUT: Parameter = once("w_timeout", "how long to wait for them: up to 60s");
static WRAP: Parameter = once(
    "wrap",
    "false: the body is the patch, also if it looks like a PUT's; true: its \"value\" is the patch",
);
static FORCE: Parameter = once("force", "true: write the tombstone also where the key is absent");
static META: Parameter = once("meta", "true: with version, timestamp, node and expires_at in the body");
static VALUES: Parameter = once("values", "false: without the values");
static PREFIX: Parameter = once("prefix", "only keys that begin so");
static START: Parameter = once("start", "only keys at or above this one");
static END: Parameter = once("end", "only keys below this one");
static LIMIT: Parameter = once("limit", "at most so many rows, and where the next page is");
static CURSOR: Parameter = once("cursor", "where the page before ended");
static REVERSE: Parameter = once("reverse", "true: from the highest key down");
static ATOMIC: Parameter = once("atomic", "true: all or nothing");
static SNAPSHOT: Parameter = once("snapshot", "true: the values of now first");
static SINCE: Parameter = once("since", "the id of the last event that was seen");
static PREFIXES: Parameter = repeatable("prefix", "keys that begin so");
static KEYS: Parameter = repeatable("keys", "keys, separated by commas");
static KEY: Parameter = repeatable("key", "one key, commas and all");
static TOPIC: Parameter = repeatable("topic", "table/key, table/* or table/prefix*");
static TABLE: Parameter = once("table", "only this table; for an import, that of rows which name none");
static MODE: Parameter =
    once("mode", "keep: rows keep their versions, later writes stay; new: rows are new writes and win");
static SURROGATES: Parameter =
    once("surrogates", "keep: take values with lone surrogates, of exports from before those were refused");
static PARTIAL: Parameter = once("partial", "true: take an export also where it is not whole");

static CONFIRM: Parameter = once("confirm", "the table's name: all of its keys");

const TAGS: &[&str] = &["if-match", "if-none-match"];
const NONE: &[&str] = &[];

/// All operations. The allowed methods of a resource are those that stand here.
pub static OPERATIONS: &[Operation] = &[
    key_operation("GET", &[&META], &["if-match", "if-none-match", "if-modified-since"]),
    key_operation("PUT", &[&TTL, &EXPIRES_AT, &W, &W_TIMEOUT], TAGS),
    key_operation("PATCH", &[&TTL, &EXPIRES_AT, &WRAP, &W, &W_TIMEOUT], TAGS),
    key_operation("DELETE", &[&FORCE, &W, &W_TIMEOUT], TAGS),
    plain(Route::Keys, "GET", &["/{table}/keys"], &[&PREFIX, &START, &END, &LIMIT, &CURSOR, &REVERSE]),
    plain(Route::Keys, "POST", &["/{table}/keys"], &[&META]),
    plain(
        Route::Store,
        "GET",
        &["/{table}/store"],
        &[&PREFIX, &START, &END, &LIMIT, &CURSOR, &REVERSE, &VALUES, &META],
    ),
    plain(Route::Count, "GET", &["/{table}/count"], &[&PREFIX, &START, &END]),
    plain(Route::Batch, "POST", &["/{table}/batch"], &[&ATOMIC, &TTL, &EXPIRES_AT, &W, &W_TIMEOUT]),
    plain(Route::Table, "DELETE", &["/{table}"], &[&PREFIX, &CONFIRM, &W, &W_TIMEOUT]),
    plain(Route::Subscribe, "GET", &["/{table}/subscribe/{key}"], &[&SNAPSHOT, &SINCE]),
    plain(Route::Subscribe, "GET", &["/{table}/subscribe"], &[&PREFIXES, &KEY, &KEYS, &SNAPSHOT, &SINCE]),
    plain(Route::Subscribe, "GET", &["/_/subscribe"], &[&TOPIC, &SNAPSHOT, &SINCE]),
    plain(Route::WebSocket, "GET", &["/_/ws"], &[]),
    plain(Route::Link, "GET", &["/_/link"], &[]),
    plain(Route::Membership, "GET", &["/membership"], &[]),
    plain(Route::Cluster, "GET", &["/_/cluster"], &[]),
    plain(Route::Admin, "GET", &["/_/admin/challenge"], &[]),
    plain(Route::Admin, "POST", &["/_/admin/forget", "/_/admin/leave", "/_/admin/sync"], &[]),
    plain(Route::Tables, "GET", &["/_/tables"], &[]),
    plain(Route::Export, "GET", &["/_/export"], &[&TABLE, &PREFIX, &START, &END, &VALUES]),
    plain(Route::Import, "POST", &["/_/import"], &[&TABLE, &MODE, &SURROGATES, &PARTIAL, &W, &W_TIMEOUT]),
    plain(Route::Stats, "GET", &["/stats"], &[]),
    plain(Route::Metrics, "GET", &["/metrics"], &[]),
    plain(Route::Probe, "GET", &["/healthz", "/readyz", "/version"], &[]),
];

const fn key_operation(
    method: &'static str,
    parameters: &'static [&'static Parameter],
    conditions: &'static [&'static str],
) -> Operation {
    let paths = &["/{table}/key/{key}", "/key/{key}"];
    Operation { route: Route::Key, method, paths, parameters, conditions }
}

const fn plain(
    route: Route,
    method: &'static str,
    paths: &'static [&'static str],
    parameters: &'static [&'static Parameter],
) -> Operation {
    Operation { route, method, paths, parameters, conditions: NONE }
}

impl Operation {
    /// The operation that a request of a resource asks for; `None` where the resource has no such method.
    pub fn find(route: Route, method: &Method, path: &str) -> Option<&'static Self> {
        let method = if method == Method::HEAD { "GET" } else { method.as_str() };
        let mut of_route = OPERATIONS.iter().filter(|it| it.route == route && it.method == method);
        of_route.find(|operation| operation.paths.iter().any(|template| is_of(template, path)))
    }

    /// Refuses a query with a parameter that is unknown, or that is there twice and may not be.
    ///
    /// # Errors
    /// `BadRequest` with the parameter that was meant, and those that are allowed.
    pub fn check_query(&self, query: &str) -> Result<()> {
        let mut seen = 0u32;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let name = parameter_name(pair);
            let Some(place) = self.parameters.iter().position(|parameter| parameter.name == name) else {
                let known: Vec<_> = self.parameters.iter().map(|parameter| parameter.name).collect();
                return Err(Error::BadRequest(nearest::unknown("parameter", &name, &known)));
            };
            let bit = 1 << place;
            if seen & bit != 0 && !self.parameters[place].repeatable {
                return Err(Error::BadRequest(format!(
                    "the parameter {name:?} stands in the query more than once: send it once"
                )));
            }
            seen |= bit;
        }
        Ok(())
    }

    /// Refuses headers that make a request conditional, or ask for a part, where that cannot be kept.
    fn check_headers(&self, head: &Head) -> Result<()> {
        for name in head.headers.keys().filter(|name| condition::is_conditional(name)) {
            if *name == header::EXPECT {
                let expected = head.header(header::EXPECT).unwrap_or_default();
                if !expected.eq_ignore_ascii_case("100-continue") {
                    return Err(Error::BadRequest(format!("Expect: {expected:?}: it can be 100-continue")));
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
                return format!("{name}: {here} knows whole bodies only, and no parts of them: leave it out");
            }
            (&header::IF_MATCH | &header::IF_NONE_MATCH, Route::Batch) => {
                let member = name.as_str().replace('-', "_");
                return format!(
                    "{name}: a batch has conditions in its operations: write {member:?} into the one it is for"
                );
            }
            (&header::IF_UNMODIFIED_SINCE | &header::IF_MODIFIED_SINCE, Route::Key) => {
                "a date cannot tell two writes within one second apart"
            }
            (_, Route::Import) => "an import has no conditions; by itself it never takes a later write back",
            _ => "there is no such condition",
        };
        match self.conditions {
            [] => format!("{name}: {here} cannot keep it: {what}; leave it out"),
            known => format!("{name}: {here} cannot keep it: {what}; it takes {}", known.join(", ")),
        }
    }
}

/// Refuses a request with a parameter, or a header that makes it conditional, that its operation does not know.
///
/// # Errors
/// `BadRequest`, with what was meant and what is allowed.
pub fn check(route: Route, head: &Head) -> Result<()> {
    let query = head.uri.query().unwrap_or_default();
    let has_body = head.method == Method::DELETE && head.has_body();
    // Most requests have none of these, and cost no search.
    if query.is_empty() && !has_body && !head.headers.keys().any(condition::is_conditional) {
        return Ok(());
    }
    // Other methods are answered by what lists the ones there are.
    let Some(operation) = Operation::find(route, &head.method, head.path()) else { return Ok(()) };
    if has_body {
        return Err(Error::BadRequest(
            "a DELETE has no body, and nothing in one is read: conditions are headers, and force is ?force=true".into(),
        ));
    }
    operation.check_query(query)?;
    operation.check_headers(head)
}

/// The name in `name=value`, decoded as far as it can be.
pub fn parameter_name(pair: &str) -> Cow<'_, str> {
    let name = pair.split_once('=').map_or(pair, |(name, _)| name);
    path::decode(name).unwrap_or(Cow::Borrowed(name))
}

/// Whether `path` is one that `template` stands for.
fn is_of(template: &str, path: &str) -> bool {
    let mut steps = path.split('/');
    for expected in template.split('/') {
        match (expected, steps.next()) {
            ("{key}", Some(_)) => return true,
            // No table can be named so.
            ("{table}", Some("_" | "key")) => return false,
            ("{table}", Some(_)) => {}
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
        for route in Route::ALL.into_iter().filter(|route| *route != Route::Unknown) {
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
    fn an_operation_is_found_by_its_path() {
        let found = |path| operation(&Method::GET, Route::Subscribe, path).paths[0];
        assert_eq!(found("/t/subscribe/a/b"), "/{table}/subscribe/{key}");
        assert_eq!(found("/t/subscribe"), "/{table}/subscribe");
        assert_eq!(found("/_/subscribe"), "/_/subscribe");
        assert_eq!(operation(&Method::HEAD, Route::Key, "/key/a").method, "GET");
        assert!(Operation::find(Route::Key, &Method::POST, "/t/key/a").is_none());
    }

    #[test]
    fn a_parameter_that_is_unknown_or_there_twice_is_refused() {
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
    fn a_condition_that_cannot_be_kept_is_refused() {
        let checked = |method: &Method, route, path: &str, name: &str, value: &str| {
            let request = hyper::Request::builder().method(method).uri(path).header(name, value);
            check(route, &Call::of(request.body(()).expect("a request")))
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
