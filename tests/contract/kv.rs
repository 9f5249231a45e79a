//! One key: PUT, GET and DELETE, and the headers of their responses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::harness::{Table, http::Response, table};

fn now_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    elapsed.as_millis().try_into().expect("milliseconds fit")
}

fn version(written: &Response) -> String {
    written.json()["version"].as_str().expect("a version is text").to_owned()
}

#[test]
fn a_put_returns_its_version_and_timestamp_and_an_etag() {
    let table = table();
    let before = now_ms();
    let written = table.put("key/a", r#"{"value":"hello"}"#).expect(200);
    let after = now_ms();

    assert_eq!(written.expect_header("content-type"), "application/json");
    let body = written.json();
    let members: Vec<_> = body.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["version", "timestamp"]);
    let timestamp = body["timestamp"].as_u64().expect("milliseconds");
    assert!((before..=after + 1).contains(&timestamp), "{before} <= {timestamp} <= {after}");
    assert_eq!(written.expect_header("etag"), format!("\"{}\"", version(&written)));
    let text = written.text();
    assert_eq!(text, format!(r#"{{"version":"{}","timestamp":{timestamp}}}"#, version(&written)));
}

#[test]
fn created_is_reported_only_if_the_key_was_absent() {
    let table = table();
    let created = |response: Response| response.expect(200).header("dynarust-created").map(str::to_owned);
    assert_eq!(created(table.put("key/a", r#"{"value":1}"#)).as_deref(), Some("true"));
    assert_eq!(created(table.put("key/a", r#"{"value":2}"#)), None);
    table.delete("key/a").expect(200);
    assert_eq!(created(table.put("key/a", r#"{"value":3}"#)).as_deref(), Some("true"));
}

#[test]
fn a_get_returns_exactly_the_value() {
    let table = table();
    table.put("key/a", r#"{"value":"hello"}"#).expect(200);
    let read = table.get("key/a").expect_body(r#"{"value":"hello"}"#);
    assert_eq!(read.expect_header("content-type"), "application/json");
    assert_eq!(read.expect_header("content-length"), "17");
}

#[test]
fn a_get_names_version_time_and_node_in_its_headers() {
    let table = table();
    let written = table.put("key/a", r#"{"value":1}"#).expect(200);
    let read = table.get("key/a").expect(200);

    assert_eq!(read.expect_header("etag"), written.expect_header("etag"));
    assert_eq!(read.expect_header("dynarust-version"), version(&written));
    assert!(!read.expect_header("dynarust-node").is_empty());
    assert_eq!(read.header("dynarust-expires"), None);
    let modified = httpdate::parse_http_date(read.expect_header("last-modified")).expect("an HTTP date");
    let written_at = Duration::from_millis(written.json()["timestamp"].as_u64().expect("milliseconds"));
    let modified = modified.duration_since(UNIX_EPOCH).expect("after 1970");
    assert_eq!(modified.as_secs(), written_at.as_secs());
}

#[test]
fn meta_adds_version_and_time_to_the_body() {
    let table = table();
    let written = table.put("key/a", r#"{"value":[1]}"#).expect(200);
    let meta = table.get("key/a?meta=true").expect(200).json();
    assert_eq!(meta["value"], serde_json::json!([1]));
    assert_eq!(meta["version"], written.json()["version"]);
    assert_eq!(meta["timestamp"], written.json()["timestamp"]);
    assert!(meta["node"].as_str().is_some_and(|node| !node.is_empty()), "{meta}");

    table.get("key/a?meta=false").expect_body(r#"{"value":[1]}"#);
}

#[test]
fn text_plain_gets_the_bare_value_and_a_string_without_quotes() {
    let table = table();
    for (value, text) in [
        (r#""a \"b\" \u00e9\n""#, "a \"b\" é\n"),
        ("1.10", "1.10"),
        (r#"{"a":[1]}"#, r#"{"a":[1]}"#),
        ("null", "null"),
    ] {
        table.put("key/a", format!(r#"{{"value":{value}}}"#)).expect(200);
        let read =
            table.send(&table.request("GET", "key/a").header("Accept", "text/plain")).expect_body(text);
        assert!(read.expect_header("content-type").starts_with("text/plain"), "{read}");
    }
    // Browsers and curl accept anything and get JSON.
    for accept in ["*/*", "application/json", "text/html,application/xhtml+xml,*/*;q=0.8"] {
        let read = table.send(&table.request("GET", "key/a").header("Accept", accept));
        read.expect_body(r#"{"value":null}"#);
    }
}

#[test]
fn a_delete_returns_deleted_and_the_key_is_gone() {
    let table = table();
    table.put("key/a", r#"{"value":1}"#).expect(200);
    table.delete("key/a").expect_body(r#"{"deleted":true}"#);
    table.get("key/a").expect_problem(404, "not-found");
    table.get("keys").expect_body("[]");
}

#[test]
fn an_absent_key_is_404_except_to_a_forced_delete() {
    let table = table();
    table.get("key/a").expect_problem(404, "not-found");
    table.delete("key/a").expect_problem(404, "not-found");
    table.delete("key/a?force=true").expect_body(r#"{"deleted":true}"#);
    table.delete("key/a?force=false").expect_problem(404, "not-found");
    table.get("key/a").expect_problem(404, "not-found");
}

#[test]
fn versions_grow_with_every_write() {
    let table = table();
    let mut connection = table.connect();
    let put = table.request("PUT", "key/a").body(r#"{"value":1}"#);
    let versions: Vec<String> = (0..50).map(|_| version(&connection.send(&put).expect(200))).collect();
    assert!(versions.is_sorted_by(|earlier, later| earlier < later), "{versions:?}");
}

#[test]
fn the_older_path_addresses_the_default_table() {
    let node = crate::harness::Node::start();
    node.put("/key/a", r#"{"value":1}"#).expect(200);
    node.get("/default/key/a").expect_body(r#"{"value":1}"#);
    node.put("/default/key/b/c", r#"{"value":2}"#).expect(200);
    node.get("/key/b/c").expect_body(r#"{"value":2}"#);
    node.get("/default/keys").expect_body(r#"["a","b/c"]"#);
    node.delete("/key/a").expect_body(r#"{"deleted":true}"#);
    node.get("/key/a").expect_problem(404, "not-found");
    // This path matches first: what looks like a table `key` is a key of the table `default`.
    node.put("/key/key/x", r#"{"value":3}"#).expect(200);
    node.get("/default/key/key/x").expect_body(r#"{"value":3}"#);
}

#[test]
fn head_answers_as_get_does_without_the_body() {
    let table = table();
    table.put("key/a", r#"{"value":"hello"}"#).expect(200);
    let get = table.get("key/a").expect(200);
    let head = table.send(&table.request("HEAD", "key/a")).expect(200);
    assert!(head.body.is_empty());
    for name in ["content-length", "content-type", "etag", "last-modified", "dynarust-version"] {
        assert_eq!(head.expect_header(name), get.expect_header(name), "{name}");
    }
    assert_eq!(table.send(&table.request("HEAD", "key/absent")).status, 404);
}

#[test]
fn the_type_of_a_body_is_ignored() {
    let table = table();
    let put = || table.request("PUT", "key/a").body(r#"{"value":1}"#);
    table.send(&put()).expect(200);
    for content_type in [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        // curl declares this by default.
        "application/x-www-form-urlencoded",
        // fetch declares this for text.
        "text/plain;charset=UTF-8",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "nonsense",
        "",
    ] {
        table.send(&put().header("Content-Type", content_type)).expect(200);
    }
    let encoded = table.send(&put().header("Content-Encoding", "br"));
    encoded.expect_problem(415, "unsupported-type");
}

#[test]
fn chunked_bodies_work() {
    let table = table();
    let chunks = [r#"{"va"#, r#"lue":"#, r#""hel"#, r#"lo"}"#];
    table.send(&table.request("PUT", "key/a").chunks(chunks)).expect(200);
    table.get("key/a").expect_body(r#"{"value":"hello"}"#);
    // One byte per chunk.
    let bytes = br#"{"value":[1,2,3]}"#;
    table.send(&table.request("PUT", "key/a").chunks(bytes.chunks(1))).expect(200);
    table.get("key/a").expect_body(r#"{"value":[1,2,3]}"#);
}

#[test]
fn one_node_satisfies_w_of_one_and_keeps_a_write_that_asks_for_more() {
    let table = table();
    for replicas in ["1", "majority", "all"] {
        table.put(&format!("key/a?w={replicas}"), r#"{"value":1}"#).expect(200);
    }
    let body = table.put("key/a?w=2", r#"{"value":2}"#).expect(504);
    assert!(body.text().contains("kept"), "{body}");
    body.expect_problem(504, "not-enough-replicas");
    table.get("key/a").expect_body(r#"{"value":2}"#);

    for wrong in ["0", "-1", "some", "1.5"] {
        table.put(&format!("key/a?w={wrong}"), r#"{"value":3}"#).expect_refused(wrong);
    }
    table.get("key/a").expect_body(r#"{"value":2}"#);
}

#[test]
fn requests_may_share_a_connection_and_be_pipelined() {
    let table = table();
    let mut connection = table.connect();
    let mut bytes = Vec::new();
    for value in 0..20 {
        let put = table.request("PUT", "key/a").body(format!(r#"{{"value":{value}}}"#));
        bytes.extend_from_slice(&put.to_bytes());
        bytes.extend_from_slice(&table.request("GET", "key/a").to_bytes());
    }
    connection.write(&bytes).expect("requests can be pipelined");
    for value in 0..20 {
        assert_eq!(connection.receive("PUT").expect("an answer").status, 200);
        let read = connection.receive("GET").expect("an answer");
        assert_eq!(read.text(), format!(r#"{{"value":{value}}}"#));
    }
}

#[test]
fn every_later_read_sees_a_write() {
    let table = table();
    let mut writer = table.connect();
    let mut reader = table.connect();
    for value in 0..100 {
        let put = table.request("PUT", "key/a").body(format!(r#"{{"value":{value}}}"#));
        writer.send(&put).expect(200);
        let read: Value = reader.send(&table.request("GET", "key/a")).expect(200).json();
        assert_eq!(read["value"], value);
    }
}

#[test]
fn concurrent_writers_of_one_key_leave_the_latest_version() {
    let table = table();
    let write_many = |table: &Table, writer: u32| {
        let mut connection = table.connect();
        (0..50)
            .map(|round| {
                let value = format!(r#"{{"value":"{writer}-{round}"}}"#);
                let written = connection.send(&table.request("PUT", "key/a").body(value.clone())).expect(200);
                (version(&written), value)
            })
            .max()
            .expect("some were written")
    };
    let latest = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                scope.spawn({
                    let table = &table;
                    move || write_many(table, writer)
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("a writer does not panic")).max()
    });
    let (version, value) = latest.expect("some were written");
    let read = table.get("key/a").expect_body(&value);
    assert_eq!(read.expect_header("dynarust-version"), version);
}
