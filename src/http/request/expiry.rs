//! When a value expires: `ttl`, a time from now, or `expires_at`, an instant. One of them, once, in the query or next to the value.

use std::time::Duration;

use serde_json::value::RawValue;

use super::Query;
use crate::{
    error::{Error, Result},
    node::Expiry,
};

/// The longest time to live, a hundred years of 365.25 days. Beyond that, a value that never expires is meant.
const TTL_MAX: Duration = Duration::from_secs(100 * 31_557_600);

/// The expiry in a query.
///
/// # Errors
/// `BadRequest` for both parameters at once, for an invalid time to live, and for an instant that is invalid or past.
pub fn of_query(query: Query<'_>, now_ms: u64) -> Result<Option<Expiry>> {
    match (query.get("ttl")?, query.get("expires_at")?) {
        (None, None) => Ok(None),
        (Some(ttl), None) => Ok(Some(Expiry::After(parse_ttl(&ttl)?))),
        (None, Some(instant)) => Ok(Some(Expiry::At(parse_instant(&instant, now_ms)?))),
        (Some(_), Some(_)) => Err(twice()),
    }
}

/// The expiry in the members `ttl` and `expires_at` of an object. `null` means none.
///
/// # Errors
/// As `of_query`.
pub fn of_members(
    ttl: Option<&RawValue>,
    expires_at: Option<&RawValue>,
    now_ms: u64,
) -> Result<Option<Expiry>> {
    match (ttl, expires_at) {
        (None, None) => Ok(None),
        (Some(raw), None) => {
            // A number is its own text, and a string loses its quotes. `parse_ttl` refuses everything else.
            let text = serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().into());
            Ok(Some(Expiry::After(parse_ttl(&text)?)))
        }
        (None, Some(raw)) => Ok(Some(Expiry::At(parse_instant(raw.get(), now_ms)?))),
        (Some(_), Some(_)) => Err(twice()),
    }
}

/// The one expiry, from the query or from the body.
///
/// # Errors
/// `BadRequest` if both have one.
pub fn one_of(in_query: Option<Expiry>, beside_value: Option<Expiry>) -> Result<Option<Expiry>> {
    match (in_query, beside_value) {
        (Some(_), Some(_)) => Err(twice()),
        (in_query, beside_value) => Ok(in_query.or(beside_value)),
    }
}

fn twice() -> Error {
    Error::BadRequest("more than one expiry: send ttl or expires_at, in the query or in the body".into())
}

/// Parses an instant in Unix milliseconds.
///
/// # Errors
/// `BadRequest` for one that is past, or more than a hundred years away.
pub fn parse_instant(text: &str, now_ms: u64) -> Result<u64> {
    let latest_ms = Expiry::After(TTL_MAX).unix_ms(now_ms);
    let instant = text.parse().ok().filter(|instant| (now_ms + 1..=latest_ms).contains(instant));
    instant.ok_or_else(|| {
        let quoted: String = text.chars().take(40).collect();
        Error::BadRequest(format!(
            "expires_at {quoted:?}: use a future instant within 100 years, in Unix milliseconds; it is now {now_ms}"
        ))
    })
}

/// Parses a time to live: seconds (`30`, `0.5`) or a duration (`500ms`, `30s`, `1h 30m`, `7d`, `2w`, `1y`; a year is 365.25 days).
///
/// # Errors
/// `BadRequest` for anything else, and for less than 1 ms or more than a hundred years.
pub fn parse_ttl(text: &str) -> Result<Duration> {
    let text = text.trim();
    let ttl = parse_duration(text).map_err(|error| {
        Error::BadRequest(format!(
            "ttl {text:?}: {error}; use seconds, or a duration such as 500ms, 30s, 1h30m, 7d or 1y"
        ))
    })?;
    check_ttl(ttl, || format!("ttl {text:?}"))
}

/// A time to live in milliseconds.
///
/// # Errors
/// `BadRequest` for 0, and for more than a hundred years.
pub fn ttl_of_milliseconds(milliseconds: u64) -> Result<Duration> {
    check_ttl(Duration::from_millis(milliseconds), || format!("ttl_ms {milliseconds}"))
}

fn check_ttl(ttl: Duration, given: impl FnOnce() -> String) -> Result<Duration> {
    // A millisecond is the clock's unit. Anything shorter would be no time at all.
    if ttl < Duration::from_millis(1) || ttl > TTL_MAX {
        return Err(Error::BadRequest(format!(
            "{}: use 1 ms to 100 years, or leave it out to keep the value for ever",
            given()
        )));
    }
    Ok(ttl)
}

/// Parses seconds, or a duration with units.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_duration(text: &str) -> std::result::Result<Duration, humantime::DurationError> {
    match text.parse::<f64>() {
        // A number that does not fit a duration is outside every limit.
        Ok(seconds) if seconds.is_finite() => Ok(Duration::try_from_secs_f64(seconds)
            .unwrap_or(if seconds < 0.0 { Duration::ZERO } else { Duration::MAX })),
        Ok(_) | Err(_) => humantime::parse_duration(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_795_000_000_000;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.into()).expect("json")
    }

    #[test]
    fn an_expiry_is_given_in_one_place_only() {
        let after = |seconds| Ok(Some(Expiry::After(Duration::from_secs(seconds))));
        let query = |text| of_query(Query(text), NOW_MS);
        assert_eq!(query("w=1"), Ok(None));
        assert_eq!(query("ttl=2"), after(2));
        assert_eq!(query("expires_at=1795000000001"), Ok(Some(Expiry::At(NOW_MS + 1))));
        let members = |ttl: Option<&str>, expires_at: Option<&str>| {
            let (ttl, expires_at) = (ttl.map(raw), expires_at.map(raw));
            of_members(ttl.as_deref(), expires_at.as_deref(), NOW_MS)
        };
        assert_eq!(members(Some("2"), None), after(2));
        assert_eq!(members(Some("\"2m\""), None), after(120));
        assert_eq!(members(None, Some("1795000000001")), Ok(Some(Expiry::At(NOW_MS + 1))));
        let one = Some(Expiry::At(1));
        assert_eq!(one_of(one, None), Ok(one));
        assert_eq!(one_of(None, one), Ok(one));
        for twice in [
            query("ttl=2&expires_at=1795000000001"),
            members(Some("2"), Some("1795000000001")),
            one_of(one, one),
        ] {
            assert!(matches!(twice, Err(Error::BadRequest(_))));
        }
        assert!(matches!(members(Some("[]"), None), Err(Error::BadRequest(_))));
    }

    #[test]
    fn an_instant_is_in_the_future_and_in_milliseconds() {
        for wrong in [
            "1795000000000",
            "1795000000",
            "0",
            "-1",
            "",
            "soon",
            "1e15",
            "\"1795000000001\"",
            "99999999999999",
        ] {
            let refused = parse_instant(wrong, NOW_MS);
            assert!(
                matches!(&refused, Err(Error::BadRequest(why)) if why.contains("Unix milliseconds")),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_ttl_is_seconds_or_a_duration() {
        let cases = [
            ("30", 30_000),
            ("0.5", 500),
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("100y", 3_155_760_000_000),
            ("100 years", 3_155_760_000_000),
            ("1w", 604_800_000),
        ];
        for (text, milliseconds) in cases {
            assert_eq!(parse_ttl(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["0", "-1", "0s", "1e300", "101years", "100y1s", "0.0001"] {
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
