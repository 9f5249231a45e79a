//! Scans of JSON text that skip its strings, for what a parser does not say: how deep it nests, and where its white space is.

use memchr::memchr2;

use super::DEPTH_MAX;
use crate::error::Error;

/// Checks that well-formed text nests no deeper than `depth_max`, and calls `white_space` with the place of each byte of white space between
/// its tokens. Text that is not well-formed gets an answer too, but not a right one.
///
/// # Errors
/// `BadJson` for deeper nesting.
pub fn scan(text: &[u8], depth_max: usize, mut white_space: impl FnMut(usize)) -> Result<(), Error> {
    let (mut at, mut depth) = (0, 0usize);
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            b'"' => at = string_end(text, at).unwrap_or(text.len()),
            b'[' | b'{' => {
                depth += 1;
                if depth > depth_max {
                    return Err(Error::BadJson(format!("nested deeper than {DEPTH_MAX}")));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b' ' | b'\t' | b'\n' | b'\r' => white_space(at - 1),
            _ => {}
        }
    }
    Ok(())
}

/// The place after the quote that ends a string whose characters begin at `from`; `None` if it does not end.
pub fn string_end(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)? + 1;
        if text[at - 1] == b'"' {
            return Some(at);
        }
        // What a backslash escapes ends nothing.
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_ends_at_its_quote_and_not_at_an_escaped_one() {
        for (text, end) in
            [(r#""" "#, 2), (r#""a" "b""#, 3), (r#""\"" "#, 4), (r#""\\" ""#, 4), (r#""\\\"" "#, 6)]
        {
            assert_eq!(string_end(text.as_bytes(), 1), Some(end), "{text}");
        }
        for open in ["\"", "\"ab", "\"a\\", "\"a\\\""] {
            assert_eq!(string_end(open.as_bytes(), 1), None, "{open}");
        }
    }

    #[test]
    fn strings_hide_what_is_in_them() {
        let mut found = Vec::new();
        assert_eq!(scan(br#"{"a [{\" ": [ "]" ],	"b":1}"#, 2, |at| found.push(at)), Ok(()));
        assert_eq!(found, [11, 13, 17, 20]);
        assert!(scan(br#"{"a":["[",[]]}"#, 2, |_| {}).is_err());
        assert_eq!(scan(b"]]}[", 1, |_| {}), Ok(()));
    }
}
