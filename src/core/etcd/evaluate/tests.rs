//! What requests come to, on rows in memory.

use std::collections::BTreeSet;

use super::{
    operations::{REVOKED_KEYS_MAX, TTL_S_MIN},
    *,
};
use crate::core::etcd::{
    check::TTL_S_MAX,
    history::{History, Newer, Replaced},
    request::{Delete, Put, Range},
};

/// Rows in memory, and their history.
struct State {
    rows: BTreeMap<Key, Value>,
    /// Rows that are in the store still, and were deleted by what is on its way.
    deleted: BTreeSet<Key>,
    history: History,
}

impl Rows for State {
    fn row(&self, key: &Key) -> Result<Option<Value>> {
        Ok(self.rows.get(key).filter(|_| !self.deleted.contains(key)).cloned())
    }

    /// Pages of two, so that each read takes several.
    fn page(&self, low: &str, high: &str) -> Result<Page> {
        let mut rows = self.rows.iter().filter(|(key, _)| (low..high).contains(&key.as_str()));
        let mut page: Vec<_> =
            rows.by_ref().take(2).map(|(key, value)| (key.clone(), value.clone())).collect();
        let last = page.last().map(|(key, _)| key.clone()).filter(|_| rows.next().is_some());
        page.retain(|(key, _)| !self.deleted.contains(key));
        Ok(Page { rows: page, last })
    }

    fn past(&self, keys: &Keys, revision: i64) -> std::result::Result<Past, Problem> {
        self.history.past(keys, revision)
    }
}

impl State {
    fn new() -> Self {
        Self { rows: BTreeMap::new(), deleted: BTreeSet::new(), history: History::new(Head::default()) }
    }

    fn run(&mut self, request: Request) -> Outcome {
        let Evaluation { changes, outcome } = evaluate(&request, self).expect("can be read");
        for (key, value) in changes {
            let kv = |key: Vec<u8>, value: &Value| row::parse_key(key, value).expect("is a row");
            match Named::of(&key) {
                Some(Named::Key(name)) => {
                    let before = self.rows.get(&key).map(|value| kv(name.clone(), value));
                    let now = value.as_ref().map(|value| kv(name.clone(), value));
                    self.history.replaced(Replaced { key: name, now, before: Ok::<_, Newer>(before) });
                }
                Some(Named::Head) => self.history.completed(Head::of(value.as_ref()).expect("is a row")),
                Some(Named::Lease(_) | Named::Leased(..)) | None => {}
            }
            match value {
                Some(value) => drop(self.rows.insert(key, value)),
                None => drop(self.rows.remove(&key).expect("only what is there is deleted")),
            }
        }
        outcome
    }

    fn operate(&mut self, operation: Operation) -> Outcome {
        self.run(Request::Operation(operation))
    }

    /// Keys and values of a range, as text.
    fn read(&mut self, key: &str, end: &str, revision: i64) -> std::result::Result<String, Problem> {
        let keys = Keys::new(key.into(), end.into());
        match self.operate(Operation::Range(Range { revision, ..Range::new(keys) }))?.body {
            Body::Range(ranged) => Ok(shown(&ranged.kvs)),
            other => panic!("{other:?}"),
        }
    }
}

fn shown(kvs: &[KeyValue]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    kvs.iter().map(|kv| format!("{}={} ", text(&kv.key), text(&kv.value))).collect()
}

fn put(key: &str, value: &str) -> Operation {
    Operation::Put(Put { key: key.into(), value: value.into(), ..Put::default() })
}

fn leased(key: &str, lease: i64) -> Operation {
    Operation::Put(Put { key: key.into(), lease, ..Put::default() })
}

fn delete(key: &str, end: &str) -> Operation {
    Operation::Delete(Delete { keys: Keys::new(key.into(), end.into()), prev_kv: true })
}

fn get(key: &str) -> Operation {
    Operation::Range(Range::new(Keys::One(key.into())))
}

fn compare(key: &str, end: &str, relation: Relation, with: With) -> Compare {
    Compare { keys: Keys::new(key.into(), end.into()), relation: Some(relation), with }
}

fn txn(compare: Vec<Compare>, success: Vec<Operation>, failure: Vec<Operation>) -> Operation {
    Operation::Txn(Txn { compare, success, failure })
}

