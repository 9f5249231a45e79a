//! The client of DynaRust, a replicated, real-time key-value store: typed, async, on tokio. Its streams of changes survive connections,
//! restarts and nodes. The README has examples.
//!
//! # Where to find what
//! [`Client`] has the endpoints, [`Table`] the calls for keys, [`Watching`] the streams of changes, [`Transaction`] transactions over strong
//! tables, [`Error`] what may go wrong. [`Client::request`] sends what has no call of its own.

mod answer;
mod batch;
mod client;
mod cluster;
mod connection;
mod endpoint;
mod entry;
mod error;
mod list;
mod path;
mod request;
mod sse;
mod table;
mod tls;
mod topic;
mod transaction;
mod transfer;
mod watch;
mod write;

pub use answer::{Answer, Streaming};
pub use batch::{Applied, Batch, Operation};
pub use client::{Builder, Client};
pub use cluster::{Mode, Readiness, TableInfo};
pub use endpoint::{DEFAULT_PORT, Endpoint, certificates};
pub use entry::{Entry, Version, Written};
pub use error::{Code, Error, Problem, Reason, Result, Unreachable};
pub use hyper::{HeaderMap, Method, StatusCode};
pub use list::{Listing, Many, Page};
pub use request::Request;
pub use table::{Get, Table};
pub use topic::Topic;
pub use transaction::{Committed, Compare, OperationResult, Transaction};
pub use transfer::{Export, Exporting, Import, Imported};
pub use watch::{Event, Watch, Watching};
pub use write::{Outcome, Replicas, Write};
