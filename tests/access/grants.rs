//! What a token is limited to, where the request names tables and keys in its body, or names none at all.

use serde_json::{Value, json};

use super::{ALL, Guarded, guarded, with};
use crate::harness::{
    cluster::CONVERGENCE,
    http::{Request, Response},
    wait_until,
    ws::Socket,
};

fn node() -> Guarded {
    let node = guarded(
        &[
            ("full", ALL),
            (
                "shop",
                "rights = [\"read\", \"write\"]\ntables = [\"orders\", \"cart-*\"]\nprefixes = [\"eu/\", \"us/\"]",
            ),
            ("reader", "rights = [\"read\"]\ntables = [\"orders\"]"),
            ("writer", "rights = [\"write\"]"),
        ],
        |setup| setup,
    );
    for (table, key) in
        [("orders", "eu/1"), ("orders", "us/1"), ("orders", "cn/1"), ("cart-a", "eu/1"), ("secret", "eu/1")]
    {
        let put = Request::new("PUT", &format!("/{table}/key/{key}")).body(r#"{"value":1}"#);
        node.send(&with("full", put)).expect(200);
    }
    node
}

fn get(node: &Guarded, token: &str, path: &str) -> Response {
    node.send(&with(token, Request::new("GET", path)))
}

fn post(node: &Guarded, token: &str, path: &str, body: &str) -> Response {
    node.send(&with(token, Request::new("POST", path).body(body)))
}

/// Everything that a token limited to tables and prefixes may see and change by way of many keys.
#[test]
fn a_token_reaches_its_own_tables_and_keys_only() {
    let node = node();
    get(&node, "shop", "/orders/keys?prefix=eu/").expect_body(r#"["eu/1"]"#);
    get(&node, "shop", "/orders/count?prefix=us/1").expect_body(r#"{"count":1}"#);
    for path in [
        "/orders/keys",
        "/orders/store?start=eu/&end=eu0",
        "/orders/keys?prefix=e",
        "/orders/count",
        "/_/export?table=orders",
        "/_/export",
    ] {
        let detail = get(&node, "shop", path).expect_problem(403, "forbidden");
        assert!(
            detail.contains("ask with a prefix inside") && detail.contains("\"eu/\", \"us/\""),
            "{path}: {detail}"
        );
    }
    get(&node, "reader", "/orders/keys").expect_body(r#"["cn/1","eu/1","us/1"]"#);
    // An export of all tables is one of those that the token may read.
    let export = get(&node, "shop", "/_/export?prefix=eu/").expect(200);
    let tables: Vec<Value> = export
        .text()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?.get("table").cloned())
        .collect();
    assert_eq!(tables, ["cart-a", "orders"]);
    get(&node, "reader", "/_/export?table=secret").expect_problem(403, "forbidden");

    post(&node, "shop", "/orders/keys", r#"["eu/1","us/1"]"#).expect_body(r#"{"eu/1":1,"us/1":1}"#);
    post(&node, "shop", "/orders/keys", r#"["eu/1","cn/1"]"#).expect_problem(403, "forbidden");
    let batch = r#"[{"op":"put","key":"eu/2","value":1},{"op":"delete","key":"cn/1"}]"#;
    let detail = post(&node, "shop", "/orders/batch", batch).expect_problem(403, "forbidden");
    assert!(detail.starts_with("operation 2: ") && detail.contains("\"cn/1\""), "{detail}");
    get(&node, "shop", "/orders/key/eu/2").expect_problem(404, "not-found");
    let rows = "{\"table\":\"orders\",\"key\":\"eu/3\",\"value\":1}\n{\"table\":\"secret\",\"key\":\"eu/1\",\"value\":2}\n";
    let refused = post(&node, "shop", "/_/import", rows).expect(403);
    assert_eq!((&refused.json()["line"], &refused.json()["right"]), (&json!(2), &json!("write")));
    for path in ["/orders?confirm=orders", "/orders?prefix=c", "/secret?prefix=eu/"] {
        node.send(&with("shop", Request::new("DELETE", path))).expect_problem(403, "forbidden");
    }
    get(&node, "full", "/secret/key/eu/1").expect_body(r#"{"value":1}"#);
    for topic in ["orders/*", "orders/cn/1", "secret/eu/*"] {
        get(&node, "shop", &format!("/_/subscribe?topic=orders/eu/*&topic={topic}"))
            .expect_problem(403, "forbidden");
    }
    get(&node, "shop", "/orders/subscribe").expect_problem(403, "forbidden");
    get(&node, "shop", "/orders/subscribe?keys=eu/1,cn/1").expect_problem(403, "forbidden");
}

#[test]
fn a_transaction_needs_each_of_its_rights() {
    let node = node();
    let make = Request::new("PUT", "/_/tables/cart-strong").body(r#"{"mode":"strong"}"#);
    node.send(&with("shop", make.clone())).expect_problem(403, "forbidden");
    node.send(&with("full", make)).expect(201);
    let put = |key: &str| json!({"op": "put", "table": "cart-strong", "key": key, "value": 1});
    let compare = json!([{"table": "cart-strong", "key": "eu/a", "absent": true}]);
    let run = |token: &str, body: Value| post(&node, token, "/_/txn", &body.to_string());
    run("shop", json!({"compare": compare, "success": [put("eu/a")]})).expect(200);
    run("writer", json!({"success": [put("eu/b")]})).expect(200);
    for (token, body) in [
        ("writer", json!({"compare": compare, "success": [put("eu/c")]})),
        ("writer", json!({"success": [put("eu/c"), {"op": "get", "table": "cart-strong", "key": "eu/a"}]})),
        ("reader", json!({"success": [put("eu/c")]})),
        ("shop", json!({"success": [put("eu/c")], "failure": [put("cn/c")]})),
        ("shop", json!({"success": [{"op": "get", "table": "secret", "key": "eu/1"}]})),
    ] {
        run(token, body.clone()).expect_problem(403, "forbidden");
    }
    get(&node, "full", "/cart-strong/key/eu/c").expect_problem(404, "not-found");
}

#[test]
fn lists_of_tables_show_what_the_token_may_read() {
    let node = node();
    let names = |tables: &Value| {
        tables.as_array().expect("a list").iter().map(|it| it["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&get(&node, "shop", "/_/tables").json()), ["cart-a", "orders"]);
    assert_eq!(names(&get(&node, "full", "/_/tables").json()), ["cart-a", "orders", "secret"]);
    let stats = get(&node, "reader", "/stats").json();
    assert_eq!((names(&stats["tables"]), &stats["keys"]), (vec![json!("orders")], &json!(3)));
    let metrics = get(&node, "reader", "/metrics").expect(200);
    assert!(metrics.text().contains("table=\"orders\"") && !metrics.text().contains("secret"), "{metrics}");
    assert!(metrics.text().ends_with("# EOF\n"), "{metrics}");
}

/// Each message of a WebSocket is checked as the request over HTTP would be.
#[test]
fn a_websocket_checks_each_message() {
    let node = node();
    let mut socket = Socket::open(node.address(), "/_/ws?access_token=shop");
    let mut ask = |message: Value| socket.request(&message);
    assert_eq!(ask(json!({"op": "ping", "rid": 0}))["status"], 200);
    assert_eq!(
        ask(json!({"op": "put", "rid": 1, "table": "orders", "key": "eu/5", "value": 1}))["status"],
        200
    );
    assert_eq!(ask(json!({"op": "get", "rid": 2, "table": "orders", "key": "eu/5"}))["status"], 200);
    for (number, message) in [
        json!({"op": "get", "table": "orders", "key": "cn/1"}),
        json!({"op": "put", "table": "secret", "key": "eu/1", "value": 2}),
        json!({"op": "patch", "table": "orders", "key": "cn/1", "patch": {}}),
        json!({"op": "delete", "table": "orders", "key": "cn/1"}),
        json!({"op": "delete_all", "table": "orders", "confirm": "orders"}),
        json!({"op": "delete_all", "table": "orders", "prefix": "c"}),
        json!({"op": "txn", "success": [{"op": "put", "table": "secret", "key": "eu/1", "value": 1}]}),
        json!({"op": "sub", "id": "a", "table": "orders"}),
        json!({"op": "sub", "id": "a", "table": "secret", "key": "eu/1"}),
    ]
    .into_iter()
    .enumerate()
    {
        let mut message = message;
        message["rid"] = json!(10 + number);
        let refused = ask(message.clone());
        assert_eq!(
            (&refused["status"], &refused["error"]),
            (&json!(403), &json!("forbidden")),
            "{message}: {refused}"
        );
    }
    assert_eq!(
        ask(json!({"op": "sub", "rid": 30, "id": "a", "table": "orders", "prefix": "eu/"}))["event"],
        "subscribed"
    );
}

/// A backup has every value of the node. A token with the right `admin` alone got it, whatever tables it was limited to.
#[test]
fn a_backup_needs_the_right_to_read_everything() {
    let node = guarded(
        &[
            ("full", ALL),
            ("admin", r#"rights = ["admin"]"#),
            ("one", "rights = [\"read\", \"admin\"]\ntables = [\"orders\"]"),
            ("part", "rights = [\"read\", \"admin\"]\nprefixes = [\"eu/\"]"),
            ("reader", r#"rights = ["read"]"#),
        ],
        |setup| setup,
    );
    for (token, right) in [("admin", "read"), ("one", "read"), ("part", "read"), ("reader", "admin")] {
        let refused = get(&node, token, "/_/backup");
        assert_eq!(refused.json()["right"], right, "{token}: {refused}");
        refused.expect_problem(403, "forbidden");
    }
    get(&node, "full", "/_/backup").expect(200);
    // It commands the node all the same.
    post(&node, "admin", "/_/admin/sync", "").expect(200);
}

/// By the `test` of a JSON Patch, a token that may only write could find out values, one guess at a time.
#[test]
fn a_patch_that_tests_values_needs_the_right_to_read() {
    let node = node();
    let test = json!([{"op": "test", "path": "", "value": 1}]);
    let change = json!([{"op": "replace", "path": "", "value": 1}]);
    let patch = |token: &str, patch: &Value| {
        let request = Request::new("PATCH", "/orders/key/eu/1").body(patch.to_string());
        node.send(&with(token, request))
    };
    let batch = |patch: &Value| json!([{"op": "patch", "key": "eu/1", "patch": patch}]).to_string();
    let detail = patch("writer", &test).expect_problem(403, "forbidden");
    assert!(detail.contains("lacks the right read") && detail.contains("\"test\""), "{detail}");
    post(&node, "writer", "/orders/batch", &batch(&test)).expect_problem(403, "forbidden");
    let mut socket = Socket::open(node.address(), "/_/ws?access_token=writer");
    let mut ask = |patch: &Value| {
        socket.request(&json!({"op": "patch", "rid": 1, "table": "orders", "key": "eu/1", "patch": patch}))
    };
    assert_eq!((&ask(&test)["status"], &ask(&change)["status"]), (&json!(403), &json!(200)));
    patch("writer", &change).expect(200);
    post(&node, "writer", "/orders/batch", &batch(&change)).expect(200);
    patch("shop", &test).expect(200);
    post(&node, "shop", "/orders/batch", &batch(&test)).expect(200);
    // The transaction is refused before anybody asks whether the table is strong.
    let run = |token: &str| {
        let operation = json!({"op": "patch", "table": "orders", "key": "eu/1", "patch": test});
        post(&node, token, "/_/txn", &json!({"failure": [operation]}).to_string())
    };
    run("writer").expect_problem(403, "forbidden");
    assert_ne!(run("shop").status, 403);
}

/// Why a patch did not apply told a token that may only write whether a path of the value exists, and how long an array is.
#[test]
fn why_a_patch_does_not_apply_is_told_to_readers_only() {
    let node = node();
    node.send(&with("shop", Request::new("PUT", "/orders/key/eu/1").body(r#"{"value":{"list":[1,2]}}"#)));
    let missing = json!([{"op": "remove", "path": "/secret"}]);
    let beyond = json!([{"op": "add", "path": "/list/7", "value": 1}]);
    let mut details = Vec::new();
    for patch in [&missing, &beyond] {
        let send = |token: &str| {
            node.send(&with(token, Request::new("PATCH", "/orders/key/eu/1").body(patch.to_string())))
        };
        let told = send("shop").expect_problem(409, "conflict");
        assert!(told.contains("/secret") || told.contains("2 items"), "{told}");
        details.push(send("writer").expect_problem(409, "conflict"));
        let operation = json!({"op": "patch", "key": "eu/1", "patch": patch});
        for query in ["", "?atomic=true"] {
            let batch = json!([operation]).to_string();
            let answer = post(&node, "writer", &format!("/orders/batch{query}"), &batch).json();
            let answer = answer["results"].get(0).cloned().unwrap_or(answer);
            details.push(answer["detail"].as_str().expect("a detail").to_owned());
        }
        let mut socket = Socket::open(node.address(), "/_/ws?access_token=writer");
        let answer = socket
            .request(&json!({"op": "patch", "rid": 1, "table": "orders", "key": "eu/1", "patch": patch}));
        details.push(answer["detail"].as_str().expect("a detail").to_owned());
    }
    let first = details[0].clone();
    assert!(
        first.contains("does not apply") && details.iter().all(|detail| *detail == first),
        "{details:#?}"
    );
}

/// Nodes are no clients of each other: links ask for no token, and what a node passes on to the leader was checked where it came in.
#[test]
fn nodes_with_tokens_link_and_pass_writes_on_without_any() {
    let first = guarded(&[("full", ALL)], |setup| setup);
    let second = guarded(&[("full", ALL)], |setup| setup.join(&first.address().to_string()));
    wait_until("the second node is ready", CONVERGENCE, || second.get("/readyz").status == 200);
    let put = |node: &Guarded, path: &str, body: &str| {
        let response = node.send(&with("full", Request::new("PUT", path).body(body)));
        assert!(matches!(response.status, 200 | 201), "{path}: {response}");
    };
    put(&first, "/orders/key/a?w=all", r#"{"value":1}"#);
    get(&second, "full", "/orders/key/a").expect_body(r#"{"value":1}"#);
    put(&second, "/_/tables/strong", r#"{"mode":"strong"}"#);
    for (node, key) in [(&first, "a"), (&second, "b")] {
        put(node, &format!("/strong/key/{key}"), r#"{"value":1}"#);
        node.put(&format!("/strong/key/{key}"), r#"{"value":2}"#).expect_problem(401, "unauthorized");
    }
    for node in [&first, &second] {
        get(node, "full", "/strong/store").expect_body(r#"{"a":1,"b":1}"#);
    }
}
