//! The simple model: a copy of all keys for each revision.

use std::collections::BTreeMap;

use dynarust::core::etcd::request::{
    Answer, Body, Compare, KeyValue, Keys, Operation, Order, Outcome, Problem, Range, Ranged, Relation,
    Request, Txn, With,
};

pub type State = BTreeMap<Vec<u8>, KeyValue>;

/// The simple model.
pub struct Model {
    /// The state after each revision, from the first on.
    pub states: Vec<State>,
    compacted: i64,
    leases: BTreeMap<i64, i64>,
}

/// A request that runs.
struct Running<'a> {
    model: &'a Model,
    state: State,
    writes: bool,
}

impl Model {
    pub fn new() -> Self {
        Self { states: vec![State::new()], compacted: -1, leases: BTreeMap::new() }
    }

    pub fn revision(&self) -> i64 {
        self.states.len() as i64
    }

    pub fn now(&self) -> &State {
        self.states.last().expect("there is a first")
    }

    pub fn run(&mut self, request: &Request) -> Outcome {
        let mut running = Running { model: self, state: self.now().clone(), writes: false };
        let body = match request {
            Request::Operation(operation) => {
                running.check(operation, matches!(operation, Operation::Txn(_)))?;
                running.operate(operation, operation.writes())?.body
            }
            Request::Compact(revision) if *revision <= self.compacted => {
                return Err(Problem::Compacted(self.compacted));
            }
            Request::Compact(revision) if *revision > self.revision() => return Err(Problem::FutureRevision),
            Request::Compact(_) => Body::Compacted,
            Request::Grant { id, .. } if self.leases.contains_key(id) => return Err(Problem::LeaseExists),
            Request::Grant { ttl_s, .. } => Body::Granted((*ttl_s).max(2)),
            Request::Revoke(id) if !self.leases.contains_key(id) => return Err(Problem::LeaseNotFound),
            // None of these has so many keys that its end takes steps.
            Request::ContinueRevoke(_) => Body::Revoked,
            Request::Revoke(id) => {
                let count = running.state.len();
                running.state.retain(|_, kv| kv.lease != *id);
                running.writes = running.state.len() < count;
                Body::Revoked
            }
        };
        let (state, writes) = (running.state, running.writes);
        match (request, &body) {
            (Request::Compact(revision), _) => self.compacted = *revision,
            (Request::Grant { id, .. }, Body::Granted(ttl_s)) => drop(self.leases.insert(*id, *ttl_s)),
            (Request::Revoke(id), _) => drop(self.leases.remove(id)),
            _ => {}
        }
        if writes {
            self.states.push(state);
        }
        Ok(Answer { revision: self.revision(), body })
    }
}

