//! Conditions of reads and writes (`If-Match`, `If-None-Match`, `If-Modified-Since`), and the write concern: how many replicas must hold a
//! write.

use std::time::{Duration, UNIX_EPOCH};

use hyper::{
    HeaderMap,
    header::{self, HeaderName, HeaderValue},
};

use super::{Head, expiry};
use crate::{
    core::clock::Timestamp,
    error::{Error, Result},
    node::{Condition, Replicas, WriteConcern},
};

/// How long a write waits for its replicas by default: far longer than a round trip between healthy nodes.
pub const W_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest it may wait: shorter than the usual timeouts of proxies and clients.
pub const W_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// The condition of a write.
///
/// # Errors
/// `BadRequest` for a header that is not a list of entity tags, or for both headers at once.
pub fn of_write(headers: &HeaderMap) -> Result<Condition> {
    condition(list(headers, header::IF_MATCH)?.as_deref(), list(headers, header::IF_NONE_MATCH)?.as_deref())
}

/// The condition that the two headers' lists express.
///
/// # Errors
/// As `of_write`.
pub fn condition(if_match: Option<&str>, if_none_match: Option<&str>) -> Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::Always),
        (Some(tags), None) => Ok(match parse_tags(tags, Compare::Strong)? {
            Tags::Any => Condition::Present,
            Tags::These(versions) => Condition::Version(versions),
        }),
        (None, Some(tags)) => Ok(match parse_tags(tags, Compare::Weak)? {
            Tags::Any => Condition::Absent,
            Tags::These(versions) => Condition::NotVersion(versions),
        }),
        (Some(_), Some(_)) => {
            Err(Error::BadRequest("If-Match and If-None-Match exclude each other: send one".into()))
        }
    }
}

/// The outcome of a read's conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Send the value.
    Modified,
    /// The client has it already.
    NotModified,
}

/// Tests the conditions of a read against the current version, in the order of RFC 9110, section 13.2.2.
///
/// # Errors
/// `PreconditionFailed` if If-Match does not hold; `BadRequest` for a header that is not a list of entity tags, or not a date.
pub fn of_read(headers: &HeaderMap, current: Option<Timestamp>) -> Result<Read> {
    if !headers.keys().any(is_conditional) {
        return Ok(Read::Modified);
    }
    if let Some(tags) = list(headers, header::IF_MATCH)? {
        let holds = match parse_tags(&tags, Compare::Strong)? {
            Tags::Any => current.is_some(),
            Tags::These(versions) => current.is_some_and(|current| versions.contains(&current)),
        };
        if !holds {
            return Err(Error::precondition_failed(current));
        }
    }
    let Some(current) = current else { return Ok(Read::Modified) };
    let has = if headers.contains_key(header::IF_NONE_MATCH) {
        match parse_tags(&list(headers, header::IF_NONE_MATCH)?.unwrap_or_default(), Compare::Weak)? {
            Tags::Any => true,
            Tags::These(versions) => versions.contains(&current),
        }
    } else if let Some(date) = headers.get(header::IF_MODIFIED_SINCE) {
        // Compare at millisecond precision, so that a second write within the same second is never hidden by a Last-Modified of whole
        // seconds.
        current.unix_ms() <= parse_date(date)?
    } else {
        false
    };
    Ok(if has { Read::NotModified } else { Read::Modified })
}

/// Whether a header makes a request conditional or asks for a part. Such a header must be honoured or refused, never ignored.
pub fn is_conditional(name: &HeaderName) -> bool {
    match name.as_str().as_bytes() {
        [b'i', b'f', b'-', ..] => {
            *name == header::IF_MATCH
                || *name == header::IF_NONE_MATCH
                || *name == header::IF_MODIFIED_SINCE
                || *name == header::IF_UNMODIFIED_SINCE
                || *name == header::IF_RANGE
        }
        b"range" | b"expect" | b"content-range" => true,
        _ => false,
    }
}

