//! What a request comes to on a state: which rows it changes, and what its client is told. Pure: the leader calls it once for each request
//! that writes, in the order of the log; any node calls it for a transaction that only reads, on what it has applied.

mod operations;
mod reading;

use std::{cell::Cell, collections::BTreeMap, mem};

use super::{
    request::{
        Answer, Body, Compare, KeyValue, Keys, Operation, Outcome, Problem, Relation, Request, Txn, With,
    },
    row::{self, Granted, Head, Named},
};
use crate::{
    core::{json::Value, name::Key},
    error::{Error, Result},
};

/// Most bytes that a request returns or writes: each is one message between nodes, or one entry of the log.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most bytes of rows that a request looks at, to count, compare or delete them: some tenths of a second, in which nothing else is decided.
pub const SCANNED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A page of rows.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The rows, in order.
    pub rows: Vec<(Key, Value)>,
    /// The last key that was looked at, if more may follow behind it. That may be none of the rows: those that were deleted since are not among them.
    pub last: Option<Key>,
}

/// What keys were after an older revision, if they are other now; `None` if they were absent.
pub type Past = BTreeMap<Vec<u8>, Option<KeyValue>>;

/// The rows that requests are evaluated on.
pub trait Rows {
    /// The value of a row.
    ///
    /// # Errors
    /// Those of the storage.
    fn row(&self, key: &Key) -> Result<Option<Value>>;

    /// The first rows at or above `low` and below `high`. There may be none although more follow.
    ///
    /// # Errors
    /// Those of the storage.
    fn page(&self, low: &str, high: &str) -> Result<Page>;

    /// What keys were after an older revision, if they are other now.
    ///
    /// # Errors
    /// Why that cannot be known.
    fn past(&self, keys: &Keys, revision: i64) -> std::result::Result<Past, Problem>;
}

/// What a request comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The rows that it changes, in order; `None` deletes. Those of keys are in the order of the events, and the head comes last.
    pub changes: Vec<(Key, Option<Value>)>,
    /// What its client is told once they are committed.
    pub outcome: Outcome,
}

/// Evaluates a request.
///
/// # Errors
/// Those of the storage, and `Conflict` if the table has rows of somebody else, or its head is missing or damaged: then it changes nothing.
pub fn evaluate(request: &Request, rows: &impl Rows) -> Result<Evaluation> {
    let stored = rows.row(&row::head())?;
    if stored.is_none() {
        check_is_ours(rows)?;
    }
    let head = Head::of(stored.as_ref())?;
    let mut step = Step {
        rows,
        before: head,
        head,
        changed: BTreeMap::new(),
        changes: Vec::new(),
        bytes: Cell::new(0),
        scanned: Cell::new(0),
    };
    let outcome = match step.run(request) {
        Ok(body) => Ok(Answer { revision: step.revision(), body }),
        Err(Stop::Problem(problem)) => return Ok(Evaluation { changes: Vec::new(), outcome: Err(problem) }),
        Err(Stop::Error(error)) => return Err(error),
    };
    step.head.revision = step.revision();
    let mut changes = step.changes;
    if step.head != head || stored.is_none() && !changes.is_empty() {
        changes.push((row::head(), Some(step.head.value())));
    }
    Ok(Evaluation { changes, outcome })
}

/// Checks that a table without a head is empty: somebody may have made a table of this name for another purpose, or the head is lost.
///
/// # Errors
/// `Conflict` if it is not; those of the storage.
pub fn check_is_ours(rows: &impl Rows) -> Result<()> {
    let page = rows.page("", "\u{10ffff}")?;
    // Its rows may be on their way out.
    match page.rows.first().map(|(key, _)| key).or(page.last.as_ref()) {
        None => Ok(()),
        Some(key) if Named::of(key).is_some() => Err(row::no_head()),
        Some(key) => Err(Error::Conflict(format!(
            "table {} has rows that the etcd API did not write, such as {:?}: copy them to another table and delete them here",
            super::TABLE,
            key.as_str()
        ))),
    }
}

