//! Clients that read, write, delete, compare and set a few keys of a strong table through all nodes, and record what they asked and what
//! they were told.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use hyper::{Method, Request, http::request::Builder};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    super::{
        client::{Answer, Sent, send},
        run::pass,
    },
    branches::Branches,
    plan::Plan,
    run::LINKED_AFTER,
};
use crate::{
    linearizability::checker::{Event, Held, Operation},
    random::Random,
};

/// The table of all histories.
pub const TABLE: &str = "register";
/// After a while, all clients go on to new keys: short histories are quickly checked.
const KEYS_FOR: Duration = Duration::from_secs(3);

/// What clients record.
#[derive(Default)]
pub struct Recorder {
    pub histories: RefCell<BTreeMap<String, Vec<Event>>>,
    pub answered: Cell<u64>,
    pub unknown: Cell<u64>,
    /// The table is there.
    pub is_made: Cell<bool>,
    /// The nodes that have been members of the group.
    pub joined: RefCell<BTreeSet<usize>>,
    pub branches: Branches,
    numbers: Cell<u64>,
    steps: Cell<u64>,
}

impl Recorder {
    /// The time of this moment. Simulated clocks stand still while much happens, but one thing happens after another, on one thread: so
    /// these are numbers that rise.
    pub fn now(&self) -> Duration {
        self.steps.set(self.steps.get() + 1);
        Duration::from_nanos(self.steps.get())
    }

    /// A number that nobody wrote yet.
    fn number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    pub fn record(&self, key: &str, operation: Operation, called: Duration, returned: Option<Duration>) {
        let count = if returned.is_some() { &self.answered } else { &self.unknown };
        count.set(count.get() + 1);
        let event = Event { operation, called, returned };
        self.histories.borrow_mut().entry(key.to_owned()).or_default().push(event);
    }
}

/// What became of an operation.
enum Fate {
    Done(Answer),
    /// It had no effect, and never will.
    Refused,
    /// It may have taken effect, or may yet.
    Unknown,
}

/// Reads a key and records what was there. `None` if it was not answered.
pub async fn read(recorder: &Recorder, node: usize, key: &str) -> Option<(Held, Option<String>)> {
    let called = recorder.now();
    let Fate::Done(answer) = perform(node, at(Method::GET, &path(key)), "").await else { return None };
    let seen = match answer.status {
        404 => None,
        200 => held(&json_of(&answer)["value"]),
        status => panic!("a read was answered {status}: {}", answer.body),
    };
    recorder.record(key, Operation::Read(seen), called, Some(recorder.now()));
    Some((seen, answer.version))
}

async fn perform(node: usize, request: Builder, body: &str) -> Fate {
    match send(node, request, body).await {
        Sent::Never => Fate::Refused,
        Sent::Unanswered => Fate::Unknown,
        Sent::Answered(answer) if answer.status == 503 => Fate::Refused,
        Sent::Answered(answer) if answer.status >= 500 => Fate::Unknown,
        Sent::Answered(answer) => Fate::Done(answer),
    }
}

fn path(key: &str) -> String {
    format!("/{TABLE}/key/{key}")
}

fn at(method: Method, path: &str) -> Builder {
    Request::builder().method(method).uri(path)
}

fn json_of(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).expect("JSON")
}

fn held(value: &Value) -> Held {
    if value.is_null() { None } else { Some(value.as_u64().expect("a number")) }
}

/// One client.
pub struct Client {
    pub recorder: Rc<Recorder>,
    pub plan: Rc<Plan>,
    pub random: Random,
    /// What it read last of each key: the value, and its version.
    pub seen: BTreeMap<String, (Held, Option<String>)>,
    pub node: usize,
}

impl Client {
    /// Lives until the trouble is over.
    pub async fn live(mut self) -> turmoil::Result {
        let begun = Instant::now();
        while !self.recorder.is_made.get() {
            pass(Duration::from_millis(20)).await;
        }
        while begun.elapsed() < self.plan.troubled {
            let rest = self.random.below(0..self.plan.rest_max.as_millis() as u64);
            pass(Duration::from_millis(rest)).await;
            let window = begun.elapsed().as_millis() / KEYS_FOR.as_millis();
            let key = format!("k{window}-{}", self.random.index(self.plan.keys));
            if self.random.one_in(4) {
                self.choose_node();
            }
            let done = match self.random.below(0..10) {
                0..4 => self.read(&key).await,
                4..6 => self.write(&key).await,
                6..9 => self.swap(&key).await,
                _ => self.replace_version(&key).await,
            };
            if !done {
                self.choose_node();
            }
        }
        Ok(())
    }

