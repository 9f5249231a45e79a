//! DynaRust: a replicated, real-time key-value store in one binary. Every node holds everything and takes every request; whatever
//! cut them apart, they come to hold the same.
//!
//! # Layers
//! Imports point one way, and `tests/tidy` holds them to it:
//! `error <- core <- storage <- replication <- node <- http <- cli, main`.
//!
//! - [`core`] is what a replica is: names, JSON values, the hybrid logical clock, last-writer-wins registers, the digest tree, and the
//!   protocol that keeps two replicas the same, from what one says to what the other answers. Pure functions.
//! - [`storage`] is the disk: tables of registers in sled, made durable in groups, with a stream of changes, the digests of what is there
//!   now, and the sweep of what is dead everywhere.
//! - [`replication`] is what nodes are to each other: who belongs, the encrypted links, and the loops that drive the protocol over them.
//! - [`node`] is the whole API of the system, as calls; the wall clock lives there.
//! - [`http`] makes those calls for clients: REST, Server-Sent Events, WebSocket, over an accept loop of our own. Links come in there too.
//! - [`config`], [`cli`] and [`client`] are the program around it.
//!
//! # Invariants
//! 1. Every write, of a client, a peer, an import or a repair, goes through the one merge of [`storage::table::Table`], which is commutative,
//!    associative and idempotent.
//! 2. An acknowledged write survives kill -9 and power loss, and is visible to later reads on its node. What a node acknowledges to a
//!    peer is durable likewise.
//! 3. Two replicas with equal digests have equal visible state; replicas that can talk, and get no new writes, reach equal digests.
//! 4. A live row leaves a replica only by a later register of its key, or by proof that it was deleted ([`core::agreement`]). Absence is no
//!    proof: the row may be damaged, late, or written on the other side of a partition. A deleted key does not come back from a replica
//!    that was away, but where nothing proves that it was deleted it lives.
//! 5. No two writes carry the same timestamp with different values: the clock's bound is durable before any timestamp below it is
//!    handed out, and no two linked nodes have one id. Should it happen all the same, the larger fingerprint wins on all replicas.
//! 6. Nothing is unbounded. Every queue, ring, journal, batch, body and connection count has a limit; reaching it is visible, and loses
//!    nothing silently.
//!
//! # The way of a PUT
//! 1. `http::server` accepts; hyper parses; `http::service` makes a `Call` of the head and hands it to warp's filters.
//! 2. `http::kv` reads the body, takes the value out as compact text, and calls [`node::Node::write`].
//! 3. The node sees to it that its clock's bound lies ahead, and merges: under the lock of the key's partition it looks at what is
//!    there, tests the condition, stamps the write and sets the row; the sums of the digest tree follow by one subtraction and one addition.
//!    From here on readers see it.
//! 4. sled's feed wakes the table's pump, which numbers the change and puts it into the queues of those who watch.
//! 5. The node notes the row in the journal of [`core::journal`]: the one thing that replication costs a writer. Each peer is a cursor in it;
//!    the task of its link sends what follows as one batch, and then rests a little where many come.
//! 6. The commit thread flushes and syncs whatever was written since its last round, and then every writer in that round gets its
//!    answer: at once, or, with `?w=`, when so many peers have acknowledged the journal up to there.
//! 7. A peer merges the batch by the same door, syncs, and acknowledges all batches up to that one. Its own watchers see the change.
//!
//! # The way of a repair
//! 1. Once a second linked nodes tell each other the digest of all they held two seconds ago. Writes on their way are younger, so that
//!    constant writing makes no difference between two that hold the same.
//! 2. Where the digests differ, one opens a comparison: the sums of its tables, then, by turns, of the children that differ, down to four
//!    bytes for each row of a small bucket. Whoever answers keeps nothing: a message lost costs a round.
//! 3. The rows that differ are named, sent, and merged by the door that all writes take. The later timestamp wins, whoever sent it.
//! 4. Where the digests are equal both note the instant: up to there the two hold the same. The least of those instants over all members,
//!    announced by all, is the floor ([`core::floor`]).
//! 5. A node that starts beside others is *syncing* until its digest has equalled that of a *whole* member. It takes what that member has,
//!    hands over what it has itself, and removes what the member proves to have been deleted meanwhile.
//!
//! # The way of a tombstone
//! 1. A DELETE is a write like any other: a register without a value, stamped, pushed, compared. It stands against older values.
//! 2. It stays until the floor has passed it by the grace: then all members have it, those that are down included. One that is forgotten
//!    holds the floor no longer.
//! 3. How far tombstones may be removed is made durable before the first one is, and told to the others in each round: they remove them too
//!    before digests are compared again, so that what is swept here makes no difference to there.
//! 4. A member that is away for long is forgotten, by a majority of the members alone, and holds the floor no longer. Up to when all held the
//!    same as it is remembered: when it returns, that tells which of its rows were deleted and which nobody else has seen yet. It hands
//!    over what is dead there before it sweeps that.
//! 5. Values that expired are hidden by their own instant everywhere, and removed by the floor without a tombstone.

pub mod error;

pub mod core;

pub mod storage;

pub mod replication;

pub mod node;

pub mod http;

pub mod cli;
pub mod client;
pub mod config;

pub use error::{Error, Result};
