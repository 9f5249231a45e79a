//! Every operation in the table of operations, with every kind of client: the exact status. A route that is added without an example here
//! fails, and one that is added without a right does not compile.

use std::fs;

use dynarust::{
    core::access::Right,
    http::request::accepts::{Access, OPERATIONS, Operation},
};

use super::{ALL, Entry, guarded, jwt, with};
use crate::harness::{
    Node,
    http::{Connection, Request, Response},
};

/// The clients: each is its own secret.
const TOKENS: &[Entry<'_>] = &[
    ("full", ALL),
    ("expired", "rights = [\"read\", \"write\", \"admin\"]\nexpires = 2026-01-01T00:00:00Z"),
    ("reader", r#"rights = ["read"]"#),
    ("writer", r#"rights = ["write"]"#),
    ("administrator", r#"rights = ["admin"]"#),
    ("other-table", "rights = [\"read\", \"write\", \"admin\"]\ntables = [\"other\"]"),
    ("other-prefix", "rights = [\"read\", \"write\", \"admin\"]\nprefixes = [\"out/\"]"),
    ("own-prefix", "rights = [\"read\", \"write\", \"admin\"]\nprefixes = [\"in/\"]"),
];

/// An example of an operation.
struct Example {
    target: String,
    method: &'static str,
    body: &'static str,
    /// The status for a client that may do everything.
    allowed: u16,
    /// What the operations of the body need, where each needs a right of its own.
    needs: Option<Right>,
}

/// What a client is refused for, or lacks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    Allowed,
    Unauthorized,
    Forbidden(Right),
}

/// An example of an operation at one of its paths. The keys begin with `in/`, those of the table `t` or `default`.
fn example(operation: &Operation, path: &'static str) -> Example {
    let (query, body, allowed) = match (operation.method, path) {
        ("GET", "/{table}/key/{key}" | "/key/{key}") => ("", "", 200),
        ("PUT", "/{table}/key/{key}" | "/key/{key}") => ("", r#"{"value":{}}"#, 200),
        ("PATCH", "/{table}/key/{key}" | "/key/{key}") => ("", r#"{"a":1}"#, 200),
        // Of a key that is not there, so that the examples after it find theirs.
        ("DELETE", "/{table}/key/{key}" | "/key/{key}") => ("?force=true", "", 200),
        ("GET", "/{table}/keys" | "/{table}/store" | "/{table}/count") => ("?prefix=in/", "", 200),
        ("POST", "/{table}/keys") => ("", r#"["in/key"]"#, 200),
        ("POST", "/{table}/batch") => ("", r#"[{"op":"put","key":"in/batch","value":1}]"#, 200),
        ("DELETE", "/{table}") => ("?prefix=in/none", "", 200),
        ("GET", "/{table}/subscribe/{key}") => ("", "", 200),
        ("GET", "/{table}/subscribe") => ("?prefix=in/&key=in/key", "", 200),
        ("GET", "/_/subscribe") => ("?topic=t/in/*", "", 200),
        ("GET", "/{table}/changes") => ("?prefix=in/", "", 200),
        ("GET", "/_/changes") => ("", "", 200),
        // No handshake: each says so once the client may open one.
        ("GET", "/_/ws" | "/_/link") => ("", "", 400),
        ("GET", "/membership" | "/_/cluster" | "/_/tables" | "/stats" | "/metrics") => ("", "", 200),
        ("GET", "/healthz" | "/readyz" | "/version" | "/_/admin/challenge") => ("", "", 200),
        ("GET", "/openapi.json" | "/_/docs" | "/_/docs/page.js" | "/_/docs/page.css") => ("", "", 200),
        ("GET", "/_/" | "/_/dashboard/{file}") => ("", "", 200),
        ("POST", "/_/admin/forget" | "/_/strong/demote" | "/_/strong/promote" | "/_/strong/transfer") => {
            ("", r#"{"node":"ffffffffffffffff"}"#, 404)
        }
        ("POST", "/_/admin/sync") => ("", "", 200),
        ("GET", "/_/backup") => ("", "", 200),
        // They would stop the node, or start something: the body is wrong, which is found once the client is allowed.
        ("POST", "/_/admin/leave" | "/_/strong/init") => ("", r#"{"wrong":1}"#, 400),
        ("PUT", "/_/tables/{table}") => ("", r#"{"mode":"eventual"}"#, 200),
        // The table is not strong.
        ("POST", "/_/txn") => ("", r#"{"success":[{"op":"put","table":"t","key":"in/txn","value":1}]}"#, 409),
        ("GET", "/_/export") => ("?table=t&prefix=in/", "", 200),
        ("POST", "/_/import") => ("", "{\"table\":\"t\",\"key\":\"in/import\",\"value\":1}\n", 200),
        (method, path) => panic!("{method} {path} has no example in this test: add one, with keys below in/"),
    };
    let key = if operation.method == "DELETE" { "in/gone" } else { "in/key" };
    let streams = path.contains("subscribe");
    Example {
        target: path.replace("{table}", "t").replace("{key}", key).replace("{file}", "app.js") + query,
        // A stream would not end; its HEAD is checked in the same way.
        method: if streams { "HEAD" } else { operation.method },
        body,
        allowed,
        needs: (path == "/_/txn").then_some(Right::Write),
    }
}

/// What a client must get, by the row of the operation alone.
fn expected(operation: &Operation, example: &Example, client: &str) -> Expected {
    use Expected::{Allowed, Forbidden, Unauthorized};
    let rights: &[Right] = match client {
        "reader" => &[Right::Read],
        "writer" => &[Right::Write],
        "administrator" => &[Right::Admin],
        _ => &Right::ALL,
    };
    let limited = |right| match (client, operation.access) {
        ("other-table" | "other-prefix", _) => Forbidden(right),
        // It is about all tables.
        ("own-prefix", _) if operation.paths[0] == "/_/changes" => Forbidden(right),
        // The path names the whole table.
        ("own-prefix", Access::Path(_)) if !operation.paths[0].contains("{key}") => Forbidden(right),
        _ => Allowed,
    };
    let has = |right: Right, limited: &dyn Fn(Right) -> Expected| {
        if rights.contains(&right) { limited(right) } else { Forbidden(right) }
    };
    match (client, operation.access, example.needs) {
        (_, Access::Open | Access::Peer, _) => Allowed,
        ("nobody" | "stranger" | "expired" | "alg-none", ..) => Unauthorized,
        (_, Access::Admin, _) => has(Right::Admin, &|_| Allowed),
        (_, Access::AdminAndRead, _) => match (has(Right::Admin, &|_| Allowed), client) {
            (Allowed, "administrator") => Forbidden(Right::Read),
            (Allowed, "other-table" | "other-prefix" | "own-prefix") => Forbidden(Right::Read),
            (first, _) => first,
        },
        (_, Access::Node(right), _) => has(right, &|_| Allowed),
        (_, Access::Path(right) | Access::Prefix(right) | Access::Each(right), _) => has(right, &limited),
        // Whoever may not even read is told about reading, before the body is looked at.
        ("administrator", Access::Mixed, _) => Forbidden(Right::Read),
        (_, Access::Mixed, Some(right)) => has(right, &limited),
        (_, Access::Mixed, None) => Allowed,
    }
}

/// Checks the answer to an example.
fn check(what: &str, example: &Example, expected: Expected, response: Response) {
    let status = match expected {
        Expected::Allowed => example.allowed,
        Expected::Unauthorized => 401,
        Expected::Forbidden(_) => 403,
    };
    assert_eq!(response.status, status, "{what}: {response}");
    match expected {
        Expected::Allowed => {}
        Expected::Unauthorized => {
            let way = response.expect_header("www-authenticate");
            assert!(
                way.starts_with("Bearer realm=") || way == "DynaRust" && what.contains("/_/"),
                "{what}: {way}"
            );
        }
        Expected::Forbidden(_) if example.method == "HEAD" => {}
        Expected::Forbidden(right) => {
            assert_eq!(response.json()["right"], right.name(), "{what}: {response}");
            let detail = response.expect_problem(403, "forbidden");
            assert!(detail.contains(right.name()), "{what}: {detail}");
        }
    }
}

fn examples() -> Vec<(&'static Operation, Example)> {
    let paths =
        OPERATIONS.iter().flat_map(|operation| operation.paths.iter().map(move |path| (operation, *path)));
    paths.map(|(operation, path)| (operation, example(operation, path))).collect()
}

#[test]
fn every_operation_answers_every_client_as_its_row_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let jwks = folder.path().join("jwks.json");
    fs::write(&jwks, jwt()["jwks"].to_string()).expect("written");
    let node = guarded(TOKENS, |setup| setup.flag("--jwks", &jwks));
    let tokens = jwt()["tokens"].clone();
    let secret = |client: &str| match client {
        "nobody" => None,
        "stranger" => Some("dynarust_guessed".to_owned()),
        "alg-none" => tokens["none"].as_str().map(str::to_owned),
        "jwt" => tokens["ed"].as_str().map(str::to_owned),
        named => Some(named.to_owned()),
    };
    for path in ["/t/key/in/key", "/default/key/in/key"] {
        node.send(&with("full", Request::new("PUT", path).body(r#"{"value":{}}"#))).expect(200);
    }
    let clients = TOKENS.iter().map(|(name, _)| *name).chain(["jwt", "nobody", "alg-none", "stranger"]);
    let examples = examples();
    assert!(examples.len() > 30);
    for client in clients {
        for (operation, example) in &examples {
            let request = Request::new(example.method, &example.target).body(example.body);
            let request =
                if example.body.is_empty() { Request::new(example.method, &example.target) } else { request };
            let request = secret(client).iter().fold(request, |request, secret| with(secret, request));
            let what = format!("{client}: {} {}", example.method, example.target);
            check(&what, example, expected(operation, example, client), node.send(&request));
        }
    }
    foreign_pages_and_hosts_are_refused_before_that(&node, &examples);
    what_needs_no_token(&node, &examples);
}

/// The guard comes first: the best token does not help a page of another site, or a name that is not this node's.
fn foreign_pages_and_hosts_are_refused_before_that(node: &Node, examples: &[(&Operation, Example)]) {
    for (_, example) in examples {
        let what = format!("{} {}", example.method, example.target);
        let request = with("full", Request::new(example.method, &example.target));
        let from_page = node.send(&request.clone().header("Origin", "https://evil.example"));
        assert_eq!(from_page.status, 403, "{what}: {from_page}");
        let bytes = String::from_utf8(request.to_bytes()).expect("text");
        let mut connection = Connection::open(node.address());
        connection.write(bytes.replace("Host: localhost", "Host: evil.example").as_bytes()).expect("sent");
        let to_host = connection.receive(example.method).expect("an answer");
        assert_eq!(to_host.status, 421, "{what}: {to_host}");
    }
}

/// A preflight carries no token, and a wrong method or path tells nothing.
fn what_needs_no_token(node: &Node, examples: &[(&Operation, Example)]) {
    for (_, example) in examples {
        let path = example.target.split('?').next().unwrap_or_default();
        node.send(&Request::new("OPTIONS", path)).expect(204);
        node.send(&Request::new("TRACE", path)).expect(405);
    }
    node.get("/nothing/at/all").expect(404);
    node.get("/t").expect(404);
    // Who asks comes before what is asked for.
    node.get("/t/keys?nonsense=1").expect(401);
    node.get("/t%20/keys").expect(401);
}