    /// Chooses a node that began before the table was made, or has joined since. One that begins where it reaches nobody is a cluster of its own,
    /// without strong tables, and takes eventual writes.
    fn choose_node(&mut self) {
        let has_joined = |node: &usize| self.recorder.joined.borrow().contains(node);
        let nodes = 0..self.plan.nodes;
        let usable: Vec<_> =
            nodes.filter(|node| self.plan.begins[*node] < LINKED_AFTER || has_joined(node)).collect();
        self.node = usable[self.random.index(usable.len())];
    }

    async fn read(&mut self, key: &str) -> bool {
        let seen = read(&self.recorder, self.node, key).await;
        let is_done = seen.is_some();
        self.seen.extend(seen.map(|seen| (key.to_owned(), seen)));
        is_done
    }

    /// Performs a writing operation and records it, as what `record` makes of the answer.
    async fn change(
        &mut self,
        key: &str,
        request: Builder,
        body: &str,
        operation: Operation,
        record: impl FnOnce(&mut Self, Operation, &Answer) -> Operation,
    ) -> bool {
        let called = self.recorder.now();
        let (operation, returned) = match perform(self.node, request, body).await {
            Fate::Done(answer) => {
                let returned = self.recorder.now();
                (record(self, operation, &answer), Some(returned))
            }
            Fate::Refused => return false,
            Fate::Unknown => (operation, None),
        };
        self.recorder.record(key, operation, called, returned);
        returned.is_some()
    }

    async fn write(&mut self, key: &str) -> bool {
        let value = (!self.random.one_in(5)).then(|| self.recorder.number());
        let (request, body) = match value {
            Some(value) => (at(Method::PUT, &path(key)), format!(r#"{{"value":{value}}}"#)),
            None => (at(Method::DELETE, &format!("{}?force=true", path(key))), String::new()),
        };
        let as_asked = |_: &mut Self, operation, answer: &Answer| {
            assert_eq!(answer.status, 200, "{}", answer.body);
            operation
        };
        self.change(key, request, &body, Operation::Write(value), as_asked).await
    }

    /// Compares with what it saw last, and sets; if it differs, it reads in the same step.
    async fn swap(&mut self, key: &str) -> bool {
        let (expected, _) = self.seen.get(key).cloned().unwrap_or_default();
        let value = self.recorder.number();
        let compare = match expected {
            Some(expected) => json!({ "table": TABLE, "key": key, "value": expected }),
            None => json!({ "table": TABLE, "key": key, "absent": true }),
        };
        let transaction = json!({
            "compare": [compare],
            "success": [{ "op": "put", "table": TABLE, "key": key, "value": value }, Branches::mark(value, true)],
            "failure": [{ "op": "get", "table": TABLE, "key": key }, Branches::mark(value, false)],
        });
        let request = at(Method::POST, "/_/txn");
        self.recorder.branches.note(value, None);
        let swap = Operation::Swap(expected, Some(value));
        let by_answer = |client: &mut Self, swap, answer: &Answer| {
            assert_eq!(answer.status, 200, "{}", answer.body);
            let answer = json_of(answer);
            client.recorder.branches.note(value, answer["succeeded"].as_bool());
            let (operation, seen) = match answer["succeeded"] == true {
                true => (swap, Some(value)),
                false => {
                    let seen = held(&answer["results"][0]["value"]);
                    assert_ne!(seen, expected, "a comparison failed that holds: {answer}");
                    (Operation::Read(seen), seen)
                }
            };
            client.seen.insert(key.to_owned(), (seen, None));
            operation
        };
        self.change(key, request, &transaction.to_string(), swap, by_answer).await
    }

    /// Replaces the version that it read last, or makes the key if it was absent. No two versions have one value.
    async fn replace_version(&mut self, key: &str) -> bool {
        let (expected, condition) = match self.seen.get(key) {
            Some((expected @ Some(_), Some(version))) => (*expected, ("if-match", format!("\"{version}\""))),
            Some((None, _)) => (None, ("if-none-match", "*".to_owned())),
            _ => return self.read(key).await,
        };
        let value = self.recorder.number();
        let request = at(Method::PUT, &path(key)).header(condition.0, condition.1);
        let swap = Operation::Swap(expected, Some(value));
        let by_answer = |client: &mut Self, swap, answer: &Answer| match answer.status {
            412 => {
                client.seen.remove(key);
                Operation::Differs(expected)
            }
            status => {
                assert_eq!(status, 200, "{}", answer.body);
                client.seen.insert(key.to_owned(), (Some(value), answer.version.clone()));
                swap
            }
        };
        self.change(key, request, &format!(r#"{{"value":{value}}}"#), swap, by_answer).await
    }
}
