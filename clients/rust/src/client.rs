//! The client: endpoints, idle connections, and the way of a request to the endpoint that answers.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request as HttpRequest, StatusCode,
    header::{self, HeaderMap, HeaderValue},
};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use crate::{
    answer::{Answer, Silence, Streaming},
    connection::{Connection, Failure},
    endpoint::Endpoint,
    error::{Code, Error, Problem, Result, Unreachable},
    request::Request,
    table::Table,
};

/// How long a connection and its TLS handshake may each take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take by default. Longer than `w_timeout` by default, and than a strong table's writes take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Most connections that are kept idle. More are closed after use.
const IDLE_CONNECTIONS_MAX: usize = 32;

/// How long a connection may be idle: less than the node's own limit (75 s by default), so that it does not close one that is just used.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// A client of a node, or of the nodes of a cluster. Cheap to clone; clones share their connections.
///
/// It connects when it has something to ask. If an endpoint cannot be connected, or its node says that it cannot serve the request now, or
/// that what it has on disk is damaged, the client asks the next one. A read that may have been received is sent to the next one too. A write is not, because it might be made twice,
/// and the second time over a later write of somebody else: it ends with [`Error::OutcomeUnknown`]. See [`Builder::retry_writes`].
///
/// Dropping the future of a call closes its connection.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

/// What the clones of a client share.
pub struct Inner {
    places: Vec<Place>,
    /// The place that answered last.
    current: AtomicUsize,
    idle: Mutex<Vec<Idle>>,
    token: Option<HeaderValue>,
    pub(crate) retries_writes: bool,
    timeout: Duration,
    connect_timeout: Duration,
}

struct Idle {
    place: usize,
    connection: Connection,
    since: Instant,
}

struct Place {
    endpoint: Endpoint,
    /// Whether the node does not know itself by the name in the endpoint, and is asked by its IP address. It checks the `Host` header to
    /// keep out web pages, which we are not.
    is_asked_by_number: AtomicBool,
}

/// The settings of a client.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    endpoints: Vec<String>,
    ready: Vec<Endpoint>,
    trusted: Option<Vec<CertificateDer<'static>>>,
    token: Option<String>,
    retries_writes: bool,
    timeout: Option<Duration>,
    connect_timeout: Option<Duration>,
}

impl Builder {
    /// Adds an endpoint as text: `host:port`, `http://host:port` or `https://host:port`; several, separated by commas.
    #[must_use]
    pub fn endpoint(mut self, text: impl Into<String>) -> Self {
        self.endpoints.push(text.into());
        self
    }

    /// Adds an endpoint.
    #[must_use]
    pub fn with(mut self, endpoint: Endpoint) -> Self {
        self.ready.push(endpoint);
        self
    }

    /// Trusts these certificates for HTTPS, and those they signed, instead of the system's. [`crate::certificates`] reads them from a file.
    #[must_use]
    pub fn trust(mut self, certificates: Vec<CertificateDer<'static>>) -> Self {
        self.trusted = Some(certificates);
        self
    }

    /// Sends this token as `Authorization: Bearer` with every request.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Whether a put or delete without a condition is sent again when the connection broke and nobody knows whether it was made. Default
    /// false: such a call gives [`Error::OutcomeUnknown`], as every other write does. With true it may undo what others wrote in between.
    #[must_use]
    pub fn retry_writes(mut self, retries_writes: bool) -> Self {
        self.retries_writes = retries_writes;
        self
    }

    /// How long an answer, or the next piece of one, may take. Default 30 s. A stream may take as long as it goes on.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// How long a connection may take. Default 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = Some(limit);
        self
    }

    /// The client. It does not connect yet.
    ///
    /// # Errors
    /// `Invalid` without an endpoint, for one that is none, or a token that cannot stand in a header.
    pub fn build(self) -> Result<Client> {
        let texts = self.endpoints.iter().flat_map(|text| text.split(',')).map(str::trim);
        let parsed = texts.map(|text| Endpoint::parse(text, self.trusted.as_deref()));
        let endpoints = self.ready.into_iter().map(Ok).chain(parsed).collect::<Result<Vec<_>>>()?;
        if endpoints.is_empty() {
            return Err(Error::Invalid("a client needs an endpoint".into()));
        }
        let token = self.token.map(|token| {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| Error::Invalid("the token has characters that no token has".into()))?;
            value.set_sensitive(true);
            Ok(value)
        });
        let place = |endpoint| Place { endpoint, is_asked_by_number: AtomicBool::new(false) };
        let inner = Inner {
            places: endpoints.into_iter().map(place).collect(),
            current: AtomicUsize::new(0),
            idle: Mutex::new(Vec::new()),
            token: token.transpose()?,
            retries_writes: self.retries_writes,
            timeout: self.timeout.unwrap_or(TIMEOUT),
            connect_timeout: self.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
        };
        Ok(Client { inner: Arc::new(inner) })
    }
}