/// The Unix milliseconds of an HTTP date.
fn parse_date(date: &HeaderValue) -> Result<u64> {
    let wrong = || {
        let date = String::from_utf8_lossy(date.as_bytes()).into_owned();
        Error::BadRequest(format!(
            "If-Modified-Since: {date:?} is not a date such as Sat, 28 Nov 2026 03:00:00 GMT"
        ))
    };
    let instant =
        date.to_str().ok().and_then(|text| httpdate::parse_http_date(text).ok()).ok_or_else(wrong)?;
    let since = instant.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The lines of a header, joined into one list.
fn list(headers: &HeaderMap, name: HeaderName) -> Result<Option<String>> {
    let mut lines = Vec::new();
    for line in headers.get_all(&name) {
        lines.push(line.to_str().map_err(|_| Error::BadRequest(format!("{name} is not text")))?);
    }
    Ok((!lines.is_empty()).then(|| lines.join(",")))
}

enum Tags {
    Any,
    These(Vec<Timestamp>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    /// A weak tag (`W/"..."`) matches nothing.
    Strong,
    /// The `W/` prefix is ignored.
    Weak,
}

/// A list of entity tags (RFC 9110, section 8.8.3). Tags that were never our versions match nothing and are dropped. A version without
/// quotes is accepted too, because shells strip them.
fn parse_tags(text: &str, compare: Compare) -> Result<Tags> {
    if text.trim() == "*" {
        return Ok(Tags::Any);
    }
    let wrong =
        || Error::BadRequest(format!("{text:?} is not a list of entity tags: send \"<version>\" or *"));
    let mut versions = Vec::new();
    let mut items = text.split(',').map(str::trim).filter(|item| !item.is_empty()).peekable();
    // Of an empty list If-None-Match would always hold: what the client meant to prevent would happen.
    items.peek().ok_or_else(wrong)?;
    for item in items {
        let (weak, tag) = item.strip_prefix("W/").map_or((false, item), |tag| (true, tag));
        let quoted = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
        let version = match quoted {
            Some(version) => version.parse().ok(),
            None => Some(tag.parse::<Timestamp>().map_err(|_| wrong())?),
        };
        versions.extend(version.filter(|_| !weak || compare == Compare::Weak));
    }
    Ok(Tags::These(versions))
}

/// The write concern in the query: `w=2`, `w=majority` or `w=all`, by default 1; and how long to wait, such as `w_timeout=2s`.
///
/// # Errors
/// `BadRequest` for a count that is not a number or is 0, and for a timeout that is not a duration or is over the limit.
pub fn write_concern(head: &Head) -> Result<WriteConcern> {
    let query = head.query();
    let (w, w_timeout) = (query.get("w")?, query.get("w_timeout")?);
    if w.is_none() && w_timeout.is_some() {
        return Err(Error::BadRequest("w_timeout is the time to wait for w replicas: send w too".into()));
    }
    let replicas = match w.as_deref() {
        None => Replicas::Count(1),
        Some("majority") => Replicas::Majority,
        Some("all") => Replicas::All,
        Some(count) => match count.parse() {
            Ok(0) => {
                return Err(Error::BadRequest(
                    "w=0: use at least 1, because this node itself holds the write".into(),
                ));
            }
            Ok(count) => Replicas::Count(count),
            Err(_) => return Err(Error::BadRequest(format!("w={count}: use a count, majority, or all"))),
        },
    };
    let timeout = w_timeout.map_or(Ok(W_TIMEOUT), |text| parse_timeout(&text))?;
    Ok(WriteConcern { replicas, timeout })
}

fn parse_timeout(text: &str) -> Result<Duration> {
    let timeout = expiry::parse_duration(text).ok().filter(|_| !text.starts_with('-'));
    timeout.filter(|timeout| *timeout <= W_TIMEOUT_MAX).ok_or_else(|| {
        Error::BadRequest(format!(
            "w_timeout={text}: use seconds, or a duration such as 500ms or 10s, up to 60s"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{core::clock::NodeId, http::request::Call};

    const A: &str = "0000000000000001-000000000000000a";
    const B: &str = "0000000000000002-000000000000000b";

    fn version(hlc: u64, node: u64) -> Timestamp {
        Timestamp { hlc, node: NodeId(node) }
    }

    /// `If-None-Match:` without a tag, which a script with an empty variable sends, was no condition at all: the write happened.
    #[test]
    fn an_empty_list_of_tags_is_refused() {
        for tags in ["", " ", ",", " , "] {
            for (if_match, if_none_match) in [(Some(tags), None), (None, Some(tags))] {
                let refused = condition(if_match, if_none_match);
                assert!(matches!(refused, Err(Error::BadRequest(_))), "{tags:?}: {refused:?}");
            }
        }
    }

    #[test]
    fn a_condition_names_versions_or_any_version() {
        let (a, b) = (version(1, 10), version(2, 11));
        assert_eq!(condition(None, None), Ok(Condition::Always));
        assert_eq!(condition(Some("*"), None), Ok(Condition::Present));
        assert_eq!(condition(None, Some(" * ")), Ok(Condition::Absent));
        let both = format!("\"{A}\", \"{B}\"");
        assert_eq!(condition(Some(&both), None), Ok(Condition::Version(vec![a, b])));
        assert_eq!(condition(None, Some(&both)), Ok(Condition::NotVersion(vec![a, b])));
        assert_eq!(condition(Some(A), None), Ok(Condition::Version(vec![a])));
    }

    #[test]
    fn a_weak_or_foreign_tag_matches_no_write() {
        for tag in [format!("W/\"{A}\""), "\"somebody-elses\"".into()] {
            assert_eq!(condition(Some(&tag), None), Ok(Condition::Version(vec![])), "{tag}");
        }
        let weak = format!("W/\"{A}\"");
        assert_eq!(condition(None, Some(&weak)), Ok(Condition::NotVersion(vec![version(1, 10)])));
    }

    #[test]
    fn an_invalid_condition_is_refused() {
        for text in ["nonsense", "\"open", "\"a\" \"b\"x"] {
            assert!(matches!(condition(Some(text), None), Err(Error::BadRequest(_))), "{text}");
        }
        assert!(matches!(condition(Some("*"), Some("*")), Err(Error::BadRequest(_))));
    }

    /// If-Modified-Since used to be ignored, and so was If-Match on a read.
    #[test]
    fn a_read_of_a_version_the_client_has_is_not_modified() {
        let at_ms = 1_795_000_000_300;
        let current = version(at_ms << 16, 10);
        let read = |headers: &[(HeaderName, &str)], current| {
            let pairs = headers.iter().map(|(name, value)| (name.clone(), value.parse().expect("a value")));
            of_read(&pairs.collect(), current)
        };
        let date = |seconds| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        let tag = format!("\"{current}\"");
        let (ours, later) = (date(1_795_000_000), date(1_795_000_001));
        assert_eq!(read(&[], Some(current)), Ok(Read::Modified));
        assert_eq!(read(&[(header::IF_NONE_MATCH, &tag)], Some(current)), Ok(Read::NotModified));
        assert_eq!(read(&[(header::IF_MATCH, &tag)], Some(current)), Ok(Read::Modified));
        for wrong in ["\"other\"", "*"] {
            let current = (wrong != "*").then_some(current);
            let refused = read(&[(header::IF_MATCH, wrong)], current);
            assert_eq!(refused, Err(Error::precondition_failed(current)));
        }
        assert_eq!(read(&[(header::IF_MODIFIED_SINCE, &later)], Some(current)), Ok(Read::NotModified));
        assert_eq!(read(&[(header::IF_MODIFIED_SINCE, &ours)], Some(current)), Ok(Read::Modified));
        // If both are there, the tag counts. Browsers send both.
        let both = [(header::IF_NONE_MATCH, "\"other\""), (header::IF_MODIFIED_SINCE, &later)];
        assert_eq!(read(&both, Some(current)), Ok(Read::Modified));
        let refused = read(&[(header::IF_MODIFIED_SINCE, "yesterday")], Some(current));
        assert!(matches!(refused, Err(Error::BadRequest(_))));
    }

    #[test]
    fn a_write_concern_is_a_replica_count_and_a_timeout() {
        let parse = |query: &str| {
            let request = hyper::Request::put(format!("/t/key/a?{query}")).body(()).expect("a request");
            write_concern(&Call::of(request))
        };
        let of = |replicas, milliseconds| {
            Ok(WriteConcern { replicas, timeout: Duration::from_millis(milliseconds) })
        };
        assert_eq!(parse(""), of(Replicas::Count(1), 5000));
        assert_eq!(parse("w=3&w_timeout=0.5"), of(Replicas::Count(3), 500));
        assert_eq!(parse("w=majority&w_timeout=60s"), of(Replicas::Majority, 60_000));
        assert_eq!(parse("w=all&w_timeout=0"), of(Replicas::All, 0));
        for wrong in [
            "w=0",
            "w=-1",
            "w=most",
            "w=2&w_timeout=61",
            "w=2&w_timeout=-1",
            "w=2&w_timeout=soon",
            "w=2&w_timeout=NaN",
            "w=2&w_timeout=",
            "w_timeout=2s",
        ] {
            assert!(matches!(parse(wrong), Err(Error::BadRequest(_))), "{wrong}");
        }
    }
}
