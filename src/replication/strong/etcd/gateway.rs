//! The connections with etcd: HTTP/1.1 to the JSON gateway that each of its members has on its client port. A request goes to one member;
//! where that one cannot be reached, to the next.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{Request, Response, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tracing::{info, warn};

use super::messages::{Refused, WatchLine};

/// How long one member may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Longest answer: a page of rows, of which one may be as long as etcd takes.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Longest line of a watch: etcd puts the changes of up to a thousand revisions into one, which may be more than there is memory.
const LINE_BYTES_MAX: usize = 64 << 20;

/// What is said of a message that is too long, here as by gRPC.
pub const TOO_LARGE: &str = "larger than max";
/// The statuses of gRPC with which nothing was done.
const INVALID_ARGUMENT: u32 = 3;
const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
const FAILED_PRECONDITION: u32 = 9;
const OUT_OF_RANGE: u32 = 11;
const UNIMPLEMENTED: u32 = 12;
const UNAUTHENTICATED: u32 = 16;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No member could be reached, or the one that was has no leader: nothing was done.
    Unreachable(String),
    /// It was refused: nothing was done, and nothing will be if it is sent again.
    Refused(String),
    /// It was sent, and what became of it is unknown.
    Unknown(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) | Self::Refused(why) | Self::Unknown(why) => f.write_str(why),
        }
    }
}

/// The members of an etcd, and whether they answer. Clones share it.
#[derive(Clone)]
pub struct Etcd(Arc<Inner>);

struct Inner {
    endpoints: Vec<String>,
    /// The member that new connections try first.
    first: AtomicUsize,
    answers: AtomicBool,
    /// Since when it has not answered, and why.
    silence: Mutex<Option<(Instant, String)>>,
}

impl Etcd {
    /// The members that listen here.
    pub fn new(endpoints: &[String]) -> Self {
        assert!(!endpoints.is_empty(), "an etcd has an address");
        Self(Arc::new(Inner {
            endpoints: endpoints.to_vec(),
            first: AtomicUsize::new(0),
            answers: AtomicBool::new(false),
            silence: Mutex::default(),
        }))
    }

    /// Where its members listen.
    pub fn endpoints(&self) -> &[String] {
        &self.0.endpoints
    }

    /// Whether it answered last time.
    pub fn answers(&self) -> bool {
        self.0.answers.load(Ordering::Relaxed)
    }

    /// For how long it has not answered, and why.
    pub fn silence(&self) -> Option<(Duration, String)> {
        let silence = self.0.silence.lock().unwrap_or_else(PoisonError::into_inner);
        silence.as_ref().map(|(since, why)| (since.elapsed(), why.clone()))
    }

    /// The next connection tries another member first.
    pub fn turn(&self) {
        self.0.first.fetch_add(1, Ordering::Relaxed);
    }

