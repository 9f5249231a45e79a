//! Requests that used to get 200 while a part of them was ignored. Each now has its effect or is refused.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::{
    DEADLINE, Node, Setup, Table,
    http::{Request, Response},
    sse::Events,
    table, wait_until,
    ws::Socket,
};

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("before the end of time")
}

fn expires(table: &Table, key: &str) -> Option<u64> {
    let read = table.get(&format!("key/{key}")).expect(200);
    read.header("dynarust-expires").map(|text| text.parse().expect("Unix milliseconds"))
}

fn patch(table: &Table, rest: &str, body: &str) -> Response {
    table.send(&table.request("PATCH", rest).body(body))
}

#[test]
fn requests_that_were_ignored_are_refused_and_change_nothing() {
    let table = table();
    table.put("key/a", r#"{"value":{"n":1}}"#).expect(200);
    let before = table.get("store").text().to_owned();
    for (method, rest, body) in [
        ("PUT", "key/a?tll=5s", r#"{"value":2}"#),
        ("PUT", "key/a?W=all", r#"{"value":2}"#),
        ("PUT", "key/a", r#"{"value":1,"vaule":2}"#),
        ("POST", "batch", r#"[{"op":"put","key":"a","value":2,"If-None-Match":"*"}]"#),
        ("GET", "keys?prefx=a", ""),
        ("GET", "count?strat=a", ""),
        ("GET", "subscribe?prefx=a", ""),
        ("GET", "store?limt=1", ""),
        ("GET", "subscribe?snaphot=true", ""),
        ("GET", "store?values=false", ""),
    ] {
        table.send(&table.request(method, rest).body(body)).expect_problem(400, "bad-request");
    }
    let name = table.name();
    table.get_at("/_/export?tabel=t").expect_problem(400, "bad-request");
    let row = format!(r#"{{"table":"{name}","key":"a","value":2,"if_none_match":"*"}}"#);
    table.post_at("/_/import", &row).expect_problem(400, "bad-request");
    table.get("store").expect_body(&before);
}

trait At {
    fn get_at(&self, path: &str) -> Response;
    fn post_at(&self, path: &str, body: &str) -> Response;
}

impl At for Table {
    fn get_at(&self, path: &str) -> Response {
        self.send(&Request::new("GET", path))
    }

    fn post_at(&self, path: &str, body: &str) -> Response {
        self.send(&Request::new("POST", path).body(body))
    }
}

#[test]
fn an_expiry_is_accepted_wherever_a_value_is_written() {
    let table = table();
    let at = now_ms() + 3_600_000;
    table.put(&format!("key/a?expires_at={at}"), r#"{"value":1}"#).expect(200);
    table.put("key/b", format!(r#"{{"value":1,"expires_at":{at}}}"#)).expect(200);
    let batch = format!(
        r#"[{{"op":"put","key":"c","value":1,"expires_at":{at}}},{{"op":"put","key":"d","value":1}},{{"op":"put","key":"e","value":1,"ttl":"2h"}}]"#
    );
    table.post(&format!("batch?expires_at={at}"), batch).expect(200);
    for key in ["a", "b", "c", "d"] {
        assert_eq!(expires(&table, key), Some(at), "{key}");
    }
    assert!(expires(&table, "e") > Some(at));
    let before = now_ms();
    table.post("batch?ttl=1h", r#"{"op":"put","key":"f","value":1}"#).expect(200);
    let row = format!(r#"{{"table":"{}","key":"g","value":1,"ttl":"1h"}}"#, table.name());
    table.post_at("/_/import", &row).expect(200);
    let mut socket = Socket::open(table.address(), "/_/ws");
    let message = json!({"op": "put", "rid": 1, "table": table.name(), "key": "h", "value": 1, "ttl": "1h"});
    assert_eq!(socket.request(&message)["status"], 200);
    let message =
        json!({"op": "put", "rid": 2, "table": table.name(), "key": "i", "value": 1, "expires_at": at});
    assert_eq!(socket.request(&message)["status"], 200);
    assert_eq!(expires(&table, "i"), Some(at));
    for key in ["f", "g", "h"] {
        let expires = expires(&table, key).expect("an expiry");
        assert!((before + 3_600_000..=now_ms() + 3_600_000).contains(&expires), "{key}: {expires}");
    }
}

#[test]
fn a_ttl_may_be_a_hundred_years_and_two_expiries_are_refused() {
    let table = table();
    table.put("key/a?ttl=100y", r#"{"value":1}"#).expect(200);
    assert!(expires(&table, "a") > Some(now_ms() + 3_155_000_000_000));
    table.put("key/a?ttl=101y", r#"{"value":1}"#).expect_problem(400, "bad-request");
    let at = now_ms() + 60_000;
    for (query, body) in [
        (format!("ttl=1s&expires_at={at}"), r#"{"value":1}"#.to_owned()),
        ("ttl=1s".into(), r#"{"value":1,"ttl":1}"#.into()),
        ("ttl=1s".into(), format!(r#"{{"value":1,"expires_at":{at}}}"#)),
        ("expires_at=1795000000".into(), r#"{"value":1}"#.into()),
    ] {
        table.put(&format!("key/b?{query}"), body).expect_problem(400, "bad-request");
    }
    table.get("key/b").expect_problem(404, "not-found");
}

/// `PATCH ?ttl=5s` was ignored: the key lived for ever.
#[test]
fn a_patch_renews_the_expiry_with_or_without_a_change() {
    let table = table();
    table.put("key/a?ttl=1m", r#"{"value":{"n":1.50}}"#).expect(200);
    let first = expires(&table, "a").expect("an expiry");
    let written = patch(&table, "key/a?ttl=1h", "").expect(200);
    table.get("key/a").expect_body(r#"{"value":{"n":1.50}}"#);
    assert!(expires(&table, "a") > Some(first + 3_000_000));
    assert_eq!(written.expect_header("etag"), table.get("key/a").expect_header("etag"));
    patch(&table, "key/a", r#"{"m":2}"#).expect(200);
    assert!(expires(&table, "a") > Some(first + 3_000_000), "a patch without one leaves the expiry");
    patch(&table, "key/a?ttl=2h", r#"{"m":3}"#).expect(200);
    assert!(expires(&table, "a") > Some(first + 6_000_000));
    table.get("key/a").expect_body(r#"{"value":{"n":1.50,"m":3}}"#);
    patch(&table, "key/absent?ttl=1h", "").expect_problem(404, "not-found");
    patch(&table, "key/a", "").expect_problem(400, "bad-json");

    table.post("batch", r#"{"op":"patch","key":"a","ttl":"5h"}"#).expect(200);
    assert!(expires(&table, "a") > Some(first + 16_000_000));
    let mut socket = Socket::open(table.address(), "/_/ws");
    let message = json!({"op": "patch", "rid": 1, "table": table.name(), "key": "a", "ttl": "9h"});
    assert_eq!(socket.request(&message)["status"], 200);
    assert!(expires(&table, "a") > Some(first + 30_000_000));
    table.get("key/a").expect_body(r#"{"value":{"n":1.50,"m":3}}"#);

    patch(&table, "key/a?ttl=200ms", "").expect(200);
    wait_until("it has expired", DEADLINE, || table.get("key/a").status == 404);
}

/// A patch in the shape of a PUT's body added a member "value".
#[test]
fn a_patch_wrapped_like_a_put_is_refused_unless_intended() {
    let table = table();
    table.put("key/a", r#"{"value":{"n":1}}"#).expect(200);
    let wrapped = r#"{"value":{"n":2}}"#;
    let detail = patch(&table, "key/a", wrapped).expect_problem(400, "bad-request");
    assert!(detail.contains("wrap=false") && detail.contains("{\"visits\":2}"), "{detail}");
    table.get("key/a").expect_body(r#"{"value":{"n":1}}"#);
    patch(&table, "key/a?wrap=true", wrapped).expect(200);
    table.get("key/a").expect_body(r#"{"value":{"n":2}}"#);
    patch(&table, "key/a?wrap=false", wrapped).expect(200);
    table.get("key/a").expect_body(r#"{"value":{"n":2,"value":{"n":2}}}"#);
    patch(&table, "key/a", r#"{"value":1}"#).expect(200);
    patch(&table, "key/a", r#"{"value":{"n":3},"n":3}"#).expect(200);
    table.get("key/a").expect_body(r#"{"value":{"n":3,"value":{"n":3}}}"#);
}

#[test]
fn count_and_export_accept_a_range_and_listings_choose_their_fields() {
    let node = Node::start();
    for key in ["a1", "a2", "b1", "b2", "c1"] {
        node.put(&format!("/t/key/{key}"), r#"{"value":1}"#).expect(200);
    }
    node.put("/u/key/b9?ttl=1h", r#"{"value":2}"#).expect(200);
    node.get("/t/count?prefix=b").expect_body(r#"{"count":2}"#);
    node.get("/t/count?start=a2&end=b2").expect_body(r#"{"count":2}"#);
    node.get("/t/count?start=z&end=a").expect_body(r#"{"count":0}"#);
    let exported = |query: &str| -> Vec<String> {
        let text = node.get(&format!("/_/export{query}")).expect(200).text().to_owned();
        let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        rows.filter_map(|row| Some(format!("{}/{}", row["table"].as_str()?, row["key"].as_str()?))).collect()
    };
    assert_eq!(exported("?prefix=b"), ["t/b1", "t/b2", "u/b9"]);
    assert_eq!(exported("?table=t&start=a2&end=b2"), ["t/a2", "t/b1"]);
    let without = node.get("/_/export?table=u&values=false").expect(200);
    let row: Value = serde_json::from_str(without.text().lines().nth(1).expect("a row")).expect("JSON");
    assert!(row.get("value").is_none() && row["expires_at"].is_u64() && row["version"].is_string(), "{row}");

    let version = node.get("/u/key/b9").expect_header("dynarust-version").to_owned();
    let full = node.get("/u/store?meta=true").expect(200).json();
    assert_eq!((&full["b9"]["value"], &full["b9"]["version"]), (&json!(2), &json!(version)));
    assert!(full["b9"]["expires_at"].is_u64() && full["b9"]["node"].is_string());
    let meta = node.get("/u/store?meta=true&values=false&limit=1").expect(200).json();
    assert!(meta["b9"].get("value").is_none() && meta["b9"]["version"] == version, "{meta}");
    assert_eq!(meta["b9"]["bytes"], 1, "the length of 2: {meta}");
    let many = node.post("/u/keys?meta=true", r#"["b9","absent"]"#).expect(200).json();
    assert_eq!(many, full);
}

/// `keys=a%2Cb` is decoded before it is split at its commas.
#[test]
fn a_key_with_a_comma_can_be_followed() {
    let table = table();
    let (mut events, _) = Events::open(table.address(), &table.path("subscribe?key=a%2Cb&key=c&keys=d,e"));
    for key in ["a", "b", "a%2Cb", "c", "d"] {
        table.put(&format!("key/{key}"), r#"{"value":1}"#).expect(200);
    }
    let keys: Vec<_> = (0..3).map(|_| events.event().json()["key"].clone()).collect();
    assert_eq!(keys, [json!("a,b"), json!("c"), json!("d")]);
}

/// The purpose of a restore: what was deleted or overwritten since the export is back.
#[test]
fn an_import_of_new_writes_wins_over_newer_rows() {
    let node = Node::start();
    for key in ["kept", "overwritten", "deleted"] {
        node.put(&format!("/t/key/{key}"), r#"{"value":"old"}"#).expect(200);
    }
    node.put("/t/key/short?ttl=300ms", r#"{"value":"short"}"#).expect(200);
    let exported = node.get("/_/export").expect(200).body;
    node.put("/t/key/overwritten", r#"{"value":"new"}"#).expect(200);
    node.delete("/t/key/deleted").expect(200);
    node.put("/t/key/added", r#"{"value":"new"}"#).expect(200);
    wait_until("one has expired", DEADLINE, || node.get("/t/key/short").status == 404);
    node.put("/t/key/short", r#"{"value":"new"}"#).expect(200);

    let before = node.get("/t/store").expect(200).text().to_owned();
    for mode in ["", "?mode=keep"] {
        node.post(&format!("/_/import{mode}"), exported.clone()).expect(200);
        node.get("/t/store").expect_body(&before);
    }
    let imported = node.post("/_/import?mode=new", exported).expect(200).json();
    assert_eq!((&imported["written"], &imported["skipped"]), (&json!(3), &json!(1)), "{imported}");
    node.get("/t/store")
        .expect_body(r#"{"added":"new","deleted":"old","kept":"old","overwritten":"old","short":"new"}"#);
    let detail = node.post("/_/import?mode=news", "").expect_problem(400, "bad-request");
    assert!(detail.contains("did you mean \"new\"?"), "{detail}");
}

#[test]
fn a_row_of_an_import_must_not_contradict_itself() {
    let node = Node::start();
    let version = "018bcfe568000000-000000000000abcd";
    for (row, said) in [
        (format!(r#""version":"{version}","timestamp":5"#), "timestamp 5 does not match the version"),
        (r#""timestamp":5"#.into(), "mode=new"),
        (format!(r#""version":"{version}","ttl":5"#), "expires_at"),
        (r#""ttl":5,"expires_at":99999999999999"#.into(), "send one"),
    ] {
        let refused =
            node.post("/_/import", format!(r#"{{"table":"t","key":"a","value":1,{row}}}"#)).expect(400);
        assert!(refused.text().contains(said), "{row}: {refused}");
    }
    node.post(
        "/_/import?mode=new",
        format!(r#"{{"table":"t","key":"a","value":1,"version":"{version}","timestamp":5,"ttl":60}}"#),
    )
    .expect(200);
    assert!(node.get("/t/key/a").expect(200).header("dynarust-expires").is_some());
}

/// `{"s":"\ud800"}` was stored, and strict clients could not read it.
#[test]
fn lone_surrogates_are_refused_except_in_restores_of_old_exports() {
    let table = table();
    let lone = r#"{"s":"\ud800"}"#;
    let row = format!(r#"{{"table":"{}","key":"a","value":{lone}}}"#, table.name());
    for refused in [
        table.put("key/a", format!(r#"{{"value":{lone}}}"#)),
        table.post("batch", format!(r#"{{"op":"put","key":"a","value":{lone}}}"#)),
        table.post_at("/_/import", &row),
        table.post_at("/_/import?mode=new", &row),
    ] {
        let detail = refused.expect_problem(400, "bad-json");
        assert!(detail.contains("lone surrogate \\ud800"), "{detail}");
    }
    let detail = table.post_at("/_/import", &row).json()["detail"].to_string();
    assert!(detail.contains("surrogates=keep") && detail.contains("line 1"), "{detail}");
    table.get("keys").expect_body("[]");

    // The same for a value stored before they were refused.
    table.post_at("/_/import?surrogates=keep", &row).expect(200);
    table.get("key/a").expect_body(&format!(r#"{{"value":{lone}}}"#));
    let exported = table.get_at(&format!("/_/export?table={}", table.name())).expect(200);
    assert!(exported.text().contains(lone), "{exported}");
    patch(&table, "key/a", r#"{"n":1}"#).expect(200);
    table.get("key/a").expect_body(r#"{"value":{"s":"\ud800","n":1}}"#);
    patch(&table, "key/a", r#"{"n":"\udc00"}"#).expect_problem(400, "bad-json");
    patch(&table, "key/a", r#"{"s":null}"#).expect(200);
    table.get("key/a").expect_body(r#"{"value":{"n":1}}"#);
}

#[test]
fn a_byte_order_mark_before_a_body_is_ignored() {
    let table = table();
    let with_bom = |text: &str| format!("\u{feff}{text}");
    table.put("key/a", with_bom(r#"{"value":{"n":1}}"#)).expect(200);
    patch(&table, "key/a", &with_bom(r#"{"m":2}"#)).expect(200);
    table.get("key/a").expect_body(r#"{"value":{"n":1,"m":2}}"#);
    table.post("keys", with_bom(r#"["a"]"#)).expect_body(r#"{"a":{"n":1,"m":2}}"#);
    table.post("batch", with_bom(r#"[{"op":"put","key":"b","value":1}]"#)).expect(200);
    table.post("batch", with_bom(r#"{"op":"put","key":"c","value":1}"#)).expect(200);
    let row = with_bom(&format!(r#"{{"table":"{}","key":"d","value":1}}"#, table.name()));
    table.post_at("/_/import", &row).expect(200);
    table.get("keys").expect_body(r#"["a","b","c","d"]"#);
}

#[test]
fn a_patch_leaves_other_members_as_they_were_written() {
    let table = table();
    let kept = r#""big":1e400,"sci":1E+2,"\u0041":"\u0041","twice":1,"twice":2"#;
    table.put("key/a", format!(r#"{{"value":{{{kept},"n":1}}}}"#)).expect(200);
    patch(&table, "key/a", r#"{"n":2}"#).expect(200);
    table.get("key/a").expect_body(&format!(r#"{{"value":{{{kept},"n":2}}}}"#));
    let operations = r#"[{"op":"test","path":"/sci","value":100.0},{"op":"replace","path":"/n","value":3}]"#;
    let request = table.request("PATCH", "key/a").header("Content-Type", "application/json-patch+json");
    table.send(&request.body(operations)).expect(200);
    table.get("key/a").expect_body(&format!(r#"{{"value":{{{kept},"n":3}}}}"#));
}

#[test]
fn an_impossible_origin_is_refused_at_the_start() {
    let refused = Setup::new().flag("--cors-origin", "http://*.x.com").try_start();
    let outcome = refused.err().expect("it does not start");
    assert_eq!(outcome.status.code(), Some(2), "{outcome:?}");
    assert!(outcome.log.contains("cors-origin") && outcome.log.contains("stands alone"), "{outcome:?}");
}

#[test]
fn a_node_warns_of_a_misspelt_variable_at_the_start() {
    let setup =
        Setup::new().environment("DYNARUST_CAHCE", "1GiB").environment("DYNARUST_SERVICE_HOST", "10.0.0.1");
    let node = setup.start();
    let log = node.log();
    assert!(log.contains("DYNARUST_CAHCE") && log.contains("did you mean DYNARUST_CACHE?"), "{log}");
    assert!(!log.contains("DYNARUST_SERVICE_HOST"), "{log}");
}
