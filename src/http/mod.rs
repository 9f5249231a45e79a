//! HTTP: what clients see. Warp filters, one file per group of routes, under an accept loop of our own.
//!
//! The way of a request: `server` accepts its connection, `socket` watches over that, `service` moves its head into a `Call`
//! and passes it to the `routes`, where `accepts`, one table, tells what each takes, and anything else is refused; a handler
//! answers over `Node` alone, and `reply` turns what failed into a problem.

pub mod events;
pub mod keep_alive;
pub mod request;
pub mod response;
pub mod routes;
pub mod server;
pub mod websocket;

use std::{path::PathBuf, sync::Arc, time::Duration};

use warp::{Filter, filters::BoxedFilter, reply::Response};

use self::{
    request::Call,
    routes::{exactly, metrics::Metrics, route},
};
use crate::{error::Error, http::request::route::Route, node::Node};

pub use self::server::serve;

/// Largest request head. More is answered 431.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// How the server runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most connections at a time, streams and WebSockets included. Each costs a file descriptor.
    pub connections_max: usize,
    /// Most connections of one address at a time, and most of its requests in flight.
    pub connections_per_address_max: usize,
    /// The same, of one address of this machine.
    pub connections_per_loopback_max: usize,
    /// Memory for all bodies and answers, in bytes.
    pub memory_budget_bytes: u64,
    /// Longest body of a batch or a multi-get, in bytes: it is held whole.
    pub body_bytes_max: u64,
    /// Most operations of a batch, and keys of a multi-get.
    pub batch_ops_max: usize,
    /// How many bytes a second of a body have to come, on the average, after `request::body::BODY_GRACE`.
    pub body_rate_min: u64,
    /// How long a client may take from connecting to its first byte, and from the first byte of a request to the end of its
    /// head.
    pub header_timeout: Duration,
    /// How long a connection may stay open between two requests. Over HTTP/2 connections stay.
    pub idle_timeout: Duration,
    /// How long a body may go without a byte.
    pub body_timeout: Duration,
    /// How long a client may go without reading a byte of what waits for it.
    pub stall_timeout: Duration,
    /// How long requests in flight are given to finish after the shutdown.
    pub shutdown_timeout: Duration,
    /// Origins whose pages may call this server; `*` for all.
    pub cors_origins: Vec<String>,
    /// Names under which clients may ask, beside those this server is known by; `*.` at the beginning stands for one label.
    pub allowed_hosts: Vec<String>,
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

impl Default for Options {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            connections_per_address_max: 4_096,
            connections_per_loopback_max: 16_384,
            memory_budget_bytes: 256 * 1024 * 1024,
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
        }
    }
}

/// All routes, the hot ones first: a route costs what it takes to pass over those before it. Folded from the last, so that
/// the first is the outermost and a request for it goes through one layer and not through all.
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
        routes::websocket::routes(Arc::clone(&node)),
        routes::import::import_routes(Arc::clone(&node)),
        routes::export::export_routes(Arc::clone(&node)),
        routes::status::routes(&node),
        routes::admin::routes(&node),
        routes::link::routes(Arc::clone(&node)),
        metrics,
        routes::table::routes(node),
    ];
    groups.into_iter().rfold(unknown(), |after, group| group.or(after).unify().boxed())
}

/// The answer where no route takes the path.
fn unknown() -> BoxedFilter<(Response,)> {
    let answer = |call: Call| {
        let path = call.path();
        let error =
            Error::NotFound(format!("there is nothing at {path}; keys are at /{{table}}/key/{{key}}"));
        response::problem(&error, &call)
    };
    warp::ext::get::<Call>().map(answer).boxed()
}
