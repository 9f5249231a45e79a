//! One connection to a node: HTTP/1.1, with or without TLS.

use std::{fmt, future::Future, io, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use crate::{
    endpoint::Endpoint,
    error::{Reason, Unreachable},
};

/// An open connection, which takes one request at a time.
pub struct Connection {
    requests: http1::SendRequest<Full<Bytes>>,
    /// The same socket, to look at.
    socket: std::net::TcpStream,
    /// The IP address and port at the other end.
    pub number: String,
}

/// Why a request got no answer.
pub enum Failure {
    /// It was not sent, so it can be sent again.
    NotSent(String),
    /// It may have reached the node.
    Sent(String),
}

impl Connection {
    /// Connects to a node; `limit` holds for the connection and for the TLS handshake.
    pub async fn open(endpoint: &Endpoint, limit: Duration) -> Result<Self, Unreachable> {
        let failed = |reason: Reason, why: &dyn fmt::Display| Unreachable {
            endpoint: endpoint.to_string(),
            reason,
            why: why.to_string(),
        };
        let no_connection = |why: &dyn fmt::Display| failed(Reason::NoConnection, why);
        let stream = within(limit, "no connection", TcpStream::connect(&endpoint.address)).await;
        let stream = stream.map_err(|why| no_connection(&why))?;
        // Requests are written whole; waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        let (stream, socket) = share(stream).map_err(|error| no_connection(&error))?;
        let number = stream.peer_addr().map_err(|error| no_connection(&error))?.to_string();
        let requests = match &endpoint.tls {
            None => begin(stream).await,
            Some(tls) => match timeout(limit, tls.handshake(stream)).await {
                Ok(Ok(stream)) => begin(stream).await,
                Ok(Err((reason, why))) => return Err(failed(reason, &why)),
                Err(_) => return Err(no_connection(&format_args!("no TLS handshake within {limit:?}"))),
            },
        };
        Ok(Self { requests: requests.map_err(|error| no_connection(&error))?, socket, number })
    }

    /// Whether the other end has closed it. A connection that is not in use has nothing to read but its end; the task that reads it may not
    /// have run since.
    pub fn is_closed(&self) -> bool {
        let has_nothing_to_read =
            self.socket.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        self.requests.is_closed() || !has_nothing_to_read
    }

    /// Sends a request and returns the head of the answer.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        if let Err(error) = self.requests.ready().await {
            return Err(Failure::NotSent(explain(&error)));
        }
        self.requests.try_send_request(request).await.map_err(|mut failed| {
            let why = explain(failed.error());
            match failed.take_message() {
                Some(_) => Failure::NotSent(why),
                None => Failure::Sent(why),
            }
        })
    }
}

/// The stream, and its socket once more.
fn share(stream: TcpStream) -> io::Result<(TcpStream, std::net::TcpStream)> {
    let stream = stream.into_std()?;
    let socket = stream.try_clone()?;
    Ok((TcpStream::from_std(stream)?, socket))
}

/// Runs `work` for at most `limit`; the error says what did not happen.
async fn within<T, E: fmt::Display>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match timeout(limit, work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("{what} within {limit:?}")),
    }
}

async fn begin(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> hyper::Result<http1::SendRequest<Full<Bytes>>> {
    let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The task ends with the connection, when nobody can send another request. Its errors also reach the request they end.
    tokio::spawn(connection);
    Ok(requests)
}

/// A failure of HTTP in words.
pub fn explain(error: &hyper::Error) -> String {
    if error.is_parse() { "what it sends is not HTTP".into() } else { error.to_string() }
}
