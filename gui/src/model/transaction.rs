//! Transactions as lines of text, and what is wrong with a line.
//!
//! ```text
//! check kv account/1 value 100
//! set kv account/1 ttl 1h 90
//! else
//! get kv account/1
//! ```

use super::{json, time};
use crate::message::{Expected, Expiry, Operation, Place, Transaction};

/// As many comparisons, and operations in each list, as the node takes.
const OPERATIONS_MAX: usize = 128;

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

impl std::fmt::Display for LineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

/// The transaction in a text.
///
/// # Errors
/// What is wrong with each line that is wrong.
pub fn parse(text: &str) -> Result<Transaction, Vec<LineError>> {
    let mut transaction = Transaction::default();
    let mut errors = Vec::new();
    let mut is_else = false;
    let mut last = 0;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        last = at + 1;
        if let Err(why) = add(line, &mut transaction, &mut is_else) {
            errors.push(LineError { line: last, why });
        }
    }
    let is_empty = transaction.success.is_empty() && transaction.failure.is_empty();
    if errors.is_empty() && is_empty {
        errors.push(LineError {
            line: last.max(1),
            why: "there is nothing to do: write set, delete or get".into(),
        });
    }
    if errors.is_empty() { Ok(transaction) } else { Err(errors) }
}

fn add(line: &str, transaction: &mut Transaction, is_else: &mut bool) -> Result<(), String> {
    let (verb, rest) = word(line)?;
    if verb == "else" {
        return match (std::mem::replace(is_else, true), rest) {
            (true, _) => Err("there is an else above".into()),
            (false, "") => Ok(()),
            (false, _) => Err("else stands alone on its line".into()),
        };
    }
    if verb == "check" {
        if *is_else {
            return Err("checks stand above else".into());
        }
        let (place, rest) = place(rest)?;
        let expected = expected(rest)?;
        return push(&mut transaction.checks, (place, expected), "checks");
    }
    let operation = operation(&verb, rest)?;
    let list = if *is_else { &mut transaction.failure } else { &mut transaction.success };
    push(list, operation, "operations")
}

fn push<T>(list: &mut Vec<T>, item: T, what: &str) -> Result<(), String> {
    if list.len() == OPERATIONS_MAX {
        return Err(format!("too many {what}: at most {OPERATIONS_MAX}"));
    }
    list.push(item);
    Ok(())
}

fn operation(verb: &str, rest: &str) -> Result<Operation, String> {
    if !["set", "delete", "get"].contains(&verb) {
        return Err(format!("{verb:?} is unknown: a line begins with check, set, delete, get or else"));
    }
    let (place, rest) = place(rest)?;
    match verb {
        "set" => {
            let (expiry, value) = expiry(rest)?;
            Ok(Operation::Set(place, value_of(value)?, expiry))
        }
        _ if !rest.is_empty() => Err(format!("nothing comes after the key, and {rest:?} does")),
        "delete" => Ok(Operation::Delete(place)),
        _ => Ok(Operation::Get(place)),
    }
}

/// `ttl 30s` before a value.
fn expiry(text: &str) -> Result<(Expiry, &str), String> {
    let Some(rest) = text.strip_prefix("ttl ") else { return Ok((Expiry::Never, text)) };
    let (ttl, rest) = word(rest)?;
    Ok((Expiry::After(time::parse_ttl(&ttl)?), rest))
}

fn expected(text: &str) -> Result<Expected, String> {
    let (what, rest) = word(text).map_err(|_| wrong_check())?;
    match (what.as_str(), rest) {
        ("exists", "") => Ok(Expected::Exists(true)),
        ("absent", "") => Ok(Expected::Exists(false)),
        ("version", version) if !version.is_empty() && !version.contains(' ') => {
            Ok(Expected::Version(version.to_owned()))
        }
        ("value", value) => value_of(value).map(Expected::Json),
        _ => Err(wrong_check()),
    }
}

fn wrong_check() -> String {
    "after the key of a check comes exists, absent, version VERSION or value JSON".into()
}

fn value_of(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("the value is missing: JSON after the key".into());
    }
    match json::check(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(mark) => Err(format!("the value is no JSON at its column {}: {}", mark.column, mark.why)),
    }
}

fn place(text: &str) -> Result<(Place, &str), String> {
    if text.is_empty() {
        return Err("a table and a key are missing, as in: set TABLE KEY JSON".into());
    }
    let (table, rest) = word(text)?;
    if rest.is_empty() {
        return Err(format!("the key is missing after the table {table:?}"));
    }
    let (key, rest) = word(rest)?;
    Ok((Place { table, key }, rest))
}

/// The first word of a text, which may be a JSON string, and what comes after it.
fn word(text: &str) -> Result<(String, &str), String> {
    let text = text.trim_start();
    if text.starts_with('"') {
        let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
        return match strings.next() {
            Some(Ok(word)) => Ok((word, text[strings.byte_offset()..].trim_start())),
            _ => Err("a name in quotes does not end, or has a wrong escape".into()),
        };
    }
    match text.split_once(char::is_whitespace) {
        Some((word, rest)) => Ok((word.to_owned(), rest.trim_start())),
        None if text.is_empty() => Err("a word is missing".into()),
        None => Ok((text.to_owned(), "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(table: &str, key: &str) -> Place {
        Place { table: table.into(), key: key.into() }
    }

    #[test]
    fn lines_are_checks_operations_and_those_after_else() {
        let text = "# move\ncheck kv a value {\"n\": 1}\ncheck kv \"b c\" absent\ncheck t d version v1\n\n\
                    set kv a ttl 1h 2\n  delete kv \"b c\"\nget t d\nelse\nget kv a";
        let expected = Transaction {
            checks: vec![
                (place("kv", "a"), Expected::Json("{\"n\": 1}".into())),
                (place("kv", "b c"), Expected::Exists(false)),
                (place("t", "d"), Expected::Version("v1".into())),
            ],
            success: vec![
                Operation::Set(place("kv", "a"), "2".into(), Expiry::After(3_600_000)),
                Operation::Delete(place("kv", "b c")),
                Operation::Get(place("t", "d")),
            ],
            failure: vec![Operation::Get(place("kv", "a"))],
        };
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn each_wrong_line_is_named() {
        let text = "put kv a 1\nset kv\nset kv a\nset kv a {\"x\":}\ncheck kv a is 1\ndelete kv a b\nset kv a ttl soon 1\n\
                    else\ncheck kv a exists\nelse\nget kv \"a";
        let errors = parse(text).expect_err("wrong");
        let expected = [
            (1, "\"put\" is unknown"),
            (2, "the key is missing"),
            (3, "the value is missing"),
            (4, "column 6"),
            (5, "exists, absent"),
            (6, "nothing comes after"),
            (7, "90s or 1h 30m"),
            (9, "above else"),
            (10, "an else above"),
            (11, "quotes"),
        ];
        assert_eq!(errors.len(), expected.len(), "{errors:?}");
        for (error, (line, word)) in errors.iter().zip(expected) {
            assert!(error.line == line && error.why.contains(word), "{error} for {line}: {word}");
        }
        assert_eq!(parse("check kv a exists").expect_err("nothing to do")[0].line, 1);
        let many = "get kv a\n".repeat(129);
        assert_eq!(parse(&many).expect_err("too many")[0].line, 129);
    }
}
