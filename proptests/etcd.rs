//! The data model of the etcd API against a simple model, which keeps a copy of all keys for each revision: whatever is asked, the answers are
//! the same, the history leads from one revision to the next, and each lease knows its keys.

mod model;

use std::collections::BTreeMap;

use dynarust::{
    Result,
    core::{
        etcd::{
            check::check,
            evaluate::{Page, Past, Rows, evaluate},
            history::{History, Newer, Replaced},
            request::{
                Compare, Delete, Keys, Operation, Order, Outcome, Problem, Put, Range, Relation, Request,
                Target, Txn, With,
            },
            row::{self, Head, Named},
        },
        json::Value,
        name::Key,
    },
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use self::model::{Model, State};
use crate::cases;

/// What is tried.
struct Subject {
    rows: BTreeMap<Key, Value>,
    history: History,
}

impl Rows for Subject {
    fn row(&self, key: &Key) -> Result<Option<Value>> {
        Ok(self.rows.get(key).cloned())
    }

    fn page(&self, low: &str, high: &str) -> Result<Page> {
        let mut rows = self.rows.iter().filter(|(key, _)| (low..high).contains(&key.as_str()));
        let page: Vec<_> = rows.by_ref().take(2).map(|(key, value)| (key.clone(), value.clone())).collect();
        let last = page.last().map(|(key, _)| key.clone()).filter(|_| rows.next().is_some());
        Ok(Page { rows: page, last })
    }

    fn past(&self, keys: &Keys, revision: i64) -> std::result::Result<Past, Problem> {
        self.history.past(keys, revision)
    }
}

/// What a leader does: it does not know the past.
struct Leader<'a>(&'a Subject);

impl Rows for Leader<'_> {
    fn row(&self, key: &Key) -> Result<Option<Value>> {
        self.0.row(key)
    }

    fn page(&self, low: &str, high: &str) -> Result<Page> {
        self.0.page(low, high)
    }

    fn past(&self, _: &Keys, _: i64) -> std::result::Result<Past, Problem> {
        Err(Problem::PastInWrite)
    }
}

impl Subject {
    fn run(&mut self, request: &Request) -> Outcome {
        let writes = !matches!(request, Request::Operation(operation) if !operation.writes());
        let evaluated = if writes { evaluate(request, &Leader(self)) } else { evaluate(request, self) };
        let evaluated = evaluated.expect("can be read");
        assert!(writes || evaluated.changes.is_empty());
        for (key, value) in evaluated.changes {
            let kv = |name: &[u8], value: &Value| row::parse_key(name.to_vec(), value).expect("is a row");
            match Named::of(&key).expect("is named") {
                Named::Key(name) => {
                    let before = self.rows.get(&key).map(|value| kv(&name, value));
                    let now = value.as_ref().map(|value| kv(&name, value));
                    self.history.replaced(Replaced { key: name, now, before: Ok::<_, Newer>(before) });
                }
                Named::Head => self.history.completed(Head::of(value.as_ref()).expect("is a row")),
                Named::Lease(_) | Named::Leased(..) => {}
            }
            match value {
                Some(value) => drop(self.rows.insert(key, value)),
                None => assert!(self.rows.remove(&key).is_some(), "only what is there is deleted"),
            }
        }
        evaluated.outcome
    }

