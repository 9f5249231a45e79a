//! Batches: many writes in one request and one durable commit.

use serde_json::Value;

use crate::harness::{Table, http::Response, table};

fn results(response: Response) -> Vec<Value> {
    response.expect(200).json()["results"].as_array().expect("results are a list").clone()
}

fn state(table: &Table) -> String {
    table.get("store").expect(200).text().to_owned()
}

#[test]
fn a_batch_is_a_json_array_or_lines() {
    let operations = [
        r#"{"op":"put","key":"a","value":1}"#,
        r#"{"op":"put","key":"b/c","value":{"x":1.10}}"#,
        r#"{"op":"delete","key":"gone"}"#,
    ];
    for body in
        [format!("[{}]", operations.join(",")), operations.join("\n"), operations.join("\r\n") + "\r\n\r\n"]
    {
        let table = table();
        table.put("key/gone", r#"{"value":0}"#).expect(200);
        let results = results(table.post("batch", body));
        assert_eq!(results.len(), 3);
        for result in &results[..2] {
            assert!(result["version"].is_string(), "{result}");
        }
        assert_eq!(state(&table), r#"{"a":1,"b/c":{"x":1.10}}"#);
        let version = table.get("key/a").expect(200).expect_header("dynarust-version").to_owned();
        assert_eq!(results[0]["version"], version);
    }
}

#[test]
fn results_are_in_order_and_a_failed_operation_does_not_stop_others() {
    let table = table();
    let body = r#"[{"op":"put","key":"a","value":1},{"op":"delete","key":"absent"},{"op":"put","key":"b","value":2}]"#;
    let results = results(table.post("batch", body));
    assert!(results[0]["version"].is_string(), "{results:?}");
    assert_eq!(results[1]["error"], "not-found", "{results:?}");
    assert_eq!(results[1]["status"], 404, "{results:?}");
    assert!(results[2]["version"].is_string(), "{results:?}");
    assert_eq!(state(&table), r#"{"a":1,"b":2}"#);
}

#[test]
fn the_later_of_two_writes_to_one_key_wins() {
    let table = table();
    let body = r#"[{"op":"put","key":"a","value":1},{"op":"put","key":"a","value":2},{"op":"put","key":"b","value":1},{"op":"delete","key":"b"}]"#;
    assert_eq!(results(table.post("batch", body)).len(), 4);
    assert_eq!(state(&table), r#"{"a":2}"#);
}

#[test]
fn an_atomic_batch_is_all_or_nothing() {
    let table = table();
    let failing = r#"[{"op":"put","key":"a","value":1},{"op":"delete","key":"absent"}]"#;
    table.post("batch?atomic=true", failing).expect_problem(404, "not-found");
    assert_eq!(state(&table), "{}");
    let whole = r#"[{"op":"put","key":"a","value":1},{"op":"put","key":"b","value":2}]"#;
    assert_eq!(results(table.post("batch?atomic=true", whole)).len(), 2);
    assert_eq!(state(&table), r#"{"a":1,"b":2}"#);
}

#[test]
fn an_invalid_operation_fails_the_batch_before_anything_is_written() {
    let table = table();
    for wrong in [
        r#"{"op":"burn","key":"b"}"#,
        r#"{"op":"put","key":"b"}"#,
        r#"{"op":"put","value":1}"#,
        r#"{"key":"b","value":1}"#,
        r#"{"op":"put","key":1,"value":1}"#,
        r#"{"op":"put","key":"b","value":}"#,
        "7",
        "null",
        "{",
    ] {
        for body in [
            format!(r#"[{{"op":"put","key":"a","value":1}},{wrong}]"#),
            format!("{{\"op\":\"put\",\"key\":\"a\",\"value\":1}}\n{wrong}\n"),
        ] {
            let refused = table.post("batch", body.as_str());
            refused.expect_refused(&body);
            assert_eq!(state(&table), "{}", "{body}");
        }
    }
}

#[test]
fn a_batch_accepts_ttls() {
    let table = table();
    table
        .post("batch", r#"[{"op":"put","key":"a","value":1,"ttl":"1h"},{"op":"put","key":"b","value":1}]"#)
        .expect(200);
    assert!(table.get("key/a").expect(200).header("dynarust-expires").is_some());
    assert!(table.get("key/b").expect(200).header("dynarust-expires").is_none());
}

#[test]
fn names_and_values_in_a_batch_are_held_to_the_limits() {
    let table = table();
    for wrong in [
        format!(r#"{{"op":"put","key":"{}","value":1}}"#, "k".repeat(1025)),
        r#"{"op":"put","key":"","value":1}"#.to_owned(),
        format!(r#"{{"op":"put","key":"b","value":{}{}}}"#, "[".repeat(129), "]".repeat(129)),
        format!(r#"{{"op":"put","key":"b","value":"{}"}}"#, "v".repeat(1 << 20)),
    ] {
        let refused =
            table.post("batch?atomic=true", format!(r#"[{{"op":"put","key":"a","value":1}},{wrong}]"#));
        assert!(matches!(refused.status, 400 | 413 | 422), "{refused}");
        assert_eq!(state(&table), "{}");
    }
}

#[test]
fn an_empty_batch_writes_nothing_and_is_not_an_error() {
    let table = table();
    table.post("batch", "[]").expect_body(r#"{"results":[]}"#);
}

#[test]
fn a_batch_of_ten_thousand_is_one_request() {
    let table = table();
    let lines: Vec<String> =
        (0..10_000).map(|row| format!(r#"{{"op":"put","key":"k{row}","value":{row}}}"#)).collect();
    assert_eq!(results(table.post("batch", lines.join("\n"))).len(), 10_000);
    table.get("count").expect_body(r#"{"count":10000}"#);
}
