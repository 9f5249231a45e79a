//! The events of one client: those of its subscription, keep-alives while nothing happens, and the end when its token ends.
//!
//! It has no queue of its own: the node's queue is bounded and sends `resync` when it overflows. It formats nothing: a change is rendered
//! once for all.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::Stream;
use tokio::time::Interval;

use super::Frame;
use crate::{
    http::{access::lease::Lease, keep_alive},
    node::{Sink, Subscription},
};

/// The events of one client, head first. As a `Stream`, the body of a response that somebody else frames.
pub struct EventStream {
    head: Option<Frame>,
    subscription: Subscription,
    ticks: Interval,
    /// Completes when the client may follow no longer.
    lease: Option<Lease>,
    is_ended: bool,
}

impl EventStream {
    /// The events of `subscription` on the node at `address`, until the lease ends.
    pub fn new(address: &str, subscription: Subscription, lease: Option<Lease>) -> Self {
        let head = super::head(address, subscription.position());
        Self { head: Some(head), subscription, ticks: keep_alive::timer(), lease, is_ended: false }
    }

    /// Has a sink take changes while this stream is polled and waits, where that is allowed: not while a token may end the stream at any time.
    pub fn deliver_to(&self, sink: impl FnOnce() -> Arc<dyn Sink>) {
        if self.lease.is_none() {
            self.subscription.deliver_to(sink());
        }
    }

    /// The next event; `None` after the last.
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        if let Some(head) = self.head.take() {
            return Poll::Ready(Some(head));
        }
        if self.is_ended {
            return Poll::Ready(None);
        }
        if let Some(lease) = &mut self.lease
            && let Poll::Ready(end) = lease.as_mut().poll(context)
        {
            self.is_ended = true;
            return Poll::Ready(Some(super::unauthorized_frame(end.reason())));
        }
        if let Poll::Ready(notice) = Pin::new(&mut self.subscription).poll_next(context) {
            return Poll::Ready(notice.map(|notice| super::frame(&notice)));
        }
        ready!(self.ticks.poll_tick(context));
        Poll::Ready(Some(super::keep_alive(self.subscription.position())))
    }
}

impl Stream for EventStream {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_frame(context).map(|frame| frame.map(|frame| Ok(frame.event())))
    }
}
