//! What the system that people ran before this one got wrong, on one node. Each test is named for the fact it proves;
//! what concerns names, values, answers and events is beside the rest of those.

use std::{collections::BTreeSet, fs, path::Path};

use crate::harness::{DEADLINE, Node, wait_until};

/// The ancestor lost every write acknowledged since its last save.
#[test]
fn an_acknowledged_write_survives_kill_9_at_once() {
    let mut node = Node::start();
    for round in 0..5 {
        node.put(&format!("/t/key/k{round}"), format!(r#"{{"value":{round}}}"#)).expect(200);
        node = node.kill().start();
        node.get(&format!("/t/key/k{round}")).expect_body(&format!(r#"{{"value":{round}}}"#));
    }
    node.get("/t/count").expect_body(r#"{"count":5}"#);
}

/// The ancestor gave deleted keys back.
#[test]
fn a_deleted_key_stays_deleted_over_a_kill() {
    let node = Node::start();
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    node.delete("/t/key/a").expect(200);
    let node = node.kill().start();
    node.get("/t/key/a").expect_problem(404, "not-found");
    node.get("/t/keys").expect_body("[]");
}

/// The ancestor's SIGTERM lost all writes since the last save, 30 s ago.
#[test]
fn a_terminated_node_has_everything_when_it_is_back() {
    let node = Node::start();
    let lines: Vec<String> =
        (0..500).map(|row| format!(r#"{{"op":"put","key":"k{row:03}","value":{row}}}"#)).collect();
    node.post("/t/batch", lines.join("\n")).expect(200);
    let before = node.get("/t/store").expect(200).body;
    let (setup, outcome) = node.terminate();
    assert_eq!(outcome.code(), Some(0));
    let node = setup.start();
    assert!(node.get("/t/store").expect(200).body == before);
}

/// Versions are given out by a clock that never runs backwards, over a kill too.
#[test]
fn a_write_after_a_kill_is_later_than_all_before() {
    let mut node = Node::start();
    let mut last = String::new();
    for _ in 0..4 {
        let written = node.put("/t/key/a", r#"{"value":1}"#).expect(200).json();
        let version = written["version"].as_str().expect("a version is text").to_owned();
        assert!(version > last, "{version} after {last}");
        last = version;
        node = node.kill().start();
    }
}

/// The ancestor copied the whole store at each start, kept 100 copies, and had no reader for them.
#[test]
fn a_start_adds_nothing_to_the_directory() {
    let mut node = Node::start();
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    node = node.terminate().0.start();
    let before = entries(&node.home());
    for _ in 0..3 {
        node = node.terminate().0.start();
    }
    // A file that is being replaced is there twice for a moment, before as well. A file for each start would be three more.
    wait_until("there is what there was", DEADLINE, || entries(&node.home()).len() <= before.len());
}

/// A table named `..%2Fx` wrote outside the ancestor's data folder.
#[test]
fn no_name_writes_outside_the_data_directory() {
    let node = Node::start();
    let outside = |node: &Node| {
        let mut names = entries(&node.home());
        names.retain(|name| !name.starts_with("storage.db"));
        let around = entries(node.home().parent().expect("the home lies in a directory"));
        (
            names.into_iter().collect::<Vec<_>>(),
            around.into_iter().filter(|name| !name.starts_with("home")).collect::<Vec<_>>(),
        )
    };
    let before = outside(&node);
    for table in ["..%2Fx", "%2e%2e", "..", ".", "%2Fetc", "a%2F..%2F..%2Fx", "%5C..%5Cx", "a%00b"] {
        let refused = node.put(&format!("/{table}/key/a"), r#"{"value":1}"#);
        assert!(matches!(refused.status, 404 | 422), "{table}: {refused}");
    }
    // In a key they are letters like others.
    for key in ["..%2F..%2Fx", "%2Fetc%2Fpasswd", "..", "%2e%2e/x", "./a"] {
        node.put(&format!("/t/key/{key}"), r#"{"value":1}"#).expect(200);
        node.get(&format!("/t/key/{key}")).expect_body(r#"{"value":1}"#);
    }
    node.post("/t/batch", r#"[{"op":"put","key":"../../x","value":1}]"#).expect(200);
    assert_eq!(outside(&node), before);
}

/// The ancestor refused the batch body of its own documentation, and values that were no objects.
#[test]
fn any_json_is_a_value() {
    let node = Node::start();
    for value in ["1", "\"text\"", "true", "null", "[1]", "{}"] {
        node.put("/t/key/a", format!(r#"{{"value":{value}}}"#)).expect(200);
        node.get("/t/key/a").expect_body(&format!(r#"{{"value":{value}}}"#));
    }
}

/// Every entry below a directory, by its path from there.
fn entries(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).expect("a directory can be read") {
            let path = entry.expect("an entry can be read").path();
            let name = path.strip_prefix(directory).expect("it lies below").to_string_lossy().into_owned();
            if path.is_dir() {
                left.push(path);
            }
            found.insert(name);
        }
    }
    found
}
