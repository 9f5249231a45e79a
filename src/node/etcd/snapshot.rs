//! The rows of a node at one instant, and reading pages of them as they were at an older revision.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    core::{
        etcd::{
            self,
            evaluate::{Page, Past, Rows, check_revision},
            request::{Keys, Problem},
            row::{self, Head, Named},
            select::Found,
        },
        json::Value,
        name::Key,
    },
    error::{Error, Result},
    replication::strong::revisions::{Revisions, checked_head, page},
    storage::Store,
};

/// The rows of this node at one instant.
#[derive(Clone)]
pub struct Snapshot {
    /// The store.
    pub store: Store,
    /// Its history, if it keeps one.
    pub revisions: Option<Arc<Revisions>>,
}

/// Some of the keys of a range, and where it goes on.
pub struct RangePage {
    /// The keys.
    pub found: Found,
    /// The keys behind them.
    pub next: Option<Keys>,
}

impl Snapshot {
    /// A page of keys as they were after a revision, or as they are if it is 0.
    pub fn range(
        &self,
        keys: &Keys,
        revision: i64,
        wanted: usize,
    ) -> Result<std::result::Result<(Head, RangePage), Problem>> {
        let head = checked_head(&self.store)?;
        let revision = if revision <= 0 { head.revision } else { revision };
        if let Err(problem) = check_revision(revision, head) {
            return Ok(Err(problem));
        }
        let page = match keys {
            Keys::One(key) => Page { rows: self.one(key)?.into_iter().collect(), last: None },
            Keys::Range(..) => {
                let (low, high) = row::bounds(keys);
                if low < high { self.page(&low, &high)? } else { Page::default() }
            }
        };
        // What is behind the last row is for the next page.
        let (here, next) = split(keys, page.last.as_ref());
        let past = match revision == head.revision {
            true => Past::new(),
            false => match self.past(&here, revision) {
                Ok(past) => past,
                Err(problem) => return Ok(Err(problem)),
            },
        };
        Ok(Ok((head, RangePage { found: found(page.rows, past, revision, wanted)?, next })))
    }

    fn one(&self, key: &[u8]) -> Result<Option<(Key, Value)>> {
        let Ok(name) = row::key(key) else { return Ok(None) };
        Ok(self.row(&name)?.map(|value| (name, value)))
    }
}

impl Rows for Snapshot {
    fn row(&self, key: &Key) -> Result<Option<Value>> {
        if !self.store.is_strong(etcd::table()) {
            return Ok(None);
        }
        Ok(self.store.get(etcd::table(), key)?.map(|entry| entry.value))
    }

    fn page(&self, low: &str, high: &str) -> Result<Page> {
        page(&self.store, low, high)
    }

    fn past(&self, keys: &Keys, revision: i64) -> std::result::Result<Past, Problem> {
        let history = self.revisions.as_ref().and_then(|revisions| revisions.history());
        history.map_or(Err(Problem::Compacted(revision + 1)), |history| history.past(keys, revision))
    }
}

/// The keys up to and with the last row of a page, and those behind it.
fn split(keys: &Keys, last: Option<&Key>) -> (Keys, Option<Keys>) {
    match (keys, last.and_then(Named::of)) {
        (Keys::Range(low, high), Some(Named::Key(mut last))) => {
            // The least key above another is that key and a zero byte.
            last.push(0);
            (Keys::Range(low.clone(), Some(last.clone())), Some(Keys::Range(last, high.clone())))
        }
        (keys, _) => (keys.clone(), None),
    }
}

/// The first keys of a page, as they were in the past where they are other now.
fn found(rows: Vec<(Key, Value)>, past: Past, revision: i64, wanted: usize) -> Result<Found> {
    let parse = |(key, value): (Vec<u8>, Value)| {
        let kv = row::parse_key(key, &value)?;
        // Rows of a snapshot of the log arrive in no order.
        match kv.mod_revision > revision {
            true => Err(Error::NotReady(
                "this node is being brought up to date; try again, or another node".into(),
            )),
            false => Ok(kv),
        }
    };
    let named = rows.into_iter().filter_map(|(key, value)| match Named::of(&key)? {
        Named::Key(key) => Some((key, value)),
        Named::Head | Named::Lease(_) | Named::Leased(..) => None,
    });
    if past.is_empty() {
        let rows: Vec<_> = named.collect();
        let count = rows.len() as i64;
        let kvs = rows.into_iter().take(wanted).map(parse).collect::<Result<_>>()?;
        return Ok(Found { kvs, count });
    }
    let same = named.filter(|(key, _)| !past.contains_key(key));
    let parsed = same.map(|(key, value)| Ok((key.clone(), parse((key, value))?)));
    let mut all = parsed.collect::<Result<BTreeMap<_, _>>>()?;
    all.extend(past.into_iter().filter_map(|(key, kv)| Some((key, kv?))));
    let count = all.len() as i64;
    Ok(Found { kvs: all.into_values().take(wanted).collect(), count })
}
