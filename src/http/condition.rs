//! What a client attaches to a write, and to a read: conditions (`If-Match`, `If-None-Match`), a time to live, how many
//! replicas are to hold it.

use std::time::Duration;

use hyper::{
    HeaderMap,
    header::{self, HeaderName},
};

use super::call::Head;
use crate::{
    core::clock::Timestamp,
    error::{Error, Result},
    node::{Condition, Replicas, Wanted},
};

/// Longest time to live: beyond it a value that never expires is meant. A hundred years.
const TTL_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// How long a write waits for its replicas unless it says how long: far longer than a round trip between nodes that work.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest it may wait: below what proxies and clients commonly do.
const PATIENCE_MAX: Duration = Duration::from_secs(60);

/// The condition of a write.
///
/// # Errors
/// `BadRequest` for a header that is no list of entity tags, or both headers at once.
pub fn of_write(headers: &HeaderMap) -> Result<Condition> {
    condition(list(headers, header::IF_MATCH)?.as_deref(), list(headers, header::IF_NONE_MATCH)?.as_deref())
}

/// The condition made of the two headers' lists.
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
        (Some(_), Some(_)) => Err(Error::BadRequest("If-Match and If-None-Match together: send one".into())),
    }
}

/// Whether a reader says that it has `timestamp` already.
///
/// # Errors
/// `BadRequest` for a header that is no list of entity tags.
pub fn reader_has(headers: &HeaderMap, timestamp: Timestamp) -> Result<bool> {
    if !headers.contains_key(header::IF_NONE_MATCH) {
        return Ok(false);
    }
    let tags = list(headers, header::IF_NONE_MATCH)?.unwrap_or_default();
    Ok(match parse_tags(&tags, Compare::Weak)? {
        Tags::Any => true,
        Tags::These(versions) => versions.contains(&timestamp),
    })
}

/// The lines of a header as the one list they are.
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
    /// A weak tag (`W/"..."`) equals nothing.
    Strong,
    /// Its `W/` does not count.
    Weak,
}