    fn note_answer(&self) {
        if !self.0.answers.swap(true, Ordering::Relaxed) {
            info!(endpoints = self.endpoints().join(","), "etcd answers");
        }
        *self.0.silence.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn note_silence(&self, why: &str) {
        let mut silence = self.0.silence.lock().unwrap_or_else(PoisonError::into_inner);
        if silence.is_none() {
            warn!(
                why,
                "etcd does not answer: strong tables take no writes, and no reads without ?read=stale"
            );
            *silence = Some((Instant::now(), why.to_owned()));
        }
        self.0.answers.store(false, Ordering::Relaxed);
    }

    /// Connects to the first member that can be reached.
    async fn connect(&self) -> Result<Connection, Failure> {
        let endpoints = self.endpoints();
        let first = self.0.first.load(Ordering::Relaxed);
        let mut last = String::new();
        for turn in 0..endpoints.len() {
            let endpoint = &endpoints[(first + turn) % endpoints.len()];
            match connect(endpoint).await {
                Ok(connection) => {
                    self.0.first.store((first + turn) % endpoints.len(), Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(why) => last = format!("etcd at {endpoint} cannot be reached: {why}"),
            }
        }
        Err(Failure::Unreachable(last))
    }
}

struct Connection {
    host: String,
    requests: http1::SendRequest<Full<Bytes>>,
}

async fn connect(endpoint: &str) -> Result<Connection, String> {
    let stream = timeout(CONNECT_MAX, TcpStream::connect(endpoint)).await;
    let stream = stream.map_err(|_| format!("no connection within {CONNECT_MAX:?}"))?;
    let stream = stream.map_err(|error| error.to_string())?;
    // Requests are small, and each waits for its answer.
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (requests, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        // Whoever waits for an answer sees it end.
        let _ = connection.await;
    });
    Ok(Connection { host: endpoint.to_owned(), requests })
}

/// A connection for one request at a time, made anew when it is lost.
pub struct Channel {
    etcd: Etcd,
    connection: Option<Connection>,
}

impl Channel {
    /// A channel to this etcd.
    pub fn new(etcd: &Etcd) -> Self {
        Self { etcd: etcd.clone(), connection: None }
    }

    /// Sends a request, and returns the answer. Never sends it twice.
    ///
    /// # Errors
    /// The failure.
    pub async fn call<A: DeserializeOwned>(
        &mut self,
        path: &str,
        request: &impl Serialize,
        until: Instant,
    ) -> Result<A, Failure> {
        let answered = self.exchange(path, request, until).await;
        match &answered {
            Ok(_) | Err(Failure::Refused(_)) => self.etcd.note_answer(),
            Err(Failure::Unreachable(why) | Failure::Unknown(why)) => {
                self.connection = None;
                self.etcd.turn();
                self.etcd.note_silence(why);
            }
        }
        let bytes = answered?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Failure::Unknown(format!("etcd gave an answer that cannot be read: {error}")))
    }

    async fn exchange(
        &mut self,
        path: &str,
        request: &impl Serialize,
        until: Instant,
    ) -> Result<Bytes, Failure> {
        let response = self.send(path, request, until).await?;
        let status = response.status();
        let body = timeout_at(until, Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect()).await;
        let late = || Failure::Unknown("etcd did not finish its answer in time".into());
        let body = body.map_err(|_| late())?;
        let bytes = body.map_err(|error| unread(&*error))?.to_bytes();
        match status {
            StatusCode::OK => Ok(bytes),
            _ => Err(refusal(status, &bytes)),
        }
    }

    /// Sends a request, over a new connection if the old one was closed meanwhile.
    async fn send(
        &mut self,
        path: &str,
        request: &impl Serialize,
        until: Instant,
    ) -> Result<Response<Incoming>, Failure> {
        let body = Bytes::from(serde_json::to_vec(request).expect("a request can be encoded"));
        loop {
            let late = |_| Failure::Unreachable("etcd was not reached in time".into());
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => timeout_at(until, self.etcd.connect()).await.map_err(late)??,
            };
            // Nothing is sent yet.
            if connection.requests.ready().await.is_err() {
                continue;
            }
            let request = Request::post(path)
                .header(header::HOST, &connection.host)
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(body.clone()))
                .expect("a path and headers of ours");
            match timeout_at(until, connection.requests.try_send_request(request)).await {
                Ok(Ok(response)) => {
                    self.connection = Some(connection);
                    return Ok(response);
                }
                // It was not sent: the connection was closed while it was idle.
                Ok(Err(mut error)) if error.message().is_some() => drop(error.take_message()),
                Ok(Err(error)) => {
                    return Err(Failure::Unknown(format!(
                        "the connection with etcd broke: {}",
                        error.error()
                    )));
                }
                Err(_) => return Err(Failure::Unknown("etcd did not answer in time".into())),
            }
        }
    }

    /// Starts a watch on a connection of its own.
    ///
    /// # Errors
    /// The failure.
    pub async fn watch(mut self, request: &impl Serialize, until: Instant) -> Result<Lines, Failure> {
        let response = self.send("/v3/watch", request, until).await?;
        let connection = self.connection.take();
        match response.status() {
            StatusCode::OK => Ok(Lines {
                body: response.into_body(),
                read: BytesMut::new(),
                searched: 0,
                _connection: connection,
            }),
            status => Err(refusal(status, &[])),
        }
    }
}

