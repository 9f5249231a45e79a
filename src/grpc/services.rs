//! The services of one listener, and what surrounds every call: who makes it, its id, its deadline, the metrics and the log, and the answer
//! if a handler panics.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, header};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status, body::Body as TonicBody, server::NamedService};
use tower_service::Service;
use tracing::{debug, info, warn};

use super::{
    answer::{Answer, deadline_exceeded},
    call_span::CallSpan,
    descriptors, health,
    request::{Caller, Held, Messages, Takes},
    status,
};
use crate::{
    core::nearest,
    error::{Error, Result},
    http::{
        access::{Principal, token_of},
        audit,
        request::{REQUEST_ID, request_id_of},
        routes::metrics::{
            Metrics,
            rpc::{CODES, RpcSeries},
        },
        server::rpc::{RpcAnswer, RpcBody, RpcCall, RpcService},
    },
    node::{Node, with_request_id},
};

/// The header with the deadline of a call, from its arrival.
const TIMEOUT: &str = "grpc-timeout";
/// The method in metrics of calls that name none of ours.
const UNKNOWN: &str = "unknown";
/// The longest message to a service that anyone may call: the name of a service, or of a symbol.
const OPEN_BYTES_MAX: u64 = 16 * 1024;
/// The longest path that an error repeats.
const QUOTED_CHARS_MAX: usize = 200;

/// Who may call a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone, without a token: it tells nothing of the data.
    Open,
    /// Whoever has a token, where there is access control. What the token grants, the service checks.
    Token,
    /// The service finds out who calls: its clients send no `authorization`. Its [`Caller`] is nobody.
    OwnCheck,
}

type Handler = Box<dyn Fn(Request<Messages>) -> Answering + Send + Sync>;
type Answering = Pin<Box<dyn Future<Output = Response<TonicBody>> + Send>>;

struct Entry {
    access: Access,
    handler: Handler,
}

/// The services of a listener.
pub struct Services {
    node: Arc<Node>,
    entries: HashMap<&'static str, Entry>,
    /// Each method that there may be, `package.Service/Method`, with its series, and the series of all other calls.
    methods: HashMap<String, (descriptors::Method, OnceLock<RpcSeries>)>,
    unknown: OnceLock<RpcSeries>,
}

impl Services {
    /// None yet, over `node`.
    pub fn new(node: Arc<Node>) -> Self {
        let methods =
            descriptors::methods().map(|(name, method)| (name, (method, OnceLock::new()))).collect();
        Self { node, entries: HashMap::new(), methods, unknown: OnceLock::new() }
    }

