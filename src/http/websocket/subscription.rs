//! The subscriptions of a WebSocket. Very many connections have one each, so a single one takes no memory but its own.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{
    Stream,
    future::{self, Future},
    stream::{Abortable, SelectAll},
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

impl LabelledSubscription {
    /// Whether the client has not ended it.
    fn is_running(&self) -> bool {
        !self.stopped.is_aborted()
    }
}

/// All of one connection.
#[derive(Default)]
pub enum Subscriptions {
    /// None yet, or none any more.
    #[default]
    None,
    /// One.
    One(LabelledSubscription),
    /// Several, or what is left of them.
    Several(SelectAll<LabelledSubscription>),
}

impl Subscriptions {
    /// Adds one.
    pub fn push(&mut self, new: LabelledSubscription) {
        match self {
            Self::Several(several) => several.push(new),
            Self::One(_) | Self::None => {
                *self = match std::mem::take(self) {
                    Self::One(one) if one.is_running() => Self::Several([one, new].into_iter().collect()),
                    _ => Self::One(new),
                }
            }
        }
    }

    /// Those that the client has not ended.
    pub fn running(&self) -> impl Iterator<Item = &Subscription> {
        let (one, several) = match self {
            Self::None => (None, None),
            Self::One(one) => (Some(one), None),
            Self::Several(several) => (None, Some(several)),
        };
        let all = one.into_iter().chain(several.into_iter().flat_map(SelectAll::iter));
        all.filter(|labelled| labelled.is_running()).map(|labelled| &labelled.subscription)
    }
}

/// Ends when there is none; there may be one again after that.
impl Stream for Subscriptions {
    type Item = (Option<Label>, Notice);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = match &mut *self {
            Self::None => return Poll::Ready(None),
            Self::One(one) => ready!(Pin::new(one).poll_next(context)),
            Self::Several(several) => ready!(Pin::new(several).poll_next(context)),
        };
        if next.is_none() {
            *self = Self::None;
        }
        Poll::Ready(next)
    }
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
