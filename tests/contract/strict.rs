//! Nothing is silently ignored: every route is tried with parameters, headers and members it does not take.

use std::collections::BTreeSet;

use dynarust::http::request::accepts::{OPERATIONS, Operation};

use crate::harness::{
    Table,
    http::{Request, Response},
    table,
};

const CONDITIONAL: &[(&str, &str)] = &[
    ("If-Match", "*"),
    ("If-None-Match", "*"),
    ("If-Modified-Since", "Sat, 28 Nov 2026 03:00:00 GMT"),
    ("If-Unmodified-Since", "Sat, 28 Nov 2026 03:00:00 GMT"),
    ("If-Range", "\"a\""),
    ("Range", "bytes=0-"),
    ("Content-Range", "bytes 0-1/2"),
    ("Expect", "a-miracle"),
];

/// Every path of every operation.
fn each(table: &Table, mut visit: impl FnMut(&'static Operation, String)) {
    for operation in OPERATIONS {
        for path in operation.paths {
            visit(
                operation,
                path.replace("{table}", table.name()).replace("{key}", "a").replace("{file}", "app.js"),
            );
        }
    }
}

fn body_of(operation: &Operation) -> &'static str {
    match (operation.method, operation.paths[0]) {
        ("PUT", _) => r#"{"value":1}"#,
        ("PATCH", _) => "{}",
        ("POST", "/{table}/keys" | "/{table}/batch") => "[]",
        _ => "",
    }
}

fn send(table: &Table, operation: &Operation, target: &str, header: Option<(&str, &str)>) -> Response {
    let request = Request::new(operation.method, target).body(body_of(operation));
    let request = header.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    table.send(&request)
}

#[test]
fn every_route_refuses_an_unknown_parameter_and_names_the_nearest() {
    let table = table();
    each(&table, |operation, path| {
        let refused = send(&table, operation, &format!("{path}?unknwon=1"), None);
        let detail = refused.expect_problem(400, "bad-request");
        assert!(detail.contains("unknown parameter \"unknwon\""), "{path}: {detail}");
        for parameter in operation.parameters {
            assert!(detail.contains(parameter.name), "{path}: {detail}");
            for misspelt in [format!("{}x", parameter.name), parameter.name.to_uppercase()] {
                let refused = send(&table, operation, &format!("{path}?{misspelt}=1"), None);
                let detail = refused.expect_problem(400, "bad-request");
                let meant = format!("did you mean \"{}\"?", parameter.name);
                // keyx is as near to keys as to key.
                assert!(
                    detail.contains(&meant) || misspelt == "keysx" || misspelt == "keyx",
                    "{path}: {detail}"
                );
            }
        }
        if operation.method == "GET" {
            table.send(&Request::new("HEAD", &format!("{path}?unknwon=1"))).expect(400);
        }
    });
}

#[test]
fn every_route_refuses_a_repeated_parameter() {
    let table = table();
    each(&table, |operation, path| {
        for parameter in operation.parameters.iter().filter(|parameter| !parameter.repeatable) {
            let name = parameter.name;
            let refused = send(&table, operation, &format!("{path}?{name}=true&{name}=true"), None);
            let detail = refused.expect_problem(400, "bad-request");
            assert!(detail.contains(name) && detail.contains("more than once"), "{path}: {detail}");
        }
    });
}

#[test]
fn every_route_honours_or_refuses_each_condition() {
    let table = table();
    each(&table, |operation, path| {
        for (name, value) in CONDITIONAL {
            if operation.conditions.contains(&name.to_lowercase().as_str()) {
                // The key is absent or deleted, depending on the operations before. Only the header must not be the fault.
                let answer = send(&table, operation, &path, Some((name, value)));
                assert_ne!(answer.status, 400, "{} {path} {name}: {answer}", operation.method);
                continue;
            }
            let detail =
                send(&table, operation, &path, Some((name, value))).expect_problem(400, "bad-request");
            let named = detail.to_lowercase().contains(&name.to_lowercase());
            assert!(named, "{} {path}: {detail}", operation.method);
        }
    });
    let detail = table
        .send(&table.request("POST", "batch").header("If-None-Match", "*").body("[]"))
        .expect_problem(400, "bad-request");
    assert!(detail.contains("\"if_none_match\" into the one"), "{detail}");
}

