//! Clients that read, write, delete, compare and set a few keys through all nodes, and record what they asked and what they were told.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    RECOVERY,
    client::{Client, Door, Fate},
    history::{Event, Held, Operation},
};
use crate::{
    crash::ledger::Chance,
    harness::{http::Request, wait_until},
};

/// The table of all histories.
pub const TABLE: &str = "register";
const CLIENTS: usize = 5;
/// Keys in use at once. After a while, all clients go on to new ones: short histories are quickly checked.
const KEYS: u64 = 3;
const KEYS_FOR: Duration = Duration::from_secs(3);
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// What clients record.
pub struct Recorder {
    /// Begins the names of keys, so that each history has its own.
    prefix: String,
    begun: Instant,
    stop: AtomicBool,
    answered: AtomicU64,
    unknown: AtomicU64,
    next: AtomicU64,
    histories: Mutex<HashMap<String, Vec<Event>>>,
}

impl Recorder {
    pub fn new(prefix: String) -> Self {
        Self {
            prefix,
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            next: AtomicU64::new(1),
            histories: Mutex::default(),
        }
    }

    pub fn wait_for(&self, more: u64) {
        let before = self.answered.load(Ordering::Relaxed);
        wait_until("operations are answered", RECOVERY, || {
            self.answered.load(Ordering::Relaxed) >= before + more
        });
    }

    fn record(&self, key: &str, operation: Operation, called: Duration, returned: Option<Duration>) {
        let count = if returned.is_some() { &self.answered } else { &self.unknown };
        count.fetch_add(1, Ordering::Relaxed);
        let event = Event { operation, called, returned };
        let mut histories = self.histories.lock().unwrap_or_else(PoisonError::into_inner);
        histories.entry(key.to_owned()).or_default().push(event);
    }

