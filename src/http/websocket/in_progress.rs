//! The requests of a WebSocket that are in progress. Very many connections send none, so none take no memory.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{
    Stream, StreamExt,
    future::{BoxFuture, Future},
    stream::FuturesUnordered,
};

/// Requests that run at the same time. As a stream: their answers, as they are ready; it ends when there is none left, and there may be more
/// after that.
#[derive(Default)]
pub struct RequestsInProgress(Option<FuturesUnordered<BoxFuture<'static, String>>>);

impl RequestsInProgress {
    /// Adds one.
    pub fn push(&mut self, request: impl Future<Output = String> + Send + 'static) {
        self.0.get_or_insert_default().push(Box::pin(request));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, FuturesUnordered::len)
    }
}

impl Stream for RequestsInProgress {
    type Item = String;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<String>> {
        let Some(requests) = &mut self.0 else { return Poll::Ready(None) };
        let answer = ready!(requests.poll_next_unpin(context));
        if answer.is_none() {
            self.0 = None;
        }
        Poll::Ready(answer)
    }
}