#[test]
fn writes_raise_the_revision_by_one_and_others_do_not() {
    let mut state = State::new();
    let revision = |outcome: Outcome| outcome.expect("is done").revision;
    assert_eq!(revision(state.operate(get("a"))), 1);
    assert_eq!(revision(state.operate(put("a", "1"))), 2);
    assert_eq!(revision(state.operate(txn(vec![], vec![put("b", "1"), put("c", "1"), get("b")], vec![]))), 3);
    assert_eq!(revision(state.operate(delete("x", ""))), 3);
    assert_eq!(revision(state.operate(delete("a", "c"))), 4);
    assert_eq!(revision(state.run(Request::Grant { id: 1, ttl_s: 5 })), 4);
    assert_eq!(revision(state.run(Request::Compact(3))), 4);
    assert_eq!(revision(state.run(Request::Revoke(1))), 4);
    assert_eq!(state.read("a", "\0", 0), Ok("c=1 ".into()));
}

#[test]
fn a_key_has_the_revisions_of_its_life() {
    let mut state = State::new();
    for operation in
        [put("k", "1"), put("x", ""), put("k", "2"), delete("k", ""), put("k", "3"), put("k", "4")]
    {
        state.operate(operation).expect("is done");
    }
    let Ok(Answer { body: Body::Range(ranged), .. }) = state.operate(get("k")) else { panic!("is read") };
    let kv = &ranged.kvs[0];
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (6, 7, 2));
}

#[test]
fn the_past_can_be_read_until_it_is_compacted() {
    let mut state = State::new();
    for operation in [put("a", "1"), put("b", "1"), put("a", "2"), delete("b", ""), put("c", "1")] {
        state.operate(operation).expect("is done");
    }
    for (revision, read) in [(2, "a=1 "), (3, "a=1 b=1 "), (4, "a=2 b=1 "), (5, "a=2 "), (6, "a=2 c=1 ")] {
        assert_eq!(state.read("a", "\0", revision), Ok(read.into()), "{revision}");
    }
    assert_eq!(state.read("a", "", 7), Err(Problem::FutureRevision));
    assert_eq!(state.run(Request::Compact(7)), Err(Problem::FutureRevision));
    state.run(Request::Compact(4)).expect("is compacted");
    assert_eq!(state.run(Request::Compact(4)), Err(Problem::Compacted(4)));
    assert_eq!(state.read("a", "", 3), Err(Problem::Compacted(4)));
    assert_eq!(state.read("a", "\0", 4), Ok("a=2 b=1 ".into()));
}

#[test]
fn all_comparisons_are_with_the_state_before_and_reads_see_what_was_written() {
    let mut state = State::new();
    let within = txn(
        vec![compare("a", "", Relation::Equal, With::Version(0))],
        vec![put("b", "absent"), get("a")],
        vec![put("b", "present")],
    );
    let outcome = state.operate(txn(vec![], vec![put("a", "1"), within], vec![])).expect("is done");
    let Body::Txn(true, answers) = outcome.body else { panic!("{outcome:?}") };
    let Body::Txn(true, within) = &answers[1].body else { panic!("{answers:?}") };
    assert_eq!((answers[1].revision, within[1].revision), (0, 2));
    let Body::Range(ranged) = &within[1].body else { panic!("{within:?}") };
    assert_eq!(shown(&ranged.kvs), "a=1 ");
    assert_eq!(state.read("b", "", 0), Ok("b=absent ".into()));
}

#[test]
fn comparisons_hold_as_they_do_in_etcd() {
    let mut state = State::new();
    for operation in [put("a", "1"), put("b", "2"), put("b", "3")] {
        state.operate(operation).expect("is done");
    }
    use Relation::{Equal, Greater, Less, NotEqual};
    for (holds, key, end, relation, with) in [
        (true, "a", "", Equal, With::Value(b"1".into())),
        (false, "a", "", NotEqual, With::Value(b"1".into())),
        (true, "a", "c", Greater, With::Value(b"0".into())),
        (false, "a", "c", Equal, With::Value(b"1".into())),
        (false, "x", "", NotEqual, With::Value(b"1".into())),
        (false, "x", "", Equal, With::Value(b"".into())),
        (true, "x", "", Equal, With::Create(0)),
        (true, "x", "z", Less, With::Mod(1)),
        (true, "b", "", Equal, With::Version(2)),
        (true, "a", "\0", Greater, With::Create(1)),
        (true, "b", "", Equal, With::Mod(4)),
        (true, "a", "", Equal, With::Lease(0)),
        (false, "a", "", Less, With::Lease(0)),
    ] {
        let compared = state.operate(txn(vec![compare(key, end, relation, with.clone())], vec![], vec![]));
        let body = compared.map(|answer| answer.body);
        assert_eq!(body, Ok(Body::Txn(holds, vec![])), "{key} {end} {relation:?} {with:?}");
    }
}

