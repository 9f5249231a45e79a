//! Reading, writing, listing and deleting.

use std::{fs, io::Read};

use serde_json::{Value, json};

use super::{FAILED, NOT_FOUND, PRECONDITION_FAILED, Shell, UNREACHABLE, USAGE};
use crate::harness::{Node, cluster::free_address};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn values_are_written_read_changed_and_deleted() {
    let node = Node::start();
    let shell = Shell::at(&node);
    let version = shell.run(&["put", "users", "alice", "{\"name\": \"Alice\", \"n\": 1.10}"]).printed();
    assert_eq!(shell.run(&["get", "users", "alice"]).printed(), "{\"name\":\"Alice\",\"n\":1.10}\n");
    let whole = json(&shell.run(&["get", "users", "alice", "--json"]).printed());
    assert_eq!((whole["version"].as_str(), &whole["key"]), (Some(version.trim()), &json!("alice")));

    for (value, read) in [("Bob", "\"Bob\""), ("12", "12"), ("-1", "-1"), ("null", "null")] {
        shell.run(&["put", "users", "bob", value]).printed();
        assert_eq!(shell.run(&["get", "users", "bob"]).printed().trim(), read);
    }
    shell.run(&["put", "users", "bob", "12", "--string", "--ttl", "7d"]).printed();
    assert_eq!(shell.run(&["get", "users", "bob", "--raw"]).printed(), "12\n");
    assert!(json(&shell.run(&["get", "users", "bob", "--json"]).printed())["expires_at"].is_u64());
    shell.run_with_input(&["put", "users", "a/b c", "-"], b"[1, 2]").printed();
    fs::write(shell.home().join("value.json"), "{\"from\": \"file\"}").expect("written");
    shell.run(&["put", "users", "file", "@value.json"]).printed();
    assert_eq!(shell.run(&["get", "users", "a/b c"]).printed(), "[1,2]\n");

    shell.run(&["patch", "users", "alice", "{\"n\": null, \"visits\": 2}"]).printed();
    let operations = "[{\"op\": \"add\", \"path\": \"/city\", \"value\": \"Graz\"}]";
    let new = shell.run(&["patch", "users", "alice", operations, "--if-present"]).printed();
    assert_eq!(
        shell.run(&["get", "users", "alice"]).printed(),
        "{\"name\":\"Alice\",\"visits\":2,\"city\":\"Graz\"}\n"
    );
    shell.run(&["patch", "users", "alice", "--ttl", "30m"]).printed();
    // That would be a string, and a string is a patch: it took the place of the whole value.
    let misspelt = ["patch", "users", "alice", "visits=3"];
    shell.run(&misspelt).expect(USAGE, &["the patch is not JSON"]);

    let old = ["put", "users", "alice", "1", "--if-version", new.trim()];
    shell.run(&old).expect(PRECONDITION_FAILED, &["condition"]);
    shell.run(&["put", "users", "alice", "1", "--if-absent"]).expect(PRECONDITION_FAILED, &["condition"]);
    shell
        .run(&["del", "users", "alice", "--if-version", new.trim()])
        .expect(PRECONDITION_FAILED, &["condition"]);
    assert_eq!(shell.run(&["del", "users", "alice"]).printed(), "1 key deleted\n");
    shell.run(&["get", "users", "alice"]).expect(NOT_FOUND, &["no key \"alice\""]);
    shell.run(&["patch", "users", "alice", "{}"]).expect(NOT_FOUND, &["alice"]);
    shell.run(&["del", "users", "bob", "alice"]).expect(NOT_FOUND, &["no key \"alice\""]);
    shell.run(&["get", "users", "bob"]).expect(NOT_FOUND, &[]);
}

