//! Spans of time as people write and read them.

/// Most of a time to live: a hundred years of 365.25 days, as the node has it.
const TTL_MS_MAX: u64 = 100 * 31_557_600 * SECOND_MS;
const SECOND_MS: u64 = 1000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// A time to live in milliseconds: a number with a unit, or several, such as `90s` or `1h 30m`. A number alone is seconds.
///
/// # Errors
/// What is wrong.
pub fn parse_ttl(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?}: write a number with ms, s, m, h or d, such as 90s or 1h 30m");
    let mut rest = text.trim();
    let mut total = 0_u64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = rest[digits..].trim_start();
        let letters = rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_alphabetic()).len();
        let unit = match &rest[..letters] {
            "ms" => 1,
            "" | "s" => SECOND_MS,
            "m" => MINUTE_MS,
            "h" => HOUR_MS,
            "d" => DAY_MS,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(unit).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = rest[letters..].trim_start();
    }
    match total {
        0 => Err(format!("{text:?}: the value would be gone at once")),
        1..=TTL_MS_MAX => Ok(total),
        _ => Err(format!("{text:?}: at most a hundred years")),
    }
}

/// What is left until an instant, for a countdown: `59s`, `4m 05s`, `3h 07m`, `2d 5h`; `0s` when it has come.
pub fn left(until_ms: u64, now_ms: u64) -> String {
    span(until_ms.saturating_sub(now_ms).div_ceil(SECOND_MS) * SECOND_MS)
}

/// A span in two units.
pub fn span(ms: u64) -> String {
    let (days, hours) = (ms / DAY_MS, ms % DAY_MS / HOUR_MS);
    let (minutes, seconds) = (ms % HOUR_MS / MINUTE_MS, ms % MINUTE_MS / SECOND_MS);
    match ms {
        0..MINUTE_MS => format!("{seconds}s"),
        MINUTE_MS..HOUR_MS => format!("{minutes}m {seconds:02}s"),
        HOUR_MS..DAY_MS => format!("{hours}h {minutes:02}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// How long ago something was.
pub fn ago(at_ms: u64, now_ms: u64) -> String {
    match now_ms.saturating_sub(at_ms) {
        0..SECOND_MS => "just now".to_owned(),
        past => format!("{} ago", span(past)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_has_numbers_and_units() {
        for (text, expected) in [
            ("30", 30_000),
            ("90s", 90_000),
            ("1h 30m", 5_400_000),
            ("2d", 172_800_000),
            ("5 ms", 5),
            ("1m5s", 65_000),
        ] {
            assert_eq!(parse_ttl(text), Ok(expected), "{text}");
        }
        for text in ["", "s", "-1", "5y", "0", "99999999999999999999", "40000d", "1.5h"] {
            assert!(parse_ttl(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_countdown_reaches_nothing_when_the_instant_comes() {
        for (ms, expected) in [
            (0, "0s"),
            (1, "1s"),
            (59_000, "59s"),
            (59_001, "1m 00s"),
            (245_000, "4m 05s"),
            (11_220_000, "3h 07m"),
            (190_800_000, "2d 5h"),
        ] {
            assert_eq!(left(1_000_000 + ms, 1_000_000), expected, "{ms}");
        }
        assert_eq!(left(1, 5), "0s");
        assert_eq!(ago(5_000, 5_400), "just now");
        assert_eq!(ago(5_000, 70_000), "1m 05s ago");
    }
}
