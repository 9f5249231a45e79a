//! Backups of real nodes, by the commands that people type.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::harness::{
    DEADLINE, Node, Outcome, Setup,
    cluster::{CONVERGENCE, Cluster, SECRET, wait_until_ready},
    http::Request,
    wait_until,
};

const FAILED: Option<i32> = Some(1);
const DONE: Option<i32> = Some(0);

/// Runs a command in a directory of its own, with the proof of a node's data directory.
fn run(arguments: &[&str]) -> Outcome {
    Setup::new().environment("CLUSTER_SECRET", SECRET).run(arguments).1
}

#[track_caller]
fn done(arguments: &[&str]) -> String {
    let outcome = run(arguments);
    assert_eq!(outcome.code(), DONE, "{arguments:?}: {outcome:?}");
    outcome.stdout
}

/// A directory for backups, and paths in it.
struct Shelf(tempfile::TempDir);

impl Shelf {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("text").to_owned()
    }
}

fn text(path: PathBuf) -> String {
    path.to_str().expect("text").to_owned()
}

/// One node: what is written while backups are made, what they have, what of it is refused, and what is restored.
#[test]
fn a_node_is_backed_up_while_it_takes_writes_and_restored() {
    let (node, shelf) = (Node::start(), Shelf::new());
    let rows: String =
        (0..3000).map(|row| format!("{{\"key\":\"k{row}\",\"value\":[{row},\"{row}\"]}}\n")).collect();
    node.post("/_/import?table=t", rows).expect(200);
    node.put("/t/key/gone", r#"{"value":1}"#).expect(200);
    node.delete("/t/key/gone").expect(200);
    let (at, data) = (node.address().to_string(), text(node.home().join("storage.db")));
    let proof = ["--at", &at, "--data", &data];
    let (first, second) = (shelf.path("first"), shelf.path("second"));

    let refused = node.get("/_/backup").expect_problem(401, "unauthorized");
    assert!(refused.contains("admin token"), "{refused}");
    let unproven = Setup::new().run(&["backup", &first, "--at", &at]).1;
    assert_eq!(unproven.code(), Some(6), "{unproven:?}");
    assert!(!Path::new(&first).exists());

    thread::scope(|scope| {
        let making = scope.spawn(|| done(&[&["backup", &first][..], &proof].concat()));
        let mut connection = node.connect();
        let mut number = 0;
        while !making.is_finished() {
            number += 1;
            let put = Request::new("PUT", &format!("/t/key/k{}", number % 100));
            connection.send(&put.body(format!(r#"{{"value":{number}}}"#))).expect(200);
        }
    });
    assert!(done(&["verify", &first]).contains(": sound, made "));
    assert_eq!(run(&[&["backup", &first][..], &proof].concat()).code(), FAILED, "it is there already");

    node.put("/t/key/later", r#"{"value":null}"#).expect(200);
    let made = done(&[&["backup", &second, "--base", &first, "--json"][..], &proof].concat());
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert!(made["bytes_written"].as_u64() < made["bytes_shared"].as_u64(), "{made}");
    let id = made["id"].as_str().expect("an id");
    done(&["verify", &second, "--id", id]);
    assert_eq!(run(&["verify", &first, "--id", id]).code(), FAILED);
    assert_eq!(run(&["verify", &shelf.path("none")]).code(), Some(3));

    let differing = run(&["diff", &first, &second]);
    assert_eq!(differing.code(), FAILED);
    assert!(differing.stdout.contains("t later  A:absent  B:"), "{differing:?}");
    // Its digests say so, and it need not send all it has.
    let asked = |node: &Node| node.log().matches("/_/backup").count();
    let before = asked(&node);
    for side in [&second, &at] {
        let equal = done(&["diff", side, &at, "--data", &data]);
        assert_eq!(equal, "equal: the same rows in all tables\n");
    }
    assert_eq!(asked(&node), before);
    assert_eq!(run(&["diff", &first, &at, "--data", &data]).code(), FAILED);
    assert!(asked(&node) > before, "{}", node.log());

    let exported = node.get("/_/export").expect(200).body;
    let restored = shelf.path("restored");
    done(&["restore", &second, "--data", &restored]);
    node.terminate();
    let node = Setup::new().flag("--data", &restored).start();
    assert!(node.get("/_/export").expect(200).body == exported, "rows, versions and expiries are as before");
    let tables = node.get("/_/tables").expect(200).json();
    assert_eq!(tables[0]["tombstones"], 1, "{tables}");
    assert_refuses_what_was_altered(&second, &shelf);
}

fn assert_refuses_what_was_altered(backup: &str, shelf: &Shelf) {
    let file = Path::new(backup).join("content/000001.ndjson.zst");
    let mut bytes = fs::read(&file).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // The other backup has the same file.
    fs::remove_file(&file).expect("removes");
    fs::write(&file, &bytes).expect("writes");
    for arguments in [&["verify", backup][..], &["restore", backup, "--data", &shelf.path("new")]] {
        let refused = run(arguments);
        assert_eq!(refused.code(), FAILED, "{refused:?}");
        assert!(refused.log.contains("damaged or was altered"), "{refused:?}");
    }
    assert!(!Path::new(&shelf.path("new")).exists());
}

/// A node makes backups by itself, for a recipient, keeps the newest two, and each can be verified with the private key, which it does not have.
#[test]
fn scheduled_backups_are_made_and_the_newest_stay() {
    let shelf = Shelf::new();
    let directory = shelf.path("backups");
    let key = shelf.path("backups.key");
    let recipient = done(&["backup-key", "new", &key]);
    assert_eq!(run(&["backup-key", "new", &key]).code(), FAILED, "a key is never overwritten");
    assert_eq!(done(&["backup-key", "show", &key]), recipient);
    let setup = Setup::new().flag("--backup-dir", &directory).flag("--backup-every", "1s");
    // What a crash has left of one that was being made.
    let left = Path::new(&directory).join("2026-11-28T17-30-00Z.partial");
    fs::create_dir_all(left.join("content")).expect("makes");
    let node = setup.flag("--backup-recipient", recipient.trim()).flag("--backup-keep", "2").start();
    fs::create_dir_all(Path::new(&directory).join("mine")).expect("makes");
    // Enough that what changes is little beside it: otherwise a full backup is made.
    let rows =
        (0..500).map(|row| format!(r#"{{"op":"put","key":"row{row}","value":{row}}}"#)).collect::<Vec<_>>();
    node.post("/t/batch", format!("[{}]", rows.join(","))).expect(200);
    let made = || node.get("/stats").expect(200).json()["backups"]["made"].as_u64().unwrap_or_default();
    let (enough, mut number) = (made() + 3, 0);
    wait_until("three backups are made", DEADLINE, || {
        number += 1;
        node.put("/t/key/k", format!(r#"{{"value":{number}}}"#)).expect(200);
        thread::park_timeout(Duration::from_millis(20));
        made() >= enough
    });
    let stats = node.get("/stats").expect(200).json();
    assert_eq!(stats["backups"]["failed"], 0, "{stats}");
    let last = stats["backups"]["last"].clone();
    node.terminate();
    let names = |what: &str| {
        let entries = fs::read_dir(&directory).expect("reads");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter(|name| name.contains(what)).collect::<Vec<_>>()
    };
    assert_eq!(names("mine"), ["mine"], "what is not its own is left alone");
    let made: Vec<_> = names("Z").into_iter().filter(|name| !name.contains("partial")).collect();
    assert!((2..=3).contains(&made.len()), "{made:?}");
    let last = text(Path::new(&directory).join(last["name"].as_str().expect("a name")));
    assert!(!left.exists(), "it is removed");
    let opened = ["verify", &last, "--key-file", &key];
    assert!(done(&opened).contains(": 501 keys and 0 tombstones"));
    assert!(done(&["verify", &last]).contains("were not checked"), "without the private key nobody reads it");
    let manifest = fs::read_to_string(Path::new(&last).join("content/manifest.json")).expect("reads");
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    assert!(manifest["base"].is_string(), "the node goes on from the one before: {manifest}");
}

fn tombstones(node: &Node) -> u64 {
    let tables = node.get("/_/tables").expect(200).json();
    tables.as_array().expect("tables").iter().filter_map(|table| table["tombstones"].as_u64()).sum()
}

/// The disk of one of three nodes is lost, and its backup is older than deletions whose tombstones are gone everywhere. The restored node brings no
/// deleted key back, has what was written since, and hands over what only its backup has.
#[test]
fn a_restored_node_brings_no_deleted_key_back() {
    let shelf = Shelf::new();
    let mut cluster = Cluster::start_with(3, |setup| setup.flag("--tombstone-grace", "1s"));
    for row in 0..60 {
        cluster[row % 3].put(&format!("/t/key/k{row}?w=all"), r#"{"value":"old"}"#).expect(200);
    }
    cluster.wait_until_agreed();
    let backup = shelf.path("backup");
    done(&["backup", &backup, "--at", &cluster.address(2)]);
    for row in 0..40 {
        cluster[row % 3].delete(&format!("/t/key/k{row}?w=all")).expect(200);
    }
    cluster[0].put("/t/key/since?w=all", r#"{"value":"new"}"#).expect(200);
    cluster.running().for_each(|node| wait_until("they are swept", CONVERGENCE, || tombstones(node) == 0));

    cluster.kill(2);
    let data = cluster.setup(2).home().join("storage.db");
    fs::remove_dir_all(&data).expect("the disk is lost");
    done(&["restore", &backup, "--data", &text(data)]);
    cluster.restart(2);
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    for node in cluster.running() {
        wait_until_ready(node);
        let keys = node.get("/t/keys").expect(200).json();
        let keys: Vec<_> = keys.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        assert_eq!(keys.len(), 21, "{keys:?}");
        assert!((40..60).all(|row| keys.contains(&&*format!("k{row}"))) && keys.contains(&"since"));
        node.get("/t/key/since").expect_body(r#"{"value":"new"}"#);
    }
}

/// Without the feature a bucket was the directory `s3:`. And a node made its backups there.
#[test]
fn a_bucket_is_no_directory() {
    #[cfg(not(feature = "s3"))]
    for arguments in
        [&["backup", "s3://b/n"][..], &["verify", "s3://b/n"], &["restore", "s3://b/n", "--data", "new"]]
    {
        let refused = run(arguments);
        assert!(refused.code() == Some(2) && refused.log.contains("--features s3"), "{refused:?}");
    }
    let refused = run(&["127.0.0.1:0", "--backup-dir", "s3://b/n"]);
    assert!(refused.code() == Some(2) && refused.log.contains("DynaRust backup s3://"), "{refused:?}");
}
