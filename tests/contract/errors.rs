//! Errors: each is a problem (RFC 9457) with the code of the contract's section 3, and says what is allowed.

use crate::harness::{Node, Setup, http::Request, table};

#[test]
fn a_body_that_is_not_json_is_bad_json() {
    let table = table();
    for body in [
        "",
        " ",
        "{",
        "nonsense",
        "value=1",
        r#"{"value":}"#,
        r#"{"value":1"#,
        r#"{"value":1}}"#,
        r#"{"value":1}{"value":2}"#,
        r#"{"value":01}"#,
        r#"{"value":.5}"#,
        r#"{"value":NaN}"#,
        r#"{"value":Infinity}"#,
        r#"{"value":'a'}"#,
        r#"{"value":"a}"#,
        "{\"value\":\"a\nb\"}",
        "{\"value\":\"a\0b\"}",
        r#"{"value":"\x41"}"#,
        r#"{"value":"\u12"}"#,
        r#"{"value":[1,]}"#,
        r#"{"value":{"a":1,}}"#,
        r#"{"value":{a:1}}"#,
        r#"{"value":tru}"#,
        r#"{value:1}"#,
        "{\"value\":1} // comment",
    ] {
        table.put("key/a", body).expect_problem(400, "bad-json");
    }
    for bytes in [
        &b"\xff\xfe{\"value\":1}"[..],
        b"{\"value\":\"\xff\"}",
        b"{\"value\":\"\xed\xa0\x80\"}",
        b"\x00",
        b"\x1f\x8b\x08\x00",
    ] {
        table.put("key/a", bytes).expect_problem(400, "bad-json");
    }
    table.get("keys").expect_body("[]");
}

#[test]
fn a_body_of_another_type_is_bad_json_and_a_missing_value_is_named() {
    let table = table();
    for body in ["1", "null", r#""text""#, "[]", r#"[{"value":1}]"#, "true"] {
        let refused = table.put("key/a", body);
        assert!(
            ["bad-json", "missing-value"].contains(&refused.json()["error"].as_str().unwrap_or_default()),
            "{refused}"
        );
        assert_eq!(refused.status, 400, "{refused}");
    }
    for body in ["{}", r#"{"ttl":"1h"}"#] {
        let detail = table.put("key/a", body).expect_problem(400, "missing-value");
        assert!(detail.contains("value"), "{detail}");
    }
    for body in [r#"{"Value":1}"#, r#"{"val":1}"#] {
        let detail = table.put("key/a", body).expect_problem(400, "bad-request");
        assert!(detail.contains("did you mean \"value\"?"), "{detail}");
    }
    table.get("keys").expect_body("[]");
}

#[test]
fn a_missing_key_and_an_unknown_path_are_not_found_and_named() {
    let table = table();
    let detail = table.get("key/some-key").expect_problem(404, "not-found");
    assert!(detail.contains("some-key"), "{detail}");
    table.get("nothing").expect_problem(404, "not-found");
    table.send(&Request::new("GET", "/nothing/at/all")).expect_problem(404, "not-found");
    table.send(&Request::new("GET", "/_/nothing")).expect_problem(404, "not-found");
}

/// The methods of each path. HEAD is allowed wherever GET is, OPTIONS everywhere.
pub(super) const ALLOWED: &[(&str, &[&str])] = &[
    ("key/a", &["GET", "PUT", "PATCH", "DELETE"]),
    ("keys", &["GET", "POST"]),
    ("store", &["GET"]),
    ("count", &["GET"]),
    ("batch", &["POST"]),
    ("subscribe/a", &["GET"]),
    ("subscribe", &["GET"]),
    ("changes", &["GET"]),
    ("/_/changes", &["GET"]),
    ("/membership", &["GET"]),
    ("/healthz", &["GET"]),
    ("/readyz", &["GET"]),
    ("/version", &["GET"]),
    ("/stats", &["GET"]),
    ("/metrics", &["GET"]),
    ("/key/a", &["GET", "PUT", "PATCH", "DELETE"]),
    ("/_/tables", &["GET"]),
    ("/_/tables/made", &["PUT"]),
    ("/_/txn", &["POST"]),
    ("/_/cluster", &["GET"]),
    ("/_/admin/challenge", &["GET"]),
    ("/_/admin/forget", &["POST"]),
    ("/_/admin/leave", &["POST"]),
    ("/_/admin/sync", &["POST"]),
    ("/_/strong/demote", &["POST"]),
    ("/_/strong/init", &["POST"]),
    ("/_/strong/promote", &["POST"]),
    ("/_/strong/transfer", &["POST"]),
    ("/_/subscribe", &["GET"]),
    ("/openapi.json", &["GET"]),
    ("/_/", &["GET"]),
    ("/_/dashboard/app.js", &["GET"]),
    ("/_/docs", &["GET"]),
    ("/_/docs/page.js", &["GET"]),
    ("/_/docs/page.css", &["GET"]),
    ("/_/backup", &["GET"]),
    ("/_/export", &["GET"]),
    ("/_/import", &["POST"]),
];

