//! The answers of nodes: the head, and a body that is read whole or piece by piece.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use hyper::{
    HeaderMap, StatusCode,
    body::{Body, Incoming},
    header::HeaderName,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::time::{Instant, Sleep, sleep};

use crate::{
    client::Inner,
    connection::{self, Connection},
    error::{Error, Problem, Result},
    request::Repeat,
};

/// Longest answer we read whole. A page of a listing ends at about 8 MiB and one value, and a batch of 10,000 results is shorter.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// A whole answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The endpoint that gave it.
    pub endpoint: String,
    /// The path that was asked for, with its query.
    pub path: String,
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The same answer if its status is a success; otherwise the error that it means.
    ///
    /// # Errors
    /// `Refused` for a problem document, `NotANode` for anything else without success.
    pub fn success(self) -> Result<Self> {
        if self.status.is_success() {
            return Ok(self);
        }
        match Problem::parse(&self.endpoint, self.status.as_u16(), &self.body) {
            Some(problem) => Err(Error::Refused(Box::new(problem))),
            None => Err(self.not_a_node()),
        }
    }

    /// The body as JSON of this type.
    ///
    /// # Errors
    /// As [`Answer::success`]; `Decode` if the body is JSON of another type.
    pub fn json<T: DeserializeOwned>(self) -> Result<T> {
        let answer = self.success()?;
        serde_json::from_slice(&answer.body).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => {
                Error::Decode(format!("the answer to {} has another type: {error}", answer.path))
            }
            _ => answer.not_a_node(),
        })
    }

    /// The error for an answer that a node would not give.
    pub fn not_a_node(&self) -> Error {
        let members: Map<String, Value> = serde_json::from_slice(&self.body).unwrap_or_default();
        let detail = members.get("detail").and_then(Value::as_str).unwrap_or_default();
        Error::NotANode {
            endpoint: self.endpoint.clone(),
            status: self.status.as_u16(),
            detail: detail.to_owned(),
        }
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        text_of(&self.headers, name)
    }
}

/// An answer whose body comes piece by piece. The stream ends with the body, or with an error if nothing comes for as long as the answer
/// might have taken to begin.
pub struct Streaming {
    /// The endpoint that gives it.
    pub endpoint: String,
    pub(crate) path: String,
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    pub(crate) body: Incoming,
    /// Goes back to the idle ones at the end of the body.
    pub(crate) connection: Option<(Arc<Inner>, usize, Connection)>,
    pub(crate) repeat: Repeat,
    pub(crate) silence: Silence,
}

/// Ends a body of which nothing comes any more: the network may be cut without a word.
pub struct Silence {
    limit: Duration,
    /// Made by the first wait.
    timer: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
}

impl Silence {
    pub fn new(limit: Duration) -> Self {
        Self { limit, timer: None, is_waiting: false }
    }

    /// Ready once nothing has come for too long.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !std::mem::replace(&mut self.is_waiting, true) {
            timer.as_mut().reset(Instant::now() + limit);
        }
        timer.as_mut().poll(context)
    }
}

impl Streaming {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        text_of(&self.headers, name)
    }

    /// Ends with an error if nothing comes for so long.
    #[must_use]
    pub fn silence_limit(mut self, limit: Duration) -> Self {
        self.silence = Silence::new(limit);
        self
    }

    /// Reads the body to its end.
    ///
    /// # Errors
    /// `Unanswered` of a read, and `OutcomeUnknown` of a write, if the connection breaks, or no piece comes within `pause`.
    pub async fn collect(self, pause: Duration) -> Result<Answer> {
        let mut stream = self.silence_limit(pause);
        let mut body = BytesMut::new();
        while let Some(piece) = stream.next().await {
            body.extend_from_slice(&piece?);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(stream.unanswered(format!("the answer is longer than {ANSWER_BYTES_MAX} bytes")));
            }
        }
        let Self { endpoint, path, status, headers, .. } = stream;
        Ok(Answer { endpoint, path, status, headers, body: body.freeze() })
    }

    pub(crate) fn unanswered(&self, why: String) -> Error {
        Error::unanswered(self.repeat, &self.endpoint, &self.path, why)
    }
}

impl Stream for Streaming {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                ready!(self.silence.poll(context));
                self.connection = None;
                return Poll::Ready(Some(Err(
                    self.unanswered(format!("nothing came for {:?}", self.silence.limit))
                )));
            };
            self.silence.is_waiting = false;
            return match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Poll::Ready(Some(Ok(data))),
                    Err(_) => continue,
                },
                Some(Err(error)) => {
                    self.connection = None;
                    Poll::Ready(Some(Err(self.unanswered(connection::explain(&error)))))
                }
                None => {
                    if let Some((client, place, connection)) = self.connection.take() {
                        client.keep(place, connection);
                    }
                    Poll::Ready(None)
                }
            };
        }
    }
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(HeaderName::from_bytes(name.as_bytes()).ok()?)?.to_str().ok()
}
