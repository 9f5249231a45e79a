//! Two replicas that compare themselves over a network that does as it is told, and what that took.

use std::collections::VecDeque;

use dynarust::core::{
    digest::Path,
    name::{Key, TableName},
    protocol::{
        comparison::{self, Answer},
        message::{Message, Row},
        replica::Replica,
    },
};

use super::Name;
use crate::replica::MemoryReplica;

/// What becomes of a message.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    Arrives,
    IsLost,
    ComesTwice,
    ComesLate,
}

/// What was said but for the rows themselves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub messages: u64,
    pub bytes: usize,
    /// Messages that wait for each other, and rows at the end.
    pub steps: u32,
}

/// The conversation.
pub struct Talk {
    replicas: [MemoryReplica; 2],
    at_ms: u64,
    waiting: VecDeque<Sent>,
    sent: [Vec<Name>; 2],
    figures: Figures,
}

#[derive(Clone)]
struct Sent {
    to: usize,
    step: u32,
    what: What,
}

#[derive(Clone)]
enum What {
    Says(Message),
    Rows(TableName, Vec<Row>),
}

impl Talk {
    /// Two that have nothing to say yet.
    pub fn new(left: MemoryReplica, right: MemoryReplica, at_ms: u64) -> Self {
        Self {
            replicas: [left, right],
            at_ms,
            waiting: VecDeque::new(),
            sent: [Vec::new(), Vec::new()],
            figures: Figures::default(),
        }
    }

    pub fn replicas(&self) -> &[MemoryReplica; 2] {
        &self.replicas
    }

    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// The rows that went to one of them.
    pub fn sent_to(&self, to: usize) -> &[Name] {
        &self.sent[to]
    }

    pub fn is_equal(&self) -> bool {
        let [left, right] = [0, 1].map(|side| {
            self.replicas[side].root(self.at_ms).expect("it lies in memory").expect("all is old")
        });
        left == right
    }

    /// One of them opens.
    pub fn open(&mut self, opener: usize, nonce: u64) {
        let message = comparison::open(&self.replicas[opener], nonce, self.at_ms).expect("it lies in memory");
        self.send(Sent { to: 1 - opener, step: 1, what: What::Says(message) });
    }

    /// Lets all that follows happen. Where there are no more fates everything arrives.
    pub fn run(&mut self, fates: &mut impl Iterator<Item = Fate>) {
        while let Some(sent) = self.waiting.pop_front() {
            match fates.next().unwrap_or(Fate::Arrives) {
                Fate::Arrives => self.arrive(sent),
                Fate::IsLost => {}
                Fate::ComesTwice => {
                    self.arrive(sent.clone());
                    self.arrive(sent);
                }
                Fate::ComesLate => self.waiting.push_back(sent),
            }
        }
    }

    fn send(&mut self, sent: Sent) {
        if let What::Says(message) = &sent.what {
            self.figures.messages += 1;
            self.figures.bytes += postcard::to_stdvec(message).expect("it can be encoded").len();
        }
        self.figures.steps = self.figures.steps.max(sent.step);
        self.waiting.push_back(sent);
    }

    fn arrive(&mut self, Sent { to, step, what }: Sent) {
        let replica = &self.replicas[to];
        let answer = match what {
            What::Rows(table, rows) => {
                replica.accept(&table, rows, 0, 0).expect("it lies in memory");
                return;
            }
            What::Says(message) => answer(replica, message),
        };
        for message in answer.messages {
            self.send(Sent { to: 1 - to, step: step + 1, what: What::Says(message) });
        }
        let streams = answer.streams.into_iter().map(|(table, path)| (self.stream(to, &table, path), table));
        let rows = answer.rows.into_iter().map(|(table, keys)| (self.read(to, &table, keys), table));
        let batches: Vec<_> = streams.collect::<Vec<_>>().into_iter().chain(rows).collect();
        for (rows, table) in batches {
            self.sent[1 - to].extend(rows.iter().map(|row| (table.clone(), row.key.clone())));
            self.send(Sent { to: 1 - to, step: step + 1, what: What::Rows(table, rows) });
        }
    }

    fn read(&self, side: usize, table: &TableName, keys: Vec<Key>) -> Vec<Row> {
        let read = |key| self.replicas[side].read(table, key).expect("it lies in memory");
        keys.iter().filter_map(read).collect()
    }

    fn stream(&self, side: usize, table: &TableName, path: Path) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for partition in path.partitions() {
            let mut after = None;
            loop {
                let scanned = self.replicas[side].scan(table, partition, after.as_ref(), 500);
                let scanned = scanned.expect("it lies in memory");
                rows.extend(scanned.rows);
                if !scanned.more {
                    break;
                }
                after = rows.last().map(|row| row.key.clone());
            }
        }
        rows
    }
}

fn answer(replica: &MemoryReplica, message: Message) -> Answer {
    let answer = match message {
        Message::Open(comparison) => comparison::answer_open(replica, &comparison),
        Message::Digests(comparison) => comparison::answer_digests(replica, &comparison),
        Message::RowFingerprints(comparison) => comparison::answer_row_fingerprints(replica, &comparison),
        Message::Names(comparison) => comparison::answer_names(replica, &comparison),
        Message::Want(rows) => Ok(Answer { rows, ..Answer::default() }),
        Message::Pull(streams) => Ok(Answer { streams, ..Answer::default() }),
        other => panic!("no part of a comparison: {other:?}"),
    };
    answer.expect("it lies in memory")
}
