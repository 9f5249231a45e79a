//! A disk that fills up under the node, and is grown: writes are refused meanwhile, nothing else is, and nothing acknowledged
//! is lost.

use std::fs;

use serde_json::Value;

use super::{
    ledger::{Ledger, Sizes, text},
    mount::Mount,
};
use crate::harness::{
    DEADLINE, Node, Outcome, Setup,
    http::{Connection, Request},
    sse::Events,
    wait_until,
};

const SMALL_MIB: u64 = 24;
const LARGE_MIB: u64 = 128;
const SIZES: Sizes = &[(20..200, 40), (8_000..60_000, 50), (500_000..1_040_000, 10)];

/// Length of a value that fills; as digits it takes half of that on the disk.
const FILL_BYTES: usize = (1 << 20) - 16;
/// How long the node may take to find that there is room again, and to open its storage.
const RECOVERY: std::time::Duration = DEADLINE;

#[test]
fn a_full_disk_refuses_writes_only_and_recovers_when_it_is_grown() {
    let Some(mount) = Mount::tmpfs(SMALL_MIB) else { return };
    let node = Setup::new().flag("--data", mount.path().join("storage.db")).start();
    let mut ledger = Ledger::new(4, SIZES, 11);
    node.put("/watched/key/before", r#"{"value":1}"#).expect(200);
    let (mut events, _) = Events::open(node.address(), "/watched/subscribe?prefix=");

    fill(&node);
    // Whatever is tried now is refused, and remembered: some of it may be seen until the storage is opened again.
    ledger.load(node.address(), 0, || {});
    assert_only_writes_are_refused(&node);
    node.put("/watched/key/refused", r#"{"value":2}"#).expect_problem(507, "storage-full");

    mount.resize(LARGE_MIB);
    wait_until("the node takes writes again", RECOVERY, || node.get("/readyz").status == 200);
    ledger.verify(&node);
    assert_filled(&node);
    assert_resynchronised(&mut events);
    node.put("/watched/key/after", r#"{"value":3}"#).expect(200);
    events.data_until(|event| event["key"] == "after" && event["value"] == 3);
    ledger.load(node.address(), 200, || node.signal("KILL"));
    let (setup, _) = node.wait();
    let node = setup.start();
    ledger.verify(&node);
    assert_filled(&node);
}

/// The engine wrote by itself, and failed. The next write failed before it asked anything of the engine that would have told, so the node
/// refused every write for good and called itself ready.
#[test]
fn a_disk_that_fills_up_while_nobody_waits_for_it_is_noticed() {
    let Some(mount) = Mount::tmpfs(SMALL_MIB) else { return };
    let data = mount.path().join("storage.db");
    let node = Setup::new().flag("--data", data).flag("--durability", "interval:1m").start();
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let filler = mount.path().join("filler");
    fs::write(&filler, vec![b'x'; (SMALL_MIB as usize) << 20]).expect_err("more than there is room for");
    // Acknowledged at once, unless the engine is quicker: it writes the value a little later, and has no room.
    let long = format!(r#"{{"value":"{}"}}"#, text(1, FILL_BYTES));
    let status = node.put("/t/key/b", long).status;
    assert!([200, 507].contains(&status), "{status}");
    wait_until("it says so", DEADLINE, || node.get("/readyz").status == 503);
    let answer = node.get("/readyz").json();
    assert_eq!(answer["phase"], "read-only", "{answer}");
    fs::remove_file(filler).expect("the filler is there");
    wait_until("it takes writes again", RECOVERY, || node.get("/readyz").status == 200);
    node.put("/t/key/c", r#"{"value":3}"#).expect(200);
}

#[test]
fn a_disk_that_is_full_at_the_start_is_said_plainly() {
    let Some(mount) = Mount::tmpfs(SMALL_MIB) else { return };
    let data = mount.path().join("storage.db");
    let node = Setup::new().flag("--data", &data).start();
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let setup = node.kill();
    let filler = mount.path().join("filler");
    fs::write(&filler, vec![b'x'; (SMALL_MIB as usize) << 20]).expect_err("more than there is room for");

    // An existing store opens where that takes no room, and refuses to start where it does; a new one has no choice.
    match setup.try_start() {
        Ok(node) => drop(node.get("/t/key/a").expect_body(r#"{"value":1}"#)),
        Err(outcome) => assert_said_plainly(&outcome),
    }
    let Err(outcome) = Setup::new().flag("--data", mount.path().join("fresh.db")).try_start() else {
        panic!("a store was made on a full disk")
    };
    assert_said_plainly(&outcome);

    fs::remove_file(filler).expect("the filler is there");
    let node = Setup::new().flag("--data", &data).start();
    node.get("/t/key/a").expect_body(r#"{"value":1}"#);
    node.put("/t/key/b", r#"{"value":2}"#).expect(200);
}

/// Writes values of half a MiB until one is refused.
fn fill(node: &Node) {
    let mut connection = node.connect();
    for number in 0..4 * SMALL_MIB {
        let body = format!(r#"{{"value":"{}"}}"#, text(number, FILL_BYTES));
        let answer = connection.send(&Request::new("PUT", &format!("/filled/key/{number:03}")).body(body));
        if answer.status != 200 {
            let detail = answer.expect_problem(507, "storage-full");
            assert!(detail.contains("reads go on"), "{detail}");
            return;
        }
    }
    panic!("{SMALL_MIB} MiB took {} values of {FILL_BYTES} bytes", 4 * SMALL_MIB);
}

/// Every value that `fill` was told is kept is there. It stopped at the first that was not, which may be there as well.
fn assert_filled(node: &Node) {
    let keys = node.get("/filled/keys").expect(200).json();
    let keys = keys.as_array().expect("keys are a list");
    assert!(keys.len() > 4, "a disk is not filled by {keys:?}");
    let mut connection: Connection = node.connect();
    for (number, key) in keys.iter().enumerate() {
        assert_eq!(*key, format!("{number:03}"));
        let answer = connection.send(&Request::new("GET", &format!("/filled/key/{number:03}")));
        assert!(answer.expect(200).json()["value"] == text(number as u64, FILL_BYTES));
    }
}

fn assert_only_writes_are_refused(node: &Node) {
    let answer = node.get("/readyz").expect(503).json();
    assert_eq!(answer["phase"], "read-only", "{answer}");
    assert!(answer["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{answer}");
    node.get("/healthz").expect(200);
    node.delete("/watched/key/before").expect_problem(507, "storage-full");
    node.post("/watched/batch", r#"{"op":"put","key":"b","value":1}"#).expect_problem(507, "storage-full");
    node.put("/fresh-table/key/a", r#"{"value":1}"#).expect_problem(507, "storage-full");
    let metrics = node.get("/metrics").expect(200).text().to_owned();
    assert!(metrics.contains("\ndynarust_ready 0\n"), "{metrics}");
    let refused = metrics.lines().find_map(|line| line.strip_prefix("dynarust_writes_refused_total "));
    assert!(refused.is_some_and(|count| count != "0"), "{metrics}");

    node.get("/watched/key/before").expect_body(r#"{"value":1}"#);
    node.get("/watched/store").expect_body(r#"{"before":1}"#);
    node.get("/filled/count").expect(200);
    let (mut fresh, _) = Events::open(node.address(), "/watched/subscribe?prefix=&snapshot=true");
    assert_eq!(fresh.event().json()["key"], "before");
    assert!(fresh.event().is_control("sync"));
}

/// What was seen may be gone, so a stream that was open all the while starts over: `resync`, all there is, `sync`.
fn assert_resynchronised(events: &mut Events) {
    let mut event = events.event();
    while event.is_data() {
        event = events.event();
    }
    assert!(event.is_control("resync"), "{event:?}");
    let event: Value = events.event().json();
    assert_eq!((&event["key"], &event["value"]), (&"before".into(), &1.into()));
    let mut event = events.event();
    while event.is_data() {
        event = events.event();
    }
    assert!(event.is_control("sync"), "{event:?}");
}

fn assert_said_plainly(outcome: &Outcome) {
    assert_eq!(outcome.code(), Some(1), "{outcome:?}");
    assert!(outcome.log.contains("No space left") || outcome.log.contains("no room"), "{outcome:?}");
    assert!(!outcome.log.contains("panicked"), "{outcome:?}");
    assert!(!outcome.log.contains("reads go on"), "nothing does: {outcome:?}");
}
