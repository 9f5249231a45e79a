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
        etcd,
        json::Value,
        name::{Key, TableName},
        protocol::message::Row,
        register::{Payload, Register},
        write::{Action, Limits, Stored, Write, Written},
    },
    error::{Error, Result},
};

/// Most bytes that one request writes, unless it writes one value: sixteen values of the default `--max-value`. It is one entry of the log, which each
/// member gets whole, and while it is on its way to one, no heartbeat is.
pub const WRITTEN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What has this limit, for the error.
pub const WRITTEN: &str = "sum of what one request writes to strong tables";
/// Most bytes that one transaction reads, unless it reads one value. A request of a few kilobytes can name a long value many times.
pub const READ_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What has this limit, for the error.
pub const READ: &str = "sum of what one transaction reads";

/// The state that requests are evaluated on.
pub trait View {
    /// Whether a table is strong.
    fn is_strong(&self, table: &TableName) -> bool;

    /// Checks that there may be one more table.
    ///
    /// # Errors
    /// Why not.
    fn check_room(&self) -> Result<()>;

    /// Whether a table has rows that are not strong.
    fn has_eventual_rows(&self, table: &TableName) -> bool;

    /// The register of a key, a tombstone included.
    ///
    /// # Errors
    /// `Corrupt`.
    fn register(&self, table: &TableName, key: &Key) -> Result<Option<Register>>;