impl Client {
    /// A client of the node at `endpoint`: `host:port`, `http://host:port` or `https://host:port`; of several, separated by commas.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn new(endpoint: impl Into<String>) -> Result<Self> {
        Self::builder().endpoint(endpoint).build()
    }

    /// The settings of a client.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A table. It is there as soon as it is written to.
    pub fn table(&self, name: impl Into<String>) -> Table {
        Table::new(self.clone(), name.into())
    }

    /// The endpoints, in the order they were given.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.inner.places.iter().map(|place| &place.endpoint)
    }

    /// The endpoint that answered last; the first before any did.
    pub fn current_endpoint(&self) -> &Endpoint {
        &self.inner.places[self.inner.current.load(Ordering::Relaxed)].endpoint
    }

    /// Any request, for routes that have no call of their own.
    pub fn request(&self, method: Method, path: impl Into<String>) -> Request {
        Request::new(self.clone(), method, path.into())
    }

    /// Whether it presents a token.
    pub fn has_token(&self) -> bool {
        self.inner.token.is_some()
    }

    /// How long an answer, or the next piece of one, may take.
    pub fn timeout(&self) -> Duration {
        self.inner.timeout
    }

    /// Goes to the next endpoint; for streams that ended.
    pub(crate) fn move_on_from(&self, endpoint: &str) {
        let places = &self.inner.places;
        let current = self.inner.current.load(Ordering::Relaxed);
        // Somebody else may have moved on already.
        if places[current].endpoint.to_string() == endpoint {
            self.inner.current.store((current + 1) % places.len(), Ordering::Relaxed);
        }
    }

    /// Sends a request to the first endpoint that takes it, beginning with the one that answered last, and returns the head of the answer.
    pub(crate) async fn send(&self, request: &Request) -> Result<Streaming> {
        let first = self.inner.current.load(Ordering::Relaxed);
        let count = self.inner.places.len();
        let mut unreachable = Vec::new();
        let mut refused = None;
        for step in 0..count {
            let place = (first + step) % count;
            let is_last = step + 1 == count;
            match self.send_to(place, request).await {
                Ok(answer) if !is_last && request.fails_over && may_be_passed_on(answer.status) => {
                    let answer = answer.collect(self.timeout()).await?;
                    let problem = Problem::parse(&answer.endpoint, answer.status.as_u16(), &answer.body);
                    match problem {
                        Some(problem) if problem.is_for_another_node(request.is_repeatable()) => {
                            refused = Some(problem);
                        }
                        Some(problem) => return Err(Error::Refused(Box::new(problem))),
                        None => return Err(answer.not_a_node()),
                    }
                }
                Ok(answer) => {
                    self.inner.current.store(place, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(Missed::Unreachable(why)) => unreachable.push(why),
                Err(Missed::Unanswered(_)) if request.is_repeatable() && !is_last => {}
                Err(Missed::Unanswered(error)) => {
                    // The next request need not wait for the same node in vain.
                    self.move_on_from(&self.inner.places[place].endpoint.to_string());
                    return Err(error);
                }
            }
        }
        match refused {
            // A node said why; that others cannot be reached is less to the point.
            Some(problem) => Err(Error::Refused(Box::new(problem))),
            None => Err(Error::Unreachable(unreachable)),
        }
    }

    /// Sends a request to one endpoint, by its IP address if its node does not know itself by the name.
    async fn send_to(&self, place: usize, request: &Request) -> std::result::Result<Streaming, Missed> {
        let by_number = &self.inner.places[place].is_asked_by_number;
        let answer = self.send_once(place, request).await?;
        if answer.status == StatusCode::MISDIRECTED_REQUEST && !by_number.load(Ordering::Relaxed) {
            by_number.store(true, Ordering::Relaxed);
            // Read to its end, so that the connection can be used again.
            let _ = answer.collect(self.timeout()).await;
            return self.send_once(place, request).await;
        }
        Ok(answer)
    }

    /// Sends a request over an idle connection, or over a new one if there is none that works.
    async fn send_once(&self, place: usize, request: &Request) -> std::result::Result<Streaming, Missed> {
        let endpoint = &self.inner.places[place].endpoint;
        let limit = request.limit.unwrap_or(self.inner.timeout);
        let unanswered = |why: String| {
            Missed::Unanswered(Error::unanswered(request.repeat, &endpoint.to_string(), &request.path, why))
        };
        loop {
            let idle = self.inner.take_idle(place);
            let is_idle = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                None => Connection::open(endpoint, self.inner.connect_timeout)
                    .await
                    .map_err(Missed::Unreachable)?,
            };
            let message = self.message(place, &connection, request).map_err(Missed::Unanswered)?;
            let why = match timeout(limit, connection.send(message)).await {
                Ok(Ok(response)) => {
                    let (head, body) = response.into_parts();
                    return Ok(Streaming {
                        endpoint: endpoint.to_string(),
                        path: request.path.clone(),
                        status: head.status,
                        headers: head.headers,
                        body,
                        connection: Some((Arc::clone(&self.inner), place, connection)),
                        repeat: request.repeat,
                        silence: Silence::new(limit),
                    });
                }
                // The node closes a connection that is idle for long, perhaps right now.
                Ok(Err(Failure::NotSent(_))) if is_idle => continue,
                Ok(Err(Failure::Sent(_))) if is_idle && request.is_repeatable() => continue,
                Ok(Err(Failure::NotSent(why) | Failure::Sent(why))) => why,
                Err(_) => format!("no answer within {limit:?}"),
            };
            return Err(unanswered(why));
        }
    }

    fn message(
        &self,
        place: usize,
        connection: &Connection,
        request: &Request,
    ) -> Result<HttpRequest<Full<Bytes>>> {
        let place = &self.inner.places[place];
        let host = match place.is_asked_by_number.load(Ordering::Relaxed) {
            true => &connection.number,
            false => &place.endpoint.address,
        };
        let invalid = |error: &dyn std::fmt::Display| Error::Invalid(format!("{}: {error}", request.path));
        let body = request.body.clone().map_err(Error::Invalid)?;
        let mut message = HttpRequest::builder().method(request.method.clone()).uri(&request.path);
        let headers: &mut HeaderMap = message.headers_mut().ok_or_else(|| invalid(&"this is not a path"))?;
        headers.insert(header::HOST, HeaderValue::try_from(host).map_err(|error| invalid(&error))?);
        if let Some(token) = &self.inner.token {
            headers.insert(header::AUTHORIZATION, token.clone());
        }
        for (name, value) in &request.headers {
            headers.insert(*name, HeaderValue::try_from(value).map_err(|error| invalid(&error))?);
        }
        message.body(Full::new(body)).map_err(|error| invalid(&error))
    }

    /// Sends a request and reads the answer to its end.
    pub(crate) async fn ask(&self, request: &Request) -> Result<Answer> {
        let limit = request.limit.unwrap_or(self.inner.timeout);
        self.send(request).await?.collect(limit).await
    }

    /// Asks for JSON; `None` if the node answers that it is not there.
    pub(crate) async fn ask_if_there(&self, request: &Request) -> Result<Option<Answer>> {
        match self.ask(request).await?.success() {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.code() == Some(&Code::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether an answer of this status may be one that another node need not give.
fn may_be_passed_on(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::INSUFFICIENT_STORAGE
    )
}

/// Why an endpoint gave no answer.
enum Missed {
    /// It did not get the request.
    Unreachable(Unreachable),
    /// It may have got the request.
    Unanswered(Error),
}

impl Inner {
    /// Keeps a connection for the next request.
    pub(crate) fn keep(&self, place: usize, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_CONNECTIONS_MAX && !connection.is_closed() {
            idle.push(Idle { place, connection, since: Instant::now() });
        }
    }

    fn take_idle(&self, place: usize) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|one| !one.connection.is_closed() && one.since.elapsed() < IDLE_MAX);
        let found = idle.iter().rposition(|one| one.place == place)?;
        Some(idle.swap_remove(found).connection)
    }
}
