//! What each kind of operation does.

use std::collections::BTreeMap;

use super::{Page, Past, Rows, Step, Stepped, check_revision, cost};
use crate::core::etcd::{
    check::TTL_S_MAX,
    request::{Body, Delete, KeyValue, Problem, Put, Range},
    row::{self, Granted, Head, Named},
    select::{Found, select, wanted},
};

/// The shortest that a lease lasts, in seconds: etcd's with its default election timeout.
pub const TTL_S_MIN: i64 = 2;
/// Most keys of a lease that one step of its end deletes: with the longest keys, half of what an entry of the log takes. One with no more ends in
/// one revision, as in etcd.
pub const REVOKED_KEYS_MAX: usize = 2_000;

impl<R: Rows> Step<'_, R> {
    pub(super) fn range(&mut self, range: &Range) -> Stepped<Body> {
        let found = if range.revision <= 0 {
            self.found(&range.keys, wanted(range))?
        } else {
            check_revision(range.revision, Head { revision: self.revision(), ..self.before })?;
            if range.revision == self.revision() {
                self.found(&range.keys, wanted(range))?
            } else {
                self.found_in_past(range)?
            }
        };
        Ok(Body::Range(select(range, found)))
    }

    fn found_in_past(&self, range: &Range) -> Stepped<Found> {
        let past = match range.revision == self.before.revision {
            true => Past::new(),
            false => self.rows.past(&range.keys, range.revision)?,
        };
        let mut kvs = BTreeMap::new();
        self.each_row(&range.keys, false, &mut |key, value| {
            if !past.contains_key(&key) {
                let kv = row::parse_key(key, value)?;
                self.add_bytes(cost(&kv))?;
                kvs.insert(kv.key.clone(), kv);
            }
            Ok(())
        })?;
        kvs.extend(past.into_iter().filter_map(|(key, kv)| Some((key, kv?))));
        let count = kvs.len() as i64;
        Ok(Found { kvs: kvs.into_values().take(wanted(range)).collect(), count })
    }

    pub(super) fn put(&mut self, put: &Put) -> Stepped<Body> {
        let before = self.key(&put.key)?;
        let (mut value, mut lease) = (put.value.clone(), put.lease);
        if put.ignore_value || put.ignore_lease {
            let before = before.as_ref().ok_or(Problem::KeyNotFound)?;
            if put.ignore_value {
                value.clone_from(&before.value);
            }
            if put.ignore_lease {
                lease = before.lease;
            }
        }
        let revision = self.before.revision + 1;
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: before.as_ref().map_or(revision, |before| before.create_revision),
            mod_revision: revision,
            version: before.as_ref().map_or(0, |before| before.version) + 1,
            value,
            lease,
        };
        self.change(row::key(&put.key)?, Some(row::key_value(&kv)))?;
        let lease_before = before.as_ref().map_or(0, |before| before.lease);
        if lease != lease_before {
            self.detach(lease_before, &put.key)?;
            if lease != 0 {
                self.change(row::leased(lease, &put.key), Some(row::leased_value()))?;
            }
        }
        Ok(Body::Put(before.filter(|_| put.prev_kv)))
    }

    pub(super) fn delete(&mut self, delete: &Delete) -> Stepped<Body> {
        let mut before = Vec::new();
        self.each_key(&delete.keys, &mut |mut kv| {
            if !delete.prev_kv {
                kv.value.clear();
                kv.value.shrink_to_fit();
            }
            self.add_bytes(cost(&kv))?;
            before.push(kv);
            Ok(())
        })?;
        for kv in &before {
            self.change(row::key(&kv.key)?, None)?;
            self.detach(kv.lease, &kv.key)?;
        }
        Ok(Body::Delete(before.len() as i64, if delete.prev_kv { before } else { Vec::new() }))
    }

    fn detach(&mut self, lease: i64, key: &[u8]) -> Stepped<()> {
        match lease {
            0 => Ok(()),
            lease => self.change(row::leased(lease, key), None),
        }
    }

    pub(super) fn compact(&mut self, revision: i64) -> Stepped<Body> {
        if revision <= self.head.compacted {
            return Err(Problem::Compacted(self.head.compacted).into());
        }
        if revision > self.head.revision {
            return Err(Problem::FutureRevision.into());
        }
        self.head.compacted = revision;
        Ok(Body::Compacted)
    }

    pub(super) fn grant(&mut self, id: i64, ttl_s: i64) -> Stepped<Body> {
        if id == 0 {
            return Err(Problem::LeaseNotFound.into());
        }
        if ttl_s > TTL_S_MAX {
            return Err(Problem::TtlTooLarge.into());
        }
        let key = row::lease(id);
        if self.row(&key)?.is_some() {
            return Err(Problem::LeaseExists.into());
        }
        let ttl_s = ttl_s.max(TTL_S_MIN);
        self.change(key, Some(Granted::new(ttl_s).value()))?;
        Ok(Body::Granted(ttl_s))
    }

    /// Ends a lease. Of one with very many keys it deletes some, and notes how far that is: a lease that has begun to end takes no more keys, and
    /// whoever leads goes on.
    pub(super) fn revoke(&mut self, id: i64) -> Stepped<Body> {
        let lease = row::lease(id);
        let Some(value) = self.row(&lease)? else { return Err(Problem::LeaseNotFound.into()) };
        let granted = Granted::of(&value)?;
        let (keys, has_more) = self.first_keys(row::left_bounds(id, &granted))?;
        for key in &keys {
            self.change(row::key(key)?, None)?;
            self.change(row::leased(id, key), None)?;
        }
        match keys.last().filter(|_| has_more) {
            Some(last) => {
                self.change(lease, Some(granted.revoked_up_to(last).value()))?;
                Ok(Body::Revoking)
            }
            None => {
                self.change(lease, None)?;
                Ok(Body::Revoked)
            }
        }
    }

    /// Goes on with ending a lease, if it has begun to end. Somebody else may have gone on already, and the id may be that of another lease since.
    pub(super) fn continue_revoke(&mut self, id: i64) -> Stepped<Body> {
        let granted = self.row(&row::lease(id))?.map(|value| Granted::of(&value)).transpose()?;
        match granted.is_some_and(|granted| granted.revoked.is_some()) {
            true => self.revoke(id),
            false => Ok(Body::Revoked),
        }
    }

    /// The first keys of a lease, and whether there are more.
    fn first_keys(&self, (mut low, high): (String, String)) -> Stepped<(Vec<Vec<u8>>, bool)> {
        let mut keys = Vec::new();
        loop {
            let Page { rows, last } = self.rows.page(&low, &high)?;
            for (name, _) in rows {
                let Some(Named::Leased(_, key)) = Named::of(&name) else { continue };
                if keys.len() == REVOKED_KEYS_MAX {
                    return Ok((keys, true));
                }
                keys.push(key);
            }
            let Some(last) = last else { return Ok((keys, false)) };
            low = format!("{}\0", last.as_str());
        }
    }
}
