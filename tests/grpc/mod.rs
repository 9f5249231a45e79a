//! gRPC: the services of `--grpc` and the program `distributed_kv`, by the generated clients of Rust and by Python's, which is not ours.

mod access;
pub mod client;
mod kv;
mod program;
mod python;
mod refusals;
mod reports;
mod sending;
mod tables;
