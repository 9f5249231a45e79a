//! The client contract, row by row. Where a seed gives bytes, bytes are compared.

mod batch;
mod cluster;
mod collection;
mod conditions;
mod errors;
mod expiry;
mod kv;
mod names;
mod patch;
mod server;
mod strict;
mod strict_examples;
mod tls;
mod transfer;
mod values;