fn allowed_set(header: &str) -> Vec<&str> {
    let mut methods: Vec<&str> = header.split(',').map(str::trim).collect();
    methods.sort_unstable();
    methods
}

fn with_head_and_options<'a>(methods: &[&'a str]) -> Vec<&'a str> {
    let mut methods = methods.to_vec();
    methods.push("OPTIONS");
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.sort_unstable();
    methods
}

#[test]
fn a_wrong_method_is_405_and_names_the_right_ones() {
    let table = table();
    for (path, methods) in ALLOWED {
        let path = if path.starts_with('/') { (*path).to_owned() } else { table.path(path) };
        for method in ["GET", "PUT", "POST", "PATCH", "DELETE", "TRACE", "PROPFIND"] {
            if methods.contains(&method) {
                continue;
            }
            let refused = table.send(&Request::new(method, &path)).expect(405);
            assert_eq!(
                allowed_set(refused.expect_header("allow")),
                with_head_and_options(methods),
                "{method} {path}"
            );
            refused.expect_problem(405, "method-not-allowed");
        }
    }
}

#[test]
fn options_lists_the_methods_of_a_path() {
    let table = table();
    for (path, methods) in ALLOWED {
        let path = if path.starts_with('/') { (*path).to_owned() } else { table.path(path) };
        let options = table.send(&Request::new("OPTIONS", &path));
        assert!(matches!(options.status, 200 | 204), "{path}: {options}");
        assert_eq!(allowed_set(options.expect_header("allow")), with_head_and_options(methods), "{path}");
    }
}

#[test]
fn too_large_names_the_limit() {
    let table = table();
    let body = format!(r#"{{"value":"{}"}}"#, "v".repeat(1 << 20));
    let detail = table.put("key/a", body).expect_problem(413, "too-large");
    assert!(detail.contains("1048576"), "{detail}");
    table.get("key/a").expect_problem(404, "not-found");
}

#[test]
fn one_table_too_many_is_429_and_the_others_still_work() {
    let node = Setup::new().flag("--max-tables", "2").start();
    node.put("/one/key/a", r#"{"value":1}"#).expect(200);
    node.put("/two/key/a", r#"{"value":1}"#).expect(200);
    let detail = node.put("/three/key/a", r#"{"value":1}"#).expect_problem(429, "too-many");
    assert!(detail.contains('2'), "the limit is named: {detail}");
    node.get("/three/keys").expect_body("[]");
    node.put("/one/key/b", r#"{"value":2}"#).expect(200);
    node.get("/one/keys").expect_body(r#"["a","b"]"#);
}

#[test]
fn every_response_has_a_request_id_or_repeats_the_clients() {
    let node = Node::start();
    let paths = ["/t/key/a", "/t/keys", "/healthz", "/metrics", "/nothing", "/t/key/%ff", "/membership"];
    let mut ids: Vec<String> =
        paths.iter().map(|path| node.get(path).expect_header("x-request-id").to_owned()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), paths.len(), "the ids differ: {ids:?}");
    for path in paths {
        let request = Request::new("GET", path).header("X-Request-Id", "my-request-7");
        let answer = node.send(&request);
        assert_eq!(answer.expect_header("x-request-id"), "my-request-7");
        assert_eq!(answer.headers.iter().filter(|(name, _)| name == "x-request-id").count(), 1);
        if answer.status >= 400 {
            assert_eq!(answer.json()["request_id"], "my-request-7");
        }
    }
}

#[test]
fn an_error_leaves_the_connection_usable() {
    let table = table();
    let mut connection = table.connect();
    for _ in 0..3 {
        connection.send(&table.request("PUT", "key/a").body("{")).expect(400);
        connection.send(&table.request("GET", "key/%ff")).expect(400);
        connection.send(&table.request("GET", "nothing")).expect(404);
        connection.send(&table.request("POST", "key/a").body("x")).expect(405);
        connection.send(&table.request("PUT", "key/a").body(r#"{"value":1}"#)).expect(200);
        connection.send(&table.request("GET", "key/a")).expect_body(r#"{"value":1}"#);
    }
}

/// The first version mixed text and JSON, and sent 401 for missing keys, 201 for updates, and 404 for a wrong method.
#[test]
fn responses_are_json_with_standard_statuses() {
    let table = table();
    assert_eq!(table.put("key/a", r#"{"value":1}"#).status, 200);
    assert_eq!(table.put("key/a", r#"{"value":2}"#).status, 200);
    assert_eq!(table.get("key/absent").status, 404);
    assert_eq!(table.post("key/a", "{}").status, 405);
    for answer in [
        table.put("key/a", r#"{"value":2}"#),
        table.delete("key/a"),
        table.get("keys"),
        table.get("store"),
        table.post("keys", "[]"),
    ] {
        assert_eq!(answer.expect_header("content-type"), "application/json");
        answer.json();
    }
}
