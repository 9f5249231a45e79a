//! Writers that remember what was answered: each writes rising numbers to keys of its own, and a key must hold the last number that was
//! answered, or one that was sent and never answered.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    RECOVERY,
    client::{Client, Door, Fate},
};
use crate::harness::{cluster::Cluster, http::Request, wait_until};

/// Writers at once, and keys of each.
const WRITERS: usize = 4;
const KEYS: u64 = 8;
/// How long a writer waits for an answer before it goes on to another node.
const PATIENCE: Duration = Duration::from_secs(7);

/// What is known of each key.
#[derive(Default)]
pub struct Ledger {
    known: HashMap<String, Known>,
    next: u64,
    /// The longest time without an answer to any writer.
    pub silence: Duration,
}

#[derive(Default)]
struct Known {
    answered: Option<u64>,
    unknown: Vec<u64>,
}

/// How a load goes.
pub struct Progress {
    answered: AtomicU64,
    stop: AtomicBool,
    /// When the last answer came, and the longest silence, in milliseconds since the start.
    last_ms: AtomicU64,
    silence_ms: AtomicU64,
    begun: Instant,
}

impl Progress {
    /// Waits until this many more writes were answered.
    pub fn wait_for(&self, more: u64) {
        let before = self.answered.load(Ordering::Relaxed);
        wait_until("writes are answered", RECOVERY, || {
            self.answered.load(Ordering::Relaxed) >= before + more
        });
    }

    /// Waits until so much time has passed.
    pub fn wait(&self, lasting: Duration) {
        let begun = Instant::now();
        wait_until("time passes", lasting + RECOVERY, || begun.elapsed() > lasting);
    }

    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    fn note(&self) {
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let silent = now_ms.saturating_sub(self.last_ms.fetch_max(now_ms, Ordering::Relaxed));
        self.silence_ms.fetch_max(silent, Ordering::Relaxed);
        self.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ends the load, also where the test failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Ledger {
    /// Writes through all doors for as long as `disturb` takes.
    pub fn load(
        &mut self,
        doors: &[Door],
        cluster: &mut Cluster,
        table: &str,
        disturb: impl FnOnce(&mut Cluster, &Progress),
    ) {
        let progress = Progress {
            answered: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            last_ms: AtomicU64::new(0),
            silence_ms: AtomicU64::new(0),
            begun: Instant::now(),
        };
        let first = self.next;
        let found = thread::scope(|scope| {
            let progress = &progress;
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| scope.spawn(move || write(writer, doors, table, first, progress)))
                .collect();
            let stop = Stop(&progress.stop);
            disturb(cluster, progress);
            drop(stop);
            writers
                .into_iter()
                .map(|writer| writer.join().expect("a writer does not fail"))
                .collect::<Vec<_>>()
        });
        for (key, known) in found.into_iter().flatten() {
            let before = self.known.entry(key).or_default();
            before.answered = known.answered.or(before.answered);
            before.unknown.extend(known.unknown);
        }
        self.next += 1_000_000;
        self.silence = self.silence.max(Duration::from_millis(progress.silence_ms.into_inner()));
    }

    /// Checks that these rows are what was answered.
    pub fn verify(&self, rows: &Value) {
        let mut answered = 0;
        for (key, known) in &self.known {
            let found = rows.get(key).and_then(Value::as_u64);
            assert!(
                found == known.answered || found.is_some_and(|found| known.unknown.contains(&found)),
                "{key} is {found:?}; answered last was {:?}, and nobody knows of {:?}",
                known.answered,
                known.unknown
            );
            answered += usize::from(known.answered.is_some());
        }
        assert!(answered > 0, "nothing was written");
    }
}

fn write(
    writer: usize,
    doors: &[Door],
    table: &str,
    first: u64,
    progress: &Progress,
) -> HashMap<String, Known> {
    let mut client = Client::new(doors, PATIENCE);
    let mut known: HashMap<String, Known> = HashMap::new();
    let (mut value, mut member) = (first, writer % doors.len());
    while !progress.stop.load(Ordering::Relaxed) {
        value += 1;
        let key = format!("w{writer}-{}", value % KEYS);
        let request =
            Request::new("PUT", &format!("/{table}/key/{key}")).body(format!(r#"{{"value":{value}}}"#));
        let known = known.entry(key).or_default();
        match client.send(member, &request) {
            Fate::Done(answer) => {
                answer.expect(200);
                known.answered = Some(value);
                progress.note();
                continue;
            }
            Fate::Refused => thread::park_timeout(Duration::from_millis(10)),
            Fate::Unknown => known.unknown.push(value),
        }
        member = (member + 1) % doors.len();
    }
    known
}
