//! DynaRust: a real-time key-value store in one binary, and one day in many that hold the same.
//!
//! # Layers
//! Imports point one way, and `tests/tidy` holds them to it: `error <- core <- storage <- node <- http <- cli, main`.
//!
//! - [`core`] is what a replica is: names, JSON values, the hybrid logical clock, last-writer-wins registers. Pure functions.
//! - [`storage`] is the disk: tables of registers in sled, made durable in groups, with a stream of changes.
//! - [`node`] is the whole API of the system, as calls; the wall clock lives there.
//! - [`http`] makes those calls for clients: REST, Server-Sent Events, WebSocket, over an accept loop of our own.
//! - [`config`], [`cli`] and [`client`] are the program around it.
//!
//! # Invariants
//! 1. Every write goes through `Table::merge`, which is commutative, associative and idempotent.
//! 2. An acknowledged write survives kill -9 and power loss, and is visible to later reads on its node.
//! 3. No two writes carry the same timestamp: the clock's bound is durable before any timestamp below it is handed out.
//! 4. A deleted key does not come back by itself: a tombstone stands against older writes of it.
//! 5. Nothing is unbounded. Every queue, ring, batch, body and connection count has a limit; reaching it is visible, and loses
//!    nothing silently.
//!
//! # The way of a PUT
//! 1. `http::server` accepts; hyper parses; `http::service` makes a `Call` of the head and hands it to warp's filters.
//! 2. `http::kv` reads the body, takes the value out as compact text, and calls [`node::Node::write`].
//! 3. The node sees to it that its clock's bound lies ahead, and merges: under the lock of the key's partition it looks at what is
//!    there, tests the condition, stamps the write and sets the row. From here on readers see it.
//! 4. sled's feed wakes the table's pump, which numbers the change and puts it into the queues of those who watch.
//! 5. The commit thread flushes and syncs whatever was written since its last round, and then every writer in that round gets its
//!    answer.

pub mod error;

pub mod core;

pub mod storage;

pub mod node;

pub mod http;

pub mod cli;
pub mod client;
pub mod config;

pub use error::{Error, Result};
