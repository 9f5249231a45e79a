//! What is wrong with a request in itself, whatever the state: asked by the node that takes it, before anything is sent. The rules and
//! their order are etcd's.

use std::collections::BTreeSet;

use super::request::{Keys, Operation, Problem, Txn};

/// Most comparisons of a transaction, and most operations in each of its lists; transactions within it count in full. etcd's default
/// (`--max-txn-ops`).
pub const OPERATIONS_MAX: usize = 128;
/// Most bytes of a request: etcd's default (`--max-request-bytes`).
pub const REQUEST_BYTES_MAX: usize = 1536 * 1024;
/// The longest that a lease may last, in seconds.
pub const TTL_S_MAX: i64 = 9_000_000_000;

/// Checks an operation.
///
/// # Errors
/// What is wrong with it.
pub fn check(operation: &Operation) -> Result<(), Problem> {
    check_one(operation, OPERATIONS_MAX)?;
    if let Operation::Txn(txn) = operation {
        writes_of(&txn.success)?;
        writes_of(&txn.failure)?;
    }
    Ok(())
}

fn check_one(operation: &Operation, operations_max: usize) -> Result<(), Problem> {
    match operation {
        Operation::Range(range) => has_key(range.keys.first()),
        Operation::Delete(delete) => has_key(delete.keys.first()),
        Operation::Put(put) => {
            has_key(&put.key)?;
            if put.ignore_value && !put.value.is_empty() {
                return Err(Problem::ValueProvided);
            }
            if put.ignore_lease && put.lease != 0 {
                return Err(Problem::LeaseProvided);
            }
            Ok(())
        }
        Operation::Txn(txn) => check_txn(txn, operations_max),
        // As etcd says it.
        Operation::Unknown => Err(Problem::KeyNotFound),
    }
}

fn has_key(key: &[u8]) -> Result<(), Problem> {
    if key.is_empty() { Err(Problem::EmptyKey) } else { Ok(()) }
}

fn check_txn(txn: &Txn, operations_max: usize) -> Result<(), Problem> {
    let count = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    let left = operations_max.checked_sub(count).ok_or(Problem::TooManyOperations)?;
    txn.compare.iter().try_for_each(|compare| has_key(compare.keys.first()))?;
    txn.success.iter().chain(&txn.failure).try_for_each(|operation| check_one(operation, left))
}

/// What a list of operations may write.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Vec<&'a Keys>,
}

impl<'a> Writes<'a> {
    fn put(&mut self, key: &'a [u8]) -> Result<(), Problem> {
        match self.deletes.iter().any(|keys| keys.contains(key)) || !self.puts.insert(key) {
            true => Err(Problem::DuplicateKey),
            false => Ok(()),
        }
    }
}

