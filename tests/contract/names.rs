//! Names of tables and keys: what is valid, how a path encodes them, and how invalid ones are refused.

use crate::harness::{Node, http::Request, table};

/// A key, and one way to write it in a path.
const KEYS: &[(&str, &str)] = &[
    ("a=b", "a=b"),
    (" lead", "%20lead"),
    ("trail ", "trail%20"),
    ("a\nb", "a%0Ab"),
    ("a\r\nb", "a%0D%0Ab"),
    ("a\tb", "a%09b"),
    ("a?b", "a%3Fb"),
    ("a#b", "a%23b"),
    ("a&b", "a&b"),
    ("a+b", "a+b"),
    ("a%b", "a%25b"),
    ("a%2Fb", "a%252Fb"),
    ("nul\0end", "nul%00end"),
    ("\u{1b}[31m", "%1b%5B31m"),
    ("\u{7f}", "%7F"),
    ("🦀", "%F0%9F%A6%80"),
    ("é", "%C3%A9"),
    ("\"quoted\"", "%22quoted%22"),
    ("back\\slash", "back%5Cslash"),
    ("{\"a\":1}", "%7B%22a%22:1%7D"),
    ("<script>", "%3Cscript%3E"),
    ("keys", "keys"),
    ("..", "%2E%2E"),
    ("a,b", "a,b"),
    ("a;b", "a;b"),
    ("a:b@c", "a:b@c"),
    ("-", "-"),
    ("*", "*"),
];

