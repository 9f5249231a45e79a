//! The change stream: from a stored write to every subscriber.
//!
//! A table's pump (`pump`) reads the engine's feed and hands each change to the hub ([`hub`]). The hub numbers it, keeps the newest ones
//! for subscribers that come back, and puts it into the queue ([`queue`]) of every [`subscription`] that asks for it. A subscriber is then
//! woken (`wakeups`), or somebody takes the change for it at once ([`delivery`]). `table::agreed` makes
//! a cursor valid on other nodes and over restarts, and `backlog` reads from the store what such a subscriber missed.

pub(super) mod backlog;
pub mod change;
pub mod delivery;
pub(super) mod entry;
pub mod hub;
mod prefixes;
pub(super) mod pump;
pub mod queue;
mod snapshot;
pub mod subscription;
mod topics;
pub(super) mod wakeups;

pub use self::{
    change::{Change, Cursor, Effect, Gone, Topic},
    subscription::{Notice, Start, Subscription},
};
