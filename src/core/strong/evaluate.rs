//! Evaluates a request on a state: what it writes, as registers, and what its client is told. Pure: the leader calls it
//! once for each request, in the order of the log, on the state that the log makes. It is never called to apply an
//! entry: replayed after a later entry, a condition could take the other branch.

use std::collections::BTreeMap;

use super::{
    entry::{Effect, Name},
    request::{Compare, Expected, Got, Operation, OperationResult, Outcome, Request, Transaction},
};
use crate::{
    core::{
        clock::Timestamp,
        json::Value,
        name::{Key, TableName},
        protocol::message::Row,
        register::{Payload, Register},
        write::{Limits, Stored, Write, Written},
    },
    error::{Error, Result},
};

/// The state that requests are evaluated on.
pub trait View {
    /// Whether a table is strong.
    fn is_strong(&self, table: &TableName) -> bool;

    /// Whether a table has rows that are not strong.
    fn has_eventual_rows(&self, table: &TableName) -> bool;

    /// The register of a key, a tombstone included.
    ///
    /// # Errors
    /// `Corrupt`.
    fn register(&self, table: &TableName, key: &Key) -> Result<Option<Register>>;
}

/// What a request comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// What it changes. Empty if it only reads.
    pub effects: Vec<Effect>,
    /// What its client is told once the effects are committed.
    pub outcome: Outcome,
}

/// Evaluates a request. `tick` gives rising timestamps.
///
/// # Errors
/// What the client is told instead: then the request changes nothing.
pub fn evaluate(
    request: Request,
    view: &impl View,
    limits: Limits,
    tick: impl FnMut() -> Result<Timestamp>,
) -> Result<Evaluation> {
    let mut evaluator = Evaluator { view, limits, tick, written: BTreeMap::new(), effects: Vec::new() };
    let outcome = match request {
        Request::Create(table) => evaluator.create(table)?,
        Request::Write { table, writes } => {
            let written = writes.into_iter().map(|write| evaluator.write(&table, write));
            Outcome::Written(written.collect::<Result<_>>()?)
        }
        Request::Transaction(transaction) => evaluator.transaction(transaction)?,
    };
    Ok(Evaluation { effects: evaluator.effects, outcome })
}

struct Evaluator<'a, V, T> {
    view: &'a V,
    limits: Limits,
    tick: T,
    /// What this request has written so far, which its later operations see.
    written: BTreeMap<Name, Register>,
    effects: Vec<Effect>,
}

impl<V: View, T: FnMut() -> Result<Timestamp>> Evaluator<'_, V, T> {
    fn create(&mut self, table: TableName) -> Result<Outcome> {
        if self.view.is_strong(&table) {
            return Ok(Outcome::Created(false));
        }
        if self.view.has_eventual_rows(&table) {
            return Err(Error::WrongMode(format!(
                "table {table} has rows of an eventual table, and a table's mode never changes: take another name, or \
                 delete its rows and wait until their tombstones are removed"
            )));
        }
        self.effects.push(Effect::Create(table));
        Ok(Outcome::Created(true))
    }

    fn transaction(&mut self, transaction: Transaction) -> Result<Outcome> {
        let Transaction { compare, success, failure } = transaction;
        let mut succeeded = true;
        for compare in &compare {
            succeeded &= self.holds(compare)?;
        }
        let operations = if succeeded { success } else { failure };
        let results =
            operations.into_iter().map(|operation| self.operate(operation)).collect::<Result<_>>()?;
        Ok(Outcome::Transaction { succeeded, results })
    }

    fn holds(&self, compare: &Compare) -> Result<bool> {
        let register = self.stored(&compare.table, &compare.key)?;
        let register = register.filter(|register| is_live(register.payload()));
        Ok(match (&compare.expected, register) {
            (Expected::Absent(absent), register) => *absent == register.is_none(),
            (Expected::Version(version), register) => {
                register.is_some_and(|register| register.timestamp() == *version)
            }
            (Expected::Value(value), Some(register)) => {
                value_of(register.payload()).is_some_and(|held| held.is_same_as(value))
            }
            (Expected::Value(_), None) => false,
        })
    }

    fn operate(&mut self, operation: Operation) -> Result<OperationResult> {
        match operation {
            Operation::Get { table, key } => {
                let register = self.stored(&table, &key)?;
                let got = register.and_then(|register| {
                    let timestamp = register.timestamp();
                    match register.into_payload() {
                        Payload::Live { value, expires_at_ms } => {
                            Some(Got { value, timestamp, expires_at_ms })
                        }
                        Payload::Deleted => None,
                    }
                });
                Ok(OperationResult::Got(got))
            }
            Operation::Write { table, write } => self.write(&table, write).map(OperationResult::Written),
        }
    }

    fn write(&mut self, table: &TableName, write: Write) -> Result<Written> {
        let key = write.key.clone();
        let stored = self.stored(table, &key)?;
        let created = stored.as_ref().is_none_or(|register| !is_live(register.payload()));
        let register = write.decide(table, stored.as_ref(), self.limits, &mut self.tick)?;
        let timestamp = register.timestamp();
        self.effects.push(Effect::Merge(table.clone(), Row::new(key.clone(), register.clone())));
        self.written.insert((table.clone(), key), register);
        Ok(Written { timestamp, created })
    }

    fn stored(&self, table: &TableName, key: &Key) -> Result<Option<Register>> {
        if !self.view.is_strong(table) {
            return Err(Error::WrongMode(format!(
                "table {table} is not strong: make it so with PUT /_/tables/{table} {{\"mode\":\"strong\"}} before its \
                 first write"
            )));
        }
        match self.written.get(&(table.clone(), key.clone())) {
            Some(register) => Ok(Some(register.clone())),
            None => self.view.register(table, key),
        }
    }
}

/// A value of a strong table is there until a delete comes through the log, whatever a clock says.
impl Stored for Register {
    fn timestamp(&self) -> Timestamp {
        self.timestamp()
    }

    fn expires_at_ms(&self) -> Option<u64> {
        match self.payload() {
            Payload::Live { expires_at_ms, .. } => *expires_at_ms,
            Payload::Deleted => None,
        }
    }

    fn is_visible_at(&self, _now_ms: u64) -> bool {
        is_live(self.payload())
    }

    fn value(&self) -> Result<Value> {
        value_of(self.payload()).cloned().ok_or_else(|| Error::NotFound("the key is deleted".into()))
    }
}

fn is_live(payload: &Payload) -> bool {
    matches!(payload, Payload::Live { .. })
}

fn value_of(payload: &Payload) -> Option<&Value> {
    match payload {
        Payload::Live { value, .. } => Some(value),
        Payload::Deleted => None,
    }
}
