//! A request, before it is sent.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde::Serialize;

use crate::{
    answer::{Answer, Streaming},
    client::Client,
    error::Result,
    path,
};

/// A request. [`Client::request`] begins one; await [`Request::send`] or [`Request::stream`].
#[derive(Clone)]
pub struct Request {
    pub(crate) client: Client,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    /// The body; an error if it cannot be made.
    pub(crate) body: std::result::Result<Bytes, String>,
    pub(crate) limit: Option<Duration>,
    /// Whether a node that says it cannot serve this now is reason to ask another.
    pub(crate) fails_over: bool,
    pub(crate) repeat: Repeat,
}

/// What may be sent again when nobody knows what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// A read changes nothing.
    Read,
    /// A write that is to be made again.
    Repeatable,
    /// A write that is not.
    Once,
}

impl Request {
    pub(crate) fn new(client: Client, method: Method, path: String) -> Self {
        let is_read = method == Method::GET || method == Method::HEAD;
        Self {
            client,
            method,
            path,
            headers: Vec::new(),
            body: Ok(Bytes::new()),
            limit: None,
            fails_over: true,
            repeat: if is_read { Repeat::Read } else { Repeat::Once },
        }
    }

    /// Adds a parameter to the query.
    #[must_use]
    pub fn query(mut self, name: &'static str, value: impl ToString) -> Self {
        let (path, before) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let added = path::with_query("", &[(name, value.to_string())]);
        self.path = match before {
            "" => format!("{path}{added}"),
            before => format!("{path}?{before}&{}", &added[1..]),
        };
        self
    }

    /// Adds a header, in lower case.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The bytes of the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Ok(body.into());
        self
    }

    /// JSON for the body.
    #[must_use]
    pub fn json(mut self, value: &(impl Serialize + ?Sized)) -> Self {
        self.body =
            serde_json::to_vec(value).map(Bytes::from).map_err(|error| format!("this is no JSON: {error}"));
        self.header("content-type", "application/json")
    }

    /// How long the answer may take, instead of the client's timeout.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Takes the answer of the first node that gives one, even if that says another may be better.
    #[must_use]
    pub fn without_failover(mut self) -> Self {
        self.fails_over = false;
        self
    }

    /// Says what it is, where the method does not tell.
    #[must_use]
    pub(crate) fn repeat(mut self, repeat: Repeat) -> Self {
        self.repeat = repeat;
        self
    }

    pub(crate) fn is_repeatable(&self) -> bool {
        self.repeat != Repeat::Once
    }

    /// Sends it, and reads the answer to its end, whatever its status.
    ///
    /// # Errors
    /// `Unreachable`, `Unanswered` of a read, `OutcomeUnknown` of anything else, or `Invalid`.
    pub async fn send(self) -> Result<Answer> {
        self.client.ask(&self).await
    }

    /// Sends it, and returns the answer's head with a stream of its body, whatever its status. Each piece may take as long as the head.
    ///
    /// # Errors
    /// As [`Request::send`].
    pub async fn stream(self) -> Result<Streaming> {
        self.client.send(&self).await
    }
}
