//! The real binary over real sockets: each test starts a node on port 0 in a directory of its own, or takes a table of its own
//! on a node that tests share, and speaks to it as any client would.

mod abuse;
mod access;
mod ancestor;
mod backups;
mod bounds;
mod browser;
#[cfg(feature = "s3")]
mod buckets;
mod clients;
mod cluster;
mod contract;
mod crash;
mod dashboard;
mod deploy;
mod docs;
mod etcd_api;
mod grpc;
mod harness;
mod link;
mod operator;
mod otlp;
mod pages;
mod process;
mod rust_client;
mod shell;
mod strong;
mod tidy;
mod watch;
