//! What is written: a value on the command line, from standard input, or from a file.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use serde_json::value::RawValue;

use super::usage;
use crate::cli::{Exit, remote::CommandError};

/// Most bytes read for a value or a batch: what a node takes as one body.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// The text that an argument means: `-` is standard input, `@FILE` a file, anything else the text itself.
pub fn text(argument: &str) -> Result<String, CommandError> {
    match (argument, argument.strip_prefix('@')) {
        ("-", _) => read("standard input", io::stdin().lock()),
        (_, Some(path)) => file(Path::new(path)),
        (_, None) => Ok(argument.to_owned()),
    }
}

/// The text of a file; `-` is standard input.
pub fn file(path: &Path) -> Result<String, CommandError> {
    if path == Path::new("-") {
        return read("standard input", io::stdin().lock());
    }
    let name = path.display().to_string();
    read(&name, fs::File::open(path).map_err(|error| cannot_read(&name, &error))?)
}

/// The JSON that an argument means. Text on the command line that is not JSON, and does not look as if it were meant to be, is a string.
pub fn value(argument: &str, is_string: bool) -> Result<Box<RawValue>, CommandError> {
    let text = text(argument)?;
    let string = || {
        let text = serde_json::to_string(&text).map_err(|error| usage(error.to_string()))?;
        RawValue::from_string(text).map_err(|error| usage(error.to_string()))
    };
    if is_string {
        return string();
    }
    let is_typed = argument != "-" && !argument.starts_with('@');
    match serde_json::from_str::<Box<RawValue>>(&text) {
        Ok(value) => Ok(value),
        Err(_) if is_typed && !text.trim_start().starts_with(['{', '[', '"']) => string(),
        Err(error) => {
            Err(usage(format!("the value is not JSON: {error}. To write it as a string, add --string")))
        }
    }
}

/// The JSON that an argument means, where a string would be a mistake: of a patch it would take the place of the whole value. `what` it is
/// to be.
pub fn json(argument: &str, what: &str) -> Result<Box<RawValue>, CommandError> {
    serde_json::from_str(&text(argument)?).map_err(|error| usage(format!("the {what} is not JSON: {error}")))
}

fn read(name: &str, mut source: impl Read) -> Result<String, CommandError> {
    let mut text = String::new();
    source
        .by_ref()
        .take(INPUT_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| cannot_read(name, &error))?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        return Err(usage(format!("{name} has more than {INPUT_BYTES_MAX} bytes: use DynaRust import")));
    }
    Ok(text)
}

fn cannot_read(name: &str, error: &io::Error) -> CommandError {
    CommandError { exit: Exit::Failure, why: format!("cannot read {name}: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_is_a_string_unless_it_was_meant_to_be_json() {
        for (argument, json) in [
            ("12", "12"),
            ("1.10", "1.10"),
            ("null", "null"),
            ("hello", "\"hello\""),
            ("a \"b\"", "\"a \\\"b\\\"\""),
            ("{\"a\": 1}", "{\"a\": 1}"),
            ("", "\"\""),
        ] {
            assert_eq!(value(argument, false).expect(argument).get(), json);
        }
        assert_eq!(value("12", true).expect("a string").get(), "\"12\"");
        for argument in ["{\"a\":", "[1", "\"open", "@/no/such/file"] {
            assert!(value(argument, false).is_err(), "{argument}");
        }
        assert_eq!(json("{\"a\": 1}", "patch").expect("JSON").get(), "{\"a\": 1}");
        assert!(json("hello", "patch").expect_err("no JSON").why.starts_with("the patch is not JSON: "));
    }
}
