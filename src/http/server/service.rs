//! What happens to every request, whatever its route: the guard, its id, CORS, HEAD, the metrics, the log line, and the response if a
//! handler panics.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::Empty;
use hyper::{
    Method, Request, StatusCode, Version,
    body::{Body, Incoming},
    header::{self, HeaderName, HeaderValue},
};
use tower_service::Service as _;
use tracing::{debug, warn};
use warp::{filters::BoxedFilter, reply::Response};

use super::{
    compress, cors,
    guard::{Guard, GuardHeaders},
};
use crate::{
    error::Error,
    http::{
        Options, audit,
        reports::Reports,
        request::{
            Call, REQUEST_ID,
            budget::{Budget, Reservation, UNCOUNTED_BYTES_MAX},
            connection_state::{ConnectionState, OpenRequest},
            path,
            route::Route,
            traffic::{Kind, Traffic},
            upgrade::has_token,
        },
        response,
        routes::metrics::{Metrics, ServerFigures},
        spans::{Exchange, RequestSpan},
    },
    node::{LINK_PATH, Node, with_request_id},
};

/// How long the connection stays open for another request.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// Stops browsers from guessing a content type.
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// The routes, and everything around them.
pub struct Service {
    routes: BoxedFilter<(Response,)>,
    guard: Guard,
    node: Arc<Node>,
    metrics: Arc<Metrics>,
    keep_alive: HeaderValue,
}

impl Service {
    /// The service over `node`.
    pub fn new(node: Arc<Node>, options: &Options, budget: &Arc<Budget>, traffic: &Arc<Traffic>) -> Self {
        let guard = Guard::new(Arc::clone(&node), options);
        let metrics = Metrics::new(
            Arc::clone(&node),
            Arc::clone(budget),
            ServerFigures { traffic: Arc::clone(traffic), rate_limits: options.rate_limits.clone() },
            options.memory_budget_bytes,
        );
        let metrics = Arc::new(metrics);
        Reports::start(&node, Arc::clone(traffic));
        let routes = crate::http::routes(Arc::clone(&node), Arc::clone(&metrics));
        let keep_alive = format!("timeout={}", options.idle_timeout.as_secs());
        Self { routes, guard, node, metrics, keep_alive: response::plain(keep_alive.into()) }
    }

    /// The metrics of the server.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Answers one request. Returns the response, and its memory reservation if it is long.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        connection: &Arc<ConnectionState>,
        open: &OpenRequest,
    ) -> (Response, Option<Reservation>) {
        let began = Instant::now();
        let (call, extensions) = Call::take(request, connection);
        let head = GuardHeaders::of(&call.headers);
        let is_link_only = connection.is_link_only();
        let response = if is_link_only && call.path() != LINK_PATH {
            refuse_plaintext(&call)
        } else if let Some(error) = self
            .refusal_by_rate(&call)
            .or_else(|| self.guard.admit(&call, &head).err())
            .or_else(|| open.refusal())
            .or_else(|| refusal_of_write(&call))
        {
            response::problem(&error, &call)
        } else {
            self.route(&call, extensions).await
        };
        let mut response = compress::apply(&call, response);
        if call.method == Method::HEAD {
            response = without_body(response);
        }
        let reservation;
        (response, reservation) = reserve(&call, response);
        cors::apply(&call, &mut response, |origin| self.guard.is_of_member(origin));
        let is_kept_alive = call.version == Version::HTTP_11
            && !is_link_only
            && !(head.connection && has_token(&call, header::CONNECTION, "close"));
        self.insert_common_headers(&call, &mut response, is_kept_alive);
        let took = began.elapsed();
        self.metrics.observe(call.route(), response.status(), took);
        count(&call, response.status(), took);
        audit::answered(&call, response.status(), took);
        trace(&call, response.status(), took);
        log(&call, response.status(), took);
        (response, reservation)
    }

    /// Why a request is not taken now, if its address sends too many. Nodes, operators, and whoever watches over this node have no limit: an
    /// operator must get through while somebody else at the same address does not.
    fn refusal_by_rate(&self, call: &Call) -> Option<Error> {
        let is_free = match call.path() {
            LINK_PATH | "/healthz" | "/readyz" | "/_/admin/challenge" => true,
            path if ["/_/admin/", "/_/strong/", "/_/backup"].iter().any(|begin| path.starts_with(begin)) => {
                let credentials = call.header(header::AUTHORIZATION);
                credentials.is_some_and(|credentials| self.node.may_be_operator(credentials))
            }
            _ => false,
        };
        if is_free { None } else { call.connection.options.rate_limits.count_address(call.remote.ip()).err() }
    }

    /// `is_kept_alive`: the connection accepts more requests.
    fn insert_common_headers(&self, call: &Call, response: &mut Response, is_kept_alive: bool) {
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switches {
            call.connection.upgrade(if call.route() == Route::Link { Kind::Link } else { Kind::WebSocket });
        }
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, call.request_id.clone());
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
        if is_kept_alive && !switches {
            headers.insert(KEEP_ALIVE, self.keep_alive.clone());
        }
    }

    /// Passes the call through the routes. A panic is a bug in one handler and ends one request only.
    async fn route(&self, call: &Call, extensions: hyper::http::Extensions) -> Response {
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.extensions_mut() = extensions;
        request.extensions_mut().insert(call.clone());
        let answering = warp::service(self.routes.clone()).call(request);
        let id = call.request_id.to_str().unwrap_or_default();
        let answering = with_request_id(id, answering);
        match AssertUnwindSafe(answering).catch_unwind().await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => response::problem(&Error::Io("a bug in this server; see its log".into()), call),
        }
    }
}