/// Why evaluating ends early.
enum Stop {
    Problem(Problem),
    Error(Error),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

type Stepped<T> = std::result::Result<T, Stop>;

struct Step<'a, R> {
    rows: &'a R,
    /// The head before this request.
    before: Head,
    head: Head,
    /// What this request has changed so far.
    changed: BTreeMap<Key, Option<Value>>,
    /// The same, in order.
    changes: Vec<(Key, Option<Value>)>,
    /// About how many bytes are held for the answer, and written.
    bytes: Cell<usize>,
    /// About how many bytes of rows were looked at.
    scanned: Cell<usize>,
}

/// Which way a transaction and those within it go. All compare with the state before the outermost one.
struct Path {
    succeeded: bool,
    within: Vec<Path>,
}

impl<R: Rows> Step<'_, R> {
    fn run(&mut self, request: &Request) -> Stepped<Body> {
        match request {
            Request::Operation(Operation::Txn(txn)) => {
                let path = self.decide(txn)?;
                self.check_puts(txn, &path)?;
                self.check_ranges(txn, &path)?;
                self.txn(txn, &path)
            }
            Request::Operation(operation) => {
                if let Operation::Put(put) = operation {
                    self.check_lease(put.lease)?;
                }
                Ok(self.operate(operation)?.body)
            }
            Request::Compact(revision) => self.compact(*revision),
            Request::Grant { id, ttl_s } => self.grant(*id, *ttl_s),
            Request::Revoke(id) => self.revoke(*id),
            Request::ContinueRevoke(id) => self.continue_revoke(*id),
        }
    }

    /// The revision of what was written so far.
    fn revision(&self) -> i64 {
        let writes = self.changes.iter().any(|(key, _)| matches!(Named::of(key), Some(Named::Key(_))));
        self.before.revision + i64::from(writes)
    }

    fn decide(&self, txn: &Txn) -> Stepped<Path> {
        let mut succeeded = true;
        for compare in &txn.compare {
            succeeded = succeeded && self.holds(compare)?;
        }
        let mut within = Vec::new();
        for operation in chosen(txn, succeeded) {
            if let Operation::Txn(txn) = operation {
                within.push(self.decide(txn)?);
            }
        }
        Ok(Path { succeeded, within })
    }

    fn holds(&self, compare: &Compare) -> Stepped<bool> {
        let (mut is_empty, mut holds) = (true, true);
        self.each_key(&compare.keys, &mut |kv| {
            is_empty = false;
            holds = holds && holds_of(compare, &kv);
            Ok(())
        })?;
        if is_empty {
            // No value is another than an empty one.
            let is_value = matches!(compare.with, With::Value(_));
            return Ok(!is_value && holds_of(compare, &KeyValue::default()));
        }
        Ok(holds)
    }

    fn check_puts(&self, txn: &Txn, path: &Path) -> Stepped<()> {
        each(txn, path, &mut |operation| {
            let Operation::Put(put) = operation else { return Ok(()) };
            if (put.ignore_value || put.ignore_lease) && self.key(&put.key)?.is_none() {
                return Err(Problem::KeyNotFound.into());
            }
            self.check_lease(put.lease)
        })
    }

    fn check_ranges(&self, txn: &Txn, path: &Path) -> Stepped<()> {
        each(txn, path, &mut |operation| {
            let Operation::Range(range) = operation else { return Ok(()) };
            if range.revision == 0 {
                return Ok(());
            }
            check_revision(range.revision, self.before).map_err(Stop::from)
        })
    }

    fn check_lease(&self, id: i64) -> Stepped<()> {
        let lease = |value| Granted::of(&value).ok().filter(|granted| granted.revoked.is_none());
        match id == 0 || self.row(&row::lease(id))?.and_then(lease).is_some() {
            true => Ok(()),
            false => Err(Problem::LeaseNotFound.into()),
        }
    }

    fn txn(&mut self, txn: &Txn, path: &Path) -> Stepped<Body> {
        let mut within = path.within.iter();
        let mut answers = Vec::new();
        for operation in chosen(txn, path.succeeded) {
            answers.push(match operation {
                Operation::Txn(txn) => {
                    let path = within.next().expect("each transaction has its path");
                    Answer { revision: 0, body: self.txn(txn, path)? }
                }
                operation => self.operate(operation)?,
            });
        }
        Ok(Body::Txn(path.succeeded, answers))
    }

    fn operate(&mut self, operation: &Operation) -> Stepped<Answer> {
        let body = match operation {
            Operation::Range(range) => self.range(range)?,
            Operation::Put(put) => self.put(put)?,
            Operation::Delete(delete) => self.delete(delete)?,
            Operation::Txn(_) | Operation::Unknown => return Err(Problem::KeyNotFound.into()),
        };
        Ok(Answer { revision: self.revision(), body })
    }

    fn change(&mut self, key: Key, value: Option<Value>) -> Stepped<()> {
        self.add_bytes(48 + key.as_str().len() + value.as_ref().map_or(0, |value| value.as_str().len()))?;
        self.changed.insert(key.clone(), value.clone());
        self.changes.push((key, value));
        Ok(())
    }

    fn add_bytes(&self, more: usize) -> Stepped<()> {
        add(&self.bytes, more, BYTES_MAX)
    }

    fn add_scanned(&self, more: usize) -> Stepped<()> {
        add(&self.scanned, more, SCANNED_BYTES_MAX)
    }
}

