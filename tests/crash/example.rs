//! `storage.db.example`: a directory that an earlier build wrote and that every later one must serve. What is in it is said
//! here; where that changes, `DYNARUST_EXAMPLE=write cargo test example` writes it anew, and CHANGELOG.md says why.

use std::{fs, path::Path};

use dynarust::storage::engine::Engine;
use serde_json::Value;

use crate::harness::{DEADLINE, Node, Setup, http::Request, wait_until};

/// Table, key, value, in the order of an export. Short values and long ones, so raw and compressed records.
const ROWS: &[(&str, &str, &str)] = &[
    ("default", "answer", "42"),
    ("default", "greeting", r#""hello, world""#),
    ("default", "large", "12345678901234567890"),
    ("default", "nothing", "null"),
    (
        "orders",
        "2025/0001",
        r#"{"user":"alice","items":[{"sku":"kettle","count":1,"price":39.90}],"paid":true}"#,
    ),
    ("orders", "2025/0002", r#"{"user":"bob","items":[{"sku":"cup","count":6,"price":4.50}],"paid":true}"#),
    (
        "orders",
        "2025/0003",
        r#"{"user":"alice","items":[{"sku":"tea","count":2,"price":7.25}],"paid":false}"#,
    ),
    (
        "users",
        "alice",
        r#"{"name":"Alice","email":"alice@example.org","roles":["admin","buyer"],"since":2021}"#,
    ),
    ("users", "bob", r#"{"name":"Bob","email":"bob@example.org","roles":["buyer"],"since":2023}"#),
    ("users", "carol", r#"{"name":"Carol","email":"carol@example.org","roles":[],"since":2024}"#),
    ("users", "zoë", r#"{"name":"Zoë","email":"zoe@example.org","roles":["buyer"],"since":2025}"#),
];
/// Written and deleted, so that there is a tombstone too.
const DELETED: (&str, &str) = ("users", "dave");
/// Of `users/carol`: longer than this fixture will be needed.
const TTL: &str = "36500d";

const BYTES_MAX: u64 = 64 * 1024;

#[test]
fn the_example_is_served_and_says_what_it_always_said() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("storage.db.example");
    if std::env::var_os("DYNARUST_EXAMPLE").is_some() {
        let _ = fs::remove_dir_all(&example);
        write_example(&example);
    }
    let bytes = dynarust::storage::engine::disk_bytes(&example);
    assert!(bytes <= BYTES_MAX, "{bytes} bytes are no small example");
    assert_says_nothing_of_a_node(&copy(&example));
    let (first, second) = (copy(&example).start(), copy(&example).start());
    assert_is_the_example(&first);
    // It was deleted long ago, and there is no other node that would not know.
    wait_until("its tombstone is removed", DEADLINE, || users(&first)["tombstones"] == 0);
    assert_ne!(
        node_id(&first),
        node_id(&second),
        "an example has no node id: each copy is a node of its own"
    );
    let (_, check) = first.terminate().0.run(&["check"]);
    assert_eq!(check.code(), Some(0), "{check:?}");
}

#[test]
fn an_example_written_now_is_the_same() {
    let setup = Setup::new();
    write_example(&setup.home().join("storage.db"));
    let node = setup.start();
    assert_eq!(users(&node)["tombstones"], 1, "deleted just now");
    assert_is_the_example(&node);
}

fn assert_is_the_example(node: &Node) {
    let exported = node.get("/_/export").expect(200);
    let rows: Vec<Value> =
        exported.text().lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    let rows = &rows[1..rows.len() - 1];
    let names = |row: &Value| (row["table"].clone(), row["key"].clone());
    let expected: Vec<_> = ROWS.iter().map(|(table, key, _)| ((*table).into(), (*key).into())).collect();
    assert_eq!(rows.iter().map(names).collect::<Vec<_>>(), expected);
    for (table, key, value) in ROWS {
        node.get(&path(table, key)).expect_body(&format!(r#"{{"value":{value}}}"#));
    }
    node.get(&path(DELETED.0, DELETED.1)).expect_problem(404, "not-found");
    assert!(node.get("/users/key/carol").header("dynarust-expires").is_some());
    assert_eq!(users(node)["keys"], 4);
    node.put("/users/key/alice", r#"{"value":"changed"}"#).expect(200);
    node.get("/users/key/alice").expect_body(r#"{"value":"changed"}"#);
}

fn users(node: &Node) -> Value {
    let tables = node.get("/_/tables").expect(200).json();
    assert_eq!(tables[2]["name"], "users");
    tables[2].clone()
}

/// Has a node write the rows, and copies what it kept, but for what makes it that node, into a fresh store: one that was ever
/// opened again takes up a whole segment.
fn write_example(target: &Path) {
    let node = Node::start();
    for (table, key, value) in ROWS {
        node.put(&path(table, key), format!(r#"{{"value":{value}}}"#)).expect(200);
    }
    let carol = ROWS.iter().find(|(_, key, _)| *key == "carol").expect("a row");
    let expiring = Request::new("PUT", &format!("/users/key/carol?ttl={TTL}"));
    node.send(&expiring.body(format!(r#"{{"value":{}}}"#, carol.2))).expect(200);
    node.put(&path(DELETED.0, DELETED.1), r#"{"value":1}"#).expect(200);
    node.delete(&path(DELETED.0, DELETED.1)).expect(200);
    let setup = node.terminate().0;
    let source = Engine::open(&setup.home().join("storage.db"), 1 << 20).expect("the node has closed it");
    let engine = Engine::open(target, 1 << 20).expect("a fresh directory");
    for name in source.tree_names("") {
        let tree = engine.tree(&name).expect("a tree can be made");
        for item in source.tree(&name).expect("it was listed").range(&[], None) {
            let (key, value) = item.expect("a sound item");
            if name != "meta" || *key == *b"format" {
                tree.insert(&key, &value).expect("a small item");
            }
        }
    }
    engine.sync().expect("there is room");
    drop(engine);
    fs::copy(setup.home().join("storage.db/dynarust.format"), target.join("dynarust.format"))
        .expect("a copy");
    // How far its log was durable is of no use to copies.
    fs::remove_file(target.join("dynarust.mark")).expect("every store has a mark");
}

/// A node's id, its notes and its floors are its own: each copy of the example becomes another node.
fn assert_says_nothing_of_a_node(copy: &Setup) {
    let engine = Engine::open(&copy.home().join("storage.db"), 1 << 20).expect("it opens");
    let meta = engine.tree("meta").expect("it has one").range(&[], None);
    let keys: Vec<Vec<u8>> = meta.map(|item| item.expect("a sound item").0.to_vec()).collect();
    assert_eq!(keys, [b"format".to_vec()]);
}

fn copy(example: &Path) -> Setup {
    let setup = Setup::new();
    let data = setup.home().join("storage.db");
    fs::create_dir(&data).expect("a directory can be made");
    for entry in fs::read_dir(example).expect("the example is there") {
        let entry = entry.expect("an entry");
        // All else are files; sled makes an empty `blobs` itself, which git does not keep.
        if entry.file_name() != "blobs" {
            fs::copy(entry.path(), data.join(entry.file_name())).expect("a file can be copied");
        }
    }
    setup
}

fn path(table: &str, key: &str) -> String {
    format!("/{table}/key/{}", key.replace('ë', "%C3%AB"))
}

fn node_id(node: &Node) -> String {
    node.get("/version").expect(200).json()["node"].to_string()
}
