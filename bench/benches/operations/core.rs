//! The core: clocks, registers, values, names.

use std::hint::black_box;

use dynarust::core::{
    clock::{Clock, NodeId, Timestamp},
    json::Value,
    name::{Key, TableName},
    protocol::{journal::Journal, message::Row},
    register::{Register, fingerprint},
};
use dynarust_bench::instructions::Operation;

use super::{NOW_MS, document};

pub const OPERATIONS: &[Operation] = &[
    Operation { name: "clock tick", prepare: |_| clock() },
    Operation { name: "register merge", prepare: |_| merge() },
    Operation { name: "fingerprint", prepare: |_| fingerprint_of_document() },
    Operation { name: "name parse", prepare: |_| names() },
    Operation { name: "value parse", prepare: |_| value(document()) },
    Operation { name: "value parse, indented", prepare: |_| value(indented()) },
    Operation { name: "journal append", prepare: |_| journal() },
];

fn clock() -> Box<dyn FnMut()> {
    let mut clock = Clock::new(NodeId(1), 0, 500);
    clock.extend(u64::MAX);
    Box::new(move || {
        black_box(clock.tick(black_box(NOW_MS)).expect("below the bound"));
    })
}

fn at(hlc: u64) -> Register {
    Register::live(Value::trusted(document()), None, Timestamp { hlc, node: NodeId(1) })
}

/// The later register wins.
fn merge() -> Box<dyn FnMut()> {
    let (older, newer) = (at(1), at(2));
    Box::new(move || {
        let mut register = black_box(&older).clone();
        register.merge(black_box(&newer).clone());
        black_box(register);
    })
}

fn fingerprint_of_document() -> Box<dyn FnMut()> {
    let text = document();
    Box::new(move || {
        black_box(fingerprint(Some(black_box(text.as_bytes())), None));
    })
}

fn names() -> Box<dyn FnMut()> {
    Box::new(|| {
        black_box(TableName::parse(black_box("default")).expect("a name"));
        black_box(Key::parse(black_box("user-00000001")).expect("a key"));
    })
}

fn indented() -> String {
    let tree: serde_json::Value = serde_json::from_str(&document()).expect("json");
    serde_json::to_string_pretty(&tree).expect("json")
}

fn value(text: String) -> Box<dyn FnMut()> {
    Box::new(move || {
        black_box(Value::parse(black_box(&text)).expect("json"));
    })
}

fn journal() -> Box<dyn FnMut()> {
    let (mut journal, table) = (Journal::default(), TableName::parse("default").expect("a name"));
    let key = Key::parse("user-00000001").expect("a key");
    let row = Row::new(key.clone(), at(1));
    Box::new(move || {
        black_box(journal.append(table.clone(), key.clone(), Some(row.clone())));
    })
}
