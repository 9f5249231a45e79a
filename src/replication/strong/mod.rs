//! Strong tables: one order of writes, agreed by a majority.
//!
//! [`backend`] is the trait that the node calls. Two implement it: `Strong`, the cluster's own Raft group (openraft), and `etcd`, behind the
//! feature of that name, which leaves the agreement to an etcd. Both decide by `core::strong::evaluate` on the store and an `overlay`, both
//! apply by `effects`, and both read by `reads`. The rest is the Raft group:
//!
//! ```text
//! request -> group (any node) -> proposer (leader) -> log -> majority -> state machine (every node) -> store
//! read    -> group -> read index of the leader -> wait until applied -> store
//! ```
//! - [`group`] takes the node's calls: it finds the leader. `serve` answers the other nodes.
//! - `catalogue` knows which tables are strong, before this node takes part too.
//! - `start` starts it, once a majority has claimed it, by what `claim` keeps; [`init`] where an operator has to. `upkeep` does what is due now and then.
//! - [`member`] is this node in the group: openraft with its log, network and state machine.
//! - `proposer` decides what requests come to, on the leader only. `expiry` has it delete what has expired.
//! - [`log`] keeps the log and the vote in files of their own.
//! - `state_machine` applies entries: it merges their registers into the store. `checkpoint` says up to where.
//! - `reads` makes reads linearizable. `steps` lets a read of several keys see no entry by half.
//! - `restored` has a member taken in anew that was restored from a backup.
//! - `roster` keeps the members of the group those of the cluster. `operate` changes it as an operator asks.
//! - `network` and [`rpc`] carry what members say over the links. `snapshot` sends a snapshot as a difference.
//! - `election` stands for election early where the leader is gone. `watch` logs who leads, and opens the log again after the disk failed.
//! - [`revisions`] is what a node keeps in memory of the table of the etcd API, [`listeners`] wakes those who wait for its changes, and [`leases`] ends
//!   its leases. [`arrivals`] knows when its rows are no state of the log, because a snapshot brings them.
//! - [`view`] is the group for the API.
//! - [`types`] names openraft's types. `runtime` has openraft wait for answers as long as they may take.

pub mod arrivals;
pub mod backend;
mod catalogue;
mod checkpoint;
mod claim;
mod effects;
mod election;
#[cfg(feature = "etcd")]
mod etcd;
mod expiry;
pub mod group;
pub mod init;
pub mod leases;
pub mod listeners;
pub mod log;
pub mod member;
mod network;
mod operate;
mod others;
mod overlay;
mod proposer;
mod reads;
mod restored;
pub mod revisions;
mod roster;
mod row_repair;
pub mod rpc;
mod runtime;
mod serve;
mod snapshot;
mod start;
mod state_machine;
mod steps;
pub mod types;
mod upkeep;
pub mod view;
mod watch;

pub use self::{
    group::{Strong, no_quorum},
    member::LOG_ENTRIES,
};