    fn check(&self, model: &Model) {
        let mut state = State::new();
        let mut leased = Vec::new();
        let mut of_keys = Vec::new();
        for (key, value) in &self.rows {
            match Named::of(key).expect("is named") {
                Named::Key(name) => {
                    let kv = row::parse_key(name.clone(), value).expect("is a row");
                    of_keys.extend((kv.lease != 0).then(|| (kv.lease, name.clone())));
                    state.insert(name, kv);
                }
                Named::Leased(id, name) => leased.push((id, name)),
                Named::Head | Named::Lease(_) => {}
            }
        }
        of_keys.sort();
        assert_eq!(&state, model.now());
        assert_eq!(leased, of_keys);
        // The history leads from each state to the next.
        for revision in self.history.first().max(2)..=model.revision() {
            let mut state = model.states[revision as usize - 2].clone();
            for event in self.history.events(revision).expect("is there").expect("has come").iter() {
                let before = match event.is_delete {
                    true => state.remove(&event.kv.key),
                    false => state.insert(event.kv.key.clone(), event.kv.clone()),
                };
                assert_eq!(before, event.before);
            }
            assert_eq!(state, model.states[revision as usize - 1]);
        }
    }
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    select(vec![b"a".to_vec(), b"ab".to_vec(), b"b".to_vec(), b"\xff".to_vec(), b"\0".to_vec()])
}

fn keys() -> impl Strategy<Value = Keys> {
    prop_oneof![
        key().prop_map(Keys::One),
        (key(), option::of(key())).prop_map(|(low, high)| Keys::Range(low, high)),
    ]
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![2 => Just(0), 1 => 1..4_i64]
}

fn range() -> impl Strategy<Value = Range> {
    let order = select(vec![Order::None, Order::Ascending, Order::Descending]);
    (keys(), 0..3_i64, -1..12_i64, order, any::<bool>()).prop_map(
        |(keys, limit, revision, order, count_only)| Range {
            limit,
            revision,
            order,
            target: Target::Key,
            count_only,
            ..Range::new(keys)
        },
    )
}

fn put() -> impl Strategy<Value = Put> {
    (key(), vec(0..3_u8, 0..2), lease(), any::<bool>(), 0..6_u8).prop_map(
        |(key, value, lease, prev_kv, kept)| {
            let (ignore_value, ignore_lease) = (kept == 0, kept == 1);
            Put {
                key,
                value: if ignore_value { Vec::new() } else { value },
                lease: if ignore_lease { 0 } else { lease },
                prev_kv,
                ignore_value,
                ignore_lease,
            }
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let with = prop_oneof![
        (0..3_i64).prop_map(With::Version),
        (0..9_i64).prop_map(With::Create),
        (0..9_i64).prop_map(With::Mod),
        lease().prop_map(With::Lease),
        vec(0..3_u8, 0..2).prop_map(With::Value),
    ];
    let relations = vec![Relation::Equal, Relation::NotEqual, Relation::Greater, Relation::Less];
    (keys(), select(relations), with).prop_map(|(keys, relation, with)| Compare {
        keys,
        relation: Some(relation),
        with,
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let leaf = prop_oneof![
        range().prop_map(Operation::Range),
        put().prop_map(Operation::Put),
        (keys(), any::<bool>()).prop_map(|(keys, prev_kv)| Operation::Delete(Delete { keys, prev_kv })),
    ];
    leaf.prop_recursive(2, 12, 3, |inner| {
        let list = || vec(inner.clone(), 0..3);
        (vec(compare(), 0..3), list(), list())
            .prop_map(|(compare, success, failure)| Operation::Txn(Txn { compare, success, failure }))
    })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        12 => operation().prop_map(Request::Operation),
        1 => (-1..10_i64).prop_map(Request::Compact),
        2 => (1..4_i64, 0..5_i64).prop_map(|(id, ttl_s)| Request::Grant { id, ttl_s }),
        1 => (1..4_i64).prop_map(Request::Revoke),
    ]
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn answers_are_those_of_the_model(requests in vec(request(), 1..25)) {
        let mut model = Model::new();
        let mut subject = Subject { rows: BTreeMap::new(), history: History::new(Head::default()) };
        for request in requests {
            if let Request::Operation(operation) = &request
                && check(operation).is_err()
            {
                continue;
            }
            let expected = model.run(&request);
            prop_assert_eq!(subject.run(&request), expected, "{:?}", request);
            subject.check(&model);
        }
    }
}