#[test]
fn a_transaction_that_fails_changes_nothing() {
    let mut state = State::new();
    let keep = |key: &str| Operation::Put(Put { key: key.into(), ignore_value: true, ..Put::default() });
    let future = Operation::Range(Range { revision: 2, ..Range::new(Keys::One(b"a".into())) });
    for (operation, problem) in [
        (keep("x"), Problem::KeyNotFound),
        (leased("x", 9), Problem::LeaseNotFound),
        (future, Problem::FutureRevision),
        (put(&"k".repeat(1001), ""), Problem::KeyTooLong(1001)),
    ] {
        let within = txn(vec![], vec![operation.clone()], vec![]);
        let outcome = state.operate(txn(vec![], vec![put("a", "1"), within], vec![]));
        assert_eq!(outcome, Err(problem));
        // Only the list that is run counts.
        assert!(state.operate(txn(vec![], vec![], vec![operation])).is_ok());
    }
    assert_eq!(state.read("a", "\0", 0), Ok(String::new()));
    assert!(state.rows.is_empty());
}

#[test]
fn what_is_kept_is_what_was_there() {
    let mut state = State::new();
    state.run(Request::Grant { id: 7, ttl_s: 5 }).expect("is granted");
    let first = Put { key: b"k".into(), value: b"1".into(), lease: 7, ..Put::default() };
    state.operate(Operation::Put(first)).expect("is done");
    let keep =
        Put { key: b"k".into(), ignore_value: true, ignore_lease: true, prev_kv: true, ..Put::default() };
    let Ok(Answer { body: Body::Put(Some(before)), .. }) = state.operate(Operation::Put(keep)) else {
        panic!("is done")
    };
    assert_eq!((before.value, before.lease, before.version), (b"1".to_vec(), 7, 1));
    let Ok(Answer { body: Body::Range(ranged), .. }) = state.operate(get("k")) else { panic!("is read") };
    assert_eq!((shown(&ranged.kvs).as_str(), ranged.kvs[0].lease, ranged.kvs[0].version), ("k=1 ", 7, 2));
}

#[test]
fn a_lease_takes_its_keys_with_it_in_one_revision() {
    let mut state = State::new();
    assert_eq!(state.run(Request::Revoke(1)), Err(Problem::LeaseNotFound));
    assert_eq!(state.run(Request::Grant { id: 1, ttl_s: TTL_S_MAX + 1 }), Err(Problem::TtlTooLarge));
    let granted = state.run(Request::Grant { id: 1, ttl_s: 1 }).map(|answer| answer.body);
    assert_eq!(granted, Ok(Body::Granted(TTL_S_MIN)));
    assert_eq!(state.run(Request::Grant { id: 1, ttl_s: 9 }), Err(Problem::LeaseExists));
    state.run(Request::Grant { id: 2, ttl_s: 9 }).expect("is granted");
    for operation in [
        leased("a", 1),
        leased("b", 1),
        leased("c", 1),
        leased("d", 1),
        leased("e", 1),
        put("b", "detached"),
        leased("c", 2),
        delete("d", ""),
    ] {
        state.operate(operation).expect("is done");
    }
    let revoked = state.run(Request::Revoke(1)).expect("is revoked");
    assert_eq!((revoked.body, revoked.revision), (Body::Revoked, 10));
    assert_eq!(state.read("a", "\0", 0), Ok("b=detached c= ".into()));
    assert_eq!(state.history.events(10).expect("is there").map(|events| events.len()), Some(2));
    let left: Vec<_> = state.rows.keys().map(Key::as_str).collect();
    let lease = "0000000000000002";
    assert_eq!(left, ["head", "key:b", "key:c", &format!("lease:{lease}"), &format!("leased:{lease}:c")]);
}

/// A lease with more keys than fit one entry of the log never ended.
#[test]
fn a_lease_with_very_many_keys_ends_in_steps_and_takes_none_meanwhile() {
    let mut state = State::new();
    state.run(Request::Grant { id: 1, ttl_s: 5 }).expect("is granted");
    let count = REVOKED_KEYS_MAX + 2;
    for number in 0..count {
        state.operate(leased(&format!("k{number:05}"), 1)).expect("is written");
    }
    state.operate(put("other", "1")).expect("is written");
    let revision = state.history.head().revision;
    let begun = state.run(Request::Revoke(1)).expect("has begun");
    assert_eq!((begun.body, begun.revision), (Body::Revoking, revision + 1));
    assert_eq!(state.operate(leased("k00000", 1)), Err(Problem::LeaseNotFound));
    assert_eq!(state.run(Request::Grant { id: 1, ttl_s: 5 }), Err(Problem::LeaseExists));
    assert_eq!(state.read("k", "l", 0), Ok(format!("k{:05}= k{:05}= ", count - 2, count - 1)));
    let ended = state.run(Request::ContinueRevoke(1)).expect("has ended");
    assert_eq!((ended.body, ended.revision), (Body::Revoked, revision + 2));
    assert_eq!(state.read("a", "z", 0), Ok("other=1 ".into()));
    assert_eq!(state.rows.len(), 2, "the head and the other key");
    assert_eq!(state.run(Request::Revoke(1)), Err(Problem::LeaseNotFound));
}

