//! What happens to every request, whatever its route: the guard, its id, CORS, HEAD, the metrics, the log line, and the answer to a
//! handler that panics.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
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
    guard::{Guard, Said},
};
use crate::{
    error::{Error, Result},
    http::{
        Options,
        request::{
            Call, REQUEST_ID,
            budget::{Budget, FREE_BYTES, Held},
            peer::{OpenRequest, Peer},
            route::Route,
            upgrade::has_token,
        },
        response,
        routes::metrics::Metrics,
    },
    node::{LINK_PATH, Node},
};

/// How long the connection stays open for another request.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// An answer is what it says it is, whatever its bytes look like to a browser.
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// The routes, and what surrounds them.
pub struct Service {
    routes: BoxedFilter<(Response,)>,
    guard: Guard,
    metrics: Arc<Metrics>,
    keep_alive: HeaderValue,
}

impl Service {
    /// The service over `node`.
    ///
    /// # Errors
    /// As `Guard::new`.
    pub fn new(node: Arc<Node>, options: &Options, budget: &Arc<Budget>) -> Result<Self> {
        let guard = Guard::new(Arc::clone(&node), options)?;
        let metrics = Arc::new(Metrics::new(Arc::clone(&node), Arc::clone(budget)));
        let routes = crate::http::routes(node, Arc::clone(&metrics));
        let keep_alive = format!("timeout={}", options.idle_timeout.as_secs());
        Ok(Self { routes, guard, metrics, keep_alive: response::plain(keep_alive.into()) })
    }

    /// Answers one request: with what the answer holds of the memory for all of them, where it is long.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        peer: &Arc<Peer>,
        open: &OpenRequest,
    ) -> (Response, Option<Held>) {
        let began = Instant::now();
        let (call, extensions) = Call::take(request, peer);
        let said = Said::of(&call.headers);
        let is_for_links_only = peer.is_for_links_only();
        let response = if is_for_links_only && call.path() != LINK_PATH {
            turn_away(&call)
        } else if let Some(error) = self.guard.admit(&call, &said).err().or_else(|| open.refusal()) {
            response::problem(&error, &call)
        } else {
            self.route(&call, extensions).await
        };
        let mut response = compress::apply(&call, response);
        if call.method == Method::HEAD {
            response = without_body(response);
        }
        let held;
        (response, held) = hold(&call, response);
        cors::apply(&call, &mut response);
        let stays = call.version == Version::HTTP_11
            && !is_for_links_only
            && !(said.connection && has_token(&call, header::CONNECTION, "close"));
        self.insert_headers_of_all(&call, &mut response, stays);
        let took = began.elapsed();
        self.metrics.observe(call.route(), response.status(), took);
        log(&call, response.status(), took);
        (response, held)
    }

    /// `stays`: the connection is for more requests.
    fn insert_headers_of_all(&self, call: &Call, response: &mut Response, stays: bool) {
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switches {
            call.peer.upgrade();
        }
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, call.request_id.clone());
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
        if stays && !switches {
            headers.insert(KEEP_ALIVE, self.keep_alive.clone());
        }
    }

    /// Passes the call through the routes. A panic is the bug of one handler and the end of one request.
    async fn route(&self, call: &Call, extensions: hyper::http::Extensions) -> Response {
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.extensions_mut() = extensions;
        request.extensions_mut().insert(call.clone());
        let answering = warp::service(self.routes.clone()).call(request);
        match AssertUnwindSafe(answering).catch_unwind().await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => response::problem(&Error::Io("a bug in this server; the log has more".into()), call),
        }
    }
}

/// The answer with the memory that it takes, if it is long and its length is known; others hold theirs piece by piece.
fn hold(call: &Call, response: Response) -> (Response, Option<Held>) {
    let length = response.body().size_hint().exact().or_else(|| declared(&response)).unwrap_or(0);
    // HEAD has the length of an answer, and nothing of it.
    if length <= FREE_BYTES as u64 || call.method == Method::HEAD {
        return (response, None);
    }
    if call.method != Method::GET {
        // What was written is said: who is told to try again writes it again.
        return (response, Some(call.peer.budget.hold_anyway(length)));
    }
    match call.peer.budget.hold(length) {
        Ok(held) => (response, Some(held)),
        Err(error) => (response::problem(&error, call), None),
    }
}

/// The length that an answer says it has.
fn declared(response: &Response) -> Option<u64> {
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What is said to those who speak plainly to a port that speaks TLS.
pub fn speaks_tls() -> Error {
    Error::BadRequest("this port speaks TLS: use https://".into())
}

fn turn_away(call: &Call) -> Response {
    let mut response = response::problem(&speaks_tls(), call);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The answer to HEAD: all of GET's but the body, its length included where it is known.
fn without_body(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact().filter(|_| head.status == StatusCode::OK) {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    Response::from_parts(head, Bytes::new().into())
}

fn log(call: &Call, status: StatusCode, took: Duration) {
    let (method, path, route) = (&call.method, call.path(), call.route().name());
    let (remote, id) = (call.remote, call.request_id.to_str().unwrap_or_default());
    let micros = took.as_micros() as u64;
    // A probe that is told to wait comes again each second: what it is told is logged where it changes.
    let is_told_to_wait = call.route() == Route::Probe && status == StatusCode::SERVICE_UNAVAILABLE;
    if status.is_server_error() && !is_told_to_wait {
        warn!(%method, path, route, status = status.as_u16(), micros, %remote, id, "answered");
    } else {
        debug!(%method, path, route, status = status.as_u16(), micros, %remote, id, "answered");
    }
}
