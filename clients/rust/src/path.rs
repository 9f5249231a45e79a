//! Paths and queries of requests.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What a segment of a path need not escape.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A segment of a path, escaped.
pub fn segment(text: &str) -> String {
    // A path normalizes `.` and `..` away.
    match text {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => utf8_percent_encode(text, SEGMENT).to_string(),
    }
}

/// A path with its query.
pub fn with_query(path: &str, query: &[(&str, String)]) -> String {
    if query.is_empty() {
        return path.to_owned();
    }
    let mut pairs = form_urlencoded::Serializer::new(format!("{path}?"));
    for (name, value) in query {
        pairs.append_pair(name, value);
    }
    let text = pairs.finish();
    // The serializer separates from what was there before.
    text.replacen("?&", "?", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_in_a_path_is_escaped() {
        assert_eq!(segment("a/b?c#d%e é+"), "a%2Fb%3Fc%23d%25e%20%C3%A9%2B");
        assert_eq!((segment(".."), segment("a.b")), ("%2E%2E".into(), "a.b".into()));
        let query = [("prefix", "a&b +".to_owned()), ("limit", "2".to_owned())];
        assert_eq!(with_query("/t/keys", &query), "/t/keys?prefix=a%26b+%2B&limit=2");
        assert_eq!(with_query("/t/keys", &[]), "/t/keys");
    }
}
