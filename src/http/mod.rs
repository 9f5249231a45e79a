//! HTTP: everything that clients see. REST routes as warp filters, Server-Sent Events and WebSocket, on our own accept loop.
//!
//! The path of a request: [`server`] accepts the connection, `server::socket` enforces its timeouts, and `server::service` turns the
//! request's head into a [`request::Call`]. [`routes`] picks the handler by path; `request::accepts`, one table, lists the right that each
//! operation needs, its query parameters and conditional headers, and refuses all others. Who the client is, [`access`] finds out. The handler calls [`Node`], and [`response`] turns an error into a
//! problem (RFC 9457). [`reports`] keeps and collects what the dashboard shows, and `routes::dashboard` serves its page.
//!
//! # What a new route needs
//! 1. The call in [`crate::node`], if the node does not have it yet.
//! 2. A line in the table of `request/route.rs`, the name in metrics and logs.
//! 3. A row in [`request::accepts::OPERATIONS`]: the right that a client needs, method, path, query parameters, conditional headers.
//!    `Allow` and 405 come from it.
//! 4. A file in [`routes`] with the handler, and one line in the list in `routes()` below.
//! 5. A row in `docs/api.md`, with what is new of parameters, headers and fields.
//! 6. Its description in `openapi/operations.json`, and those of new parameters in `openapi/parameters.json`.
//! 7. The path in `ALLOWED` of `tests/contract/errors.rs`, a test of what it does beside it, and a line in `CHANGELOG.md`.
//!
//! `docs/internals.md` has the same list with links, and what else may apply: new errors, compression, rights.

pub mod access;
pub mod audit;
pub mod events;
pub mod keep_alive;
pub mod openapi;
pub mod reports;
pub mod request;
pub mod response;
pub mod routes;
pub mod server;
pub mod spans;
pub mod websocket;

use std::{path::PathBuf, sync::Arc, time::Duration};

use warp::{Filter, filters::BoxedFilter, reply::Response};

use self::{
    access::AccessControl,
    request::{Call, rate_limit::RateLimits},
    routes::{exactly, metrics::Metrics, route},
    spans::Spans,
};
use crate::{core::memory_pressure::MemoryPressure, error::Error, http::request::route::Route, node::Node};

pub use self::server::{serve, serve_with, tls::Certificates};

/// Longest request head. A longer one gets 431.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Server settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most connections at a time, including event streams and WebSockets. Each costs a file descriptor.
    pub connections_max: usize,
    /// Most connections of one address at a time, and most of its requests in flight.
    pub connections_per_address_max: usize,
    /// The same limit for an address of this machine.
    pub connections_per_loopback_max: usize,
    /// Memory for all request and response bodies, in bytes.
    pub body_memory_bytes: u64,
    /// Memory that the process may use, in bytes.
    pub memory_budget_bytes: u64,
    /// How near it is to that.
    pub memory_pressure: MemoryPressure,
    /// Longest body of a batch or a multi-get, in bytes. It is kept in memory as a whole.
    pub body_bytes_max: u64,
    /// Most operations in a batch, and most keys in a multi-get.
    pub batch_ops_max: usize,
    /// The lowest average rate of a body, in bytes a second, after the first `request::body::BODY_GRACE`.
    pub body_rate_min: u64,
    /// How long a client may take from connecting to its first byte, and from the first byte of a request to the end of its head.
    pub header_timeout: Duration,
    /// How long a connection may stay idle between two requests. HTTP/2 connections stay open.
    pub idle_timeout: Duration,
    /// How long a body may pause between two bytes.
    pub body_timeout: Duration,
    /// How long a client may go without reading anything while data waits for it.
    pub stall_timeout: Duration,
    /// How long requests in flight may take to finish after shutdown begins.
    pub shutdown_timeout: Duration,
    /// Origins whose pages may call this server; `*` allows all.
    pub cors_origins: Vec<String>,
    /// Additional host names under which clients may ask; a leading `*.` stands for one label.
    pub allowed_hosts: Vec<String>,
    /// If set, clients are served over TLS only.
    pub tls: Option<Certificates>,
    /// Who may do what.
    pub access: AccessControl,
    /// How many requests a second.
    pub rate_limits: RateLimits,
    /// Where spans of requests go.
    pub spans: Option<Arc<dyn Spans>>,
}

/// Whether clients must show a certificate, where the node knows an authority for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Only those with a certificate connect.
    #[default]
    Required,
    /// Those without one connect as well.
    Optional,
}

/// The server's certificate, and who signs those of clients, as PEM files.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate, with its chain up to the root.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The authorities for the certificates of clients. Without them no client is asked for one.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must show one.
    pub clients: ClientCertificates,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            connections_per_address_max: 4_096,
            connections_per_loopback_max: 16_384,
            body_memory_bytes: 256 * 1024 * 1024,
            memory_budget_bytes: 2 * 1024 * 1024 * 1024,
            memory_pressure: MemoryPressure::default(),
            body_bytes_max: 64 * 1024 * 1024,
            batch_ops_max: 10_000,
            body_rate_min: 1024,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(20),
            shutdown_timeout: Duration::from_secs(10),
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            tls: None,
            access: AccessControl::default(),
            rate_limits: RateLimits::default(),
            spans: None,
        }
    }
}

/// All routes, most used first: a request tries them in order. We fold from the last, so that the first is the outermost filter and its
/// requests pass through one layer only.
fn routes(node: Arc<Node>, metrics: Arc<Metrics>) -> BoxedFilter<(Response,)> {
    let metrics =
        route(Route::Metrics, exactly("/metrics"), move |call, ()| Arc::clone(&metrics).answer(call));
    let groups = [
        routes::kv::routes(Arc::clone(&node)),
        routes::batch::routes(Arc::clone(&node)),
        routes::listing::store_routes(Arc::clone(&node)),
        routes::listing::keys_routes(Arc::clone(&node)),
        routes::listing::count_routes(Arc::clone(&node)),
        routes::subscribe::routes(Arc::clone(&node)),
        routes::changes::routes(Arc::clone(&node)),
        routes::websocket::routes(Arc::clone(&node)),
        routes::import::import_routes(Arc::clone(&node)),
        routes::backup::routes(Arc::clone(&node)),
        routes::export::export_routes(Arc::clone(&node)),
        routes::status::routes(&node),
        routes::strong::routes(&node),
        routes::admin::routes(&node),
        routes::link::routes(Arc::clone(&node)),
        metrics,
        routes::describe::routes(),
        routes::dashboard::routes(&node),
        routes::table::routes(node),
    ];
    groups.into_iter().rfold(unknown(), |after, group| group.or(after).unify().boxed())
}

/// The response if no route takes the path.
fn unknown() -> BoxedFilter<(Response,)> {
    let answer = |call: Call| {
        let path = call.path();
        let error = Error::NotFound(format!("nothing is at {path}; keys are at /{{table}}/key/{{key}}"));
        response::problem(&error, &call)
    };
    warp::ext::get::<Call>().map(answer).boxed()
}