/// Why a write is not taken now, where the process has no memory for it. What an operator does is no write, and neither is a read of many keys.
fn refusal_of_write(call: &Call) -> Option<Error> {
    let is_safe = matches!(call.method, Method::GET | Method::HEAD | Method::OPTIONS);
    let is_of_operator = || ["/_/admin/", "/_/strong/"].iter().any(|begin| call.path().starts_with(begin));
    let is_multi_get = || call.method == Method::POST && path::collection(call.path(), "keys").is_some();
    let is_write = !is_safe && !is_of_operator() && !is_multi_get();
    is_write.then(|| call.connection.budget.admit_write().err()).flatten()
}

/// Reserves memory for a long response of known length. Streamed responses reserve theirs chunk by chunk.
fn reserve(call: &Call, response: Response) -> (Response, Option<Reservation>) {
    let length = response.body().size_hint().exact().or_else(|| declared(&response)).unwrap_or(0);
    // A response to HEAD states a length but has no body.
    if length <= UNCOUNTED_BYTES_MAX as u64 || call.method == Method::HEAD {
        return (response, None);
    }
    if call.method != Method::GET {
        // A write has happened and must be reported: a client told to try again would write again.
        return (response, Some(call.connection.budget.force_reserve(length)));
    }
    match call.connection.budget.reserve(length) {
        Ok(reservation) => (response, Some(reservation)),
        Err(error) => (response::problem(&error, call), None),
    }
}

/// The length in the response's headers.
fn declared(response: &Response) -> Option<u64> {
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The error for clients that speak plain HTTP to a TLS port.
pub fn tls_required() -> Error {
    Error::BadRequest("this port speaks TLS: use https://".into())
}

fn refuse_plaintext(call: &Call) -> Response {
    let mut response = response::problem(&tls_required(), call);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The response to HEAD: that of GET without the body, with its length if known.
fn without_body(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact().filter(|_| head.status == StatusCode::OK) {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    Response::from_parts(head, Bytes::new().into())
}

/// Counts a request for the reports. The latency of one that waits for something else than this node would say nothing.
fn count(call: &Call, status: StatusCode, took: Duration) {
    let waits = matches!(call.route(), Route::Subscribe | Route::Changes | Route::WebSocket | Route::Link);
    call.connection.traffic().requests().count(status, (!waits).then_some(took));
}

fn trace(call: &Call, status: StatusCode, took: Duration) {
    let Some(spans) = &call.connection.options.spans else { return };
    spans.answered(&RequestSpan {
        exchange: Exchange::Http { method: &call.method, route: call.route().name(), status },
        request_id: call.request_id.to_str().unwrap_or_default(),
        headers: &call.headers,
        began: SystemTime::now() - took,
        took,
    });
}

fn log(call: &Call, status: StatusCode, took: Duration) {
    let (method, path, route) = (&call.method, call.path(), call.route().name());
    let (remote, id) = (call.remote, call.request_id.to_str().unwrap_or_default());
    let micros = took.as_micros() as u64;
    // Probes repeat every second while the node is not ready. Changes of readiness are logged elsewhere.
    let is_unready_probe = call.route() == Route::Probe && status == StatusCode::SERVICE_UNAVAILABLE;
    if status.is_server_error() && !is_unready_probe {
        warn!(%method, path, route, status = status.as_u16(), micros, %remote, id, "answered");
    } else {
        debug!(%method, path, route, status = status.as_u16(), micros, %remote, id, "answered");
    }
}