#[test]
fn tables_are_listed_counted_and_emptied() {
    let node = Node::start();
    let shell = Shell::at(&node);
    let operations: String =
        (0..2500).map(|n| format!("{{\"op\":\"put\",\"key\":\"k{n:04}\",\"value\":{n}}}\n")).collect();
    let results = shell.run_with_input(&["batch", "t"], operations.as_bytes()).printed();
    assert_eq!(results.lines().count(), 2500);
    // More than a page.
    let keys = shell.run(&["keys", "t"]).printed();
    assert!(keys.lines().eq((0..2500).map(|n| format!("k{n:04}"))), "all keys in order");
    assert_eq!(
        shell.run(&["keys", "t", "--prefix", "k20", "--limit", "2", "--reverse"]).printed(),
        "k2099\nk2098\n"
    );
    assert_eq!(shell.run(&["keys", "t", "--start", "k2498", "--json"]).printed(), "\"k2498\"\n\"k2499\"\n");
    assert_eq!(shell.run(&["store", "t", "--end", "k0001"]).printed(), "{\"key\":\"k0000\",\"value\":0}\n");
    let row = json(&shell.run(&["store", "t", "--limit", "1", "--json"]).printed());
    assert!(row["version"].is_string() && row["value"] == 0, "{row}");
    assert_eq!(shell.run(&["count", "t"]).printed(), "2500\n");
    assert_eq!(shell.run(&["count", "t", "--prefix", "k1"]).printed(), "1000\n");
    let tables = shell.run(&["tables"]).printed();
    assert!(
        tables.lines().any(|line| line.split_whitespace().eq(["t", "eventual", "2500", "0"])),
        "{tables}"
    );

    // A reader that has seen enough closes the pipe.
    let mut child = shell.command(&["store", "t"]).spawn().expect("it starts");
    let mut pipe = child.stdout.take().expect("stdout is piped");
    pipe.read_exact(&mut [0; 10]).expect("it prints");
    drop(pipe);
    super::Done::of(child).expect(0, &[]);

    shell.run(&["del", "t", "--prefix", "k1"]).expect(USAGE, &["--yes"]);
    shell.run(&["del", "t", "--prefix", "", "--yes"]).expect(USAGE, &["--all"]);
    shell.run(&["del", "t"]).expect(USAGE, &[]);
    assert_eq!(shell.run(&["del", "t", "--prefix", "k1", "--yes"]).printed(), "1000 keys deleted\n");
    assert_eq!(shell.run(&["del", "t", "--all", "--yes", "--json"]).printed(), "{\"deleted\":1500}\n");
    assert_eq!(shell.run(&["count", "t"]).printed(), "0\n");
}

#[test]
fn batches_and_transactions_say_what_failed() {
    let node = Node::start();
    let shell = Shell::at(&node);
    let some = b"{\"op\":\"put\",\"key\":\"a\",\"value\":1}\n{\"op\":\"patch\",\"key\":\"b\",\"patch\":{}}\n";
    let done = shell.run_with_input(&["batch", "t"], some);
    assert_eq!((done.code, done.stdout.lines().count()), (FAILED, 2), "{done:?}");
    done.expect(FAILED, &["1 of 2 operations failed"]);
    let atomic = shell.run_with_input(&["batch", "t", "-", "--atomic"], some);
    atomic.expect(NOT_FOUND, &["\"b\""]);

    assert_eq!(shell.run(&["create", "stock"]).printed(), "stock is a strong table now\n");
    assert_eq!(shell.run(&["create", "stock"]).printed(), "stock is a strong table already\n");
    let transaction = json!({
        "compare": [{ "table": "stock", "key": "apples", "absent": true }],
        "success": [{ "op": "put", "table": "stock", "key": "apples", "value": 10 }],
        "failure": [{ "op": "get", "table": "stock", "key": "apples" }],
    });
    let first = json(&shell.run(&["txn", &transaction.to_string()]).printed());
    assert_eq!(first["succeeded"], true);
    let second = shell.run_with_input(&["txn"], transaction.to_string().as_bytes());
    assert_eq!(json(&second.stdout)["results"][0]["value"], 10);
    second.expect(PRECONDITION_FAILED, &[]);
}

#[test]
fn the_first_endpoint_that_answers_is_asked_and_mistakes_are_told_apart() {
    let node = Node::start();
    let closed = free_address();
    let both = Shell::with_endpoint(Some(format!("{closed},{}", node.address())));
    both.run(&["put", "t", "k", "1"]).printed();
    assert_eq!(both.run(&["get", "t", "k"]).printed(), "1\n");
    assert!(both.run(&["status"]).printed().contains(&format!("asked          {}", node.address())));
    let none = Shell::with_endpoint(Some(closed.clone()));
    for command in [&["get", "t", "k"][..], &["tables"], &["status"], &["members"]] {
        none.run(command).expect(UNREACHABLE, &[&closed]);
    }
    let port = node.address().port().to_string();
    assert_eq!(none.run(&["get", "t", "k", "--endpoint", &port]).printed(), "1\n");
    none.run(&["get", "t", "k", "--endpoint", "ftp://x"]).expect(USAGE, &["--endpoint", "ftp://x"]);
    both.run(&["get", "t", "k", "--timeout", "soon"]).expect(USAGE, &["--timeout"]);
    both.run(&["gte", "t", "k"]).expect(USAGE, &["command get"]);
    both.run(&["get", "t", "k", "--jsno"]).expect(USAGE, &["--json"]);
    both.run(&["put", "t", "k", "{\"a\":"]).expect(USAGE, &["--string"]);
    both.run(&["put", "t", "k", "1", "--ttl", "soon"]).expect(FAILED, &["ttl"]);
}
