//! JSON as the editor needs it: where it is wrong, and how it reads well. The text is never parsed into values and written again: digits,
//! the order of members, and members that are there twice stay as they are.

use serde::de::IgnoredAny;

/// Where a text is no JSON, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The line, from 1.
    pub line: usize,
    /// The column, in characters from 1.
    pub column: usize,
    /// The bytes of the text that are marked.
    pub range: std::ops::Range<usize>,
    /// What is wrong.
    pub why: String,
}

/// Whether a text is JSON.
///
/// # Errors
/// Where it is not.
pub fn check(text: &str) -> Result<(), Mark> {
    let Err(error) = serde_json::from_str::<IgnoredAny>(text) else { return Ok(()) };
    let (line, byte_column) = (error.line().max(1), error.column());
    let begin: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let line_text = text[begin..].split('\n').next().unwrap_or_default();
    // The column counts the bytes up to and with the wrong one; at the end of the text nothing is there.
    let mut at = byte_column.saturating_sub(1).min(line_text.len());
    while !line_text.is_char_boundary(at) {
        at -= 1;
    }
    let length = line_text[at..].chars().next().map_or(0, char::len_utf8);
    let column = line_text[..at].chars().count() + 1;
    let message = error.to_string();
    let why = message.split(" at line ").next().unwrap_or_default().to_owned();
    Err(Mark { line, column, range: begin + at..begin + at + length, why })
}

/// JSON over several lines, indented by two spaces. The text must be JSON.
pub fn format(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0_usize;
    let mut letters = text.chars().peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    let is_space = |letter: &char| letter.is_ascii_whitespace();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                out.push(letter);
                copy_string(&mut letters, &mut out);
            }
            '{' | '[' => {
                out.push(letter);
                while letters.next_if(is_space).is_some() {}
                match letters.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => out.push(end),
                    None => {
                        depth += 1;
                        line(&mut out, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(letter);
            }
            ',' => {
                out.push(letter);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            letter if letter.is_ascii_whitespace() => {}
            letter => out.push(letter),
        }
    }
    out
}

/// JSON without white space between its parts. The text must be JSON.
pub fn compact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                out.push(letter);
                copy_string(&mut letters, &mut out);
            }
            letter if letter.is_ascii_whitespace() => {}
            letter => out.push(letter),
        }
    }
    out
}

/// The rest of a string, whose first quote was read.
fn copy_string(letters: &mut impl Iterator<Item = char>, out: &mut String) {
    let mut is_escaped = false;
    for letter in letters {
        out.push(letter);
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_at_the_wrong_letter() {
        for (text, line, column, marked, word) in [
            ("{\"a\": 1,\n \"b\": tru }", 2, 10, " ", "expected"),
            ("{\"a\" 1}", 1, 6, "1", "expected `:`"),
            ("", 1, 1, "", "EOF"),
            ("{\"\u{e9}\u{e9}\": x}", 1, 8, "x", "expected value"),
            ("[1, 2", 1, 5, "2", "EOF"),
            ("1 2", 1, 3, "2", "trailing characters"),
        ] {
            let mark = check(text).expect_err(text);
            assert_eq!((mark.line, mark.column), (line, column), "{text}: {mark:?}");
            assert_eq!(&text[mark.range.clone()], marked, "{text}: {mark:?}");
            assert!(mark.why.contains(word), "{text}: {mark:?}");
        }
        for text in
            ["1", "\"a\"", "{\"a\":[1,2,{}],\"b\":null}", " [ ] ", "1234567890123456789012345678901234567890"]
        {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn formatting_changes_white_space_and_nothing_else() {
        let text = r#"{"b":1.50,"a":[1,{},[]],"b":"x, {\" :","e":{}}"#;
        let formatted = format(text);
        let expected = "{\n  \"b\": 1.50,\n  \"a\": [\n    1,\n    {},\n    []\n  ],\n  \"b\": \"x, {\\\" :\",\n  \"e\": {}\n}";
        assert_eq!(formatted, expected);
        assert_eq!(format(&formatted), expected);
        assert_eq!(format(" 7 "), "7");
    }
}