#[test]
fn every_text_is_a_valid_key_and_round_trips() {
    let table = table();
    for (index, (_, spelled)) in KEYS.iter().enumerate() {
        table.put(&format!("key/{spelled}"), format!(r#"{{"value":{index}}}"#)).expect(200);
    }
    for (index, (_, spelled)) in KEYS.iter().enumerate() {
        table.get(&format!("key/{spelled}")).expect_body(&format!(r#"{{"value":{index}}}"#));
    }
    let mut expected: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
    expected.sort_unstable();
    let listed: Vec<String> = serde_json::from_slice(&table.get("keys").expect(200).body).expect("keys");
    assert_eq!(listed, expected);

    let wanted = serde_json::to_string(&expected).expect("texts are JSON");
    let values = table.post("keys", wanted).expect(200).json();
    assert_eq!(values.as_object().expect("an object").len(), KEYS.len());
}

/// The first version stored lines of `key=value`, so a restart lost or changed such keys.
#[test]
fn odd_keys_survive_a_restart() {
    let node = Node::start();
    for (index, (_, spelled)) in KEYS.iter().enumerate() {
        node.put(&format!("/odd/key/{spelled}"), format!(r#"{{"value":{index}}}"#)).expect(200);
    }
    let before = node.get("/odd/store").expect(200).body;
    let node = node.kill().start();
    assert_eq!(node.get("/odd/store").expect(200).body, before);
}

/// The first version wrote `a?b` and `a#b` to key `a` as well.
#[test]
fn a_key_with_a_question_mark_or_hash_writes_no_other_key() {
    let table = table();
    table.put("key/a%3Fb", r#"{"value":1}"#).expect(200);
    table.put("key/a%23b", r#"{"value":2}"#).expect(200);
    table.get("keys").expect_body(r##"["a#b","a?b"]"##);
}

#[test]
fn further_segments_and_encoded_slashes_are_one_key() {
    let table = table();
    table.put("key/a/b/c", r#"{"value":1}"#).expect(200);
    table.get("key/a%2Fb%2Fc").expect_body(r#"{"value":1}"#);
    table.put("key/a%2fb/c", r#"{"value":2}"#).expect(200);
    table.get("keys").expect_body(r#"["a/b/c"]"#);
    // Segments may be empty, but not the key as a whole.
    table.put("key/x//y", r#"{"value":3}"#).expect(200);
    table.get("key/x%2F%2Fy").expect_body(r#"{"value":3}"#);
    table.put("key/a/", r#"{"value":4}"#).expect(200);
    table.get("keys").expect_body(r#"["a/","a/b/c","x//y"]"#);
    table.get("key/a").expect_problem(404, "not-found");
}

#[test]
fn a_plus_is_a_plus_in_a_path_and_a_space_in_a_query() {
    let table = table();
    table.put("key/a+b", r#"{"value":1}"#).expect(200);
    table.put("key/a%20b", r#"{"value":2}"#).expect(200);
    table.get("keys?prefix=a%2Bb").expect_body(r#"["a+b"]"#);
    table.get("keys?prefix=a%20b").expect_body(r#"["a b"]"#);
}

#[test]
fn invalid_percent_encoding_is_refused() {
    let table = table();
    for spelled in ["%", "a%", "a%2", "%zz", "%g0", "%ff", "a%C3", "%ED%A0%80", "%C0%AF", "%F8%88%80%80%80"] {
        for method in ["GET", "PUT", "DELETE"] {
            let request = table.request(method, &format!("key/{spelled}")).body(r#"{"value":1}"#);
            table.send(&request).expect_problem(400, "bad-key");
        }
    }
    table.get("keys").expect_body("[]");
}

#[test]
fn a_key_has_1_to_1024_bytes() {
    let table = table();
    let longest = "k".repeat(1024);
    table.put(&format!("key/{longest}"), r#"{"value":1}"#).expect(200);
    table.get(&format!("key/{longest}")).expect_body(r#"{"value":1}"#);
    // 512 two-byte letters are just as long: bytes count.
    table.put(&format!("key/{}", "%C3%A9".repeat(512)), r#"{"value":1}"#).expect(200);
    for too_long in [format!("{longest}k"), "%C3%A9".repeat(513), "k/".repeat(513)] {
        let detail = table.put(&format!("key/{too_long}"), r#"{"value":1}"#).expect_problem(422, "bad-name");
        assert!(detail.contains("1024"), "the limit is named: {detail}");
    }
    table.put("key/", r#"{"value":1}"#).expect_problem(422, "bad-name");
    table.get("key/").expect_problem(422, "bad-name");
}

#[test]
fn a_table_name_is_letters_digits_and_some_punctuation() {
    let node = Node::start();
    let longest = "t".repeat(64);
    for name in ["t", "0", "A-b_c.d", "users.2024", "Default", "keys", "store", longest.as_str()] {
        node.put(&format!("/{name}/key/a"), r#"{"value":1}"#).expect(200);
        node.get(&format!("/{name}/keys")).expect_body(r#"["a"]"#);
    }
    let too_long = "t".repeat(65);
    for name in [
        ".hidden", "-dash", "_under", "a%20b", "a%2Fb", "%2E%2E", "..%2Fx", "a%00", "%C3%A9", "a:b", "a+b",
        &too_long,
    ] {
        node.put(&format!("/{name}/key/a"), r#"{"value":1}"#).expect_problem(422, "bad-name");
        node.get(&format!("/{name}/key/a")).expect_problem(422, "bad-name");
        node.get(&format!("/{name}/keys")).expect_problem(422, "bad-name");
        node.get(&format!("/{name}/store")).expect_problem(422, "bad-name");
        node.get(&format!("/{name}/count")).expect_problem(422, "bad-name");
        node.get(&format!("/{name}/subscribe/a")).expect_problem(422, "bad-name");
    }
}

#[test]
fn an_unknown_table_is_empty_and_reading_does_not_create_it() {
    let node = Node::start();
    node.get("/unknown/keys").expect_body("[]");
    node.get("/unknown/store").expect_body("{}");
    node.get("/unknown/count").expect_body(r#"{"count":0}"#);
    node.post("/unknown/keys", r#"["a"]"#).expect_body("{}");
    node.get("/unknown/key/a").expect_problem(404, "not-found");
    node.delete("/unknown/key/a").expect_problem(404, "not-found");
    assert!(!node.get("/_/tables").expect(200).text().contains("unknown"));
}

#[test]
fn tables_do_not_see_each_other() {
    let (one, other) = (table(), table());
    one.put("key/a", r#"{"value":1}"#).expect(200);
    other.put("key/a", r#"{"value":2}"#).expect(200);
    one.delete("key/a").expect(200);
    other.get("key/a").expect_body(r#"{"value":2}"#);
    one.get("keys").expect_body("[]");
}

#[test]
fn a_path_with_a_trailing_slash_is_not_found() {
    let table = table();
    for path in ["keys/", "store/", "count/", "batch/"] {
        table.get(path).expect_problem(404, "not-found");
    }
    for path in
        ["/membership/", "/healthz/", "/_/tables/", "/", "/_", "/nothing", "/_/nothing", "/t/nothing", "//"]
    {
        table.send(&Request::new("GET", path)).expect_problem(404, "not-found");
    }
}