fn add(bytes: &Cell<usize>, more: usize, max: usize) -> Stepped<()> {
    bytes.set(bytes.get() + more);
    if bytes.get() > max { Err(Problem::TooLarge.into()) } else { Ok(()) }
}

/// Checks that a revision is neither compacted nor to come.
///
/// # Errors
/// `FutureRevision`, `Compacted`.
pub fn check_revision(revision: i64, head: Head) -> std::result::Result<(), Problem> {
    if revision > head.revision {
        Err(Problem::FutureRevision)
    } else if revision < head.compacted {
        Err(Problem::Compacted(head.compacted))
    } else {
        Ok(())
    }
}

fn chosen(txn: &Txn, succeeded: bool) -> &[Operation] {
    if succeeded { &txn.success } else { &txn.failure }
}

/// Checks each operation that is going to be run.
fn each(txn: &Txn, path: &Path, check: &mut impl FnMut(&Operation) -> Stepped<()>) -> Stepped<()> {
    let mut within = path.within.iter();
    for operation in chosen(txn, path.succeeded) {
        match operation {
            Operation::Txn(txn) => each(txn, within.next().expect("each transaction has its path"), check)?,
            operation => check(operation)?,
        }
    }
    Ok(())
}

fn holds_of(compare: &Compare, kv: &KeyValue) -> bool {
    let ordering = match &compare.with {
        With::Version(number) => kv.version.cmp(number),
        With::Create(number) => kv.create_revision.cmp(number),
        With::Mod(number) => kv.mod_revision.cmp(number),
        With::Lease(number) => kv.lease.cmp(number),
        With::Value(value) => kv.value.cmp(value),
    };
    match compare.relation {
        Some(Relation::Equal) => ordering.is_eq(),
        Some(Relation::NotEqual) => ordering.is_ne(),
        Some(Relation::Greater) => ordering.is_gt(),
        Some(Relation::Less) => ordering.is_lt(),
        None => true,
    }
}

/// Bytes of memory that a key with its value takes.
pub fn cost(kv: &KeyValue) -> usize {
    mem::size_of::<KeyValue>() + kv.key.len() + kv.value.len()
}

#[cfg(test)]
mod tests;
