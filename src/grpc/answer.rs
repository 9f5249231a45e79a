//! The stream of an answer, which ends with a status when its deadline passes, the token of its client ends, or the node stops; and the
//! memory of its messages, which is reserved until they are written.

use std::{
    convert::Infallible,
    future::{Future, pending},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::{
    HeaderMap,
    body::{Body, Frame, SizeHint},
};
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Status, body::Body as TonicBody};

use super::{call_span::CallSpan, request::Caller, status};
use crate::{
    error::Error,
    http::{
        request::{
            budget::{UNCOUNTED_BYTES_MAX, attach},
            latencies::Fault,
        },
        routes::metrics::rpc::RpcSeries,
    },
    node::Node,
};

/// Completes with the status that ends an answer early.
type End = Pin<Box<dyn Future<Output = Status> + Send>>;

/// The body of an answer.
pub struct Answer {
    body: TonicBody,
    node: Arc<Node>,
    caller: Caller,
    deadline: Option<Instant>,
    /// Made once the body has to wait, which the answer to a single message never does.
    end: Option<End>,
    /// Whether the end is asked for before the next message: the answer is a stream.
    ends_early: bool,
    /// Whether a message was sent.
    is_begun: bool,
    /// Where the end is counted; `None` once it is.
    series: Option<RpcSeries>,
    /// Ended with it, if somebody takes spans.
    span: Option<CallSpan>,
    is_over: bool,
}

impl Answer {
    /// The answer to a call. `ended`: its status, and whose fault that is, if its head has that already.
    pub fn new(
        body: TonicBody,
        ended: Option<(Code, Option<Fault>)>,
        node: Arc<Node>,
        caller: Caller,
        deadline: Option<Instant>,
        series: RpcSeries,
        span: Option<CallSpan>,
    ) -> Self {
        let mut answer = Self {
            body,
            node,
            caller,
            deadline,
            end: None,
            ends_early: false,
            is_begun: false,
            series: Some(series),
            span,
            is_over: false,
        };
        if let Some((code, fault)) = ended {
            answer.count(code, fault);
        }
        answer
    }

    /// Whether the answer is a stream, which ends in time also while there is more to send. The answer to a write has one message, which is
    /// sent in any case.
    pub fn ending_early(mut self, ends_early: bool) -> Self {
        self.ends_early = ends_early;
        self
    }

    fn count(&mut self, code: Code, fault: Option<Fault>) {
        if let Some(series) = self.series.take() {
            series.ended(code as usize);
            self.span.take().into_iter().for_each(|span| span.end(code as usize));
            let requests = self.caller.connection.traffic().requests();
            fault.into_iter().for_each(|fault| requests.failed(fault));
        }
    }

    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        let Self { end, node, caller, deadline, .. } = self;
        let end = end.get_or_insert_with(|| {
            let (node, lease, deadline) = (Arc::clone(node), caller.lease(), *deadline);
            Box::pin(async move {
                let passed = async {
                    match deadline {
                        Some(deadline) => sleep_until(deadline).await,
                        None => pending().await,
                    }
                };
                let lease_ends = async {
                    match lease {
                        Some(lease) => lease.await,
                        None => pending().await,
                    }
                };
                tokio::select! {
                    () = passed => deadline_exceeded(),
                    () = node.drained() => status::of(&Error::Draining),
                    end = lease_ends => {
                        status::of(&Error::Unauthenticated { why: end.reason().into(), is_invalid: true })
                    }
                }
            })
        });
        end.as_mut().poll(context)
    }

    fn count_trailers(&mut self, trailers: &mut HeaderMap) {
        if let Some((code, fault)) = status::take_code(trailers) {
            self.count(code, fault);
        }
    }

    /// The last frame of an answer that ends with this status.
    fn finish(&mut self, status: &Status) -> Frame<Bytes> {
        self.is_over = true;
        // What comes after is not asked for again.
        self.body = TonicBody::empty();
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            trailers.insert(Status::GRPC_STATUS, (Code::Internal as i32).into());
        }
        self.count_trailers(&mut trailers);
        Frame::trailers(trailers)
    }

    /// Reserves memory for a message until its bytes are written.
    fn hold(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        let length = match frame.data_ref() {
            Some(bytes) if bytes.len() > UNCOUNTED_BYTES_MAX => bytes.len() as u64,
            Some(_) | None => return frame,
        };
        let budget = &self.caller.connection.budget;
        // The first may tell of a write, which was made: it is sent in any case.
        if is_first {
            let reservation = budget.force_reserve(length);
            return frame.map_data(|bytes| attach(bytes, reservation));
        }
        match budget.reserve(length) {
            Ok(reservation) => frame.map_data(|bytes| attach(bytes, reservation)),
            Err(error) => self.finish(&status::of(&error)),
        }
    }
}

/// The status of a call whose deadline has passed.
pub fn deadline_exceeded() -> Status {
    Status::deadline_exceeded(
        "the deadline of the call (grpc-timeout) has passed; if it was a write, it may have been made",
    )
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if self.ends_early
            && self.is_begun
            && let Poll::Ready(status) = self.poll_end(context)
        {
            return Poll::Ready(Some(Ok(self.finish(&status))));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            let status = ready!(self.poll_end(context));
            return Poll::Ready(Some(Ok(self.finish(&status))));
        };
        let frame = match frame {
            None => return Poll::Ready(None),
            Some(Err(status)) => self.finish(&status),
            Some(Ok(frame)) => frame,
        };
        let frame = match frame.into_trailers() {
            Ok(mut trailers) => {
                status::cut_header(&mut trailers);
                self.count_trailers(&mut trailers);
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        };
        Poll::Ready(Some(Ok(self.hold(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // The client has gone, or has cancelled the call.
        self.count(Code::Cancelled, None);
    }
}
