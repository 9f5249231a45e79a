//! Tables for single tests on a shared node. The node starts with the first test that asks for it, and stops with the last.

use std::{
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    Node,
    http::{Request, Response},
};

/// A table of one test, on a node shared by all tests that run now: most tests need no node of their own.
pub struct Table {
    node: Arc<Node>,
    name: String,
}

/// A table that no other test uses.
pub fn table() -> Table {
    static NODE: Mutex<Weak<Node>> = Mutex::new(Weak::new());
    static NEXT: AtomicU64 = AtomicU64::new(1);

    // Weak, because statics are never dropped: the last test to end stops the node. If a test fails to start the node, the next one tries
    // again.
    let mut shared = NODE.lock().unwrap_or_else(PoisonError::into_inner);
    let node = shared.upgrade().unwrap_or_else(|| Arc::new(Node::start()));
    *shared = Arc::downgrade(&node);
    Table { node, name: format!("table{}", NEXT.fetch_add(1, Ordering::Relaxed)) }
}

impl Table {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path in this table: `key/a`, `keys?limit=3`.
    pub fn path(&self, rest: &str) -> String {
        format!("/{}/{rest}", self.name)
    }

    pub fn get(&self, rest: &str) -> Response {
        self.node.get(&self.path(rest))
    }

    pub fn put(&self, rest: &str, body: impl Into<Vec<u8>>) -> Response {
        self.node.put(&self.path(rest), body)
    }

    pub fn post(&self, rest: &str, body: impl Into<Vec<u8>>) -> Response {
        self.node.post(&self.path(rest), body)
    }

    pub fn delete(&self, rest: &str) -> Response {
        self.node.delete(&self.path(rest))
    }

    /// A request for a path in this table.
    pub fn request(&self, method: &str, rest: &str) -> Request {
        Request::new(method, &self.path(rest))
    }
}

impl Deref for Table {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}
