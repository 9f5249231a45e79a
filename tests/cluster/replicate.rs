//! Whatever is written on one node is on all, in a moment, and is seen there once.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::{wait_for_absence, wait_for_body};
use crate::harness::{
    DEADLINE,
    cluster::{Cluster, setup},
    http::Request,
    sse::Events,
    wait_until,
};

/// A cluster that the tests of this file share, and a table that no other has.
fn shared() -> (Arc<Cluster>, String) {
    static CLUSTER: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut shared = CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
    let start = || Arc::new(Cluster::start_with(3, |setup| setup.flag("--max-value", "8MiB")));
    let cluster = shared.upgrade().unwrap_or_else(start);
    *shared = Arc::downgrade(&cluster);
    (cluster, format!("table{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

#[test]
fn a_write_on_any_node_is_read_on_all() {
    let (cluster, table) = shared();
    for writer in 0..3 {
        for value in ["1", "\"text\"", "null", "[1.10,12345678901234567890]", r#"{"a":{}}"#] {
            let (path, body) = (format!("/{table}/key/k{writer}"), format!(r#"{{"value":{value}}}"#));
            let version = cluster[writer].put(&path, body.clone()).expect(200).json()["version"].clone();
            for reader in cluster.running() {
                wait_for_body(reader, &path, &body);
                assert_eq!(reader.get(&path).expect_header("dynarust-version"), version);
            }
        }
    }
}

#[test]
fn a_delete_on_any_node_is_seen_on_all() {
    let (cluster, table) = shared();
    for deleter in 0..3 {
        let path = format!("/{table}/key/k{deleter}");
        cluster[0].put(&path, r#"{"value":1}"#).expect(200);
        wait_for_body(&cluster[deleter], &path, r#"{"value":1}"#);
        cluster[deleter].delete(&path).expect(200);
        for node in cluster.running() {
            wait_for_absence(node, &path);
        }
        // And again, on another node.
        cluster[(deleter + 1) % 3].put(&path, r#"{"value":2}"#).expect(200);
        for node in cluster.running() {
            wait_for_body(node, &path, r#"{"value":2}"#);
        }
    }
}

#[test]
fn a_value_expires_on_all_nodes_at_one_instant() {
    let (cluster, table) = shared();
    let path = format!("/{table}/key/soon");
    cluster[0].put(&format!("{path}?ttl=2s"), r#"{"value":1}"#).expect(200);
    let expires =
        |node: usize| cluster[node].get(&path).expect(200).expect_header("dynarust-expires").to_owned();
    for node in 1..3 {
        wait_for_body(&cluster[node], &path, r#"{"value":1}"#);
        assert_eq!(expires(node), expires(0));
    }
    let (mut events, _) = Events::open(cluster[2].address(), &format!("/{table}/subscribe/soon"));
    for node in cluster.running() {
        wait_for_absence(node, &path);
    }
    let gone = events.event().json();
    assert_eq!((&gone["event"], &gone["reason"]), (&json!("Deleted"), &json!("expired")), "{gone}");
}

#[test]
fn a_subscriber_of_any_node_sees_each_write_of_any_node_once() {
    let (cluster, table) = shared();
    for writer in 0..3 {
        let path = format!("/{table}/key/k{writer}");
        let subscribe = format!("/{table}/subscribe/k{writer}");
        let mut streams: Vec<_> =
            cluster.running().map(|node| Events::open(node.address(), &subscribe).0).collect();
        for number in 0..20 {
            cluster[writer].put(&path, format!(r#"{{"value":{number}}}"#)).expect(200);
            // Each is seen before the next is written: a fast writer's values may be passed over on other nodes.
            for events in &mut streams {
                let seen = events.event().json();
                assert_eq!((&seen["event"], &seen["value"]), (&json!("Updated"), &json!(number)), "{seen}");
            }
        }
        cluster[writer].delete(&path).expect(200);
        for events in &mut streams {
            let seen = events.event().json();
            assert_eq!((&seen["event"], &seen["reason"]), (&json!("Deleted"), &json!("delete")), "{seen}");
        }
    }
}

#[test]
fn an_import_that_waits_for_all_is_on_all_when_it_is_answered() {
    let (cluster, table) = shared();
    let lines: Vec<_> = (0..2500)
        .map(|row| json!({ "table": table, "key": format!("k{row}"), "value": row }).to_string())
        .collect();
    for _ in 0..2 {
        cluster[1].post("/_/import?w=all", lines.join("\n")).expect(200);
        for node in cluster.running() {
            node.get(&format!("/{table}/count")).expect_body(r#"{"count":2500}"#);
        }
    }
}

#[test]
fn batches_patches_and_imports_replicate() {
    let (cluster, table) = shared();
    let lines: Vec<_> = (0..300)
        .map(|row| json!({ "op": "put", "key": format!("b{row}"), "value": row }).to_string())
        .collect();
    cluster[0].post(&format!("/{table}/batch"), lines.join("\n")).expect(200);
    cluster[1].put(&format!("/{table}/key/patched"), r#"{"value":{"a":1,"b":2}}"#).expect(200);
    wait_for_body(&cluster[2], &format!("/{table}/key/patched"), r#"{"value":{"a":1,"b":2}}"#);
    let patch = Request::new("PATCH", &format!("/{table}/key/patched")).body(r#"{"a":null,"c":3}"#);
    cluster[2].send(&patch).expect(200);
    let line = json!({ "table": table, "key": "imported", "value": [1] });
    cluster[1].post("/_/import", line.to_string()).expect(200);
    for node in cluster.running() {
        wait_for_body(node, &format!("/{table}/key/patched"), r#"{"value":{"b":2,"c":3}}"#);
        wait_for_body(node, &format!("/{table}/key/imported"), r#"{"value":[1]}"#);
        wait_for_body(node, &format!("/{table}/count"), r#"{"count":302}"#);
    }
}

#[test]
fn long_values_replicate() {
    let (cluster, table) = shared();
    for (node, bytes) in [(0, 100_000), (1, 1_000_000), (2, 5_000_000)] {
        let value = format!(r#"{{"value":"{}"}}"#, crate::crash::ledger::text(node as u64, bytes));
        let path = format!("/{table}/key/{bytes}");
        cluster[node].put(&path, value.clone()).expect(200);
        for reader in cluster.running() {
            wait_until(&format!("{bytes} bytes on {}", reader.address()), DEADLINE, || {
                reader.get(&path).body == value.as_bytes()
            });
        }
    }
}

/// The ancestor wrote `a` for `a?b` and `a#b`, on every node, and never told a peer of `a/b`.
#[test]
fn keys_replicate_whatever_their_bytes() {
    let (cluster, table) = shared();
    let mut keys = vec![
        "a=b",
        " lead",
        "a\nb",
        "a?b",
        "a#b",
        "a/b",
        "a//b",
        "/",
        "a%2Fb",
        "..",
        "../x",
        "\u{0}",
        "\u{7f}",
        "é",
        "日本",
        "\"",
        "\\",
        "+",
        "a b ",
        "\u{10ffff}",
    ];
    let long = "k".repeat(1024);
    keys.push(&long);
    let encode = |key: &str| key.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    for (at, key) in keys.iter().enumerate() {
        let path = format!("/{table}/key/{}", encode(key));
        cluster[at % 3].put(&path, format!(r#"{{"value":{}}}"#, json!(key))).expect(200);
    }
    keys.sort_unstable();
    let all = Value::from(keys.clone());
    for node in cluster.running() {
        wait_until("all keys are there", DEADLINE, || {
            node.get(&format!("/{table}/keys")).expect(200).json() == all
        });
        for key in &keys {
            let path = format!("/{table}/key/{}", encode(key));
            node.get(&path).expect_body(&format!(r#"{{"value":{}}}"#, json!(key)));
        }
    }
}

#[test]
fn writers_of_one_key_on_all_nodes_end_with_the_latest_write_everywhere() {
    let (cluster, table) = shared();
    let path = format!("/{table}/key/contended");
    let latest = thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (cluster, path) = (&cluster, &path);
                scope.spawn(move || {
                    let mut connection = cluster[writer].connect();
                    let write = |number| {
                        let value = format!(r#"{{"value":"{writer}-{number}"}}"#);
                        let answer =
                            connection.send(&Request::new("PUT", path).body(value.clone())).expect(200);
                        (answer.json()["version"].as_str().expect("a version").to_owned(), value)
                    };
                    (0..200).map(write).max().expect("writes")
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("it writes")).max().expect("writers")
    });
    for node in cluster.running() {
        wait_for_body(node, &path, &latest.1);
        assert_eq!(node.get(&path).expect_header("dynarust-version"), latest.0);
    }
}

#[test]
fn a_write_waits_for_as_many_replicas_as_it_wants_and_then_they_have_it() {
    let (cluster, table) = shared();
    for (number, wanted) in ["all", "majority", "1", "2", "3"].into_iter().enumerate() {
        let body = format!(r#"{{"value":{number}}}"#);
        cluster[number % 3].put(&format!("/{table}/key/a{number}?w={wanted}"), body.clone()).expect(200);
        if matches!(wanted, "all" | "3") {
            for node in cluster.running() {
                node.get(&format!("/{table}/key/a{number}")).expect_body(&body);
            }
        }
    }
    let begun = std::time::Instant::now();
    let refused = cluster[0].put(&format!("/{table}/key/b?w=4&w_timeout=10s"), r#"{"value":1}"#).expect(504);
    assert!(begun.elapsed() < Duration::from_secs(5), "four of three are never had: nothing to wait for");
    assert_eq!(refused.json()["wanted"], 4, "{refused}");
    for node in cluster.running() {
        wait_for_body(node, &format!("/{table}/key/b"), r#"{"value":1}"#);
    }
}

/// Values with lone surrogates were taken once. They are no longer, from clients; from peers they are, as replicas that refuse what others
/// hold would differ for ever.
#[test]
fn an_old_value_with_a_lone_surrogate_is_on_all_nodes_and_so_is_a_restore() {
    let mut cluster = Cluster::start(2);
    let version = "018bcfe568000000-000000000000abcd";
    let row =
        |key: &str, version: &str| format!(r#"{{"table":"t","key":"{key}","value":"\ud800"{version}}}"#);
    let rows = [row("old", &format!(r#","version":"{version}""#)), row("new", "")].join("\n");
    cluster[0].post("/_/import", rows.clone()).expect_problem(400, "bad-json");
    cluster[0].post("/_/import?surrogates=keep", rows).expect(200);
    let body = r#"{"value":"\ud800"}"#;
    wait_for_body(&cluster[1], "/t/key/old", body);
    cluster.add(setup());
    cluster.wait_until_equal();
    for node in cluster.running() {
        wait_for_body(node, "/t/key/old", body);
        wait_for_body(node, "/t/key/new", body);
    }

    let exported = cluster[2].get("/_/export").expect(200).body;
    cluster[0].put("/t/key/old", r#"{"value":"overwritten"}"#).expect(200);
    cluster[1].delete("/t/key/new").expect(200);
    cluster.wait_until_equal();
    cluster[2].post("/_/import?surrogates=keep", exported.clone()).expect(200);
    wait_for_body(&cluster[2], "/t/key/old", r#"{"value":"overwritten"}"#);
    cluster[2].post("/_/import?surrogates=keep&mode=new", exported).expect(200);
    cluster.wait_until_equal();
    for node in cluster.running() {
        wait_for_body(node, "/t/key/old", body);
        wait_for_body(node, "/t/key/new", body);
    }
}