    /// With one more service: the generated server of its trait.
    pub fn add<S>(mut self, access: Access, service: S) -> Self
    where
        S: Service<Request<Messages>, Response = Response<TonicBody>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let handler = Box::new(move |request| {
            let answering = service.clone().call(request);
            Box::pin(answering.map(|Ok(response)| response)) as Answering
        });
        self.entries.insert(S::NAME, Entry { access, handler });
        self
    }

    /// The names of the services.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.entries.keys().copied()
    }

    /// The service of a path, `/package.Service/Method`.
    fn find(&self, path: &str) -> std::result::Result<&Entry, Status> {
        let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        self.entries.get(service).ok_or_else(|| {
            let mut known: Vec<_> = self.names().collect();
            known.sort_unstable();
            let service: String = service.chars().take(QUOTED_CHARS_MAX).collect();
            Status::unimplemented(nearest::unknown("service", &service, &known))
        })
    }

    /// The series of the method that a path names. Clients may name anything: what is no method of ours has one series.
    fn series(&self, metrics: &Metrics, method: &str) -> RpcSeries {
        let known = self.methods.get(method).map_or(&self.unknown, |(_, series)| series);
        known.get_or_init(|| metrics.rpc().series(self.known_name(method))).clone()
    }

    /// The name of a method in metrics and spans: clients may name anything.
    fn known_name<'a>(&self, method: &'a str) -> &'a str {
        if self.methods.contains_key(method) { method } else { UNKNOWN }
    }

    /// What a method takes and gives.
    fn streams(&self, method: &str) -> descriptors::Method {
        let known = self.methods.get(method).map(|(method, _)| *method);
        known.unwrap_or(descriptors::Method { takes_stream: false, gives_stream: false })
    }

    /// Who calls.
    fn authenticate(&self, access: Access, call: &RpcCall) -> Result<(Principal, Option<Arc<str>>)> {
        let options = &call.connection.options;
        match access {
            Access::Open | Access::OwnCheck => Ok((Principal::Nobody, None)),
            Access::Token => {
                let headers = call.request.headers();
                let principal = options.access.authenticate(headers, None)?;
                let secret = match principal {
                    Principal::Token(_) => token_of(headers, None)?.map(Arc::from),
                    Principal::Nobody | Principal::Anyone | Principal::Operator => None,
                };
                options.rate_limits.count_token(&principal)?;
                Ok((principal, secret))
            }
        }
    }

    /// Whether a call is taken: what it is served by, who makes it, and until when.
    fn admit(
        &self,
        call: &mut RpcCall,
        id: &Arc<str>,
    ) -> std::result::Result<(&Entry, Caller, Option<Instant>), Status> {
        let refused = |error: Error| status::of(&error);
        if let Some(error) = call.refusal.take() {
            return Err(refused(error));
        }
        let headers = call.request.headers();
        if headers.contains_key(header::ORIGIN) {
            let why = "a web page made this call, and pages use REST: gRPC is for other clients";
            return Err(refused(Error::Forbidden(why.into())));
        }
        let timeout = headers.get(TIMEOUT).map(|text| timeout_of(text.to_str().unwrap_or_default()));
        let deadline =
            timeout.transpose().map_err(refused)?.and_then(|after| Instant::now().checked_add(after));
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(deadline_exceeded());
        }
        let entry = self.find(call.request.uri().path())?;
        let (principal, secret) = self.authenticate(entry.access, call).map_err(refused)?;
        let caller = Caller {
            principal,
            secret,
            connection: Arc::clone(&call.connection),
            request_id: Arc::clone(id),
        };
        Ok((entry, caller, deadline))
    }
}

impl RpcService for Services {
    fn is_probe(&self, path: &str) -> bool {
        path.strip_prefix('/').and_then(|path| path.split_once('/')).is_some_and(|(it, _)| it == health::NAME)
    }

    fn answer(self: Arc<Self>, call: RpcCall) -> RpcAnswer {
        Box::pin(async move { self.answer_call(call).await })
    }
}

impl Services {
    async fn answer_call(&self, mut call: RpcCall) -> Response<RpcBody> {
        let began = Instant::now();
        if let Some(response) = refuse_other_than_grpc(&call.request) {
            return response;
        }
        let id = request_id_of(call.request.headers());
        let text: Arc<str> = id.to_str().unwrap_or_default().into();
        let method = call.request.uri().path().trim_start_matches('/').to_owned();
        let streams = self.streams(&method);
        let spans = call.connection.options.spans.clone();
        let span = spans
            .map(|spans| CallSpan::begin(spans, self.known_name(&method), &text, call.request.headers()));
        let admitted = self.admit(&mut call, &text);
        let RpcCall { request, connection, metrics, .. } = call;
        let held = Held::default();
        let (response, caller, deadline) = match admitted {
            Ok((entry, caller, deadline)) => {
                // The memory of what the client has sent is held until the answer is there.
                let bytes_max = match entry.access {
                    Access::Open => OPEN_BYTES_MAX.min(connection.options.body_bytes_max),
                    Access::Token | Access::OwnCheck => connection.options.body_bytes_max,
                };
                let takes = Takes { bytes_max, is_stream: streams.takes_stream };
                let node = Arc::clone(&self.node);
                let mut request = request.map(|body| Messages::new(body, node, caller.clone(), takes, &held));
                request.extensions_mut().insert(caller.clone());
                let answering = kept((entry.handler)(request), deadline);
                (with_request_id(&text, answering).await, caller, deadline)
            }
            Err(status) => (status.into_http(), Caller::nobody(&connection, &text), None),
        };
        let (mut head, body) = response.into_parts();
        head.headers.insert(REQUEST_ID, id);
        status::cut_header(&mut head.headers);
        let ended = status::take_code(&mut head.headers);
        let took = began.elapsed();
        let series = self.series(&metrics, &method);
        series.answered(took);
        caller.connection.traffic().requests().answered(Some(took));
        log(&method, ended.map(|(code, _)| code), took, &caller);
        let answer = Answer::new(body, ended, Arc::clone(&self.node), caller, deadline, series, span)
            .ending_early(streams.gives_stream);
        Response::from_parts(head, answer.boxed_unsync())
    }
}

