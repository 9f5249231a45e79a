//! HTTP: what clients see. Warp filters, one file per group of routes, served by an accept loop of our own.

pub mod call;
pub mod path;
pub mod reply;
pub mod route;

use std::{path::PathBuf, time::Duration};

/// How the server runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most connections at a time.
    pub connections_max: usize,
    /// Longest body of a batch, and longest line of an import, in bytes.
    pub body_bytes_max: u64,
    /// How long a client may take from connecting, or from its last request on a connection it reuses, to the end of a
    /// request's head.
    pub header_timeout: Duration,
    /// How long a body may go without a byte.
    pub body_timeout: Duration,
    /// How long a client may go without reading a byte of an answer that waits for it.
    pub stall_timeout: Duration,
    /// How long requests in flight are given to finish after the shutdown.
    pub shutdown_timeout: Duration,
    /// Origins whose pages may call this server; `*` for all.
    pub cors_origins: Vec<String>,
    /// Where set, clients are served over TLS only.
    pub tls: Option<Tls>,
}

/// The certificate to serve with, PEM files both.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate and the chain up to its root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}