    /// Runs clients for as long as `disturb` takes, and returns what they recorded.
    pub fn run(self, doors: &[Door], seed: u64, disturb: impl FnOnce(&Self)) -> HashMap<String, Vec<Event>> {
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        thread::scope(|scope| {
            let recorder = &self;
            for client in 0..CLIENTS {
                let actor = Actor {
                    chance: Chance::new(seed * 1_000 + client as u64),
                    connections: Client::new(doors, PATIENCE),
                    member: client % doors.len(),
                    members: doors.len(),
                    seen: HashMap::new(),
                };
                scope.spawn(move || actor.act(recorder));
            }
            let stop = Stop(&self.stop);
            disturb(&self);
            drop(stop);
        });
        self.histories.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client.
struct Actor {
    chance: Chance,
    connections: Client,
    member: usize,
    members: usize,
    /// What it read last of each key: the value, and its entity tag.
    seen: HashMap<String, (Held, Option<String>)>,
}

impl Actor {
    fn act(mut self, recorder: &Recorder) {
        while !recorder.stop.load(Ordering::Relaxed) {
            let window = recorder.begun.elapsed().as_millis() / KEYS_FOR.as_millis();
            let key = format!("{}-{window}-{}", recorder.prefix, self.chance.below(KEYS));
            if self.chance.below(4) == 0 {
                self.member = (self.member + 1) % self.members;
            }
            match self.chance.below(10) {
                0..4 => self.read(recorder, &key),
                4..6 => self.write(recorder, &key),
                6..9 => self.swap(recorder, &key),
                _ => self.replace_version(recorder, &key),
            }
        }
    }

    /// Sends a request. Returns the answer, if there was one, and when it was sent and came.
    fn send(&mut self, recorder: &Recorder, request: &Request) -> (Fate, Duration, Duration) {
        let called = recorder.begun.elapsed();
        let fate = self.connections.send(self.member, request);
        let returned = recorder.begun.elapsed();
        if !matches!(fate, Fate::Done(_)) {
            self.member = (self.member + 1) % self.members;
            thread::park_timeout(Duration::from_millis(10));
        }
        (fate, called, returned)
    }

    fn read(&mut self, recorder: &Recorder, key: &str) {
        let (fate, called, returned) =
            self.send(recorder, &Request::new("GET", &format!("/{TABLE}/key/{key}")));
        let Fate::Done(answer) = fate else { return };
        let held = match answer.status {
            404 => None,
            _ => held(&answer.json()["value"]),
        };
        self.seen.insert(key.to_owned(), (held, answer.header("etag").map(str::to_owned)));
        recorder.record(key, Operation::Read(held), called, Some(returned));
    }

    fn write(&mut self, recorder: &Recorder, key: &str) {
        let path = format!("/{TABLE}/key/{key}");
        let value = (self.chance.below(5) > 0).then(|| recorder.next.fetch_add(1, Ordering::Relaxed));
        let request = match value {
            Some(value) => Request::new("PUT", &path).body(format!(r#"{{"value":{value}}}"#)),
            None => Request::new("DELETE", &format!("{path}?force=true")),
        };
        let (fate, called, returned) = self.send(recorder, &request);
        let returned = match fate {
            Fate::Done(answer) => {
                answer.expect(200);
                Some(returned)
            }
            Fate::Refused => return,
            Fate::Unknown => None,
        };
        recorder.record(key, Operation::Write(value), called, returned);
    }

    /// Compares with what it saw last, and sets; if it differs, it reads in the same step.
    fn swap(&mut self, recorder: &Recorder, key: &str) {
        let (expected, _) = self.seen.get(key).cloned().unwrap_or_default();
        let value = recorder.next.fetch_add(1, Ordering::Relaxed);
        let compare = match expected {
            Some(expected) => json!({ "table": TABLE, "key": key, "value": expected }),
            None => json!({ "table": TABLE, "key": key, "absent": true }),
        };
        let transaction = json!({
            "compare": [compare],
            "success": [{ "op": "put", "table": TABLE, "key": key, "value": value }],
            "failure": [{ "op": "get", "table": TABLE, "key": key }],
        });
        let request = Request::new("POST", "/_/txn").body(transaction.to_string());
        let (fate, called, returned) = self.send(recorder, &request);
        let swap = Operation::Swap(expected, Some(value));
        match fate {
            Fate::Done(answer) => {
                let answer = answer.expect(200).json();
                let (operation, seen) = if answer["succeeded"] == true {
                    (swap, Some(value))
                } else {
                    let seen = held(&answer["results"][0]["value"]);
                    assert_ne!(seen, expected, "a comparison failed that holds: {answer}");
                    (Operation::Read(seen), seen)
                };
                self.seen.insert(key.to_owned(), (seen, None));
                recorder.record(key, operation, called, Some(returned));
            }
            Fate::Refused => {}
            Fate::Unknown => recorder.record(key, swap, called, None),
        }
    }

    /// Replaces the version that it read last, or makes the key if it was absent. No two versions have one value.
    fn replace_version(&mut self, recorder: &Recorder, key: &str) {
        let condition = match self.seen.get(key) {
            Some((Some(_), Some(etag))) => ("If-Match", etag.clone()),
            Some((None, _)) => ("If-None-Match", "*".to_owned()),
            _ => return self.read(recorder, key),
        };
        let (expected, _) = self.seen[key].clone();
        let value = recorder.next.fetch_add(1, Ordering::Relaxed);
        let request = Request::new("PUT", &format!("/{TABLE}/key/{key}")).header(condition.0, &condition.1);
        let (fate, called, returned) = self.send(recorder, &request.body(format!(r#"{{"value":{value}}}"#)));
        let swap = Operation::Swap(expected, Some(value));
        match fate {
            Fate::Done(answer) if answer.status == 412 => {
                self.seen.remove(key);
                recorder.record(key, Operation::Differs(expected), called, Some(returned));
            }
            Fate::Done(answer) => {
                let etag = answer.expect(200).header("etag").map(str::to_owned);
                self.seen.insert(key.to_owned(), (Some(value), etag));
                recorder.record(key, swap, called, Some(returned));
            }
            Fate::Refused => {}
            Fate::Unknown => recorder.record(key, swap, called, None),
        }
    }
}

fn held(value: &Value) -> Held {
    if value.is_null() { None } else { Some(value.as_u64().expect("a number")) }
}