/// What clients send by default is accepted.
#[test]
fn the_default_headers_of_browsers_and_libraries_are_accepted() {
    let table = table();
    let plain = [
        ("Accept", "*/*"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("Accept-Language", "en"),
        ("Cache-Control", "no-cache"),
        ("Pragma", "no-cache"),
        ("User-Agent", "curl/8.5.0"),
        ("Referer", "http://localhost/"),
        ("Cookie", "a=b"),
        ("DNT", "1"),
        ("Priority", "u=1"),
        ("Sec-Fetch-Mode", "cors"),
        ("Expect", "100-continue"),
        ("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let with_all =
        |request: Request| plain.iter().fold(request, |request, (name, value)| request.header(name, value));
    table.send(&with_all(table.request("PUT", "key/a").body(r#"{"value":1}"#))).expect(200);
    table.send(&with_all(table.request("GET", "key/a"))).expect(200);
    table.send(&with_all(table.request("GET", "store"))).expect(200);
    table.send(&with_all(table.request("DELETE", "key/a"))).expect(200);
}

/// The table of operations matches the methods that each resource lists.
#[test]
fn the_table_of_operations_matches_the_allowed_methods() {
    let table = table();
    each(&table, |operation, path| {
        let options = table.send(&Request::new("OPTIONS", &path)).expect(204);
        let listed: BTreeSet<_> = options.expect_header("allow").split(", ").map(str::to_owned).collect();
        let same = |it: &&Operation| it.paths.iter().any(|other| operation.paths.contains(other));
        let mut declared: BTreeSet<_> =
            OPERATIONS.iter().filter(same).map(|it| it.method.to_owned()).collect();
        if declared.contains("GET") {
            declared.insert("HEAD".into());
        }
        declared.insert("OPTIONS".into());
        assert_eq!(listed, declared, "{path}");
    });
}

#[test]
fn every_body_refuses_unknown_members() {
    let table = table();
    table.put("key/a", r#"{"value":1}"#).expect(200);
    let name = table.name().to_owned();
    for (method, target, body, meant) in [
        ("PUT", table.path("key/a"), r#"{"value":2,"vaule":3}"#.to_owned(), "value"),
        ("PUT", table.path("key/a"), r#"{"value":2,"TTL":3}"#.into(), "ttl"),
        ("PUT", table.path("key/a"), r#"{"value":2,"expires":3}"#.into(), "expires_at"),
        ("PATCH", table.path("key/a?wrap=true"), r#"{"value":2,"tll":3}"#.into(), "ttl"),
        ("POST", table.path("keys"), r#"{"keys":["a"],"kesy":[]}"#.into(), "keys"),
        (
            "POST",
            table.path("batch"),
            r#"[{"op":"put","key":"a","value":2,"If-None-Match":"*"}]"#.into(),
            "if_none_match",
        ),
        ("POST", table.path("batch"), r#"{"op":"put","key":"a","value":2,"tttl":3}"#.into(), "ttl"),
        (
            "POST",
            "/_/import".into(),
            format!(r#"{{"table":"{name}","key":"a","value":2,"expiresat":3}}"#),
            "expires_at",
        ),
        ("POST", "/_/import".into(), format!(r#"{{"tabel":"{name}","key":"a","value":2}}"#), "table"),
    ] {
        let detail =
            table.send(&Request::new(method, &target).body(body.as_str())).expect_problem(400, "bad-request");
        assert!(detail.contains(&format!("did you mean \"{meant}\"?")), "{body}: {detail}");
    }
    for body in [
        r#"{"op":"delete","key":"a","value":1}"#,
        r#"{"op":"delete","key":"a","ttl":1}"#,
        r#"{"op":"put","key":"a","value":1,"force":true}"#,
        r#"{"op":"put","key":"a","value":1,"patch":1}"#,
        r#"{"op":"patch","key":"a","value":1}"#,
    ] {
        let detail = table.post("batch", body).expect_problem(400, "bad-request");
        assert!(detail.contains("has no meaning for a"), "{body}: {detail}");
    }
    let refused = table.send(&table.request("DELETE", "key/a").body(r#"{"if_match":"x"}"#));
    assert!(refused.expect_problem(400, "bad-request").contains("no body"));
    table.get("key/a").expect_body(r#"{"value":1}"#);
}