/// A list of entity tags (RFC 9110, section 8.8.3). Tags that were never versions of ours equal nothing and are left out. A
/// version without its quotes is taken too: a shell has eaten them.
fn parse_tags(text: &str, compare: Compare) -> Result<Tags> {
    if text.trim() == "*" {
        return Ok(Tags::Any);
    }
    let wrong = || Error::BadRequest(format!("{text:?} is no list of entity tags: \"<version>\", or *"));
    let mut versions = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
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

/// A time to live as a client writes it: seconds (`30`, `0.5`), or a duration (`30s`, `1h 30m`).
///
/// # Errors
/// `BadRequest` for what is neither, and for one that is nothing or beyond a hundred years.
pub fn parse_ttl(text: &str) -> Result<Duration> {
    let text = text.trim();
    let ttl = parse_duration(text).map_err(|error| {
        Error::BadRequest(format!("ttl {text:?}: {error}; send seconds, or a duration as 30s or 1h30m"))
    })?;
    // The clock's unit: less would be no time at all.
    if ttl < Duration::from_millis(1) || ttl > TTL_MAX {
        return Err(Error::BadRequest(format!(
            "ttl {text:?}: from 1 ms to 100 years; leave it out for ever"
        )));
    }
    Ok(ttl)
}

/// How many replicas are to hold a write before it is answered, one where the query says nothing: `w=2`, `w=majority`, `w=all`;
/// and how long to wait for that: `w_timeout=2s`.
///
/// # Errors
/// `BadRequest` for what is no count, and for none at all; for what is no duration, and for one beyond the limit.
pub fn wanted(head: &Head) -> Result<Wanted> {
    let query = head.query();
    let replicas = match query.get("w")?.as_deref() {
        None => Replicas::Count(1),
        Some("majority") => Replicas::Majority,
        Some("all") => Replicas::All,
        Some(count) => match count.parse() {
            Ok(0) => {
                return Err(Error::BadRequest("w=0: at least 1, this node, holds a write it answers".into()));
            }
            Ok(count) => Replicas::Count(count),
            Err(_) => return Err(Error::BadRequest(format!("w={count}: a count, majority, or all"))),
        },
    };
    let patience = query.get("w_timeout")?.map_or(Ok(PATIENCE), |text| parse_patience(&text))?;
    Ok(Wanted { replicas, patience })
}

fn parse_patience(text: &str) -> Result<Duration> {
    let patience = parse_duration(text).ok().filter(|_| !text.starts_with('-'));
    patience.filter(|patience| *patience <= PATIENCE_MAX).ok_or_else(|| {
        Error::BadRequest(format!("w_timeout={text}: seconds, or a duration as 500ms or 10s, up to 60s"))
    })
}

/// Seconds, or a duration with its units.
fn parse_duration(text: &str) -> std::result::Result<Duration, humantime::DurationError> {
    match text.parse::<f64>() {
        // What does not fit a duration is beyond every limit, or below.
        Ok(seconds) if seconds.is_finite() => Ok(Duration::try_from_secs_f64(seconds)
            .unwrap_or(if seconds < 0.0 { Duration::ZERO } else { Duration::MAX })),
        Ok(_) | Err(_) => humantime::parse_duration(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{core::clock::NodeId, http::call::Call};

    const A: &str = "0000000000000001-000000000000000a";
    const B: &str = "0000000000000002-000000000000000b";

    fn version(hlc: u64, node: u64) -> Timestamp {
        Timestamp { hlc, node: NodeId(node) }
    }

    #[test]
    fn conditions_name_versions_or_any() {
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
    fn a_condition_that_is_none_is_refused() {
        for text in ["nonsense", "\"open", "\"a\" \"b\"x"] {
            assert!(matches!(condition(Some(text), None), Err(Error::BadRequest(_))), "{text}");
        }
        assert!(matches!(condition(Some("*"), Some("*")), Err(Error::BadRequest(_))));
    }

    #[test]
    fn a_write_says_how_many_replicas_it_waits_for_and_how_long() {
        let wanted = |query: &str| {
            let request = hyper::Request::put(format!("/t/key/a?{query}")).body(()).expect("a request");
            wanted(&Call::of(request))
        };
        let of =
            |replicas, milliseconds| Ok(Wanted { replicas, patience: Duration::from_millis(milliseconds) });
        assert_eq!(wanted(""), of(Replicas::Count(1), 5000));
        assert_eq!(wanted("w=3&w_timeout=0.5"), of(Replicas::Count(3), 500));
        assert_eq!(wanted("w=majority&w_timeout=60s"), of(Replicas::Majority, 60_000));
        assert_eq!(wanted("w=all&w_timeout=0"), of(Replicas::All, 0));
        for wrong in [
            "w=0",
            "w=-1",
            "w=most",
            "w_timeout=61",
            "w_timeout=-1",
            "w_timeout=soon",
            "w_timeout=NaN",
            "w_timeout=",
        ] {
            assert!(matches!(wanted(wrong), Err(Error::BadRequest(_))), "{wrong}");
        }
    }

    #[test]
    fn a_ttl_is_seconds_or_a_duration() {
        let cases = [("30", 30_000), ("0.5", 500), ("30s", 30_000), ("1h30m", 5_400_000), ("250ms", 250)];
        for (text, milliseconds) in cases {
            assert_eq!(parse_ttl(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["0", "-1", "0s", "1e300", "101years", "0.0001"] {
            assert!(
                matches!(parse_ttl(text), Err(Error::BadRequest(why)) if why.contains("100 years")),
                "{text}"
            );
        }
        for text in ["", "soon", "NaN", "inf", "3 apples", "99999999999999999999999999999s"] {
            assert!(matches!(parse_ttl(text), Err(Error::BadRequest(_))), "{text}");
        }
    }
}
