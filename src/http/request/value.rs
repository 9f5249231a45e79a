//! What requests over REST and over a WebSocket have in common: values, patches, where a subscription begins, and which keys are to be
//! deleted.

use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::path::Address;
use crate::{
    core::{json::Value, name::TableName},
    error::{Error, Result},
    node::{Cursor, Entry, Patch, Start},
};

/// A value from its JSON text as sent, within the limit on that.
///
/// # Errors
/// `TooLarge`, or `BadJson` where it nests too deep or has a lone surrogate.
pub fn take_value(limit: u64, raw: &RawValue) -> Result<Value> {
    check_length(limit, raw)?;
    Value::from_raw(raw)
}

/// A patch from its JSON text: a list is RFC 6902, anything else RFC 7396. To merge a list is to put it, so the two do not collide.
///
/// # Errors
/// As `take_value`.
pub fn take_patch(limit: u64, raw: &RawValue) -> Result<Patch> {
    let patch = take_value(limit, raw)?;
    Ok(if patch.as_str().starts_with('[') { Patch::Json(patch) } else { Patch::Merge(patch) })
}

/// As `take_value`, but takes lone surrogates: for rows of old exports.
///
/// # Errors
/// `TooLarge`, or `BadJson` where it nests too deep.
pub fn take_lenient_value(limit: u64, raw: &RawValue) -> Result<Value> {
    check_length(limit, raw)?;
    Value::from_old(raw)
}

fn check_length(limit: u64, raw: &RawValue) -> Result<()> {
    if raw.get().len() as u64 > limit {
        return Err(Error::TooLarge { what: "value", limit });
    }
    Ok(())
}

/// For a member that may be `null`, which is not the same as absent.
pub fn present<'de, D>(deserializer: D) -> std::result::Result<Option<&'de RawValue>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// What a reader is told where there is nothing.
pub fn absent(address: &Address) -> Error {
    Error::NotFound(format!("no key {:?} in table {}", address.key.as_str(), address.table))
}

/// `{"value":V,"version":...}`, what REST has in headers included.
pub fn with_metadata(entry: &Entry) -> String {
    format!("{{\"value\":{},{}", entry.value.as_str(), &metadata_only(entry)[1..])
}

/// `{"version":...}`: what is known about a value, without the value.
pub fn metadata_only(entry: &Entry) -> String {
    let timestamp = entry.timestamp;
    json!({
        "version": timestamp.to_string(),
        "timestamp": timestamp.unix_ms(),
        "node": timestamp.node.to_string(),
        "expires_at": entry.expires_at_ms,
    })
    .to_string()
}

/// Where a subscription begins that has seen all up to `cursor`, if it says so.
pub fn start_at(cursor: Option<&str>, snapshot: bool) -> Start {
    match (cursor, snapshot) {
        (Some(cursor), _) => Cursor::parse(cursor).map_or(Start::Resync, Start::After),
        (None, true) => Start::Snapshot,
        (None, false) => Start::Now,
    }
}

/// What the keys to be deleted begin with, empty for all.
///
/// # Errors
/// `BadRequest` unless it is said once, and for all keys by the table's name.
pub fn prefix_of(table: &TableName, prefix: Option<&str>, confirm: Option<&str>) -> Result<String> {
    match (prefix, confirm) {
        (Some(prefix), None) if !prefix.is_empty() => Ok(prefix.to_owned()),
        (None, Some(confirm)) if confirm == table.as_str() => Ok(String::new()),
        (None, Some(confirm)) => Err(Error::BadRequest(format!(
            "confirm={confirm:?} is not the table's name: confirm={table} deletes all of its keys"
        ))),
        (Some(_), Some(_)) => Err(Error::BadRequest(
            "prefix and confirm exclude each other: prefix deletes the keys that begin so, confirm all of them".into(),
        )),
        (Some(_) | None, None) => Err(Error::BadRequest(format!(
            "this deletes many keys: say which, by prefix=... (the keys that begin so, not empty) or by confirm={table} (all of them)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_deleted_is_said_once() {
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
