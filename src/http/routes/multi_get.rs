//! `POST /{table}/keys`: the values of several keys in one response.

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use serde::Deserialize;
use serde_json::value::RawValue;
use warp::reply::Response;

use super::listing::{self, Fields};
use crate::{
    core::{
        access::{Right, Touched},
        name::{Key, TableName},
    },
    error::{Error, Result},
    http::{
        request::{Call, body, consistency},
        response::{
            self,
            chunks::{self, Chunk, Chunks},
        },
    },
    node::{Node, strong::Consistency},
};

/// The body of a multi-get, if it is an object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a list of keys, or {\"keys\": [...]}")]
struct MultiGetBody<'a> {
    #[serde(borrow)]
    keys: &'a RawValue,
}

/// `POST /{table}/keys`
///
/// # Errors
/// `BadJson`, `BadName`, `TooLarge`, `TooManyOperations`, `Overloaded`.
pub async fn answer(node: Arc<Node>, call: &Call, table: TableName) -> Result<Response> {
    let fields = if call.query().flag("meta")? { Fields::ValueAndMeta } else { Fields::Value };
    let bytes = body::read(call, call.connection.options.body_bytes_max).await?;
    let keys_max = call.connection.options.batch_ops_max;
    let keys = body::parse_aside(bytes.len(), || keys(body::without_bom(&bytes), keys_max))?;
    drop(bytes);
    keys.iter().try_for_each(|key| call.principal().check(Right::Read, Touched::Key(&table, key)))?;
    let consistency = consistency::before_read(&node, call, &table).await?;
    let keys = keys.into_iter();
    let chunks = MultiGet {
        node,
        table,
        keys,
        fields,
        consistency,
        has_rows: false,
        opened: false,
        incomplete: false,
        ended: false,
    };
    let answer = chunks::answer(call, response::JSON, chunks).await?;
    Ok(response::with_consistency(answer, consistency))
}

/// The requested keys, in order and without duplicates.
fn keys(body: &[u8], keys_max: usize) -> Result<Vec<Key>> {
    let (mut keys, mut seen) = (Vec::new(), HashSet::new());
    let add = |name: Cow<'_, str>| {
        let key = Key::parse(&name)?;
        // A duplicate key would occur twice in the object.
        if seen.insert(key.clone()) {
            if keys.len() == keys_max {
                return Err(Error::TooManyOperations { what: "keys", limit: keys_max });
            }
            keys.push(key);
        }
        Ok(())
    };
    if body.trim_ascii_start().starts_with(b"[") {
        body::for_each_item(body, add)?;
    } else {
        body::for_each_item(body::parse_object::<MultiGetBody>(body)?.keys.get().as_bytes(), add)?;
    }
    Ok(keys)
}

/// A running multi-get.
struct MultiGet {
    node: Arc<Node>,
    table: TableName,
    /// What remains.
    keys: std::vec::IntoIter<Key>,
    fields: Fields,
    consistency: Consistency,
    has_rows: bool,
    opened: bool,
    /// Whether one of the keys could not be read.
    incomplete: bool,
    ended: bool,
}

impl Chunks for MultiGet {
    async fn next(&mut self) -> Result<Chunk> {
        if self.ended {
            return Err(listing::unreadable(&self.table));
        }
        let mut bytes = if std::mem::replace(&mut self.opened, true) { Vec::new() } else { vec![b'{'] };
        let entries = self.node.get_many(&self.table, self.keys.as_slice(), self.consistency).await?;
        for (entry, key) in entries.into_iter().zip(self.keys.by_ref()) {
            let Ok(entry) = entry else {
                self.incomplete = true;
                continue;
            };
            let Some(entry) = entry else { continue };
            if std::mem::replace(&mut self.has_rows, true) {
                bytes.push(b',');
            }
            listing::append_string(&mut bytes, key.as_str());
            bytes.push(b':');
            self.fields.append(&mut bytes, &entry);
        }
        self.ended = self.keys.as_slice().is_empty();
        if self.ended && !self.incomplete {
            bytes.push(b'}');
        }
        Ok(Chunk { bytes, last: self.ended && !self.incomplete })
    }

    fn is_incomplete(&self) -> bool {
        self.incomplete
    }
}