impl Running<'_> {
    fn revision(&self) -> i64 {
        self.model.revision() + i64::from(self.writes)
    }

    fn keys<'a>(state: &'a State, keys: &'a Keys) -> impl Iterator<Item = &'a KeyValue> {
        state.values().filter(|kv| keys.contains(&kv.key))
    }

    /// What of it would fail.
    fn check(&self, operation: &Operation, in_txn: bool) -> std::result::Result<(), Problem> {
        match operation {
            Operation::Put(put) => {
                let known = put.lease == 0 || self.model.leases.contains_key(&put.lease);
                let keeps = put.ignore_value || put.ignore_lease;
                let is_there = !keeps || self.model.now().contains_key(&put.key);
                match (in_txn, known, is_there) {
                    (_, true, true) => Ok(()),
                    (true, _, false) | (false, true, false) => Err(Problem::KeyNotFound),
                    (_, false, _) => Err(Problem::LeaseNotFound),
                }
            }
            Operation::Range(range) if range.revision > self.model.revision() => Err(Problem::FutureRevision),
            // In a transaction a negative revision is none, as in etcd.
            Operation::Range(range) if range.revision == 0 || range.revision < 0 && !in_txn => Ok(()),
            Operation::Range(range) if range.revision < self.model.compacted => {
                Err(Problem::Compacted(self.model.compacted))
            }
            Operation::Range(_) | Operation::Delete(_) => Ok(()),
            Operation::Unknown => Err(Problem::KeyNotFound),
            Operation::Txn(txn) => {
                // First the puts of all, then the reads of all.
                let mut all = Vec::new();
                self.flatten(txn, &mut all);
                let of = |wants_puts: bool| {
                    all.iter().filter(move |it| matches!(it, Operation::Put(_)) == wants_puts)
                };
                of(true).chain(of(false)).try_for_each(|operation| self.check(operation, true))
            }
        }
    }

    fn flatten(&self, txn: &Txn, all: &mut Vec<Operation>) {
        let chosen = if self.holds(txn) { &txn.success } else { &txn.failure };
        for operation in chosen {
            match operation {
                Operation::Txn(txn) => self.flatten(txn, all),
                operation => all.push(operation.clone()),
            }
        }
    }

    fn holds(&self, txn: &Txn) -> bool {
        txn.compare.iter().all(|compare| {
            let kvs: Vec<_> = Self::keys(self.model.now(), &compare.keys).cloned().collect();
            let absent = [KeyValue::default()];
            match (kvs.is_empty(), &compare.with) {
                (true, With::Value(_)) => false,
                (true, _) => absent.iter().all(|kv| holds(compare, kv)),
                (false, _) => kvs.iter().all(|kv| holds(compare, kv)),
            }
        })
    }

    fn operate(&mut self, operation: &Operation, in_writing: bool) -> std::result::Result<Answer, Problem> {
        let body = match operation {
            Operation::Range(range) => {
                let is_past = range.revision > 0 && range.revision < self.model.revision();
                if is_past && in_writing {
                    return Err(Problem::PastInWrite);
                }
                let state = match range.revision {
                    1.. => &self.model.states[range.revision as usize - 1],
                    _ => &self.state,
                };
                Body::Range(ranged(range, Self::keys(state, &range.keys).cloned().collect()))
            }
            Operation::Put(put) => {
                let before = self.state.get(&put.key).cloned();
                let kept = before.clone().unwrap_or_default();
                let revision = self.model.revision() + 1;
                let kv = KeyValue {
                    key: put.key.clone(),
                    create_revision: before.as_ref().map_or(revision, |kv| kv.create_revision),
                    mod_revision: revision,
                    version: kept.version + 1,
                    value: if put.ignore_value { kept.value } else { put.value.clone() },
                    lease: if put.ignore_lease { kept.lease } else { put.lease },
                };
                self.state.insert(put.key.clone(), kv);
                self.writes = true;
                Body::Put(before.filter(|_| put.prev_kv))
            }
            Operation::Delete(delete) => {
                let gone: Vec<_> = Self::keys(&self.state, &delete.keys).cloned().collect();
                gone.iter().for_each(|kv| drop(self.state.remove(&kv.key)));
                self.writes |= !gone.is_empty();
                Body::Delete(gone.len() as i64, if delete.prev_kv { gone } else { Vec::new() })
            }
            Operation::Unknown => return Err(Problem::KeyNotFound),
            Operation::Txn(txn) => {
                let succeeded = self.holds(txn);
                let chosen = if succeeded { &txn.success } else { &txn.failure };
                let mut answers = Vec::new();
                for operation in chosen {
                    let mut answer = self.operate(operation, in_writing)?;
                    if matches!(operation, Operation::Txn(_)) {
                        answer.revision = 0;
                    }
                    answers.push(answer);
                }
                Body::Txn(succeeded, answers)
            }
        };
        Ok(Answer { revision: self.revision(), body })
    }
}

fn holds(compare: &Compare, kv: &KeyValue) -> bool {
    let ordering = match &compare.with {
        With::Version(number) => kv.version.cmp(number),
        With::Create(number) => kv.create_revision.cmp(number),
        With::Mod(number) => kv.mod_revision.cmp(number),
        With::Lease(number) => kv.lease.cmp(number),
        With::Value(value) => kv.value.cmp(value),
    };
    match compare.relation.expect("is known") {
        Relation::Equal => ordering.is_eq(),
        Relation::NotEqual => ordering.is_ne(),
        Relation::Greater => ordering.is_gt(),
        Relation::Less => ordering.is_lt(),
    }
}

/// Only keys are ordered here: the rest is the business of the tests of `select`.
fn ranged(range: &Range, mut kvs: Vec<KeyValue>) -> Ranged {
    let count = kvs.len() as i64;
    if range.count_only {
        return Ranged { kvs: Vec::new(), more: false, count };
    }
    if range.order == Order::Descending {
        kvs.reverse();
    }
    let more = range.limit > 0 && kvs.len() as i64 > range.limit;
    if more {
        kvs.truncate(range.limit as usize);
    }
    Ranged { kvs, more, count }
}
