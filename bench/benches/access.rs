//! The check that each request pays where there is access control: whose token it is, and whether that is enough for one key.

use std::{fs, hint::black_box};

use criterion::{Criterion, criterion_group, criterion_main};
use dynarust::{
    core::{
        access::{Right, Touched},
        name::{Key, TableName},
    },
    http::access::{AccessControl, AccessOptions, tokens},
};
use hyper::{HeaderMap, header};

/// Tokens of the file.
const TOKENS: usize = 1000;
/// As long as what `DynaRust token new` makes.
const SECRET: &str = "dynarust_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn headers(secret: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, "127.0.0.1:6660".parse().expect("a value"));
    headers.insert(header::ACCEPT, "*/*".parse().expect("a value"));
    headers.insert(header::AUTHORIZATION, format!("Bearer {secret}").parse().expect("a value"));
    headers
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

fn access(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, jwks) = (folder.path().join("tokens.toml"), folder.path().join("jwks.json"));
    fs::write(&file, (0..TOKENS).map(entry).collect::<String>()).expect("written");
    let fixture: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/fixtures/jwt.json")).expect("JSON");
    fs::write(&jwks, fixture["jwks"].to_string()).expect("written");
    let options = AccessOptions { tokens: Some(file), jwks: Some(jwks), ..AccessOptions::default() };
    let control = AccessControl::load(options).expect("valid");
    let (table, key) =
        (TableName::parse("users").expect("a name"), Key::parse("user-00000001").expect("a key"));
    let jwt = fixture["tokens"]["rsa"].as_str().expect("a token");
    for (name, control, headers) in [
        ("access check of a token, one of 1000", &control, headers(SECRET)),
        ("access check of a JWT that was verified before", &control, headers(jwt)),
        ("access check without access control", &AccessControl::default(), HeaderMap::new()),
    ] {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                let principal = control.authenticate(black_box(&headers), None).expect("known");
                principal.check(Right::Read, Touched::Key(black_box(&table), black_box(&key)))
            });
        });
    }
}

criterion_group!(benches, access);
criterion_main!(benches);
