//! The contract with clients, row by row. If the contract gives exact bytes, the tests compare bytes.

mod batch;
mod cluster;
mod collection;
mod conditions;
mod describe;
mod edges;
mod errors;
mod expiry;
mod guard;
mod kv;
mod names;
mod patch;
mod privacy;
mod server;
mod strict;
mod strict_examples;
mod strong;
mod tls;
mod transfer;
mod values;
