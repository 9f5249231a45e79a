//! Streamed responses, produced piece by piece as the client reads, so that memory stays flat however long they are.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use hyper::header::HeaderValue;
use tracing::warn;
use warp::{Reply, reply::Response};

use crate::{
    error::{Error, Result},
    http::{
        access::lease::HeldLease,
        request::{
            Call,
            budget::{Budget, Reservation, SCARCE_BYTES_MAX, attach},
            permission,
        },
        response,
    },
};

/// Memory for the chunk in preparation: about one page of rows. There is that much where memory is scarce, too.
const PENDING_CHUNK_BYTES: u64 = SCARCE_BYTES_MAX;
/// How long to wait before aborting a response whose beginning is of use, or that says why it is aborted. Aborting at once would discard
/// what is not yet written to the connection.
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

    /// The error in the format of the response itself, for clients that do not notice how the connection ends. None by default.
    fn error_text(&self, _error: &Error) -> Vec<u8> {
        Vec::new()
    }

    /// Whether it is already known that the response will be incomplete.
    fn is_incomplete(&self) -> bool {
        false
    }
}

/// A 200 made of all chunks. We produce the first chunk before the head, so that an early failure still gets its own status, and a short
/// response its length. A later failure aborts the connection, so that the client sees that the response is incomplete.
///
/// It is aborted as well when the client's token is revoked or expires: the lease is looked at before each chunk.
///
/// Each chunk is reserved in the budget until it is written, plus `PENDING_CHUNK_BYTES` for the one in preparation. A response that has begun
/// continues however much memory others take.
///
/// # Errors
/// Those of the first chunk; `Overloaded` if there is no memory for it.
pub async fn answer(call: &Call, content_type: HeaderValue, chunks: impl Chunks) -> Result<Response> {
    let lease = permission::held_lease(call)?;
    stream(&call.connection.budget, lease, content_type, chunks).await
}

async fn stream(
    budget: &Arc<Budget>,
    lease: HeldLease,
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
    let rest = stream::unfold(Rest::Running { chunks, pending, lease }, Rest::next);
    let first = stream::iter([Ok::<_, Error>(first)]);
    let mut response = warp::reply::stream(Exclusive::new(first.chain(rest))).into_response();
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, content_type);
    if incomplete {
        response::mark_incomplete(&mut response);
    }
    Ok(response)
}

/// What follows the first chunk.
enum Rest<C> {
    Running {
        chunks: C,
        /// For the chunk in preparation.
        pending: Reservation,
        lease: HeldLease,
    },
    /// The client has been told: now the response is aborted.
    Failed(Error),
    Ended,
}

impl<C: Chunks> Rest<C> {
    async fn next(self) -> Option<(Result<Bytes>, Self)> {
        let (mut chunks, pending, mut lease) = match self {
            Self::Running { chunks, pending, lease } => (chunks, pending, lease),
            Self::Failed(error) => {
                tokio::time::sleep(ABORT_DELAY).await;
                return Some((Err(error), Self::Ended));
            }
            Self::Ended => return None,
        };
        let next = match lease.check() {
            Ok(()) => chunks.next().await,
            Err(error) => Err(error),
        };
        match next {
            Ok(Chunk { bytes, last }) => {
                let reservation = pending.budget().force_reserve(bytes.len() as u64);
                let rest = if last { Self::Ended } else { Self::Running { chunks, pending, lease } };
                Some((Ok(attach(bytes.into(), reservation)), rest))
            }
            Err(error) => {
                warn!(%error, "response aborted");
                let text = chunks.error_text(&error);
                match text.is_empty() && !matches!(error, Error::Corrupt(_)) {
                    true => Some((Err(error), Self::Ended)),
                    false => Some((Ok(text.into()), Self::Failed(error))),
                }
            }
        }
    }
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

    use crate::http::access::lease::LeaseEnd;

    struct Countdown(Vec<Result<&'static str>>);

    impl Chunks for Countdown {
        async fn next(&mut self) -> Result<Chunk> {
            let next = self.0.remove(0)?;
            Ok(Chunk { bytes: next.into(), last: self.0.is_empty() })
        }
    }

    async fn body(chunks: Vec<Result<&'static str>>) -> std::result::Result<String, String> {
        body_under(HeldLease::default(), chunks).await
    }

    async fn body_under(
        lease: HeldLease,
        chunks: Vec<Result<&'static str>>,
    ) -> std::result::Result<String, String> {
        let budget = Budget::new(PENDING_CHUNK_BYTES, Default::default());
        let response = stream(&budget, lease, response::TEXT, Countdown(chunks))
            .await
            .map_err(|error| error.to_string())?;
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
    async fn a_response_that_outlives_its_token_never_looks_complete() {
        let ended = || HeldLease::new(Some(Box::pin(std::future::ready(LeaseEnd::Revoked))));
        let running = || HeldLease::new(Some(Box::pin(std::future::pending())));
        assert_eq!(body_under(running(), vec![Ok("a"), Ok("b")]).await, Ok("ab".into()));
        assert!(body_under(ended(), vec![Ok("a"), Ok("b")]).await.is_err());
        let mut lease = ended();
        assert!(lease.check().is_err() && lease.check().is_err(), "it may be asked again");
    }

    #[tokio::test]
    async fn a_failed_response_never_looks_complete() {
        assert!(body(vec![Err(Error::Draining)]).await.is_err());
        assert!(body(vec![Ok("a"), Err(Error::Draining)]).await.is_err());
    }
}
