//! Exports and imports: rows as lines of JSON.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use hyper::Method;
use serde::Deserialize;

use crate::{
    answer::Streaming,
    client::Client,
    error::{Error, Result},
};

/// Longest line of an export that we hold. A row has at most a few MiB.
const LINE_BYTES_MAX: usize = 64 << 20;

/// An export, not begun yet: of all tables, or of what its settings say.
#[must_use = "an export does nothing until it is begun"]
#[derive(Clone)]
pub struct Exporting {
    client: Client,
    query: Vec<(&'static str, String)>,
}

impl Exporting {
    /// Only this table.
    pub fn table(self, name: impl Into<String>) -> Self {
        self.query("table", name.into())
    }

    /// Only keys that begin with this.
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        self.query("prefix", prefix.into())
    }

    /// Only keys at or above this one.
    pub fn start(self, key: impl Into<String>) -> Self {
        self.query("start", key.into())
    }

    /// Only keys below this one.
    pub fn end(self, key: impl Into<String>) -> Self {
        self.query("end", key.into())
    }

    /// Reads what one node has of strong tables, without asking the leader.
    pub fn stale(self) -> Self {
        self.query("read", "stale".into())
    }

    fn query(mut self, name: &'static str, value: String) -> Self {
        self.query.push((name, value));
        self
    }

    /// Begins it.
    ///
    /// # Errors
    /// As any request.
    pub async fn begin(self) -> Result<Export> {
        let path = crate::path::with_query("/_/export", &self.query);
        let answer = self.client.send(&self.client.request(Method::GET, path)).await?;
        if !answer.status.is_success() {
            let limit = self.client.timeout();
            answer.collect(limit).await?.success()?;
            return Err(Error::Incomplete("the node exports nothing".into()));
        }
        let rows = answer.header("dynarust-total-keys").and_then(|count| count.parse().ok());
        Ok(Export { rows, answer, buffer: BytesMut::new(), searched: 0, is_over: false, last: None })
    }
}

/// The lines of an export, each without its LF: a first line with the format, a line for each row, and a last one with their hash. A stream
/// that ends without an error is whole. It ends with `Unanswered` if nothing comes for as long as the client's timeout.
pub struct Export {
    /// About how many rows follow; `None` for a part of a table.
    pub rows: Option<u64>,
    answer: Streaming,
    buffer: BytesMut,
    searched: usize,
    is_over: bool,
    last: Option<Bytes>,
}

/// What the last line of an export, or the line of its failure, says.
#[derive(Deserialize)]
struct LastLine {
    #[serde(default)]
    end: bool,
    error: Option<String>,
    detail: Option<String>,
}

impl Export {
    fn take_line(&mut self) -> Option<Bytes> {
        let length = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
        match length {
            Some(length) => {
                let mut line = self.buffer.split_to(self.searched + length + 1);
                line.truncate(line.len() - 1);
                self.searched = 0;
                Some(line.freeze())
            }
            None => {
                self.searched = self.buffer.len();
                None
            }
        }
    }

    /// The error at the end of the body, unless the last line is that of a whole export.
    fn failure(&mut self) -> Option<Error> {
        let last: Option<LastLine> = self.last.take().and_then(|line| serde_json::from_slice(&line).ok());
        match last {
            Some(last) if last.end => None,
            Some(LastLine { error: Some(code), detail, .. }) => Some(Error::Incomplete(format!(
                "the export is not whole: {code}: {}",
                detail.unwrap_or_default()
            ))),
            Some(_) | None => Some(Error::Incomplete("the export was cut off".into())),
        }
    }
}

impl Stream for Export {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(line) = self.take_line() {
                self.last = Some(line.clone());
                return Poll::Ready(Some(Ok(line)));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            match ready!(self.answer.poll_next_unpin(context)) {
                Some(Ok(piece)) => self.buffer.extend_from_slice(&piece),
                Some(Err(error)) => {
                    self.is_over = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.is_over = true;
                    return Poll::Ready(self.failure().map(Err));
                }
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                self.is_over = true;
                self.buffer.clear();
                return Poll::Ready(Some(Err(Error::Incomplete("a line of the export is too long".into()))));
            }
        }
    }
}

/// An import, not sent yet.
#[must_use = "an import does nothing until it is awaited"]
#[derive(Clone)]
pub struct Import {
    client: Client,
    rows: Bytes,
    query: Vec<(&'static str, String)>,
}

/// What an import did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Imported {
    /// Rows that were written.
    pub written: u64,
    /// Rows that lost against a later write, or were there already.
    pub skipped: u64,
}

impl Import {
    /// Rows that name no table go into this one.
    pub fn table(self, name: impl Into<String>) -> Self {
        self.query("table", name.into())
    }

    /// Rows are new writes of now, and win over what is there. Otherwise they keep their versions.
    pub fn as_new_writes(self) -> Self {
        self.query("mode", "new".into())
    }

    /// Any other parameter of the route.
    pub fn query(mut self, name: &'static str, value: String) -> Self {
        self.query.push((name, value));
        self
    }

    /// How long it may take, beside the client's timeout.
    fn limit(&self) -> Duration {
        // A node commits about 10,000 rows, or a few MiB, a second on a slow disk.
        let seconds = u64::try_from(self.rows.len() >> 20).unwrap_or(u64::MAX);
        self.client.timeout().saturating_add(Duration::from_secs(seconds))
    }
}

impl IntoFuture for Import {
    type Output = Result<Imported>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let limit = self.limit();
            let path = crate::path::with_query("/_/import", &self.query);
            let request = self.client.request(Method::POST, path).body(self.rows).timeout(limit);
            self.client.ask(&request).await?.json()
        })
    }
}

impl Client {
    /// An export of all tables, or of a part.
    pub fn export(&self) -> Exporting {
        Exporting { client: self.clone(), query: Vec::new() }
    }

    /// Imports rows: lines of JSON, as an export has them. Rows with a `version` can be imported twice without a change.
    pub fn import(&self, rows: impl Into<Bytes>) -> Import {
        Import { client: self.clone(), rows: rows.into(), query: Vec::new() }
    }
}
