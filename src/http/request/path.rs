//! Which resource a path names, and the table and key in it. We parse paths ourselves and not with warp, because keys are percent-decoded,
//! may contain slashes, and may end in a slash that never makes an alias of another path.
//!
//! Each function returns `None` if the path names something else, and an error if it names this resource incorrectly.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::{
    core::name::{Key, TableName},
    error::{Error, Result},
};

/// The table of keys addressed without one: `/key/{key}`.
const DEFAULT_TABLE: &str = "default";

/// One key of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The table.
    pub table: TableName,
    /// The key.
    pub key: Key,
}

/// `/{table}/{noun}/{key}`. For the noun `key` also `/key/{key}`, a key of the default table, which comes first.
pub fn keyed(path: &str, noun: &str) -> Option<Result<Address>> {
    let path = path.strip_prefix('/')?;
    let (first, rest) = path.split_once('/')?;
    let (table, key) = match first {
        // No table can be named `key`, so whatever follows is a key: `/key/key/x` is the key `key/x`.
        "key" if noun == "key" => (DEFAULT_TABLE, rest),
        "key" | "_" => return None,
        table => (table, rest.strip_prefix(noun)?.strip_prefix('/')?),
    };
    Some(address(table, key))
}

/// `/{table}/{noun}`.
pub fn collection(path: &str, noun: &str) -> Option<Result<TableName>> {
    let (table, rest) = path.strip_prefix('/')?.split_once('/')?;
    (rest == noun && !matches!(table, "key" | "_")).then(|| self::table(table))
}

/// `/_/tables/{table}`. Without a name it is the path of nothing.
pub fn table_of_catalogue(path: &str) -> Option<Result<TableName>> {
    let name = path.strip_prefix("/_/tables/")?;
    (!name.is_empty()).then(|| table(name))
}

/// `/{table}`. Returns `None` for a segment that is not a table name, so that other routes see it.
pub fn table_alone(path: &str) -> Option<Result<TableName>> {
    let table = path.strip_prefix('/')?;
    let is_one_segment = !table.is_empty() && !table.contains('/');
    if is_one_segment { self::table(table).ok().map(Ok) } else { None }
}

/// Decodes a percent-encoded segment or parameter.
///
/// # Errors
/// What is wrong with it; the caller adds which part it is.
pub fn decode(text: &str) -> std::result::Result<Cow<'_, str>, String> {
    let bytes = text.as_bytes();
    if !bytes.contains(&b'%') {
        return Ok(Cow::Borrowed(text));
    }
    for at in percent_signs(bytes) {
        let digits = bytes.get(at + 1..at + 3).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
        if !digits {
            return Err(format!(
                "the % at byte {at} is not followed by two hexadecimal digits; write %25 for %"
            ));
        }
    }
    percent_decode_str(text).decode_utf8().map_err(|_| "its bytes are not UTF-8".into())
}

fn percent_signs(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%').map(|(at, _)| at)
}

fn address(table: &str, key: &str) -> Result<Address> {
    let table = self::table(table)?;
    let key = Key::parse(&decode(key).map_err(Error::BadKey)?)?;
    Ok(Address { table, key })
}

fn table(segment: &str) -> Result<TableName> {
    let name = decode(segment).map_err(|why| Error::BadName(format!("the table name is not text: {why}")))?;
    TableName::parse(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(path: &str) -> Option<std::result::Result<(String, String), Error>> {
        keyed(path, "key").map(|found| found.map(|it| (it.table.to_string(), it.key.to_string())))
    }

    #[test]
    fn a_key_is_decoded_and_keeps_its_slashes() {
        let cases = [
            ("/t/key/a", "t", "a"),
            ("/t/key/a/b", "t", "a/b"),
            ("/t/key/a%2Fb", "t", "a/b"),
            ("/t/key/a/", "t", "a/"),
            ("/t/key//", "t", "/"),
            ("/t/key/a+b", "t", "a+b"),
            ("/t/key/%F0%9F%A6%80", "t", "🦀"),
            ("/t/key/%00", "t", "\0"),
            ("/key/a/b", "default", "a/b"),
            ("/key/key/x", "default", "key/x"),
            ("/key/keys", "default", "keys"),
        ];
        for (path, table, key) in cases {
            assert_eq!(key_of(path), Some(Ok((table.into(), key.into()))), "{path}");
        }
    }

    #[test]
    fn a_path_with_an_invalid_key_is_an_error() {
        for path in ["/t/key/%", "/t/key/%4", "/t/key/%gg", "/t/key/%FF"] {
            assert!(matches!(key_of(path), Some(Err(Error::BadKey(_)))), "{path}");
        }
        for path in ["/..%2Fx/key/a", "/../key/a", "/a%2/key/a", "//key/a", "/t/key/", "/key/", "/t%20/key/a"]
        {
            assert!(matches!(key_of(path), Some(Err(Error::BadName(_)))), "{path}");
        }
    }

    #[test]
    fn other_paths_do_not_name_a_key() {
        for path in ["", "*", "/", "/t", "/t/", "/t/key", "/t/keys", "/key", "/_/key/a", "/t/keyring/a"] {
            assert_eq!(key_of(path), None, "{path}");
        }
    }

    #[test]
    fn a_collection_has_no_trailing_slash() {
        assert_eq!(collection("/t/keys", "keys"), Some(TableName::parse("t")));
        for path in ["/t/keys/", "/t//keys", "/keys", "/key/keys", "/_/keys", "/t/key", "/t/keys/a"] {
            assert_eq!(collection(path, "keys"), None, "{path}");
        }
        assert!(matches!(collection("/..%2Fx/keys", "keys"), Some(Err(Error::BadName(_)))));
    }
}
