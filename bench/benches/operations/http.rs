//! HTTP: the parts of a request and of its answer, an event, and what access control asks.

use std::{fs, hint::black_box, sync::Arc};

use dynarust::{
    core::{
        access::{Right, Touched},
        clock::{NodeId, Timestamp},
        json::Value,
        name::{Key, TableName},
    },
    http::{
        access::{AccessControl, AccessOptions, tokens},
        events,
        request::{body, condition, path},
        response,
    },
    node::{Change, Cursor, Effect, Notice},
};
use dynarust_bench::instructions::Operation;
use hyper::{HeaderMap, header};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{NOW_MS, document};

pub const OPERATIONS: &[Operation] = &[
    Operation { name: "path parse", prepare: |_| path_of_key() },
    Operation { name: "body parse", prepare: |_| body_of_put() },
    Operation { name: "condition of a read", prepare: |_| condition_of_read() },
    Operation { name: "answer to a read", prepare: |_| answer() },
    Operation { name: "event render", prepare: |_| event(|notice| events::frame(notice).event().len()) },
    Operation {
        name: "event render, WebSocket",
        prepare: |_| event(|notice| events::message(notice, Some("\"a\"")).len()),
    },
    Operation { name: "token check", prepare: |_| check(&control(), headers(SECRET)) },
    Operation { name: "JWT check, known", prepare: |_| check(&control(), headers(&jwt())) },
    Operation {
        name: "no access control",
        prepare: |_| check(&AccessControl::default(), headers_of_request()),
    },
];

/// Tokens of the file.
const TOKENS: usize = 1000;
/// As long as what `DynaRust token new` makes.
const SECRET: &str = "dynarust_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const JWTS: &str = include_str!("../../../tests/fixtures/jwt.json");
const VERSION: Timestamp = Timestamp { hlc: NOW_MS << 16, node: NodeId(0x5f0c_1d2e_3a4b_5c6d) };

fn path_of_key() -> Box<dyn FnMut()> {
    Box::new(|| {
        black_box(
            path::keyed(black_box("/default/key/user-00000001"), "key").map(|found| found.expect("a key")),
        );
    })
}

/// As the body of a PUT is read: what is in it, and then the value.
fn body_of_put() -> Box<dyn FnMut()> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        value: &'a RawValue,
    }
    let text = format!("{{\"value\":{}}}", document());
    Box::new(move || {
        let body: Body<'_> = body::parse_object(black_box(text.as_bytes())).expect("json");
        black_box(Value::from_raw(body.value).expect("a value"));
    })
}

fn condition_of_read() -> Box<dyn FnMut()> {
    let headers = headers_of_request();
    Box::new(move || {
        black_box(condition::of_read(black_box(&headers), Some(VERSION)).expect("no condition"));
    })
}

fn answer() -> Box<dyn FnMut()> {
    let body = document();
    Box::new(move || {
        let mut response = response::json_text(black_box(&body).clone());
        response::insert_version(&mut response, VERSION);
        black_box(response);
    })
}

fn event(render: fn(&Notice) -> usize) -> Box<dyn FnMut()> {
    let cursor = Some(Cursor { epoch: 0x3f2a_91c0, sequence: 184_467, agreed_ms: NOW_MS, cluster: 7 });
    let (table, key) = names();
    let value = Value::trusted(document());
    Box::new(move || {
        let effect = Effect::Updated { value: value.clone(), expires_at_ms: None };
        let change = Change::new(cursor, table.clone(), key.clone(), VERSION, effect);
        black_box(render(&Notice::Change(Arc::new(change))));
    })
}

fn names() -> (TableName, Key) {
    (TableName::parse("users").expect("a name"), Key::parse("user-00000001").expect("a key"))
}

/// Whose token it is, and whether that is enough for one key.
fn check(control: &AccessControl, headers: HeaderMap) -> Box<dyn FnMut()> {
    let (control, (table, key)) = (control.clone(), names());
    Box::new(move || {
        let principal = control.authenticate(black_box(&headers), None).expect("known");
        black_box(principal.check(Right::Read, Touched::Key(black_box(&table), black_box(&key))))
            .expect("allowed");
    })
}

fn headers_of_request() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, "127.0.0.1:6660".parse().expect("a value"));
    headers.insert(header::ACCEPT, "*/*".parse().expect("a value"));
    headers
}

fn headers(secret: &str) -> HeaderMap {
    let mut headers = headers_of_request();
    headers.insert(header::AUTHORIZATION, format!("Bearer {secret}").parse().expect("a value"));
    headers
}

fn jwts() -> serde_json::Value {
    serde_json::from_str(JWTS).expect("JSON")
}

fn jwt() -> String {
    jwts()["tokens"]["rsa"].as_str().expect("a token").to_owned()
}

fn entry(number: usize) -> String {
    let secret = if number == 0 { SECRET.to_owned() } else { format!("secret {number}") };
    format!(
        "[[token]]\nname = \"token-{number}\"\nhash = \"{}\"\nrights = [\"read\", \"write\"]\n\
         tables = [\"orders\", \"cart-*\", \"*-log\", \"users\"]\nprefixes = [\"eu/\", \"us/\", \"user-\"]\n\
         expires = 2100-01-01T00:00:00Z\n",
        tokens::hash(&secret)
    )
}

fn control() -> AccessControl {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, jwks) = (folder.path().join("tokens.toml"), folder.path().join("jwks.json"));
    fs::write(&file, (0..TOKENS).map(entry).collect::<String>()).expect("written");
    fs::write(&jwks, jwts()["jwks"].to_string()).expect("written");
    AccessControl::load(AccessOptions { tokens: Some(file), jwks: Some(jwks), ..AccessOptions::default() })
        .expect("valid")
}
