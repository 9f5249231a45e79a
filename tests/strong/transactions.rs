//! `POST /_/txn`: comparisons and operations over any keys of any strong tables, in one step.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::{Value, json};

use super::{backend, strong};
use crate::harness::{Node, http::Request};

fn transact(node: &Node, transaction: &Value) -> Value {
    node.post("/_/txn", transaction.to_string()).expect(200).json()
}

#[test]
fn the_branch_that_the_comparisons_choose_runs_over_several_tables() {
    let (stock, orders) = (strong(), strong());
    stock[0].put(&stock.path("key/apples"), r#"{"value":1}"#).expect(200);
    let transaction = json!({
        "compare": [stock.of("apples", &json!({ "value": 1 })), orders.of("o1", &json!({ "absent": true }))],
        "success": [
            stock.of("apples", &json!({ "op": "put", "value": 0 })),
            orders.of("o1", &json!({ "op": "put", "value": "apples" })),
            stock.of("apples", &json!({ "op": "get" })),
        ],
        "failure": [stock.of("apples", &json!({ "op": "get" }))],
    });
    let first = transact(&stock[1], &transaction);
    assert_eq!(first["succeeded"], true, "{first}");
    let results = first["results"].as_array().expect("results");
    assert_eq!(results.len(), 3, "{first}");
    assert!(results[0]["version"].is_string() && results[0].get("created").is_none(), "{first}");
    assert_eq!(results[1]["created"], true, "{first}");
    assert_eq!(
        (&results[2]["value"], &results[2]["version"]),
        (&json!(0), &results[0]["version"]),
        "{first}"
    );
    // The second finds nothing left.
    let second = transact(&stock[2], &transaction);
    assert_eq!(second["succeeded"], false, "{second}");
    assert_eq!(second["results"][0]["value"], 0, "{second}");
    for node in stock.nodes() {
        node.get(&stock.path("key/apples")).expect_body(r#"{"value":0}"#);
        node.get(&orders.path("key/o1")).expect_body(r#"{"value":"apples"}"#);
    }
}

#[test]
fn comparisons_of_a_missing_key_hold_only_if_it_is_expected_to_be_absent() {
    let table = strong();
    let version = table[0].put(&table.path("key/here"), r#"{"value":{"a":1,"b":2.0}}"#).expect(200).json();
    let version = &version["version"];
    let cases = [
        ("gone", json!({ "absent": true }), true),
        ("gone", json!({ "absent": false }), false),
        ("gone", json!({ "value": null }), false),
        ("gone", json!({ "version": version }), false),
        ("here", json!({ "absent": true }), false),
        ("here", json!({ "absent": false }), true),
        ("here", json!({ "version": version }), true),
        ("here", json!({ "value": { "b": 2.0, "a": 1 } }), true),
        ("here", json!({ "value": { "a": 1 } }), false),
    ];
    for (case, (key, expected, holds)) in cases.into_iter().enumerate() {
        let compare = table.of(key, &expected);
        let answer = transact(&table[case % 3], &json!({ "compare": [compare] }));
        assert_eq!(answer, json!({ "succeeded": holds, "results": [] }), "{key} {expected}");
    }
    // A deleted key is a missing one.
    table[1].delete(&table.path("key/here")).expect(200);
    let compare = table.of("here", &json!({ "version": version }));
    assert_eq!(transact(&table[2], &json!({ "compare": [compare] }))["succeeded"], false);
}

#[test]
fn a_transaction_without_comparisons_does_what_success_says() {
    let table = strong();
    let success = json!([
        table.of("a", &json!({ "op": "get" })),
        table.of("a", &json!({ "op": "put", "value": { "n": 1 }, "ttl": "1h" })),
        table.of("a", &json!({ "op": "patch", "patch": { "m": 2 } })),
        table.of("a", &json!({ "op": "get" })),
        table.of("a", &json!({ "op": "delete" })),
        table.of("a", &json!({ "op": "get" })),
    ]);
    let answer = transact(&table[1], &json!({ "success": success }));
    assert_eq!(answer["succeeded"], true);
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results[0], json!({ "value": null, "absent": true }), "{answer}");
    assert_eq!(results[3]["value"], json!({ "n": 1, "m": 2 }), "{answer}");
    assert!(results[3]["expires_at"].is_u64(), "{answer}");
    assert_eq!(results[5], json!({ "value": null, "absent": true }), "{answer}");
    table[2].get(&table.path("key/a")).expect(404);
}

/// An operation that fails takes the whole transaction with it.
#[test]
fn an_operation_that_fails_leaves_nothing_of_the_transaction() {
    let table = strong();
    let put = table.of("a", &json!({ "op": "put", "value": 1 }));
    let failing = [
        (table.of("absent", &json!({ "op": "delete" })), 404, "not-found"),
        (table.of("absent", &json!({ "op": "patch", "patch": { "n": 1 } })), 404, "not-found"),
        (
            table.of("a", &json!({ "op": "put", "value": 2, "if_none_match": "*" })),
            412,
            "precondition-failed",
        ),
    ];
    for (operation, status, code) in failing {
        for node in table.nodes() {
            let transaction = json!({ "success": [put, operation] });
            node.post("/_/txn", transaction.to_string()).expect_problem(status, code);
            node.get(&table.path("key/a")).expect(404);
        }
    }
}

#[test]
fn a_transaction_has_at_most_128_operations_of_a_branch_and_comparisons() {
    let table = strong();
    let puts = |count: usize| -> Vec<Value> {
        (0..count).map(|row| table.of(&format!("k{row}"), &json!({ "op": "put", "value": row }))).collect()
    };
    let compares = |count: usize| -> Vec<Value> {
        (0..count).map(|row| table.of(&format!("k{row}"), &json!({ "absent": true }))).collect()
    };
    for transaction in [
        json!({ "success": puts(129) }),
        json!({ "failure": puts(129) }),
        json!({ "compare": compares(129), "success": puts(1) }),
    ] {
        let why = table[1].post("/_/txn", transaction.to_string()).expect_problem(400, "bad-request");
        assert!(why.contains("129") && why.contains("at most 128"), "{why}");
    }
    table[0].get(&table.path("count")).expect_body(r#"{"count":0}"#);
    // One of etcd's own 128 is needed for the order of commits.
    let most = if backend::is_etcd() { 127 } else { 128 };
    let full = json!({ "compare": compares(128), "success": puts(most), "failure": puts(128) });
    assert_eq!(transact(&table[2], &full)["succeeded"], true);
    table[0].get(&table.path("count")).expect_body(&format!(r#"{{"count":{most}}}"#));
}

#[test]
fn a_transaction_over_an_eventual_table_is_refused_and_says_how_to_make_it_strong() {
    let table = strong();
    let eventual = super::fresh_name();
    table[0].put(&format!("/{eventual}/key/a"), r#"{"value":1}"#).expect(200);
    for name in [&*eventual, "never-written"] {
        for node in table.nodes() {
            let transaction = json!({ "success": [
                table.of("a", &json!({ "op": "put", "value": 1 })),
                { "op": "put", "table": name, "key": "a", "value": 2 },
            ] });
            let why = node.post("/_/txn", transaction.to_string()).expect_problem(409, "wrong-mode");
            assert!(why.contains(name) && why.contains("/_/tables/"), "{why}");
            let compare = json!({ "compare": [{ "table": name, "key": "a", "absent": true }] });
            node.post("/_/txn", compare.to_string()).expect_problem(409, "wrong-mode");
        }
    }
    table[1].get(&table.path("key/a")).expect(404);
    table[0].get(&format!("/{eventual}/key/a")).expect_body(r#"{"value":1}"#);
}

#[test]
fn a_transaction_that_makes_no_sense_is_refused_and_says_why() {
    let table = strong();
    let one = |operation: Value| json!({ "success": [table.of("a", &operation)] });
    let compare = |compare: Value| json!({ "compare": [table.of("a", &compare)] });
    let wrong = [
        (json!([]), 400),
        (json!({ "then": [] }), 400),
        (one(json!({ "op": "increment" })), 400),
        (one(json!({ "op": "put" })), 400),
        (one(json!({ "op": "get", "value": 1 })), 400),
        (one(json!({ "op": "put", "value": 1, "valeu": 1 })), 400),
        (one(json!({ "op": "patch" })), 400),
        (
            json!({ "failure": [table.of("a", &json!({ "op": "patch", "patch": [{ "op": "burn", "path": "" }] }))] }),
            400,
        ),
        (compare(json!({})), 400),
        (compare(json!({ "value": 1, "absent": true })), 400),
        (compare(json!({ "version": "seven" })), 400),
        (json!({ "success": [{ "op": "get", "table": "no/name", "key": "a" }] }), 422),
        (json!({ "success": [{ "op": "get", "table": table.name, "key": "" }] }), 422),
    ];
    for (transaction, status) in wrong {
        let answer = table[1].post("/_/txn", transaction.to_string());
        assert_eq!(answer.status, status, "{transaction}: {answer}");
        answer.expect_refused(&transaction.to_string());
    }
    table[1].post("/_/txn", "{").expect_problem(400, "bad-json");
    let other = table[1].get("/_/txn").expect(405);
    assert!(other.expect_header("allow").contains("POST"), "{other}");
    table[1].send(&Request::new("POST", "/_/txn?w=2").body("{}")).expect(400);
}

/// The classic: transfers between accounts keep the sum, and no transaction sees one half done.
#[test]
fn racing_transfers_between_tables_keep_the_sum_that_every_transaction_sees() {
    const CLIENTS: usize = 5;
    const TRANSFERS: u64 = 6;
    let (one, other) = (strong(), strong());
    one[0].put(&one.path("key/account"), r#"{"value":100}"#).expect(200);
    one[0].put(&other.path("key/account"), r#"{"value":100}"#).expect(200);
    let gets =
        json!([one.of("account", &json!({ "op": "get" })), other.of("account", &json!({ "op": "get" }))]);
    let read = |node: &Node| {
        let seen = transact(node, &json!({ "success": gets }));
        let amount = |at: usize| seen["results"][at]["value"].as_i64().expect("an amount");
        (amount(0), amount(1))
    };
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (read, over, one, other, gets) = (&read, &over, &one, &other, &gets);
        let auditor = scope.spawn(move || {
            let mut audits = 0;
            while !over.load(Ordering::Relaxed) || audits == 0 {
                let (left, right) = read(&one[audits % 3]);
                assert_eq!(left + right, 200, "{left} and {right}");
                audits += 1;
            }
        });
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn(move || {
                    let node = &one[client % 3];
                    let mut done = 0;
                    while done < TRANSFERS {
                        let (left, right) = read(node);
                        let amount = if client % 2 == 0 { 1 } else { -1 };
                        let moved = transact(node, &json!({
                            "compare": [one.of("account", &json!({ "value": left })), other.of("account", &json!({ "value": right }))],
                            "success": [
                                one.of("account", &json!({ "op": "put", "value": left - amount })),
                                other.of("account", &json!({ "op": "put", "value": right + amount })),
                            ],
                            "failure": gets,
                        }));
                        if moved["succeeded"] == true {
                            done += 1;
                        }
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().expect("no client fails"));
        over.store(true, Ordering::Relaxed);
        auditor.join().expect("each audit sees the sum");
    });
    // Three clients move one to the right each time, two to the left.
    let moved = TRANSFERS as i64;
    for node in one.nodes() {
        assert_eq!(read(node), (100 - moved, 100 + moved));
    }
}