    /// The first live rows of a table whose keys are at or above `low` and below `high`. There may be none although more follow.
    ///
    /// # Errors
    /// Those of the storage.
    fn page(&self, table: &TableName, low: &str, high: &str) -> Result<etcd::evaluate::Page>;
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
    let mut evaluator = Evaluator {
        view,
        limits,
        tick,
        written: BTreeMap::new(),
        effects: Vec::new(),
        bytes: 0,
        read_bytes: 0,
    };
    let outcome = match request {
        Request::Create(table) => evaluator.create(table)?,
        Request::Write { table, writes } => {
            let written = writes.into_iter().map(|write| evaluator.write(&table, write));
            Outcome::Written(written.collect::<Result<_>>()?)
        }
        Request::Transaction(transaction) => evaluator.transaction(transaction)?,
        Request::Etcd(request) => evaluator.etcd(&request)?,
        Request::Sweep(at_ms) => {
            evaluator.effects.push(Effect::Sweep(at_ms));
            Outcome::Swept
        }
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
    /// About how many bytes they have.
    bytes: usize,
    /// How many bytes of values its client is told.
    read_bytes: usize,
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
        self.view.check_room()?;
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
                let (before, more) =
                    (self.read_bytes, got.as_ref().map_or(0, |got| got.value.as_str().len()));
                self.read_bytes += more;
                if self.read_bytes > READ_BYTES_MAX && before > 0 {
                    return Err(Error::TooLarge { what: READ, limit: READ_BYTES_MAX as u64 });
                }
                Ok(OperationResult::Got(got))
            }
            Operation::Write { table, write } => self.write(&table, write).map(OperationResult::Written),
        }
    }

    fn etcd(&mut self, request: &etcd::request::Request) -> Result<Outcome> {
        let table = etcd::table();
        self.check_strong(table)?;
        let evaluated = etcd::evaluate::evaluate(request, &EtcdRows(self.view))?;
        if evaluated.changes.is_empty() {
            return Ok(Outcome::Etcd(evaluated.outcome));
        }
        // One for all: they are one revision, and each is of another key. Later than all that was read.
        let timestamp = (self.tick)()?;
        for (key, value) in evaluated.changes {
            let register = match value {
                Some(value) => Register::live(value, None, timestamp),
                None => Register::deleted(timestamp),
            };
            self.effects.push(Effect::Merge(table.clone(), Row::new(key, register)));
        }
        Ok(Outcome::Etcd(evaluated.outcome))
    }

    /// Checks that a write to a table is not one past the etcd API, whose revisions it would break. Where the API serves nothing, because the row
    /// with its revision is missing or damaged, that can be written again, and rows can be deleted.
    fn check_not_of_etcd(&self, table: &TableName, write: &Write) -> Result<()> {
        if table != etcd::table() {
            return Ok(());
        }
        let read = |register: &Register| value_of(register.payload()).and_then(etcd::row::Head::read);
        let is_in_use = self.view.register(table, &etcd::row::head())?.as_ref().and_then(read).is_some();
        let is_of_api = match (etcd::row::Named::of(&write.key), &write.action) {
            (None, _) | (Some(_), Action::Delete { .. }) => false,
            (Some(etcd::row::Named::Head), Action::Put { value, expiry: None }) => {
                etcd::row::Head::read(value).is_none()
            }
            (Some(_), _) => true,
        };
        match is_in_use || is_of_api {
            true => Err(Error::Conflict(format!(
                "table {table} is that of the etcd API (--etcd), and only written through it: take another table, or write with an \
                 etcd client, such as etcdctl"
            ))),
            false => Ok(()),
        }
    }

    fn write(&mut self, table: &TableName, write: Write) -> Result<Written> {
        let key = write.key.clone();
        self.check_not_of_etcd(table, &write)?;
        let stored = self.stored(table, &key)?;
        let created = stored.as_ref().is_none_or(|register| !is_live(register.payload()));
        let register = write.decide(table, stored.as_ref(), self.limits, &mut self.tick)?;
        let timestamp = register.timestamp();
        let row = Row::new(key.clone(), register.clone());
        self.bytes += row.cost();
        if self.bytes > WRITTEN_BYTES_MAX && !self.effects.is_empty() {
            return Err(Error::TooLarge { what: WRITTEN, limit: WRITTEN_BYTES_MAX as u64 });
        }
        self.effects.push(Effect::Merge(table.clone(), row));
        self.written.insert((table.clone(), key), register);
        Ok(Written { timestamp, created })
    }

    fn check_strong(&self, table: &TableName) -> Result<()> {
        match self.view.is_strong(table) {
            true => Ok(()),
            false => Err(Error::WrongMode(format!(
                "table {table} is not strong: make it so with PUT /_/tables/{table} {{\"mode\":\"strong\"}} before its \
                 first write"
            ))),
        }
    }

    fn stored(&self, table: &TableName, key: &Key) -> Result<Option<Register>> {
        self.check_strong(table)?;
        match self.written.get(&(table.clone(), key.clone())) {
            Some(register) => Ok(Some(register.clone())),
            None => self.view.register(table, key),
        }
    }
}

/// The rows that a request of the etcd API is evaluated on.
struct EtcdRows<'a, V>(&'a V);