/// Why an answer was not read to its end.
fn unread(error: &(dyn std::error::Error + 'static)) -> Failure {
    match error.is::<LengthLimitError>() {
        true => Failure::Refused(format!("the answer is {TOO_LARGE} {ANSWER_BYTES_MAX} bytes")),
        false => Failure::Unknown(format!("the answer of etcd broke off: {error}")),
    }
}

/// What a status other than 200 means.
fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let refused: Refused = serde_json::from_slice(body).unwrap_or_default();
    let why = match refused.message.is_empty() {
        true => format!("it answered {status}; is it an etcd of version 3.4 or newer?"),
        false => refused.message,
    };
    match refused.code {
        // Told before anything is proposed.
        _ if why.ends_with("etcdserver: no leader") => Failure::Unreachable(why),
        INVALID_ARGUMENT | PERMISSION_DENIED | RESOURCE_EXHAUSTED | FAILED_PRECONDITION | OUT_OF_RANGE
        | UNIMPLEMENTED | UNAUTHENTICATED => Failure::Refused(why),
        0 if status == StatusCode::NOT_FOUND => Failure::Refused(why),
        _ => Failure::Unknown(why),
    }
}

/// Why a watch ended.
#[derive(Debug)]
pub enum Broken {
    /// The connection, or etcd, ended it.
    Ended(String),
    /// A line is longer than this node takes.
    TooLong,
}

/// The lines of a watch.
pub struct Lines {
    body: Incoming,
    read: BytesMut,
    /// No line ends in this many of the bytes read.
    searched: usize,
    /// The watch ends with it.
    _connection: Option<Connection>,
}

impl Lines {
    /// The next line. Cancelling this loses nothing.
    ///
    /// # Errors
    /// Why the watch ended.
    pub async fn next(&mut self) -> Result<WatchLine, Broken> {
        loop {
            if let Some(end) = self.read[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(self.searched + end + 1);
                self.searched = 0;
                return serde_json::from_slice(&line)
                    .map_err(|error| Broken::Ended(format!("a line that cannot be read: {error}")));
            }
            self.searched = self.read.len();
            if self.searched > LINE_BYTES_MAX {
                return Err(Broken::TooLong);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.read.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(error)) => return Err(Broken::Ended(error.to_string())),
                None => return Err(Broken::Ended("etcd ended it".into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_etcd_surely_did_not_do_counts_as_not_done() {
        let of = |status: u16, message: &str, code: u32| {
            let body = format!(r#"{{"error":"{message}","message":"{message}","code":{code}}}"#);
            refusal(StatusCode::from_u16(status).expect("a status"), body.as_bytes())
        };
        let timed_out = "etcdserver: request timed out, possibly due to previous leader failure";
        assert!(matches!(of(503, timed_out, 14), Failure::Unknown(_)));
        assert!(matches!(of(503, "etcdserver: server stopped", 14), Failure::Unknown(_)));
        assert!(matches!(of(500, "anything", 2), Failure::Unknown(_)));
        assert!(matches!(of(503, "etcdserver: no leader", 14), Failure::Unreachable(_)));
        assert!(matches!(of(400, "etcdserver: too many operations in txn request", 3), Failure::Refused(_)));
        assert!(matches!(of(429, "etcdserver: mvcc: database space exceeded", 8), Failure::Refused(_)));
        assert!(matches!(refusal(StatusCode::NOT_FOUND, b"404 page not found"), Failure::Refused(_)));
        assert!(matches!(refusal(StatusCode::BAD_GATEWAY, b""), Failure::Unknown(_)));
    }
}
