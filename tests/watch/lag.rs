//! Readers that are slow: they get the newest and are told that they missed something; nobody else notices.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{Node, Setup, sse::Events, ws::Socket};

/// Much more than the sockets between two processes hold, some 10 MB: `rounds` over all keys, the last of them the newest.
struct Load {
    keys: usize,
    rounds: usize,
    bytes: usize,
}

impl Load {
    fn write(&self, node: &Node) {
        let filler = "v".repeat(self.bytes);
        for round in 0..self.rounds {
            let rows: Vec<String> = (0..self.keys)
                .map(|key| format!(r#"{{"op":"put","key":"k{key}","value":[{round},"{filler}"]}}"#))
                .collect();
            for lines in rows.chunks(1000) {
                node.post("/t/batch", lines.join("\n")).expect(200);
            }
        }
    }

    /// Reads events until each key has its newest value; how many times the reader was told that it missed something.
    fn read_to_newest(&self, mut next: impl FnMut() -> Value) -> usize {
        let mut newest = BTreeSet::new();
        let mut resyncs = 0;
        while newest.len() < self.keys {
            let event = next();
            match event["event"].as_str() {
                Some("Updated") => {
                    let key = event["key"].as_str().expect("a key").to_owned();
                    let is_newest = event["value"][0] == self.rounds - 1;
                    assert!(is_newest || !newest.contains(&key), "an older value of {key} after the newest");
                    if is_newest {
                        newest.insert(key);
                    }
                }
                Some("resync") => {
                    newest.clear();
                    resyncs += 1;
                }
                // A position comes where a loaded machine is late with the events.
                Some("sync" | "position") => {}
                other => panic!("{other:?}: {event}"),
            }
        }
        resyncs
    }
}

/// Writes while two slow readers and a quick one watch; how often each slow one was told that it missed something.
fn resyncs_of_slow_readers(load: &Load) -> [usize; 2] {
    let node = Setup::new().flag("--durability", "none").flag("--stall-timeout", "10m").start();
    let (mut slow, _) = Events::open(node.address(), "/t/subscribe?prefix=");
    let mut slow_socket = Socket::open(node.address(), "/_/ws");
    slow_socket.send(&json!({"op": "sub", "id": "all", "table": "t"}));
    assert_eq!(slow_socket.json()["event"], "subscribed");
    let (mut quick, _) = Events::open(node.address(), "/other/subscribe/a");

    let begun = Instant::now();
    load.write(&node);
    node.put("/other/key/a", r#"{"value":1}"#).expect(200);
    assert_eq!(quick.event().json()["key"], "a");
    // Far from the time after which they are cut off.
    assert!(
        begun.elapsed() < Duration::from_secs(120),
        "{:?}: slow readers hold up writers",
        begun.elapsed()
    );

    let of_stream = load.read_to_newest(|| {
        let block = slow.event();
        match &block.event {
            Some(control) => json!({ "event": control }),
            None => block.json(),
        }
    });
    [of_stream, load.read_to_newest(|| slow_socket.json())]
}

#[test]
fn a_slow_reader_of_few_keys_ends_with_the_newest_of_each() {
    resyncs_of_slow_readers(&Load { keys: 5, rounds: 250, bytes: 20_000 });
}

#[test]
fn a_slow_reader_of_many_keys_is_told_that_it_missed_some_and_gets_them_all() {
    let resyncs = resyncs_of_slow_readers(&Load { keys: 20_000, rounds: 2, bytes: 1_000 });
    assert!(
        resyncs.iter().all(|resyncs| *resyncs > 0),
        "they missed something, and must be told: {resyncs:?}"
    );
}

#[test]
fn a_reader_that_never_reads_is_cut_off() {
    let node = Setup::new().flag("--durability", "none").flag("--stall-timeout", "1s").start();
    let open = || node.get("/stats").expect(200).json()["subscriptions"].as_u64().expect("a number");
    let _stuck: Vec<Events> =
        (0..3).map(|_| Events::open(node.address(), "/t/subscribe?prefix=").0).collect();
    let mut stuck_socket = Socket::open(node.address(), "/_/ws");
    stuck_socket.send(&json!({"op": "sub", "id": "all", "table": "t"}));
    assert_eq!(stuck_socket.json()["event"], "subscribed");
    assert!(open() >= 4);
    let mut round = 0;
    crate::harness::wait_until("those that never read are cut off", crate::harness::DEADLINE, || {
        round += 1;
        let value = format!("[{round},\"{}\"]", "v".repeat(500_000));
        node.put(&format!("/t/key/k{}", round % 50), format!(r#"{{"value":{value}}}"#)).expect(200);
        open() == 0
    });
}