/// Each step of a revocation was a revocation: the leader had made the last one, the lease was granted again, and the next step of the first client
/// deleted the new keys.
#[test]
fn a_step_of_a_revocation_leaves_a_lease_alone_that_was_granted_since() {
    let mut state = State::new();
    let gone = state.run(Request::ContinueRevoke(1)).map(|answer| answer.body);
    assert_eq!(gone, Ok(Body::Revoked));
    state.run(Request::Grant { id: 1, ttl_s: 5 }).expect("is granted");
    state.operate(leased("k", 1)).expect("is written");
    let revision = state.history.head().revision;
    let left = state.run(Request::ContinueRevoke(1)).map(|answer| (answer.body, answer.revision));
    assert_eq!(left, Ok((Body::Revoked, revision)));
    assert_eq!(state.read("k", "l", 0), Ok("k= ".into()));
    state.operate(leased("k2", 1)).expect("the lease is there");
}

#[test]
fn a_table_whose_head_is_lost_or_damaged_does_not_begin_again() {
    let mut state = State::new();
    state.operate(put("a", "1")).expect("is written");
    let refused = |state: &State| {
        let evaluated =
            evaluate(&Request::Operation(put("b", "1")), state).map_err(|error| error.to_string());
        evaluated.is_err_and(|why| why.contains("PUT /etcd/key/head"))
    };
    assert!(!refused(&state));
    state.rows.insert(row::head(), Value::trusted(r#"{"mine":1}"#.into()));
    assert!(refused(&state));
    state.rows.remove(&row::head());
    assert!(refused(&state));
}

/// A page whose rows were all deleted by what is on its way was taken for the last one: what lay behind it was neither counted nor deleted.
#[test]
fn a_range_goes_on_behind_rows_that_are_deleted_but_not_applied() {
    let mut state = State::new();
    for key in ["a", "b", "c", "d"] {
        state.operate(put(key, "1")).expect("puts");
    }
    state.deleted = ["a", "b"].map(|name| row::key(name.as_bytes()).expect("a key")).into();
    assert_eq!(state.read("a", "z", 0).expect("reads").matches('=').count(), 2);
}

/// What was only counted, compared or skipped cost nothing: one request could hold up the leader for hours.
#[test]
fn a_request_looks_at_so_many_rows_and_no_more() {
    let mut state = State::new();
    state.operate(put("a", &"x".repeat(1 << 20))).expect("puts");
    let keys = || Keys::new("a".into(), "z".into());
    let count = || Operation::Range(Range { count_only: true, ..Range::new(keys()) });
    let one = Keys::new("a".into(), "".into());
    let compare = |keys| Compare { keys, relation: Some(Relation::Equal), with: With::Version(1) };
    let txn = |counts: usize, compares: usize| {
        let compares = (0..compares).map(|number| if number % 2 == 0 { keys() } else { one.clone() });
        let compare = compares.map(compare).collect();
        Operation::Txn(Txn { compare, success: (0..counts).map(|_| count()).collect(), failure: Vec::new() })
    };
    for (counts, compares) in [(60, 0), (0, 60)] {
        assert!(state.operate(txn(counts, compares)).is_ok());
    }
    for (counts, compares) in [(70, 0), (0, 70), (35, 35)] {
        assert_eq!(state.operate(txn(counts, compares)), Err(Problem::TooLarge), "{counts}, {compares}");
    }
    let reads = |count: usize| {
        let success = (0..count).map(|_| Operation::Range(Range::new(keys()))).collect();
        Operation::Txn(Txn { compare: Vec::new(), success, failure: Vec::new() })
    };
    assert!(state.operate(reads(15)).is_ok());
    assert_eq!(state.operate(reads(17)), Err(Problem::TooLarge), "what is returned has a limit of its own");
}

/// The rows of somebody else's table could be taken for none while some were being deleted.
#[test]
fn a_table_of_somebody_else_is_left_alone_while_its_first_rows_are_deleted() {
    let mut state = State::new();
    for name in ["x", "y", "z"] {
        let key = Key::parse(name).expect("a key");
        state.rows.insert(key.clone(), Value::trusted("1".into()));
        state.deleted.insert(key);
    }
    state.deleted.pop_last();
    let refused = evaluate(&Request::Operation(put("a", "1")), &state);
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
}
