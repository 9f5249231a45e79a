//! Reading the rows as they are in the midst of a request: those before it, and over them what it has changed so far.

use super::{Page, Rows, Step};
use crate::{
    core::{
        etcd::{
            request::{KeyValue, Keys},
            row::{self, Named},
            select::Found,
        },
        json::Value,
        name::Key,
    },
    error::Result,
};

impl<R: Rows> Step<'_, R> {
    pub(super) fn row(&self, key: &Key) -> Result<Option<Value>> {
        match self.changed.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.rows.row(key),
        }
    }

    /// A key that is too long is absent.
    pub(super) fn key(&self, key: &[u8]) -> Result<Option<KeyValue>> {
        let Ok(name) = row::key(key) else { return Ok(None) };
        self.row(&name)?.map(|value| row::parse_key(key.to_vec(), &value)).transpose()
    }

    pub(super) fn found(&self, keys: &Keys, wanted: usize) -> Result<Found> {
        let mut found = Found::default();
        if let Keys::One(key) = keys {
            found.kvs.extend(self.key(key)?);
            found.count = found.kvs.len() as i64;
            found.kvs.truncate(wanted);
            return Ok(found);
        }
        self.each_row(keys, true, &mut |key, value| {
            found.count += 1;
            if found.kvs.len() < wanted {
                found.kvs.push(row::parse_key(key, value)?);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Calls `take` with the rows of keys, in order; with those that this request has changed as they are now if `now`.
    pub(super) fn each_row(
        &self,
        keys: &Keys,
        now: bool,
        take: &mut impl FnMut(Vec<u8>, &Value) -> Result<()>,
    ) -> Result<()> {
        let (low, high) = row::bounds(keys);
        let mut changed = self
            .changed
            .iter()
            .filter(|(key, _)| now && (low.as_str()..high.as_str()).contains(&key.as_str()))
            .peekable();
        let mut take_row = |key: &Key, value: Option<&Value>| match (Named::of(key), value) {
            (Some(Named::Key(key)), Some(value)) => take(key, value),
            _ => Ok(()),
        };
        each_page(self.rows, &low, &high, &mut |page| {
            for (key, value) in page {
                while let Some((changed, value)) = changed.next_if(|(changed, _)| **changed < key) {
                    take_row(changed, value.as_ref())?;
                }
                match changed.next_if(|(changed, _)| **changed == key) {
                    Some((key, value)) => take_row(key, value.as_ref())?,
                    None => take_row(&key, Some(&value))?,
                }
            }
            Ok(())
        })?;
        changed.try_for_each(|(key, value)| take_row(key, value.as_ref()))
    }
}

/// Calls `take` with the pages of rows at or above `low` and below `high`.
pub(super) fn each_page(
    rows: &impl Rows,
    low: &str,
    high: &str,
    take: &mut impl FnMut(Vec<(Key, Value)>) -> Result<()>,
) -> Result<()> {
    let mut low = low.to_owned();
    while low.as_str() < high {
        let Page { rows, last } = rows.page(&low, high)?;
        take(rows)?;
        let Some(last) = last else { return Ok(()) };
        // The least name above another is that name and a zero byte.
        low = format!("{}\0", last.as_str());
    }
    Ok(())
}