/// The answer, or one that says why there is none: the deadline has passed, or the handler panicked, which is a bug in one handler and ends
/// one call only.
async fn kept(answering: Answering, deadline: Option<Instant>) -> Response<TonicBody> {
    let answering = AssertUnwindSafe(answering).catch_unwind();
    let answered = match deadline {
        Some(deadline) => match timeout_at(deadline, answering).await {
            Ok(answered) => answered,
            Err(_) => return deadline_exceeded().into_http(),
        },
        None => answering.await,
    };
    answered
        .unwrap_or_else(|_| status::of(&Error::Io("a bug in this server; see its log".into())).into_http())
}

/// The answer to a request that is no call.
fn refuse_other_than_grpc<B>(request: &Request<B>) -> Option<Response<RpcBody>> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    // Not those of gRPC-Web, or of messages in JSON.
    let is_grpc = content_type.is_some_and(|it| {
        let it = it.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        ["application/grpc", "application/grpc+proto"].contains(&it)
    });
    if is_grpc && request.method() == Method::POST {
        return None;
    }
    let why = "this port speaks gRPC: POST with the content type application/grpc. REST is on the node's own port\n";
    let body = Full::new(Bytes::from_static(why.as_bytes()));
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Some(response)
}

/// The time of `grpc-timeout`: up to eight digits and a unit.
fn timeout_of(text: &str) -> Result<Duration> {
    let wrong = || {
        Error::BadRequest(format!(
            "{TIMEOUT}: {text:?}: send up to eight digits and one of H, M, S, m (milliseconds), u, n"
        ))
    };
    let digits = text.get(..text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number).ok_or_else(wrong)?;
    match &text[digits.len()..] {
        "H" => Ok(Duration::from_secs(number * 3600)),
        "M" => Ok(Duration::from_secs(number * 60)),
        "S" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_millis(number)),
        "u" => Ok(Duration::from_micros(number)),
        "n" => Ok(Duration::from_nanos(number)),
        _ => Err(wrong()),
    }
}

fn log(method: &str, code: Option<Code>, took: Duration, caller: &Caller) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let (remote, id) = (caller.connection.remote, &*caller.request_id);
    let code = CODES[code.map_or(0, |code| code as usize)];
    let by = audit::by(&caller.principal, remote);
    let certificate = caller.connection.certificate();
    info!(target: "access", method, code, micros, by = &*by, certificate, %remote, id, "call");
    if matches!(code, "INTERNAL" | "DATA_LOSS" | "UNAVAILABLE") {
        warn!(method, code, micros, %remote, id, "answered");
    } else {
        debug!(method, code, micros, %remote, id, "answered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_handler_that_takes_too_long_or_panics_ends_with_a_status() {
        let code = |mut response: Response<TonicBody>| {
            status::take_code(response.headers_mut()).map(|(code, _)| code)
        };
        let soon = Instant::now() + Duration::from_millis(1);
        let waits: Answering = Box::pin(std::future::pending());
        assert_eq!(code(kept(waits, Some(soon)).await), Some(Code::DeadlineExceeded));
        let panics: Answering = Box::pin(async { panic!("a bug") });
        assert_eq!(code(kept(panics, None).await), Some(Code::Internal));
    }

    #[test]
    fn a_timeout_has_digits_and_a_unit_and_nothing_else() {
        for (text, expected) in [
            ("1S", Duration::from_secs(1)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("250m", Duration::from_millis(250)),
            ("0u", Duration::ZERO),
            ("2M", Duration::from_secs(120)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(timeout_of(text), Ok(expected), "{text}");
        }
        for text in ["", "S", "1", "1s", "-1S", "+1S", "123456789S", "1 S", "1Sx", "1\u{e9}", "\u{e9}"] {
            assert!(matches!(timeout_of(text), Err(Error::BadRequest(_))), "{text}");
        }
    }
}
