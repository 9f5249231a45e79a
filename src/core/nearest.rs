//! Finds the known name that an unknown one meant, for error messages.

/// Most characters of an unknown name that are compared and quoted. No known name is longer.
const NAME_CHARS_MAX: usize = 64;

/// The known name closest to `given`. Missing, wrong and swapped letters count; case does not, nor does `-` versus `_`.
/// `None` if half of the name or more would be wrong.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = normalize(given);
    let distance = |name: &str| strsim::osa_distance(&given, &normalize(name));
    let by_distance = known.into_iter().map(|name| (distance(name), name));
    let (distance, name) = by_distance.min_by_key(|(distance, _)| *distance)?;
    (2 * distance < given.chars().count().max(name.chars().count()) + 1).then_some(name)
}

/// An error text for an unknown `noun`: which name was meant, and which are allowed.
pub fn unknown(noun: &str, given: &str, known: &[&str]) -> String {
    let quoted: String = given.chars().take(NAME_CHARS_MAX).collect();
    if known.is_empty() {
        return format!("unknown {noun} {quoted:?}: there is none to give here");
    }
    let meant = nearest(given, known.iter().copied());
    let meant = meant.map(|name| format!("did you mean {name:?}? ")).unwrap_or_default();
    format!("unknown {noun} {quoted:?}: {meant}allowed here: {}", known.join(", "))
}

fn normalize(name: &str) -> String {
    let normalize = |character: char| if character == '-' { '_' } else { character.to_ascii_lowercase() };
    name.chars().take(NAME_CHARS_MAX).map(normalize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelled_name_is_found_and_an_unlike_one_is_not_guessed() {
        let known = ["ttl", "expires_at", "w", "w_timeout", "if_none_match", "prefix", "limit"];
        for (given, meant) in [
            ("tll", "ttl"),
            ("TTL", "ttl"),
            ("W", "w"),
            ("expires", "expires_at"),
            ("If-None-Match", "if_none_match"),
            ("prefx", "prefix"),
            ("limt", "limit"),
            ("wtimeout", "w_timeout"),
        ] {
            assert_eq!(nearest(given, known), Some(meant), "{given}");
        }
        for given in ["", "x", "colour", &"ttl".repeat(1000)] {
            assert_eq!(nearest(given, known), None, "{given}");
        }
    }

    #[test]
    fn the_error_lists_what_is_allowed() {
        let text = unknown("parameter", "tll", &["ttl", "w"]);
        assert_eq!(text, r#"unknown parameter "tll": did you mean "ttl"? allowed here: ttl, w"#);
        assert!(unknown("parameter", "a", &[]).contains("none"));
        assert!(unknown("field", &"x".repeat(1 << 20), &["a"]).len() < 200);
    }
}
