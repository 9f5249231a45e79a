//! Many keys of a table: keys, store, multi-get and count, and their pages.

use serde_json::Value;

use crate::harness::{Table, http::Request, table};

/// Keys whose byte order differs from alphabetical, partition and insertion order.
const SORTED: &[&str] = &["A", "a", "a/b", "aa", "ab", "b", "b1", "b10", "b2", "z", "é", "🦀"];

fn spelled(key: &str) -> String {
    key.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            },
        )
        .collect()
}

/// A table with the keys of `SORTED`; each key's value is its index.
fn filled() -> Table {
    let table = table();
    for (index, key) in SORTED.iter().enumerate().rev() {
        table.put(&format!("key/{}", spelled(key)), format!(r#"{{"value":{index}}}"#)).expect(200);
    }
    table
}

fn list(table: &Table, rest: &str) -> Vec<String> {
    serde_json::from_slice(&table.get(rest).expect(200).body).expect("a list of keys")
}

/// The keys of all pages, found by following `Link`, and the number of pages.
fn follow(table: &Table, rest: &str) -> (Vec<String>, usize) {
    let mut keys = Vec::new();
    let mut pages = 0;
    let mut path = table.path(rest);
    loop {
        let page = table.send(&Request::new("GET", &path)).expect(200);
        pages += 1;
        assert!(pages < 100, "paging does not end");
        match page.json() {
            Value::Array(listed) => {
                keys.extend(listed.iter().map(|key| key.as_str().expect("text").to_owned()))
            }
            Value::Object(rows) => keys.extend(rows.keys().cloned()),
            other => panic!("not a page: {other}"),
        }
        let Some(link) = page.header("link") else {
            assert_eq!(page.header("dynarust-next-cursor"), None);
            return (keys, pages);
        };
        assert!(page.header("dynarust-next-cursor").is_some_and(|cursor| !cursor.is_empty()));
        let (target, relation) = link.split_once('>').expect("a link is <target>; rel=\"next\"");
        assert_eq!(relation, "; rel=\"next\"");
        let target = target.strip_prefix('<').expect("a link starts with <");
        // Relative to the requested path, which a proxy may have changed.
        assert!(target.starts_with('?'), "{target}");
        path = path.split('?').next().unwrap_or_default().to_owned() + target;
    }
}

#[test]
fn keys_are_listed_sorted_by_bytes() {
    let table = filled();
    let expected = serde_json::to_string(SORTED).expect("texts are JSON");
    let listed = table.get("keys").expect_body(&expected);
    assert_eq!(listed.expect_header("content-type"), "application/json");
}

#[test]
fn a_store_is_one_object_in_the_order_of_its_keys() {
    let table = filled();
    let rows: Vec<String> =
        SORTED.iter().enumerate().map(|(index, key)| format!(r#""{key}":{index}"#)).collect();
    let store = table.get("store").expect_body(&format!("{{{}}}", rows.join(",")));
    assert_eq!(store.expect_header("content-type"), "application/json");
}

#[test]
fn keys_in_lists_and_stores_are_escaped_as_json() {
    let table = table();
    table.put("key/%22%5C%0A%00", r#"{"value":1}"#).expect(200);
    assert_eq!(list(&table, "keys"), ["\"\\\n\0"]);
    assert_eq!(table.get("store").expect(200).json(), serde_json::json!({"\"\\\n\0": 1}));
    assert_eq!(
        table.post("keys", r#"["\"\\\n\u0000"]"#).expect(200).json(),
        serde_json::json!({"\"\\\n\0": 1})
    );
}

#[test]
fn a_multi_get_returns_the_present_keys_in_the_requested_order() {
    let table = filled();
    table.post("keys", r#"["b","absent","a","é"]"#).expect_body(r#"{"b":5,"a":1,"é":10}"#);
    table.post("keys", r#"{"keys":["z","A"]}"#).expect_body(r#"{"z":9,"A":0}"#);
    table.post("keys", "[]").expect_body("{}");
    table.post("keys", r#"["absent"]"#).expect_body("{}");
}

#[test]
fn an_invalid_list_of_keys_is_refused() {
    let table = table();
    for body in [
        "",
        "1",
        "null",
        r#""a""#,
        "[1]",
        "[null]",
        r#"["a",["b"]]"#,
        r#"{"keys":"a"}"#,
        "{}",
        r#"["a"]["b"]"#,
        r#"["a""#,
    ] {
        table.post("keys", body).expect_problem(400, "bad-json");
    }
    table.post("keys", r#"{"key":["a"]}"#).expect_problem(400, "bad-request");
    table.post("keys", format!(r#"["{}"]"#, "k".repeat(1025))).expect_problem(422, "bad-name");
    table.post("keys", r#"[""]"#).expect_problem(422, "bad-name");
}

#[test]
fn a_count_is_the_number_of_live_keys() {
    let table = filled();
    table.get("count").expect_body(r#"{"count":12}"#);
    table.get("count?prefix=").expect_body(r#"{"count":12}"#);
    table.get("count?prefix=b").expect_body(r#"{"count":4}"#);
    table.get("count?prefix=b1").expect_body(r#"{"count":2}"#);
    table.get("count?prefix=absent").expect_body(r#"{"count":0}"#);
    table.delete("key/b1").expect(200);
    table.put("key/b10", r#"{"value":0}"#).expect(200);
    table.get("count?prefix=b").expect_body(r#"{"count":3}"#);
    table.get("count").expect_body(r#"{"count":11}"#);
}

#[test]
fn prefix_start_and_end_restrict_a_listing() {
    let table = filled();
    for (query, expected) in [
        ("prefix=a", &["a", "a/b", "aa", "ab"][..]),
        ("prefix=b1", &["b1", "b10"]),
        ("prefix=%C3%A9", &["é"]),
        ("prefix=absent", &[]),
        ("start=b10", &["b10", "b2", "z", "é", "🦀"]),
        ("start=b11", &["b2", "z", "é", "🦀"]),
        ("end=ab", &["A", "a", "a/b", "aa"]),
        ("start=aa&end=b1", &["aa", "ab", "b"]),
        ("prefix=a&start=aa", &["aa", "ab"]),
        ("prefix=b&end=b2", &["b", "b1", "b10"]),
        ("prefix=a&start=b", &[]),
        ("start=b&end=a", &[]),
        ("start=b&end=b", &[]),
    ] {
        assert_eq!(list(&table, &format!("keys?{query}")), expected, "{query}");
        let store = table.get(&format!("store?{query}")).expect(200).json();
        let rows: Vec<&String> = store.as_object().expect("an object").keys().collect();
        assert_eq!(rows, expected, "{query}");
        let mut reversed = list(&table, &format!("keys?{query}&reverse=true"));
        reversed.reverse();
        assert_eq!(reversed, expected, "{query} reversed");
    }
}

#[test]
fn pages_of_any_size_and_direction_add_up_to_the_whole_listing() {
    let table = filled();
    let reversed: Vec<&str> = SORTED.iter().rev().copied().collect();
    for limit in [1, 2, 5, 11, 12, 13, 1000] {
        for resource in ["keys", "store"] {
            let (keys, pages) = follow(&table, &format!("{resource}?limit={limit}"));
            assert_eq!(keys, SORTED, "{resource} by {limit}");
            assert!(pages <= 12_usize.div_ceil(limit) + 1, "{pages} pages of {limit}");
            let (keys, _) = follow(&table, &format!("{resource}?limit={limit}&reverse=true"));
            assert_eq!(keys, reversed, "{resource} by {limit} reversed");
            let (keys, _) = follow(&table, &format!("{resource}?limit={limit}&prefix=b"));
            assert_eq!(keys, ["b", "b1", "b10", "b2"], "{resource} by {limit} with a prefix");
            let (keys, _) = follow(&table, &format!("{resource}?start=aa&limit={limit}&end=b2&reverse=true"));
            assert_eq!(keys, ["b10", "b1", "b", "ab", "aa"], "{resource} by {limit} within bounds, reversed");
        }
    }
}

#[test]
fn a_cursor_continues_where_its_page_ended_despite_new_writes() {
    let table = filled();
    let page = table.get("keys?limit=3").expect_body(r#"["A","a","a/b"]"#);
    let cursor = page.expect_header("dynarust-next-cursor").to_owned();
    table.put("key/A1", r#"{"value":0}"#).expect(200);
    table.put("key/a%2Fc", r#"{"value":0}"#).expect(200);
    table.delete("key/a%2Fb").expect(200);
    assert_eq!(list(&table, &format!("keys?limit=3&cursor={cursor}")), ["a/c", "aa", "ab"]);
}

#[test]
fn the_last_page_has_no_next_link() {
    let table = filled();
    let whole = table.get("keys").expect(200);
    assert_eq!(whole.header("link"), None);
    assert_eq!(whole.header("dynarust-next-cursor"), None);
    let exact = table.get("keys?limit=12").expect(200);
    assert_eq!(exact.header("dynarust-next-cursor"), None, "{exact}");
}

#[test]
fn invalid_parameters_are_refused() {
    let table = filled();
    for query in [
        "limit=0",
        "limit=-1",
        "limit=x",
        "limit=",
        "limit=1.5",
        "reverse=maybe",
        "cursor=%00garbage",
        "prefix=%ff",
        "prefix=%zz",
    ] {
        for resource in ["keys", "store"] {
            let refused = table.get(&format!("{resource}?{query}"));
            refused.expect_refused(&format!("{resource}?{query}"));
        }
    }
}

#[test]
fn a_head_of_a_listing_has_no_body() {
    let table = filled();
    for resource in ["keys", "store", "count"] {
        let head = table.send(&table.request("HEAD", resource)).expect(200);
        assert!(head.body.is_empty());
        assert_eq!(head.expect_header("content-type"), "application/json");
    }
}

#[test]
fn a_large_store_is_complete_and_in_order() {
    let table = table();
    let filler = "v".repeat(300);
    for batch in 0..5 {
        let lines: Vec<String> = (0..1000)
            .map(|row| format!(r#"{{"op":"put","key":"k{:05}","value":"{filler}"}}"#, batch + row * 5))
            .collect();
        table.post("batch", lines.join("\n")).expect(200);
    }
    table.get("count").expect_body(r#"{"count":5000}"#);
    let expected: Vec<String> = (0..5000).map(|row| format!("k{row:05}")).collect();
    assert_eq!(list(&table, "keys"), expected);
    let store = table.get("store").expect(200).json();
    let rows = store.as_object().expect("an object");
    assert!(rows.keys().eq(&expected));
    assert!(rows.values().all(|value| value == filler.as_str()));
    let (keys, _) = follow(&table, "store?limit=999");
    assert_eq!(keys, expected);
}