/// What a list of operations may write, if it writes no key twice. Deletions that overlap are no harm: the second finds nothing.
fn writes_of(operations: &[Operation]) -> Result<Writes<'_>, Problem> {
    let mut writes = Writes::default();
    writes.deletes.extend(operations.iter().filter_map(|operation| match operation {
        Operation::Delete(delete) => Some(&delete.keys),
        Operation::Range(_) | Operation::Put(_) | Operation::Txn(_) | Operation::Unknown => None,
    }));
    for operation in operations {
        let Operation::Txn(txn) = operation else { continue };
        let (success, failure) = (writes_of(&txn.success)?, writes_of(&txn.failure)?);
        // The other way round too: all that a transaction changes has one version, so a key can change once.
        let deleted = || success.deletes.iter().chain(&failure.deletes);
        if writes.puts.iter().any(|key| deleted().any(|keys| keys.contains(key))) {
            return Err(Problem::DuplicateKey);
        }
        // Only one of the two lists is run.
        let either: BTreeSet<_> = success.puts.union(&failure.puts).copied().collect();
        either.into_iter().try_for_each(|key| writes.put(key))?;
        writes.deletes.extend(success.deletes.into_iter().chain(failure.deletes));
    }
    for operation in operations {
        if let Operation::Put(put) = operation {
            writes.put(&put.key)?;
        }
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::etcd::request::{Compare, Delete, Put, Range, Relation, With};

    fn put(key: &str) -> Operation {
        Operation::Put(Put { key: key.into(), ..Put::default() })
    }

    fn delete(key: &str, end: &str) -> Operation {
        Operation::Delete(Delete { keys: Keys::new(key.into(), end.into()), prev_kv: false })
    }

    fn txn(success: Vec<Operation>, failure: Vec<Operation>) -> Operation {
        Operation::Txn(Txn { compare: Vec::new(), success, failure })
    }

    #[test]
    fn a_transaction_that_writes_a_key_twice_is_refused_and_one_that_cannot_is_not() {
        let twice = Err(Problem::DuplicateKey);
        for (operations, checked) in [
            (vec![put("a"), put("b")], Ok(())),
            (vec![put("a"), put("a")], twice),
            (vec![put("a"), delete("a", "")], twice),
            (vec![put("b"), delete("a", "c")], twice),
            (vec![put("b"), delete("a", "\0")], twice),
            (vec![put("c"), delete("a", "c")], Ok(())),
            (vec![delete("a", "c"), delete("b", "d")], Ok(())),
            (vec![put("a"), txn(vec![put("a")], vec![])], twice),
            (vec![txn(vec![put("a")], vec![put("a")])], Ok(())),
            (vec![txn(vec![put("a")], vec![]), txn(vec![], vec![put("a")])], twice),
            (vec![put("a"), txn(vec![delete("a", "")], vec![])], twice),
            (vec![txn(vec![put("a")], vec![]), txn(vec![delete("a", "")], vec![])], twice),
            (vec![txn(vec![put("a")], vec![]), txn(vec![], vec![delete("a", "\0")])], twice),
            (vec![txn(vec![put("a"), put("a")], vec![])], twice),
        ] {
            assert_eq!(check(&txn(operations.clone(), vec![])), checked, "{operations:?}");
            assert_eq!(check(&txn(vec![], operations.clone())), checked, "{operations:?}");
        }
    }

    #[test]
    fn operations_are_counted_through_transactions_within() {
        let many = |count: usize| (0..count).map(|number| put(&number.to_string())).collect::<Vec<_>>();
        assert_eq!(check(&txn(many(OPERATIONS_MAX), vec![])), Ok(()));
        assert_eq!(check(&txn(vec![], many(OPERATIONS_MAX + 1))), Err(Problem::TooManyOperations));
        let within = |count| txn(vec![txn(many(count), vec![])], vec![]);
        assert_eq!(check(&within(OPERATIONS_MAX - 1)), Ok(()));
        assert_eq!(check(&within(OPERATIONS_MAX)), Err(Problem::TooManyOperations));
    }

    #[test]
    fn empty_keys_and_contradictions_are_refused_at_any_depth() {
        let wrong = [
            (put(""), Problem::EmptyKey),
            (delete("", "z"), Problem::EmptyKey),
            (Operation::Range(Range::new(Keys::new(vec![], vec![0]))), Problem::EmptyKey),
            (
                Operation::Put(Put {
                    key: b"a".into(),
                    value: b"1".into(),
                    ignore_value: true,
                    ..Put::default()
                }),
                Problem::ValueProvided,
            ),
            (
                Operation::Put(Put { key: b"a".into(), lease: 1, ignore_lease: true, ..Put::default() }),
                Problem::LeaseProvided,
            ),
        ];
        for (operation, problem) in wrong {
            assert_eq!(check(&operation), Err(problem));
            assert_eq!(check(&txn(vec![], vec![txn(vec![operation], vec![])])), Err(problem));
        }
        let compare =
            Compare { keys: Keys::One(vec![]), relation: Some(Relation::Equal), with: With::Version(0) };
        let txn = Txn { compare: vec![compare], ..Txn::default() };
        assert_eq!(check(&Operation::Txn(txn)), Err(Problem::EmptyKey));
    }
}
