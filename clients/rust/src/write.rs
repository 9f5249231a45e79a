//! Writes of one key: what they do, on what condition, until when, and on how many replicas.

use std::{
    future::{Future, IntoFuture},
    marker::PhantomData,
    pin::Pin,
    time::Duration,
};

use hyper::Method;
use serde::Serialize;

use crate::{
    client::Client,
    entry::{Version, Written},
    error::{Code, Error, Result},
    request::{Repeat, Request},
};

/// How many replicas hold a write before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replicas {
    /// So many, the node that takes the write included.
    AtLeast(usize),
    /// More than half of the members.
    Majority,
    /// Every member.
    All,
}

impl Replicas {
    fn to_text(self) -> String {
        match self {
            Self::AtLeast(count) => count.to_string(),
            Self::Majority => "majority".into(),
            Self::All => "all".into(),
        }
    }
}

/// A duration as the nodes read it.
pub fn duration(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// A write of one key, not sent yet: set what it needs, then await it. `R` is what it gives.
#[must_use = "a write does nothing until it is awaited"]
pub struct Write<R> {
    request: Request,
    result: PhantomData<fn() -> R>,
}

impl<R: Outcome> Write<R> {
    pub(crate) fn new(client: Client, method: Method, path: String) -> Self {
        let may_repeat = client.inner.retries_writes && (method == Method::PUT || method == Method::DELETE);
        let request = Request::new(client, method, path);
        let request = if may_repeat { request.repeat(Repeat::Repeatable) } else { request };
        Self { request, result: PhantomData }
    }

    pub(crate) fn json(self, value: &(impl Serialize + ?Sized), content_type: &'static str) -> Self {
        let Self { request, result } = self;
        Self { request: request.json(value).header("content-type", content_type), result }
    }

    /// The value expires after so long. Not for deletes.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.query("ttl", duration(ttl))
    }

    /// The value expires at this instant, in Unix milliseconds. Not for deletes.
    pub fn expires_at(self, unix_ms: u64) -> Self {
        self.query("expires_at", unix_ms)
    }

    /// Only if the key is absent.
    pub fn if_absent(self) -> Self {
        self.condition("if-none-match", "*".into())
    }

    /// Only if the key is present.
    pub fn if_present(self) -> Self {
        self.condition("if-match", "*".into())
    }

    /// Only over this version.
    pub fn if_version(self, version: &Version) -> Self {
        self.condition("if-match", format!("\"{version}\""))
    }

    /// Only over any other version than this one.
    pub fn unless_version(self, version: &Version) -> Self {
        self.condition("if-none-match", format!("\"{version}\""))
    }

    /// Answered once so many replicas hold it. Not for strong tables.
    pub fn replicas(self, replicas: Replicas) -> Self {
        self.query("w", replicas.to_text())
    }

    /// How long to wait for the replicas. Default 5 s, at most 60 s.
    pub fn replicas_timeout(self, limit: Duration) -> Self {
        self.query("w_timeout", duration(limit))
    }

    /// Any other parameter of the route.
    pub fn query(mut self, name: &'static str, value: impl ToString) -> Self {
        self.request = self.request.query(name, value);
        self
    }

    fn condition(mut self, name: &'static str, value: String) -> Self {
        // A condition that held the first time would fail the second.
        self.request = self.request.header(name, value).repeat(Repeat::Once);
        self
    }
}

impl<R: Outcome> IntoFuture for Write<R> {
    type Output = Result<R>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<R>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { R::of(self.request.client.ask(&self.request).await?.success()) })
    }
}

/// What a write gives.
pub trait Outcome: Sized + Send + 'static {
    /// The outcome of this answer.
    #[doc(hidden)]
    fn of(answer: Result<crate::Answer>) -> Result<Self>;
}

impl Outcome for Written {
    fn of(answer: Result<crate::Answer>) -> Result<Self> {
        let answer = answer?;
        let created = answer.header("dynarust-created") == Some("true");
        Ok(Self { created, ..answer.json::<Self>()? })
    }
}

/// The version of the tombstone; `None` if the key was absent already.
impl Outcome for Option<Version> {
    fn of(answer: Result<crate::Answer>) -> Result<Self> {
        match answer {
            Ok(answer) => match answer.header("dynarust-version") {
                Some(version) => Ok(Some(Version::from(version))),
                None => Err(Error::Decode(format!("the answer to {} has no version", answer.path))),
            },
            Err(error) if error.code() == Some(&Code::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
