//! What requests over REST and over WebSocket have in common: values, patches, where a subscription starts, and which keys to delete.

use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::path::Address;
use crate::{
    core::{json::Value, name::TableName},
    error::{Error, Result},
    node::{Cursor, Entry, Patch, Start},
};

/// What stands for all tables where a client says what to follow. No table can be named so.
pub const ALL_TABLES: &str = "*";

/// A value from its JSON text, within the limit on that text.
///
/// # Errors
/// `TooLarge`, or `BadJson` if it nests too deep or has a lone surrogate.
pub fn take_value(limit: u64, raw: &RawValue) -> Result<Value> {
    check_length(limit, raw)?;
    Value::from_raw(raw)
}

/// A patch from its JSON text: a list is a JSON Patch (RFC 6902), anything else a merge patch (RFC 7396). Merging a list means replacing
/// the value, which is what PUT does, so the two do not collide.
///
/// # Errors
/// As `take_value`.
pub fn take_patch(limit: u64, raw: &RawValue) -> Result<Patch> {
    let patch = take_value(limit, raw)?;
    if patch.as_str().starts_with('[') { Patch::json(patch) } else { Ok(Patch::Merge(patch)) }
}

/// As `take_value`, but accepts lone surrogates, for rows of old exports.
///
/// # Errors
/// `TooLarge`, or `BadJson` if it nests too deep.
pub fn take_lenient_value(limit: u64, raw: &RawValue) -> Result<Value> {
    check_length(limit, raw)?;
    Value::from_stored(raw)
}

fn check_length(limit: u64, raw: &RawValue) -> Result<()> {
    if raw.get().len() as u64 > limit {
        return Err(Error::TooLarge { what: "value", limit });
    }
    Ok(())
}

/// Deserializes a member that may be `null`, which differs from absent.
pub fn present<'de, D>(deserializer: D) -> std::result::Result<Option<&'de RawValue>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The error for an absent key.
pub fn absent(address: &Address) -> Error {
    Error::NotFound(format!("no key {:?} in table {}", address.key.as_str(), address.table))
}

/// `{"value":V,"version":...}`, with everything that REST puts in headers.
pub fn with_metadata(entry: &Entry) -> String {
    format!("{{\"value\":{},{}", entry.value.as_str(), &metadata(entry).to_string()[1..])
}

/// `{"version":...,"bytes":...}`: the metadata of a value and its length, without the value.
pub fn without_value(entry: &Entry) -> String {
    let mut metadata = metadata(entry);
    metadata["bytes"] = json!(entry.value.as_str().len());
    metadata.to_string()
}

fn metadata(entry: &Entry) -> serde_json::Value {
    let timestamp = entry.timestamp;
    json!({
        "version": timestamp.to_string(),
        "timestamp": timestamp.unix_ms(),
        "node": timestamp.node.to_string(),
        "expires_at": entry.expires_at_ms,
    })
}

/// The start of a subscription: after `cursor` if the client sent one, otherwise now, with or without a snapshot.
pub fn start_at(cursor: Option<&str>, snapshot: bool) -> Start {
    match (cursor, snapshot) {
        (Some(cursor), _) => Cursor::parse(cursor).map_or(Start::Resync, Start::After),
        (None, true) => Start::Snapshot,
        (None, false) => Start::Now,
    }
}

/// The prefix of the keys to delete; empty for all.
///
/// # Errors
/// `BadRequest` unless exactly one is given: a prefix, or the table's name to confirm deleting all keys.
pub fn prefix_of(table: &TableName, prefix: Option<&str>, confirm: Option<&str>) -> Result<String> {
    match (prefix, confirm) {
        (Some(prefix), None) if !prefix.is_empty() => Ok(prefix.to_owned()),
        (None, Some(confirm)) if confirm == table.as_str() => Ok(String::new()),
        (None, Some(confirm)) => Err(Error::BadRequest(format!(
            "confirm={confirm:?} is not the table's name: use confirm={table} to delete all its keys"
        ))),
        (Some(_), Some(_)) => Err(Error::BadRequest(
            "prefix and confirm exclude each other: prefix deletes the keys that start with it, confirm deletes all keys".into(),
        )),
        (Some(_) | None, None) => Err(Error::BadRequest(format!(
            "this deletes many keys: choose them with prefix=... (keys that start with it, not empty), or all with confirm={table}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_to_delete_are_given_in_one_way() {
        let table = TableName::parse("t").expect("a name");
        let of = |prefix, confirm| prefix_of(&table, prefix, confirm);
        assert_eq!(of(Some("p"), None), Ok("p".into()));
        assert_eq!(of(None, Some("t")), Ok(String::new()));
        for (prefix, confirm) in
            [(None, None), (Some(""), None), (Some("p"), Some("t")), (None, Some("other")), (None, Some(""))]
        {
            assert!(matches!(of(prefix, confirm), Err(Error::BadRequest(_))), "{prefix:?} {confirm:?}");
        }
    }
}