impl<V: View> etcd::evaluate::Rows for EtcdRows<'_, V> {
    fn row(&self, key: &Key) -> Result<Option<Value>> {
        let register = self.0.register(etcd::table(), key)?;
        Ok(register.and_then(|register| value_of(register.payload()).cloned()))
    }

    fn page(&self, low: &str, high: &str) -> Result<etcd::evaluate::Page> {
        self.0.page(etcd::table(), low, high)
    }

    fn past(
        &self,
        _keys: &etcd::request::Keys,
        _revision: i64,
    ) -> std::result::Result<etcd::evaluate::Past, etcd::request::Problem> {
        // The leader keeps the history of what it has applied, and that of what is in flight would be another.
        Err(etcd::request::Problem::PastInWrite)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::core::{
        clock::NodeId,
        strong::request::Refusal,
        write::{Condition, Patch},
    };

    /// A state in memory, and its clock.
    #[derive(Default)]
    struct State {
        strong: BTreeSet<TableName>,
        eventual: BTreeSet<TableName>,
        rows: BTreeMap<Name, Register>,
        ticks: u64,
    }

    impl View for State {
        fn is_strong(&self, table: &TableName) -> bool {
            self.strong.contains(table)
        }

        fn check_room(&self) -> Result<()> {
            Ok(())
        }

        fn has_eventual_rows(&self, table: &TableName) -> bool {
            self.eventual.contains(table)
        }

        fn register(&self, table: &TableName, key: &Key) -> Result<Option<Register>> {
            Ok(self.rows.get(&(table.clone(), key.clone())).cloned())
        }

        fn page(&self, table: &TableName, low: &str, high: &str) -> Result<etcd::evaluate::Page> {
            let rows = self
                .rows
                .iter()
                .filter(|((name, key), _)| name == table && (low..high).contains(&key.as_str()));
            let live = rows.filter_map(|((_, key), register)| {
                Some((key.clone(), value_of(register.payload())?.clone()))
            });
            Ok(etcd::evaluate::Page { rows: live.collect(), last: None })
        }
    }

    impl State {
        fn new() -> Self {
            Self { strong: [table("t"), table("u")].into(), eventual: [table("e")].into(), ..Self::default() }
        }

        /// Evaluates a request and applies its effects.
        fn run(&mut self, request: Request) -> Result<Outcome> {
            let mut ticks = self.ticks;
            let tick = || {
                ticks += 1;
                Ok(Timestamp { hlc: ticks, node: NodeId(1) })
            };
            let evaluated = evaluate(request, &*self, Limits { now_ms: 0, value_bytes_max: 20 }, tick);
            self.ticks = ticks;
            let Evaluation { effects, outcome } = evaluated?;
            for effect in effects {
                self.apply(effect);
            }
            Ok(outcome)
        }

        fn apply(&mut self, effect: Effect) {
            match effect {
                Effect::Create(table) => drop(self.strong.insert(table)),
                Effect::Merge(table, row) => {
                    let (key, register) = row.into_register().expect("matches its marker");
                    let held = self.rows.entry((table, key)).or_insert_with(|| register.clone());
                    held.merge(register);
                }
                Effect::Sweep(_) => {}
            }
        }

        fn value(&self, table_name: &str, name: &str) -> Option<&str> {
            let register = self.rows.get(&(table(table_name), key(name)))?;
            value_of(register.payload()).map(Value::as_str)
        }
    }

    fn table(name: &str) -> TableName {
        TableName::parse(name).expect("a name")
    }

    fn key(name: &str) -> Key {
        Key::parse(name).expect("a key")
    }

    fn value(text: &str) -> Value {
        Value::parse(text).expect("JSON")
    }

    fn put(name: &str, text: &str, condition: Condition) -> Write {
        Write { key: key(name), action: Action::Put { value: value(text), expiry: None }, condition }
    }

    fn write(writes: Vec<Write>) -> Request {
        Request::Write { table: table("t"), writes }
    }

    fn compare(name: &str, expected: Expected) -> Compare {
        Compare { table: table("t"), key: key(name), expected }
    }

    fn put_in(table_name: &str, name: &str, text: &str) -> Operation {
        Operation::Write { table: table(table_name), write: put(name, text, Condition::Always) }
    }

    #[test]
    fn of_writes_that_want_an_absent_key_the_first_wins() {
        let mut state = State::new();
        assert!(state.run(write(vec![put("k", "1", Condition::Absent)])).is_ok());
        let second = state.run(write(vec![put("k", "2", Condition::Absent)]));
        assert!(matches!(second, Err(Error::PreconditionFailed { current: Some(_) })), "{second:?}");
        assert_eq!(state.value("t", "k"), Some("1"));
    }

    #[test]
    fn writes_that_come_together_are_all_or_none_and_see_each_other() {
        let mut state = State::new();
        let failed =
            state.run(write(vec![put("a", "1", Condition::Always), put("a", "2", Condition::Absent)]));
        assert!(matches!(failed, Err(Error::PreconditionFailed { .. })), "{failed:?}");
        assert_eq!(state.value("t", "a"), None);
        let patch = Action::Patch { patch: Some(Patch::Merge(value("{\"b\":2}"))), expiry: None };
        let patch = Write { key: key("a"), action: patch, condition: Condition::Present };
        state.run(write(vec![put("a", "{\"a\":1}", Condition::Always), patch])).expect("both");
        assert_eq!(state.value("t", "a"), Some("{\"a\":1,\"b\":2}"));
    }

    #[test]
    fn a_transaction_runs_the_branch_that_its_comparisons_choose() {
        let mut state = State::new();
        state.run(write(vec![put("a", "{\"x\":1,\"y\":2}", Condition::Always)])).expect("writes");
        let version = state.rows[&(table("t"), key("a"))].timestamp();
        for (expected, holds) in [
            (Expected::Value(value("{\"y\":2.0,\"x\":1}")), true),
            (Expected::Value(value("{\"x\":1}")), false),
            (Expected::Version(version), true),
            (Expected::Version(Timestamp { hlc: 9, ..version }), false),
            (Expected::Absent(false), true),
            (Expected::Absent(true), false),
        ] {
            let transaction = Transaction {
                compare: vec![compare("a", expected.clone()), compare("none", Expected::Absent(true))],
                success: vec![put_in("u", "won", "1")],
                failure: vec![put_in("u", "lost", "1")],
            };
            let Ok(Outcome::Transaction { succeeded, results }) =
                state.run(Request::Transaction(transaction))
            else {
                panic!("it runs")
            };
            assert_eq!((succeeded, results.len()), (holds, 1), "{expected:?}");
        }
        assert_eq!((state.value("u", "won"), state.value("u", "lost")), (Some("1"), Some("1")));
        let missing = Transaction {
            compare: vec![compare("none", Expected::Value(value("1")))],
            ..Transaction::default()
        };
        let outcome = state.run(Request::Transaction(missing)).expect("runs");
        assert_eq!(outcome, Outcome::Transaction { succeeded: false, results: Vec::new() });
    }

    #[test]
    fn an_operation_sees_those_before_it_and_an_error_undoes_them() {
        let mut state = State::new();
        let get = || Operation::Get { table: table("t"), key: key("k") };
        let success = vec![get(), put_in("t", "k", "1"), get()];
        let transaction = Transaction { success, ..Transaction::default() };
        let Ok(Outcome::Transaction { results, .. }) = state.run(Request::Transaction(transaction)) else {
            panic!("it runs")
        };
        assert_eq!(results[0], OperationResult::Got(None));
        assert!(
            matches!(&results[2], OperationResult::Got(Some(got)) if got.value.as_str() == "1"),
            "{results:?}"
        );
        let delete =
            Write { key: key("none"), action: Action::Delete { force: false }, condition: Condition::Always };
        let success = vec![put_in("t", "k", "2"), Operation::Write { table: table("t"), write: delete }];
        let failed = state.run(Request::Transaction(Transaction { success, ..Transaction::default() }));
        assert!(matches!(failed, Err(Error::NotFound(_))), "{failed:?}");
        assert_eq!(state.value("t", "k"), Some("1"));
    }

    #[test]
    fn a_table_is_made_once_and_not_over_eventual_rows() {
        let mut state = State::new();
        assert_eq!(state.run(Request::Create(table("new"))), Ok(Outcome::Created(true)));
        assert_eq!(state.run(Request::Create(table("new"))), Ok(Outcome::Created(false)));
        assert!(matches!(state.run(Request::Create(table("e"))), Err(Error::WrongMode(_))));
        let other = Transaction { success: vec![put_in("e", "k", "1")], ..Transaction::default() };
        assert!(matches!(state.run(Request::Transaction(other)), Err(Error::WrongMode(_))));
    }

    /// Revisions would mean nothing if rows changed without one.
    #[test]
    fn the_table_of_the_etcd_api_is_written_through_it_only() {
        let mut state = State::new();
        state.strong.insert(etcd::table().clone());
        let forged = Request::Write {
            table: etcd::table().clone(),
            writes: vec![put(etcd::row::HEAD, "{}", Condition::Always)],
        };
        assert!(matches!(state.run(forged), Err(Error::Conflict(_))));
        let put = |key: &[u8]| {
            let put = etcd::request::Put { key: key.into(), value: b"1".into(), ..Default::default() };
            Request::Etcd(etcd::request::Request::Operation(etcd::request::Operation::Put(put)))
        };
        // Somebody else's rows are left alone.
        assert!(
            state
                .run(Request::Transaction(Transaction {
                    success: vec![put_in("etcd", "k", "1")],
                    ..Default::default()
                }))
                .is_ok()
        );
        assert!(matches!(state.run(put(b"k")), Err(Error::Conflict(_))));
        state.rows.clear();
        let put_is = state.run(put(b"k")).expect("is evaluated");
        let answer = etcd::request::Answer { revision: 2, body: etcd::request::Body::Put(None) };
        assert_eq!(put_is, Outcome::Etcd(Ok(answer)));
        assert_eq!(
            state.value("etcd", "key:k"),
            Some("{\"created\":2,\"modified\":2,\"version\":1,\"text\":\"1\"}")
        );
        for name in ["k", "key:k", "head"] {
            let transaction = Transaction { success: vec![put_in("etcd", name, "1")], ..Default::default() };
            let refused = state.run(Request::Transaction(transaction));
            assert!(matches!(refused, Err(Error::Conflict(_))), "{name}: {refused:?}");
        }
    }

    /// Nobody could get such a table right again: the API refused it, and everything else too.
    #[test]
    fn a_table_of_the_etcd_api_without_a_head_can_be_given_one_or_emptied() {
        let mut state = State::new();
        state.strong.insert(etcd::table().clone());
        let in_table = |writes| Request::Write { table: etcd::table().clone(), writes };
        let api_puts = || {
            let put = etcd::request::Put { key: b"b".into(), ..Default::default() };
            Request::Etcd(etcd::request::Request::Operation(etcd::request::Operation::Put(put)))
        };
        state.run(api_puts()).expect("is written");
        let name = (etcd::table().clone(), etcd::row::head());
        let damaged =
            Register::live(Value::trusted("[]".into()), None, Timestamp { hlc: 1, node: NodeId(1) });
        state.rows.insert(name, damaged);
        let refused = state.run(api_puts()).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|why| why.contains("PUT /etcd/key/head")));
        let write = |key: &str, value: &str| in_table(vec![put(key, value, Condition::Always)]);
        assert!(matches!(state.run(write("key:b", "{}")), Err(Error::Conflict(_))), "it is no repair");
        let head = r#"{"revision":90,"compacted":90}"#;
        state.run(write("head", head)).expect("is written again");
        assert!(matches!(state.run(write("head", head)), Err(Error::Conflict(_))), "the API is in use again");
        let Ok(Outcome::Etcd(Ok(answer))) = state.run(api_puts()) else { panic!("is refused") };
        assert_eq!(answer.revision, 91);
        let delete = |name: &str| {
            let action = Action::Delete { force: false };
            in_table(vec![Write { key: key(name), action, condition: Condition::Always }])
        };
        assert!(matches!(state.run(delete("key:b")), Err(Error::Conflict(_))));
        state.rows.remove(&(etcd::table().clone(), etcd::row::head()));
        state.run(delete("key:b")).expect("is deleted");
    }

    /// A replica that crashed applies entries again that it has applied before.
    #[test]
    fn effects_may_be_applied_again_in_order() {
        let mut state = State::new();
        let mut effects = Vec::new();
        for number in 0..20_u64 {
            let name = (number % 3).to_string();
            let request = match number % 4 {
                3 => {
                    let action = Action::Delete { force: true };
                    write(vec![Write { key: key(&name), action, condition: Condition::Always }])
                }
                _ => write(vec![put(&name, &number.to_string(), Condition::Always)]),
            };
            let mut ticks = state.ticks;
            let tick = || {
                ticks += 1;
                Ok(Timestamp { hlc: ticks, node: NodeId(1) })
            };
            let evaluated = evaluate(request, &state, Limits { now_ms: 0, value_bytes_max: 20 }, tick)
                .expect("evaluates");
            state.ticks = ticks;
            evaluated.effects.iter().for_each(|effect| state.apply(effect.clone()));
            effects.extend(evaluated.effects);
        }
        let rows = state.rows.clone();
        for from in 0..effects.len() {
            effects[from..].iter().for_each(|effect| state.apply(effect.clone()));
            assert_eq!(state.rows, rows, "again from {from}");
        }
    }

    /// A request had no bound: patches of many long values made an entry that the log does not take, and that ended the leader's log.
    #[test]
    fn what_one_request_writes_is_bounded_but_one_value_goes_through() {
        let limits = Limits { now_ms: 0, value_bytes_max: u64::MAX };
        let run = |lengths: &[usize]| {
            let writes = lengths
                .iter()
                .zip(0..)
                .map(|(length, number)| put(&number.to_string(), &"1".repeat(*length), Condition::Always));
            let mut ticks = 0;
            let tick = || {
                ticks += 1;
                Ok(Timestamp { hlc: ticks, node: NodeId(1) })
            };
            evaluate(write(writes.collect()), &State::new(), limits, tick).map(drop)
        };
        let refused = Error::TooLarge { what: WRITTEN, limit: WRITTEN_BYTES_MAX as u64 };
        assert_eq!(run(&[WRITTEN_BYTES_MAX / 2, WRITTEN_BYTES_MAX / 2]), Err(refused.clone()));
        assert_eq!(run(&[WRITTEN_BYTES_MAX / 2, WRITTEN_BYTES_MAX / 4]), Ok(()));
        assert_eq!(run(&[2 * WRITTEN_BYTES_MAX]), Ok(()), "a value may be as long as --max-value");
        assert_eq!(run(&[1, 2 * WRITTEN_BYTES_MAX]), Err(refused.clone()));
        // The leader's answer may pass through another node.
        assert_eq!(Error::from(Refusal::from(refused.clone())), refused);
    }

    /// 128 gets of one long value made 128 MiB of a request of 6 KB, and, as trees of JSON, gigabytes.
    #[test]
    fn what_one_transaction_reads_is_bounded_but_one_value_goes_through() {
        let run = |length: usize, times: usize| {
            let limits = Limits { now_ms: 0, value_bytes_max: u64::MAX };
            let mut state = State::new();
            let mut ticks = 0;
            let mut tick = || {
                ticks += 1;
                Ok(Timestamp { hlc: ticks, node: NodeId(1) })
            };
            let put = write(vec![put("k", &"1".repeat(length), Condition::Always)]);
            let written = evaluate(put, &state, limits, &mut tick).expect("evaluates");
            written.effects.into_iter().for_each(|effect| state.apply(effect));
            let success = vec![Operation::Get { table: table("t"), key: key("k") }; times];
            let transaction = Transaction { compare: Vec::new(), success, failure: Vec::new() };
            evaluate(Request::Transaction(transaction), &state, limits, tick).map(drop)
        };
        let refused = Error::TooLarge { what: READ, limit: READ_BYTES_MAX as u64 };
        assert_eq!(run(READ_BYTES_MAX / 2, 2), Ok(()));
        assert_eq!(run(READ_BYTES_MAX / 2 + 1, 2), Err(refused.clone()));
        assert_eq!(run(2 * READ_BYTES_MAX, 1), Ok(()), "a value may be as long as --max-value");
        assert_eq!(Error::from(Refusal::from(refused.clone())), refused);
    }
}
