//! Reading the rows as they are in the midst of a request: those before it, and over them what it has changed so far.

use super::{Page, Rows, Step, Stepped, cost};
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
    pub(super) fn key(&self, key: &[u8]) -> Stepped<Option<KeyValue>> {
        let Ok(name) = row::key(key) else { return Ok(None) };
        let Some(value) = self.row(&name)? else { return Ok(None) };
        self.add_scanned(value.as_str().len())?;
        Ok(Some(row::parse_key(key.to_vec(), &value)?))
    }

    pub(super) fn found(&self, keys: &Keys, wanted: usize) -> Stepped<Found> {
        let mut found = Found::default();
        if let Keys::One(key) = keys {
            found.kvs.extend(self.key(key)?);
            found.count = found.kvs.len() as i64;
            found.kvs.truncate(wanted);
            self.add_bytes(found.kvs.iter().map(cost).sum())?;
            return Ok(found);
        }
        self.each_row(keys, true, &mut |key, value| {
            found.count += 1;
            // What is only counted is not parsed.
            if found.kvs.len() < wanted {
                let kv = row::parse_key(key, value)?;
                self.add_bytes(cost(&kv))?;
                found.kvs.push(kv);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Calls `take` with keys as they are now, in order.
    pub(super) fn each_key(
        &self,
        keys: &Keys,
        take: &mut impl FnMut(KeyValue) -> Stepped<()>,
    ) -> Stepped<()> {
        match keys {
            Keys::One(key) => self.key(key)?.map_or(Ok(()), take),
            Keys::Range(..) => self.each_row(keys, true, &mut |key, value| take(row::parse_key(key, value)?)),
        }
    }

    /// Calls `take` with the rows of keys, in order; with those that this request has changed as they are now if `now`.
    pub(super) fn each_row(
        &self,
        keys: &Keys,
        now: bool,
        take: &mut impl FnMut(Vec<u8>, &Value) -> Stepped<()>,
    ) -> Stepped<()> {
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
        self.each_page(&low, &high, &mut |page| {
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

    /// Calls `take` with the pages of rows at or above `low` and below `high`.
    pub(super) fn each_page(
        &self,
        low: &str,
        high: &str,
        take: &mut impl FnMut(Vec<(Key, Value)>) -> Stepped<()>,
    ) -> Stepped<()> {
        let mut low = low.to_owned();
        while low.as_str() < high {
            let Page { rows, last } = self.rows.page(&low, high)?;
            // Those that are skipped cost as much time.
            self.add_scanned(
                rows.iter().map(|(key, value)| key.as_str().len() + value.as_str().len()).sum(),
            )?;
            take(rows)?;
            let Some(last) = last else { return Ok(()) };
            // The least name above another is that name and a zero byte.
            low = format!("{}\0", last.as_str());
        }
        Ok(())
    }
}
