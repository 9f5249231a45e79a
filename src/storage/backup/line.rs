//! The lines of a backup, as a node sends them and as chunk files hold them: one JSON object each.
//!
//! ```text
//! {"backup":1,"node":"00..","cluster":"00..","version":"0.1.0"}
//! {"table":"users","key":"alice","version":"01..-00..","value":{"name":"Alice"},"expires_at":1790000000000}
//! {"table":"users","key":"bob","version":"01..-00..","deleted":true}
//! {"changes":true}
//! {"table":"users","key":"carol","removed":true}
//! {"end":true,"lines":4,...,"blake3":"<64 hexadecimal digits>"}
//! ```
//! Up to `changes` the rows are in the order of tables and [places](Place); behind it they are in none, and a row may come several times: its
//! last line counts. `removed` means that there is no row, not even a tombstone. The checksum covers all lines before the last.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::{
    core::{
        clock::Timestamp,
        json::Value,
        name::{Key, TableName},
        protocol::message::Row,
        register::{Payload, Register},
    },
    error::{Error, Result},
    storage::table::row::row_of,
};

/// The format of the lines.
pub const FORMAT: u64 = 1;
/// The line between the rows in order and those that changed meanwhile.
pub const CHANGES: &[u8] = b"{\"changes\":true}\n";

/// Where a row is in the order of a backup: by table, then as on disk, by partition and key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The table.
    pub table: String,
    /// Partition and key.
    pub row: Vec<u8>,
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    /// The format of the lines.
    pub backup: u64,
    /// The node.
    pub node: String,
    /// Its cluster.
    pub cluster: String,
    /// The version of the program.
    pub version: String,
}

/// The last line, without its checksum: what the rows are of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// When the rows were as the backup has them, in Unix milliseconds.
    pub made_ms: u64,
    /// The tables.
    pub tables: Vec<TableSummary>,
    /// The key that the roots of the tables are made with, in hexadecimal.
    pub digest_key: String,
    /// The node's own records, names and values in hexadecimal.
    pub records: Vec<(String, String)>,
    /// The file of the node's agreement, in hexadecimal; empty if there is none.
    pub agreement: String,
}

/// What a table has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSummary {
    /// Its name.
    pub name: String,
    /// Its mode.
    pub mode: Mode,
    /// Rows with a value.
    pub live: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// The digest of all rows, in hexadecimal.
    pub root: String,
}

/// How a table is replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Each node takes writes.
    Eventual,
    /// A majority agrees on one order of writes.
    Strong,
}

/// The last line as sent.
#[derive(Debug, Serialize, Deserialize)]
pub struct End {
    /// Always true.
    pub end: bool,
    /// How many lines came before.
    pub lines: u64,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "documented at its type")]
    pub last: Last,
    /// The checksum of all lines before.
    pub blake3: String,
}

/// A row of a line.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// A value or a tombstone.
    Row(TableName, Key, Register),
    /// There is no row of this key.
    Removed(TableName, Key),
}

/// The members of a line of a row.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members<'a> {
    #[serde(borrow)]
    table: Cow<'a, str>,
    #[serde(borrow)]
    key: Cow<'a, str>,
    version: Option<&'a str>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    expires_at: Option<u64>,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    removed: bool,
}

/// A value that is there, even if it is null.
fn present<'de, D: Deserializer<'de>>(value: D) -> std::result::Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// Appends the line of a row.
pub fn append_row(lines: &mut Vec<u8>, table: &TableName, row: &Row) {
    append_name(lines, table.as_str(), row.key.as_str());
    lines.extend_from_slice(format!(",\"version\":\"{}\"", row.marker.timestamp).as_bytes());
    match &row.payload {
        Payload::Deleted => lines.extend_from_slice(b",\"deleted\":true"),
        Payload::Live { value, expires_at_ms } => {
            lines.extend_from_slice(b",\"value\":");
            lines.extend_from_slice(value.as_str().as_bytes());
            if let Some(at_ms) = expires_at_ms {
                lines.extend_from_slice(format!(",\"expires_at\":{at_ms}").as_bytes());
            }
        }
    }
    lines.extend_from_slice(b"}\n");
}

/// Appends the line of a key that has no row.
pub fn append_removed(lines: &mut Vec<u8>, table: &str, key: &str) {
    append_name(lines, table, key);
    lines.extend_from_slice(b",\"removed\":true}\n");
}

fn append_name(lines: &mut Vec<u8>, table: &str, key: &str) {
    lines.extend_from_slice(b"{\"table\":");
    append_string(lines, table);
    lines.extend_from_slice(b",\"key\":");
    append_string(lines, key);
}

fn append_string(lines: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(lines, text).expect("text is valid JSON, and a vector has room");
}

