//! PATCH: merge patches (RFC 7396) and JSON patches (RFC 6902) of the value.

use crate::harness::{Table, http::Response, table};

const MERGE: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";

fn patch(table: &Table, content_type: &str, body: &str) -> Response {
    table.send(&table.request("PATCH", "key/a").header("Content-Type", content_type).body(body))
}

fn holding(value: &str) -> Table {
    let table = table();
    table.put("key/a", format!(r#"{{"value":{value}}}"#)).expect(200);
    table
}

#[test]
fn a_merge_patch_changes_the_value_and_responds_like_a_put() {
    let table = holding(r#"{"a":1,"b":{"c":2,"d":3}}"#);
    let first = table.get("key/a").expect(200).expect_header("etag").to_owned();
    let patched = patch(&table, MERGE, r#"{"a":null,"b":{"c":20},"e":[1]}"#).expect(200);
    assert_ne!(patched.expect_header("etag"), first);
    assert_eq!(
        patched.expect_header("etag"),
        format!("\"{}\"", patched.json()["version"].as_str().expect("text"))
    );
    assert!(patched.json()["timestamp"].is_u64());
    assert_eq!(patched.header("dynarust-created"), None);
    let read = table.get("key/a").expect_body(r#"{"value":{"b":{"c":20,"d":3},"e":[1]}}"#);
    assert_eq!(read.expect_header("etag"), patched.expect_header("etag"));
}

/// The table of RFC 7396, appendix A.
#[test]
fn merge_patches_do_what_the_rfc_says() {
    let table = table();
    for (original, patched, result) in [
        (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
        (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
        (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
        (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
        (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
        (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
        (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
        (r#"{"a":"foo"}"#, "null", "null"),
        (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
        (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
        ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
        ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
    ] {
        table.put("key/a", format!(r#"{{"value":{original}}}"#)).expect(200);
        patch(&table, MERGE, patched).expect(200);
        table.get("key/a").expect_body(&format!(r#"{{"value":{result}}}"#));
    }
}

#[test]
fn plain_json_is_a_merge_patch() {
    let table = holding(r#"{"a":1}"#);
    patch(&table, "application/json", r#"{"b":2}"#).expect(200);
    table.send(&table.request("PATCH", "key/a").body(r#"{"c":3}"#)).expect(200);
    patch(&table, "application/x-www-form-urlencoded", r#"{"d":4}"#).expect(200);
    table.get("key/a").expect_body(r#"{"value":{"a":1,"b":2,"c":3,"d":4}}"#);
    patch(&table, "text/plain;charset=UTF-8", r#"{"e":5}"#).expect(200);
    table.get("key/a").expect_body(r#"{"value":{"a":1,"b":2,"c":3,"d":4,"e":5}}"#);
    patch(&table, "text/xml", "<a/>").expect_problem(400, "bad-json");
}

/// As in a batch and over WebSocket. To set the value to a list there is PUT.
#[test]
fn a_list_without_a_patch_type_is_a_json_patch() {
    let table = holding(r#"{"a":1}"#);
    for content_type in ["application/json", "text/plain;charset=UTF-8"] {
        patch(&table, content_type, r#"[{"op":"replace","path":"/a","value":2}]"#).expect(200);
        table.get("key/a").expect_body(r#"{"value":{"a":2}}"#);
        patch(&table, content_type, "[1,2]").expect_problem(400, "bad-json");
    }
    patch(&table, MERGE, "[1,2]").expect(200);
    table.get("key/a").expect_body(r#"{"value":[1,2]}"#);
}

#[test]
fn a_json_patch_applies_its_operations_in_order() {
    let table = holding(r#"{"list":[1,2],"name":"x"}"#);
    let operations = r#"[
        {"op":"test","path":"/name","value":"x"},
        {"op":"add","path":"/list/1","value":10},
        {"op":"add","path":"/list/-","value":20},
        {"op":"replace","path":"/name","value":"y"},
        {"op":"copy","from":"/list/0","path":"/first"},
        {"op":"move","from":"/name","path":"/title"},
        {"op":"remove","path":"/list/0"}
    ]"#;
    patch(&table, JSON_PATCH, operations).expect(200);
    assert_eq!(
        table.get("key/a").expect(200).json()["value"],
        serde_json::json!({"list": [10, 2, 20], "first": 1, "title": "y"})
    );
}

#[test]
fn a_json_patch_that_fails_halfway_changes_nothing() {
    let table = holding(r#"{"a":1}"#);
    for operations in [
        r#"[{"op":"replace","path":"/a","value":2},{"op":"test","path":"/a","value":1}]"#,
        r#"[{"op":"replace","path":"/a","value":2},{"op":"remove","path":"/absent"}]"#,
        r#"[{"op":"replace","path":"/absent","value":2}]"#,
        r#"[{"op":"add","path":"/no/parent","value":2}]"#,
    ] {
        patch(&table, JSON_PATCH, operations).expect_problem(409, "conflict");
    }
    table.get("key/a").expect_body(r#"{"value":{"a":1}}"#);
}

#[test]
fn an_invalid_patch_is_refused() {
    let table = holding(r#"{"a":1}"#);
    for body in ["", "{", "nonsense", r#"{"a":1}{"b":2}"#] {
        patch(&table, MERGE, body).expect_problem(400, "bad-json");
    }
    for body in [
        "",
        "{}",
        "1",
        r#"[{"op":"burn","path":"/a"}]"#,
        r#"[{"op":"add"}]"#,
        r#"[{"op":"add","path":"a","value":1}]"#,
    ] {
        patch(&table, JSON_PATCH, body).expect_problem(400, "bad-json");
    }
    table.get("key/a").expect_body(r#"{"value":{"a":1}}"#);
}

#[test]
fn a_patch_of_an_absent_key_is_404() {
    let table = table();
    patch(&table, MERGE, r#"{"a":1}"#).expect_problem(404, "not-found");
    patch(&table, JSON_PATCH, r#"[{"op":"add","path":"","value":1}]"#).expect_problem(404, "not-found");
    table.get("keys").expect_body("[]");
}

/// Whether a patch is well-formed was found out only when it was applied: of an absent key it was 404, in an operation that did not run it
/// was nothing at all.
#[test]
fn an_invalid_patch_is_refused_whether_or_not_it_would_run() {
    let table = table();
    for (operations, words) in [
        ("{}", "not a JSON patch"),
        (r#"[{"op":"burn","path":"/a"}]"#, "burn"),
        (r#"[{"op":"add","path":"/a"}]"#, "operation 1: it has no \"value\""),
        (
            r#"[{"op":"test","path":"","value":1},{"op":"move","path":"/a"}]"#,
            "operation 2: it has no \"from\"",
        ),
        (r#"[{"op":"remove","path":"a"}]"#, "is not a JSON pointer"),
    ] {
        let detail = patch(&table, JSON_PATCH, operations).expect_problem(400, "bad-json");
        assert!(detail.contains(words), "{operations}: {detail}");
        if operations.starts_with('[') {
            let batch = format!(
                r#"[{{"op":"put","key":"b","value":1}},{{"op":"patch","key":"a","patch":{operations}}}]"#
            );
            let detail = table.post("batch", batch).expect_problem(400, "bad-json");
            assert!(detail.contains("operation 2: ") && detail.contains(words), "{operations}: {detail}");
        }
    }
    table.get("keys").expect_body("[]");
}

#[test]
fn a_patch_keeps_digits_and_order_of_what_it_does_not_change() {
    let table = holding(r#"{"z":12345678901234567890,"a":1.10,"m":1}"#);
    patch(&table, MERGE, r#"{"m":98765432109876543210}"#).expect(200);
    table
        .get("key/a")
        .expect_body(r#"{"value":{"z":12345678901234567890,"a":1.10,"m":98765432109876543210}}"#);
    patch(&table, JSON_PATCH, r#"[{"op":"replace","path":"/m","value":1.50}]"#).expect(200);
    table.get("key/a").expect_body(r#"{"value":{"z":12345678901234567890,"a":1.10,"m":1.50}}"#);
}

#[test]
fn a_patched_value_is_held_to_the_limits_of_values() {
    let node = crate::harness::Setup::new().flag("--max-value", "2000").start();
    node.put("/t/key/a", format!(r#"{{"value":{{"a":"{}"}}}}"#, "v".repeat(1200))).expect(200);
    let request = crate::harness::http::Request::new("PATCH", "/t/key/a");
    let grown = node.send(&request.body(format!(r#"{{"b":"{}"}}"#, "v".repeat(1200))));
    grown.expect_problem(413, "too-large");
    assert_eq!(
        node.get("/t/key/a").expect(200).json()["value"].as_object().map(serde_json::Map::len),
        Some(1)
    );
}

#[test]
fn a_patch_keeps_the_expiry() {
    let table = table();
    table.put("key/a?ttl=1h", r#"{"value":{"a":1}}"#).expect(200);
    let expires = table.get("key/a").expect(200).expect_header("dynarust-expires").to_owned();
    patch(&table, MERGE, r#"{"b":2}"#).expect(200);
    assert_eq!(table.get("key/a").expect(200).expect_header("dynarust-expires"), expires);
}
