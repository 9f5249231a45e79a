//! The operations whose instructions are counted: what `cargo instructions` builds and runs under valgrind.
//!
//! Counts tell something of optimized code only, and to optimize the node as a whole takes minutes. A library is compiled as a whole, a
//! program from what its `main` reaches; so this program has the node's modules for its own, and only the part of them that the operations
//! reach is optimized. cargo gives the flags of `cargo rustc` to this crate alone, and all other crates are those of the tests. Without the
//! flag `counting` there is nothing in here, so that no other command compiles the node once more.

#[cfg(counting)]
extern crate self as dynarust;

#[cfg(counting)]
#[path = "../../src/core/mod.rs"]
pub mod core;
#[cfg(counting)]
#[path = "../../src/error.rs"]
pub mod error;
#[cfg(counting)]
#[path = "../../src/http/mod.rs"]
pub mod http;
#[cfg(counting)]
#[path = "../../src/node/mod.rs"]
pub mod node;
#[cfg(counting)]
#[path = "../benches/operations/mod.rs"]
mod operations;
#[cfg(counting)]
#[path = "../../src/replication/mod.rs"]
pub mod replication;
#[cfg(counting)]
#[path = "../../src/storage/mod.rs"]
pub mod storage;

#[cfg(counting)]
pub use error::{Error, Result};

#[cfg(counting)]
fn main() {
    dynarust_bench::instructions::count(&operations::all());
}

#[cfg(not(counting))]
fn main() {
    eprintln!(
        "Count instructions with `cargo instructions check`, which builds this as the counts of the repository were built."
    );
}
