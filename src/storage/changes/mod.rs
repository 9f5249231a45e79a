//! The change stream: what becomes of a write that is stored, until every subscriber has been told of it.
//!
//! A table's pump ([`pump`]) reads the engine's feed, numbers each change and hands it to the hub ([`hub`]), which keeps the newest ones
//! for those that come back and puts each into the queue ([`queue`]) of every [`subscription`] that asks for it.

pub(super) mod backlog;
pub mod change;
pub(super) mod entry;
pub mod hub;
pub(super) mod pump;
pub mod queue;
pub mod subscription;
pub(super) mod wakeups;

pub use self::{
    change::{Change, Cursor, Effect, Gone, Topic},
    subscription::{Notice, Start, Subscription},
};
