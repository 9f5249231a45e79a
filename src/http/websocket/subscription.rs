//! One subscription of a WebSocket.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{
    Stream,
    future::{self, Future},
    stream::Abortable,
};

use super::request::Label;
use crate::node::{Notice, Subscription};

/// A subscription whose notices carry its label. The one that came with the connection has none.
pub struct LabelledSubscription {
    /// The client's name for it.
    pub label: Option<Label>,
    /// Where the notices come from.
    pub subscription: Subscription,
    /// Ready once the client has ended it.
    pub stopped: Abortable<future::Pending<()>>,
}

impl Stream for LabelledSubscription {
    type Item = (Option<Label>, Notice);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if Pin::new(&mut self.stopped).poll(context).is_ready() {
            return Poll::Ready(None);
        }
        let notice = ready!(Pin::new(&mut self.subscription).poll_next(context));
        Poll::Ready(notice.map(|notice| (self.label.clone(), notice)))
    }
}
