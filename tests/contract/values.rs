//! Values: JSON text, kept as sent except for insignificant white space.

use crate::harness::{Node, table};

#[test]
fn a_value_keeps_its_digits_and_the_order_of_its_members() {
    let table = table();
    for value in [
        "12345678901234567890",
        "123456789012345678901234567890123456789",
        "-9223372036854775809",
        "1.10",
        "1e2",
        "1E+2",
        "-0",
        "0.1000000000000000055511151231257827",
        "1e400",
        "true",
        "false",
        "null",
        r#""""#,
        r#""text""#,
        r#"" spaces  kept ""#,
        r#""\u0000""#,
        r#""\u00e9""#,
        r#""é""#,
        r#""\ud83e\udd80""#,
        r#""a\/b""#,
        "[]",
        "{}",
        "[[],{}]",
        r#"{"b":1,"a":2,"c":{"z":1,"y":2}}"#,
        r#"[1,"a",null,{"k":[1.50]}]"#,
    ] {
        let body = format!(r#"{{"value":{value}}}"#);
        table.put("key/a", body.as_str()).expect(200);
        table.get("key/a").expect_body(&body);
        table.get("store").expect_body(&format!(r#"{{"a":{value}}}"#));
        table.post("keys", r#"["a"]"#).expect_body(&format!(r#"{{"a":{value}}}"#));
    }
}

#[test]
fn only_insignificant_white_space_is_removed() {
    let table = table();
    table
        .put("key/a", " {\r\n\t\"value\" : { \"a b\" : [ 1 , 2.0 ] , \"c\" : \" d \\\" e \" } } \n")
        .expect(200);
    table.get("key/a").expect_body(r#"{"value":{"a b":[1,2.0],"c":" d \" e "}}"#);
}

#[test]
fn numbers_keep_their_digits_over_a_restart() {
    let node = Node::start();
    node.put("/n/key/a", r#"{"value":[12345678901234567890,1.10]}"#).expect(200);
    let node = node.kill().start();
    node.get("/n/key/a").expect_body(r#"{"value":[12345678901234567890,1.10]}"#);
}

#[test]
fn null_is_a_value_and_not_an_absent_key() {
    let table = table();
    table.put("key/a", r#"{"value":null}"#).expect(200);
    table.get("key/a").expect_body(r#"{"value":null}"#);
    table.get("keys").expect_body(r#"["a"]"#);
    table.get("store").expect_body(r#"{"a":null}"#);
    table.get("count").expect_body(r#"{"count":1}"#);
}

#[test]
fn nesting_is_accepted_up_to_128() {
    let table = table();
    let nested = |depth: usize| format!(r#"{{"value":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    table.put("key/a", nested(128)).expect(200);
    table.get("key/a").expect_body(&nested(128));
    let detail = table.put("key/a", nested(129)).expect_problem(400, "bad-json");
    assert!(detail.contains("128"), "the limit is named: {detail}");
    let objects = |depth: usize| format!(r#"{{"value":{}1{}}}"#, r#"{"a":"#.repeat(depth), "}".repeat(depth));
    table.put("key/a", objects(128)).expect(200);
    table.put("key/a", objects(129)).expect_problem(400, "bad-json");
    table.get("key/a").expect_body(&objects(128));
}

#[test]
fn a_value_at_the_limit_is_accepted_and_one_byte_more_is_not() {
    let node = crate::harness::Setup::new().flag("--max-value", "2000").start();
    let value = |length: usize| format!(r#"{{"value":"{}"}}"#, "v".repeat(length - 2));
    node.put("/t/key/a", value(2000)).expect(200);
    node.get("/t/key/a").expect_body(&value(2000));
    let detail = node.put("/t/key/a", value(2001)).expect_problem(413, "too-large");
    assert!(detail.contains("2000"), "the limit is named: {detail}");
    node.get("/t/key/a").expect_body(&value(2000));
}

#[test]
fn a_value_of_1_mib_is_read_back_on_every_route_and_after_a_restart() {
    let node = Node::start();
    // Text that does not compress.
    let mut state = 1_u64;
    let text: String = (0..(1 << 20) - 2)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'0' + (state >> 33) as u8 % 64)
        })
        .map(|letter| if letter == '\\' { '~' } else { letter })
        .collect();
    let body = format!(r#"{{"value":"{text}"}}"#);
    node.put("/big/key/a", body.as_str()).expect(200);
    assert!(node.get("/big/key/a").expect(200).text() == body);
    assert!(node.get("/big/store").expect(200).text() == format!(r#"{{"a":"{text}"}}"#));
    let node = node.kill().start();
    assert!(node.get("/big/key/a").expect(200).text() == body);
    // sled never syncs what it puts there.
    let blobs = std::fs::read_dir(node.home().join("storage.db/blobs"));
    assert!(blobs.is_ok_and(|mut blobs| blobs.next().is_none()), "blobs/ exists and stays empty");
    // Write over and over and delete: no trace of a chunk may remain visible.
    for length in [5, 20_000, 16_384, 1] {
        let shorter = format!(r#"{{"value":"{}"}}"#, &text[..length]);
        node.put("/big/key/a", shorter.as_str()).expect(200);
        node.get("/big/key/a").expect_body(&shorter);
    }
    node.delete("/big/key/a").expect(200);
    node.get("/big/store").expect_body("{}");
    let tables = node.get("/_/tables").expect(200);
    assert!(tables.text().matches("big").count() == 1, "{tables}");
}
