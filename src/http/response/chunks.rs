//! Streamed responses, produced piece by piece as the client reads, so that memory stays flat however long they are.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use hyper::header::HeaderValue;
use tracing::warn;
use warp::{Reply, reply::Response};

use crate::{
    error::{Error, Result},
    http::{
        request::budget::{Budget, SCARCE_BYTES_MAX, attach},
        response,
    },
};

/// Memory for the chunk in preparation: about one page of rows. There is that much where memory is scarce, too.
const PENDING_CHUNK_BYTES: u64 = SCARCE_BYTES_MAX;
/// How long to wait before aborting a response that only lacks unreadable keys. Aborting at once would discard what is not yet written to
/// the connection.
const ABORT_DELAY: Duration = Duration::from_secs(1);

/// One piece of a response.
pub struct Chunk {
    /// Its size in bytes.
    pub bytes: Vec<u8>,
    /// Whether it is the last one.
    pub last: bool,
}

/// The source of a streamed response. Asked for a chunk only when the client has room for it.
pub trait Chunks: Send + 'static {
    /// The next chunk. Not called again after the last one or an error.
    fn next(&mut self) -> impl Future<Output = Result<Chunk>> + Send;

    /// Whether it is already known that the response will be incomplete.
    fn is_incomplete(&self) -> bool {
        false
    }
}

/// A 200 made of all chunks. We produce the first chunk before the head, so that an early failure still gets its own status, and a short
/// response its length. A later failure aborts the connection, so that the client sees that the response is incomplete.
///
/// Each chunk is reserved in `budget` until it is written, plus `PENDING_CHUNK_BYTES` for the one in preparation. A response that has begun
/// continues however much memory others take.
///
/// # Errors
/// Those of the first chunk; `Overloaded` if there is no memory for it.
pub async fn answer(
    budget: &Arc<Budget>,
    content_type: HeaderValue,
    mut chunks: impl Chunks,
) -> Result<Response> {
    let pending = budget.reserve(PENDING_CHUNK_BYTES)?;
    let first = chunks.next().await?;
    let incomplete = chunks.is_incomplete();
    if first.last {
        return Ok(response::with_type(content_type, first.bytes));
    }
    let reservation = budget.force_reserve(first.bytes.len() as u64);
    let first = attach(first.bytes.into(), reservation);
    let rest = stream::unfold(Some((chunks, pending)), |state| async {
        let (mut chunks, pending) = state?;
        match chunks.next().await {
            Ok(Chunk { bytes, last }) => {
                let reservation = pending.budget().force_reserve(bytes.len() as u64);
                Some((Ok(attach(bytes.into(), reservation)), (!last).then_some((chunks, pending))))
            }
            Err(error) => {
                warn!(%error, "response aborted");
                if matches!(error, Error::Corrupt(_)) {
                    tokio::time::sleep(ABORT_DELAY).await;
                }
                Some((Err(error), None))
            }
        }
    });
    let first = stream::iter([Ok::<_, Error>(first)]);
    let mut response = warp::reply::stream(Exclusive::new(first.chain(rest))).into_response();
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, content_type);
    if incomplete {
        response::mark_incomplete(&mut response);
    }
    Ok(response)
}

/// Makes a stream `Sync`, which warp requires of a body although nobody shares it. The stream is only reached through `&mut`, and the lock
/// is never taken.
pub struct Exclusive<S>(Mutex<Pin<Box<S>>>);

impl<S> Exclusive<S> {
    /// Wraps a stream.
    pub fn new(stream: S) -> Self {
        Self(Mutex::new(Box::pin(stream)))
    }
}

impl<S: Stream> Stream for Exclusive<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll_next(context)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper::header::CONTENT_LENGTH;

    use super::*;

    struct Countdown(Vec<Result<&'static str>>);

    impl Chunks for Countdown {
        async fn next(&mut self) -> Result<Chunk> {
            let next = self.0.remove(0)?;
            Ok(Chunk { bytes: next.into(), last: self.0.is_empty() })
        }
    }

    async fn body(chunks: Vec<Result<&'static str>>) -> std::result::Result<String, String> {
        let budget = Budget::new(PENDING_CHUNK_BYTES, Default::default());
        let response =
            answer(&budget, response::TEXT, Countdown(chunks)).await.map_err(|error| error.to_string())?;
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
        let whole = response.into_body().collect().await.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&whole.to_bytes()).into();
        assert_eq!(budget.used(), 0);
        Ok(text)
    }

    #[tokio::test]
    async fn chunks_follow_each_other_until_the_last() {
        assert_eq!(body(vec![Ok("a")]).await, Ok("a".into()));
        assert_eq!(body(vec![Ok("a"), Ok(""), Ok("bc")]).await, Ok("abc".into()));
    }

    #[tokio::test]
    async fn a_failed_response_never_looks_complete() {
        assert!(body(vec![Err(Error::Draining)]).await.is_err());
        assert!(body(vec![Ok("a"), Err(Error::Draining)]).await.is_err());
    }
}
