//! Access control: who gets in with what, by every route; what ends when a token does; and what is logged of it.

mod commands;
mod grants;
mod matrix;
mod rate;
mod streams;
mod tls;

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::harness::{Node, Setup, http::Request};

/// A file of tokens in a directory of its own, and the node that reads it.
pub struct Guarded {
    pub node: Node,
    pub tokens: PathBuf,
    _folder: tempfile::TempDir,
}

impl std::ops::Deref for Guarded {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

/// A token as a line of a test: its name, which is its secret too, and the rest of its entry.
pub type Entry<'a> = (&'a str, &'a str);

const ALL: &str = r#"rights = ["read", "write", "admin"]"#;

pub fn file(entries: &[Entry<'_>]) -> String {
    let entry = |(name, rest): &Entry<'_>| {
        format!("[[token]]\nname = \"{name}\"\nhash = \"{}\"\n{rest}\n", blake3::hash(name.as_bytes()))
    };
    entries.iter().map(entry).collect()
}

/// A node with these tokens, and with `setup` applied before it starts.
pub fn guarded(entries: &[Entry<'_>], setup: impl FnOnce(Setup) -> Setup) -> Guarded {
    let folder = tempfile::tempdir().expect("a folder");
    let tokens = folder.path().join("tokens.toml");
    fs::write(&tokens, file(entries)).expect("written");
    let node = setup(Setup::new().flag("--tokens", &tokens)).start();
    Guarded { node, tokens, _folder: folder }
}

/// A request with this token.
fn with(token: &str, request: Request) -> Request {
    request.header("Authorization", &format!("Bearer {token}"))
}

/// The JWTs and keys of the fixture.
fn jwt() -> Value {
    serde_json::from_str(include_str!("../fixtures/jwt.json")).expect("JSON")
}
