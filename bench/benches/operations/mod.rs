//! What each request pays: the operations that are timed (`times`) and counted (`instructions`), one call each.

mod core;
mod digests;
mod http;
mod storage;

use dynarust_bench::{client::document::Documents, instructions::Operation};

/// Size of a value, as in the figures of the load generator.
const VALUE_BYTES: usize = 350;
/// A moment, in Unix milliseconds.
const NOW_MS: u64 = 1_763_689_000_123;

/// All operations.
pub fn all() -> Vec<Operation> {
    [core::OPERATIONS, digests::OPERATIONS, storage::OPERATIONS, http::OPERATIONS].concat()
}

/// The document that everything is done with.
fn document() -> String {
    let mut document = Vec::new();
    Documents::new(1, VALUE_BYTES).write(&mut document);
    String::from_utf8(document).expect("documents are text")
}