/// A line of the node: the first or the last one.
pub fn render(line: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).expect("these types always encode");
    bytes.push(b'\n');
    bytes
}

/// Where the row of a line belongs.
///
/// # Errors
/// `Corrupt` if it is not the line of a row.
pub fn place(line: &[u8]) -> Result<Place> {
    let members = members(line)?;
    Ok(Place { row: row_of(&key(&members.key)?), table: members.table.into_owned() })
}

/// The row of a line.
///
/// # Errors
/// As `place`, and if the value is not JSON that this program would store.
pub fn parse(line: &[u8]) -> Result<Parsed> {
    let members = members(line)?;
    let invalid = |why: &dyn std::fmt::Display| wrong(line, why);
    let (table, key) = (TableName::parse(&members.table)?, key(&members.key)?);
    if members.removed {
        return Ok(Parsed::Removed(table, key));
    }
    let version = members.version.ok_or_else(|| invalid(&"it has no version"))?;
    let timestamp: Timestamp = version.parse().map_err(|error| invalid(&error))?;
    let payload = match (members.deleted, members.value) {
        (true, None) => Payload::Deleted,
        (false, Some(value)) => {
            let value = Value::trusted(value.get().to_owned());
            Payload::Live { value, expires_at_ms: members.expires_at }
        }
        (true, Some(_)) | (false, None) => return Err(invalid(&"it has no value, or one that is deleted")),
    };
    Ok(Parsed::Row(table, key, Register::new(payload, timestamp)))
}

fn members(line: &[u8]) -> Result<Members<'_>> {
    serde_json::from_slice(line).map_err(|error| wrong(line, &error))
}

fn key(text: &str) -> Result<Key> {
    Key::parse(text)
}

fn wrong(line: &[u8], why: &dyn std::fmt::Display) -> Error {
    let begin = String::from_utf8_lossy(&line[..line.len().min(120)]);
    Error::Corrupt(format!("a line of a backup is not a row: {why}: {begin}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::clock::NodeId;

    fn row(key: &str, payload: Payload) -> (TableName, Row) {
        let timestamp = Timestamp { hlc: 0x0123_4567_89ab_cdef, node: NodeId(7) };
        let register = Register::new(payload, timestamp);
        (TableName::parse("t").expect("a name"), Row::new(Key::parse(key).expect("a key"), register))
    }

    fn live(value: &str, expires_at_ms: Option<u64>) -> Payload {
        Payload::Live { value: Value::parse(value).expect("JSON"), expires_at_ms }
    }

    #[test]
    fn every_row_comes_back_from_its_line() {
        let payloads = [
            live("null", None),
            live(r#"{"a":[1,2.50,"\u00e9\n"]}"#, Some(9)),
            live("12345678901234567890.10", None),
            Payload::Deleted,
        ];
        for (number, payload) in payloads.into_iter().enumerate() {
            let (table, row) = row(&format!("k\"\n{number}"), payload);
            let mut line = Vec::new();
            append_row(&mut line, &table, &row);
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            let (key, register) = row.clone().into_register().expect("sound");
            assert_eq!(place(&line), Ok(Place { table: "t".into(), row: row_of(&key) }));
            assert_eq!(parse(&line), Ok(Parsed::Row(table, key, register)));
        }
        let mut line = Vec::new();
        append_removed(&mut line, "t", "k");
        assert!(matches!(parse(&line), Ok(Parsed::Removed(..))));
    }

    #[test]
    fn the_format_of_a_line_stays() {
        let (table, row) = row("k", live("[1]", Some(5)));
        let mut line = Vec::new();
        append_row(&mut line, &table, &row);
        let text = String::from_utf8(line).expect("text");
        assert_eq!(
            text,
            "{\"table\":\"t\",\"key\":\"k\",\"version\":\"0123456789abcdef-0000000000000007\",\"value\":[1],\"expires_at\":5}\n"
        );
    }

    #[test]
    fn what_is_not_a_row_is_refused() {
        let version = "\"version\":\"0123456789abcdef-0000000000000007\"";
        for line in [
            "".to_owned(),
            "{}".into(),
            "{\"table\":\"t\",\"key\":\"k\"}".into(),
            format!("{{\"table\":\"t\",\"key\":\"k\",{version}}}"),
            format!("{{\"table\":\"t\",\"key\":\"k\",{version},\"deleted\":true,\"value\":1}}"),
            format!("{{\"table\":\"t\",\"key\":\"\",{version},\"value\":1}}"),
            format!("{{\"table\":\"t\",\"key\":\"k\",{version},\"value\":1,\"more\":1}}"),
        ] {
            assert!(parse(line.as_bytes()).is_err(), "{line}");
        }
    }
}
