//! Patterns of table names: `*` stands for any text, also for none; every other character for itself. Table names need no more.

use std::fmt;

/// A pattern of table names, such as `users` or `app-*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePattern(Box<str>);

impl TablePattern {
    /// Checks a pattern.
    ///
    /// # Errors
    /// What is wrong with it, if no table name could match.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'*');
        match text.is_empty() || !text.bytes().all(is_plain) {
            false => Ok(Self(text.into())),
            true => Err(format!(
                "{text:?} matches no table: use a table's name, with * for any text, such as app-*"
            )),
        }
    }

    /// Whether a table of this name is meant.
    pub fn matches(&self, name: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return *self.0 == *name };
        let Some(mut name) = name.strip_prefix(first) else { return false };
        let Some((middle, last)) = rest.rsplit_once('*') else { return name.ends_with(rest) };
        // The leftmost place is always right for the parts in between: it leaves the most for the others.
        for part in middle.split('*') {
            let Some(at) = name.find(part) else { return false };
            name = &name[at + part.len()..];
        }
        name.ends_with(last)
    }
}

impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, matching, others) in [
            ("*", &["a", "users"][..], &[][..]),
            ("users", &["users"], &["user", "users2", "Users"]),
            ("app-*", &["app-", "app-a", "app-a-b"], &["app", "xapp-a"]),
            ("*-log", &["-log", "a-log", "a-log-log"], &["log", "a-logs"]),
            ("a*c", &["ac", "abc", "a-c-c"], &["a", "ab", "abcd"]),
            ("a*b*c", &["abc", "a-b-c", "abbcbc"], &["acb", "ac", "bc"]),
            ("a**c", &["ac", "abc"], &["ab"]),
            ("ab*ba", &["abba", "ab-ba"], &["aba"]),
            ("*a*a*", &["aa", "xaxax"], &["a", "xax"]),
        ] {
            let pattern = TablePattern::parse(pattern).expect("a pattern");
            for name in matching {
                assert!(pattern.matches(name), "{pattern} {name}");
            }
            for name in others {
                assert!(!pattern.matches(name), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn a_pattern_that_no_table_can_match_is_refused() {
        for text in ["", "a b", "[ab]", "a?", "ä*", "a/b"] {
            assert!(TablePattern::parse(text).is_err(), "{text}");
        }
    }
}
