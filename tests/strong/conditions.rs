//! Conditions are exact: of any number of racing writers, through any nodes, one wins.

use std::thread;

use serde_json::{Value, json};

use super::{Strong, backend, strong};
use crate::harness::{Node, http::Request};

/// Runs this many clients at once, each with a connection of its own to the next node.
fn race<T: Send>(table: &Strong, clients: usize, run: impl Fn(usize, &Node) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let run = &run;
        let started: Vec<_> =
            (0..clients).map(|client| scope.spawn(move || run(client, &table[client % 3]))).collect();
        started.into_iter().map(|client| client.join().expect("no client fails")).collect()
    })
}

#[test]
fn of_racing_creators_on_all_nodes_exactly_one_wins() {
    let table = strong();
    for key in ["lock-a", "lock-b", "lock-c"] {
        let path = table.path(&format!("key/{key}"));
        let created = race(&table, 12, |client, node| {
            let create = Request::new("PUT", &path).header("If-None-Match", "*");
            let answer = node.send(&create.body(format!(r#"{{"value":{client}}}"#)));
            match answer.status {
                200 => Some(client),
                _ => {
                    answer.expect_problem(412, "precondition-failed");
                    None
                }
            }
        });
        let winners: Vec<_> = created.into_iter().flatten().collect();
        let [winner] = winners[..] else { panic!("{winners:?} all made {key}") };
        for node in table.nodes() {
            node.get(&path).expect_body(&format!(r#"{{"value":{winner}}}"#));
        }
    }
}

#[test]
fn a_counter_that_is_compared_and_set_through_all_nodes_loses_no_step() {
    const CLIENTS: usize = 6;
    const STEPS: u64 = 8;
    let table = strong();
    let path = table.path("key/counter");
    table[0].put(&path, r#"{"value":0}"#).expect(200);
    let refused = race(&table, CLIENTS, |_, node| {
        let mut connection = node.connect();
        let (mut done, mut refused) = (0, 0);
        while done < STEPS {
            let read = connection.send(&Request::new("GET", &path)).expect(200);
            let next = read.json()["value"].as_u64().expect("a number") + 1;
            let put = Request::new("PUT", &path).header("If-Match", read.expect_header("etag"));
            let put = connection.send(&put.body(format!(r#"{{"value":{next}}}"#)));
            match put.status {
                200 => done += 1,
                _ => {
                    put.expect_problem(412, "precondition-failed");
                    refused += 1;
                }
            }
        }
        refused
    });
    eprintln!("{} steps, {} refused", CLIENTS as u64 * STEPS, refused.iter().sum::<u64>());
    for node in table.nodes() {
        node.get(&path).expect_body(&format!(r#"{{"value":{}}}"#, CLIENTS as u64 * STEPS));
    }
}

/// A patch is evaluated on what its predecessors made of the value, not on what a node had read.
#[test]
fn racing_patches_of_one_value_all_take_effect() {
    const CLIENTS: usize = 9;
    let table = strong();
    let path = table.path("key/object");
    table[0].put(&path, r#"{"value":{}}"#).expect(200);
    race(&table, CLIENTS, |client, node| {
        for step in 0..3 {
            let patch = json!({ format!("member{client}"): step }).to_string();
            node.send(&Request::new("PATCH", &path).body(patch)).expect(200);
        }
    });
    let expected: Value = (0..CLIENTS).map(|client| (format!("member{client}"), json!(2))).collect();
    for node in table.nodes() {
        let mut got = node.get(&path).expect(200).json();
        assert_eq!(got["value"].take(), expected);
    }
}

#[test]
fn a_patch_that_cannot_apply_is_refused_as_on_any_table() {
    let table = strong();
    let patch = |path: &str, kind: &str, body: &str| {
        Request::new("PATCH", &table.path(path)).header("Content-Type", kind).body(body)
    };
    table[1].send(&patch("key/absent", "application/json", "{}")).expect_problem(404, "not-found");
    table[0].put(&table.path("key/a"), r#"{"value":{"n":1}}"#).expect(200);
    let test = r#"[{"op":"test","path":"/n","value":2},{"op":"replace","path":"/n","value":3}]"#;
    table[1].send(&patch("key/a", "application/json-patch+json", test)).expect_problem(409, "conflict");
    let good = test.replace("\"value\":2", "\"value\":1");
    table[2].send(&patch("key/a", "application/json-patch+json", &good)).expect(200);
    table[0].get(&table.path("key/a")).expect_body(r#"{"value":{"n":3}}"#);
}

#[test]
fn a_condition_that_does_not_hold_names_the_current_version_on_every_node() {
    let table = strong();
    let path = table.path("key/a");
    let first = table[0].put(&path, r#"{"value":1}"#).expect(200);
    let second = table[1].put(&path, r#"{"value":2}"#).expect(200);
    let old = first.expect_header("etag");
    for node in table.nodes() {
        for method in ["PUT", "PATCH", "DELETE"] {
            let request = Request::new(method, &path).header("If-Match", old);
            let request = if method == "DELETE" { request } else { request.body(r#"{"value":3}"#) };
            let request = if method == "PATCH" { request.body(r#"{"a":1}"#) } else { request };
            let refused = node.send(&request).expect(412);
            assert!(
                refused.text().contains(second.json()["version"].as_str().expect("a version")),
                "{refused}"
            );
        }
    }
    let fits = Request::new("DELETE", &path).header("If-Match", second.expect_header("etag"));
    table[2].send(&fits).expect(200);
    table[0].get(&path).expect(404);
}

#[test]
fn a_batch_is_all_or_nothing() {
    let table = strong();
    let kept = table[0].put(&table.path("key/kept"), r#"{"value":1}"#).expect(200);
    let batch = |second: Value| json!([{ "op": "put", "key": "a", "value": 1 }, second]).to_string();
    let failing = [
        (json!({ "op": "delete", "key": "absent" }), 404),
        (json!({ "op": "put", "key": "kept", "value": 2, "if_none_match": "*" }), 412),
        (json!({ "op": "patch", "key": "absent", "patch": { "a": 1 } }), 404),
    ];
    for (second, status) in failing {
        for node in table.nodes() {
            node.post(&table.path("batch"), batch(second.clone())).expect(status);
            node.get(&table.path("key/a")).expect(404);
            node.get(&table.path("key/kept")).expect_body(r#"{"value":1}"#);
        }
    }
    let fits = json!({ "op": "put", "key": "kept", "value": 2, "if_match": kept.expect_header("etag") });
    let done = table[2].post(&table.path("batch"), batch(fits)).expect(200).json();
    assert_eq!(done["results"].as_array().map(Vec::len), Some(2), "{done}");
    for node in table.nodes() {
        assert_eq!(node.get(&table.path("store")).expect(200).json(), json!({ "a": 1, "kept": 2 }));
    }
}

/// A later operation of a batch sees what those before it did.
#[test]
fn operations_of_a_batch_see_those_before_them() {
    let table = strong();
    let batch = json!([
        { "op": "put", "key": "a", "value": { "n": 1 }, "if_none_match": "*" },
        { "op": "patch", "key": "a", "patch": { "m": 2 } },
        { "op": "put", "key": "b", "value": 1 },
        { "op": "delete", "key": "b" },
    ]);
    table[1].post(&table.path("batch"), batch.to_string()).expect(200);
    for node in table.nodes() {
        assert_eq!(node.get(&table.path("store")).expect(200).json(), json!({ "a": { "n": 1, "m": 2 } }));
    }
}

#[test]
fn a_large_batch_is_one_step_too() {
    // An etcd takes no more in one step.
    let count = if backend::is_etcd() { 127 } else { 1500 };
    let table = strong();
    let puts: Vec<_> =
        (0..count).map(|row| json!({ "op": "put", "key": format!("k{row}"), "value": row })).collect();
    table[2].post(&table.path("batch"), json!(puts).to_string()).expect(200);
    for node in table.nodes() {
        node.get(&table.path("count")).expect_body(&format!(r#"{{"count":{count}}}"#));
    }
}

/// What is written in one step is seen in one step, by one request that reads both keys. A node merges the rows of an entry
/// one by one, and a multi-get and a listing saw the first ones new and the last ones old.
#[test]
fn no_read_sees_half_of_a_batch() {
    const BATCHES: u64 = 40;
    // An etcd takes 127 in one step.
    let rows = if backend::is_etcd() { 125 } else { 300 };
    let table = strong();
    let batch = |value: u64| {
        let put = |key: &str| json!({ "op": "put", "key": key, "value": value });
        let between = (0..rows).map(|row| put(&format!("between{row}")));
        let puts: Vec<_> = std::iter::once(put("a")).chain(between).chain([put("b")]).collect();
        Request::new("POST", &table.path("batch")).body(json!(puts).to_string())
    };
    table[0].send(&batch(0)).expect(200);
    let halves = race(&table, 4, |client, node| {
        let mut connection = node.connect();
        let mut halves = Vec::new();
        let mut seen = 0;
        for value in 1..=BATCHES {
            if client == 0 {
                connection.send(&batch(value)).expect(200);
                continue;
            }
            let both = match client % 2 {
                0 => Request::new("POST", &table.path("keys")).body(r#"["a","b"]"#),
                _ => Request::new("GET", &table.path("store")),
            };
            let both = connection.send(&both);
            let both = both.expect(200).json();
            let of = |key: &str| both[key].as_u64().expect("a number");
            assert!(of("a") >= seen && of("b") >= seen, "{both} after {seen}");
            seen = of("a").max(of("b"));
            halves.extend((both["a"] != both["b"]).then_some(both));
        }
        halves
    });
    let halves: Vec<_> = halves.into_iter().flatten().collect();
    assert!(halves.is_empty(), "{halves:?}");
}
