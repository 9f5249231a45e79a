//! DynaRust: a replicated, real-time key-value store in one binary. Every node holds all data and takes every request. Nodes that were cut
//! off from each other reach the same state once they can talk again.
//!
//! This page is the map of the system: its layers, what it guarantees, and the way of a write, a repair and a deletion through the code.
//! Read it first, then follow the links; each module's page continues from here.
//!
//! # Rooms
//! Imports point one way, and `tests/tidy` checks it: `error <- core <- storage <- replication <- node <- http <- grpc <- cli`. Each layer is a
//! folder, and each folder in it owns one topic.
//!
//! [`core`]: what a replica is, as pure functions. No I/O, no clock, no threads; time and randomness are arguments.
//! - [`core::clock`], [`core::name`], [`core::json`], [`core::register`]: timestamps of the hybrid logical clock, names of tables and keys,
//!   values, and the last-writer-wins register with its merge.
//! - [`core::access`]: what a client may do.
//! - [`core::digest`]: the digest tree of rows, which tells where two replicas differ.
//! - [`core::protocol`]: the replication protocol as a state machine per peer: messages in; messages, reads and writes of rows out.
//! - [`core::etcd`]: the data model of etcd's API: what its requests come to on rows of a strong table.
//! - [`core::strong`]: what requests of strong tables come to on a state, and the entries that carry it.
//!
//! [`storage`]: the tables of one node on disk.
//! - [`storage::engine`]: the only code that calls sled. Adds real syncs, and detects a log that lost its end.
//! - [`storage::open`]: opens and locks a directory. [`storage::offline`]: check, compact, salvage, clock repair.
//! - [`storage::table`]: rows, their encoding, reads and scans, and the merge that every write goes through.
//! - [`storage::commit`]: group commit and recovery from disk errors; makes timestamps durable.
//! - [`storage::changes`]: the change stream to subscribers.
//! - `storage::table::digests` maintains the digest trees, `storage::gc` expires values and removes tombstones, `storage::repair` deals with
//!   unreadable pages, `storage::transfer` reads rows for a peer and applies a peer's.
//! - [`storage::environment`]: wall clock, randomness and threads, which a simulation replaces.
//!
//! [`replication`]: what nodes are to each other.
//! - [`replication::link`]: encrypted connections between nodes: secrets, handshake, admission.
//! - [`replication::membership`]: who is in the cluster and in what state (SWIM, by foca), and whom to dial.
//! - [`replication::requests`]: requests with responses over the same links, which pass by the rows.
//! - [`replication::session`]: one peer's link at work: it drives the protocol of [`core::protocol`], paces what it sends, and syncs what
//!   it receives.
//! - [`replication::strong`]: strong tables: the Raft group (by openraft), its log, its leader's proposer, and linearizable reads; or an etcd
//!   in the group's place (feature `etcd`).
//! - `replication::supervisor` starts and ends links, and `replication::writes` records local writes for the peers.
//!
//! [`node`]: the API of the system as function calls, and the write path: condition, timestamp, merge, commit, replicas.
//!
//! [`http`]: these calls for clients. [`http::server`] accepts connections and surrounds the routes, [`http::request`] parses,
//! [`http::routes`] has a file per resource, [`http::events`] renders events, [`http::websocket`] runs WebSocket sessions, and
//! [`http::response`] maps errors to statuses. [`http::reports`] keeps what the nodes report of themselves, and collects it for the dashboard,
//! whose page is in `http/dashboard`.
//!
//! [`grpc`]: the same calls as gRPC services, on listeners of the same server, and [`grpc::etcd`], the API of etcd. The protocols are in `proto/`.
//!
//! [`config`] and [`cli`]: the program around it: settings and commands. Commands that talk to a node use the client library, a crate of its
//! own in `clients/rust`, which knows nothing of the node.
//!
//! # Where to find it
//! `docs/internals.md` has these as lists of files and functions, in order.
//! - Where a PUT is made durable: `Store::commit` in `storage::open::recovery`, for the writers that wait in [`storage::commit`]. It gets its
//!   timestamp in `node::write`.
//! - Where a repair is decided: `core::protocol::peer::compare` says when to compare, [`core::protocol::comparison`] finds the rows that
//!   differ.
//! - What a new route needs: the head of [`http`] lists the steps.
//! - Where it is decided what a client may do: [`core::access`], asked by `http::request::permission` for each request.
//! - Where a table's mode goes: [`node::strong`], for the writes and reads of [`node`].
//! - Where a write to a strong table is agreed: [`replication::strong`].
//! - Where an etcd revision is decided: `core::etcd::evaluate`, by the leader. Watchers read [`core::etcd::history`], which
//!   [`replication::strong::revisions`] fills as entries are applied, and are woken by [`replication::strong::listeners`].
//! - Where a new setting goes: the table in [`config`].
//!
//! # Invariants
//! 1. Every write, from a client, a peer, an import or a repair, goes through one merge ([`storage::table::merge`]), which is commutative,
//!    associative and idempotent.
//! 2. An acknowledged write survives `kill -9` and power loss, and later reads on its node see it. The same holds for what a node
//!    acknowledges to a peer.
//! 3. Replicas with equal digests have equal visible state. Replicas that can talk, and get no new writes, reach equal digests.
//! 4. A live row leaves a replica only through a later register of its key, or through proof that it was deleted
//!    ([`core::protocol::agreement`]). Its absence elsewhere is no proof: the row there may be damaged, late, or written on the other side
//!    of a partition. A replica that was away does not bring a deleted key back; where nothing proves the deletion, the key lives.
//! 5. No two writes have the same timestamp and different values: the clock's bound is durable before any timestamp below it is used, and
//!    no two linked nodes share an id. If it happens anyway, the larger row fingerprint wins on every replica.
//! 6. Everything is bounded. Every queue, journal, batch, body and connection count has a limit. Reaching a limit is visible and loses
//!    nothing silently.
//!
//! # The way of a PUT
//! ```text
//! client -> http::server -> http::routes::kv -> node::Node::write -> storage::table::merge -> storage::commit -> answer
//!                                                                           |
//!                                                                           +-> storage::changes -> subscribers
//!                                                                           +-> replication::writes -> journal -> session -> peers
//! ```
//! 1. [`http::server`] accepts the connection, hyper parses the request, and `http::server::service` makes a `Call` of its head and passes
//!    it to the routes.
//! 2. [`http::routes::kv`] reads the body, takes out the value as compact text, and calls [`node::Node::write`].
//! 3. The node checks that its clock's durable bound is ahead, and merges. Under the lock of the key's partition it looks at the existing
//!    register, tests the condition, takes a timestamp and sets the row. The digest tree follows with one subtraction and one addition.
//!    Readers see the write from here on.
//! 4. Once anybody has subscribed, sled's event feed wakes the table's pump, which numbers the change and puts it into the queues of the
//!    subscribers.
//! 5. The node appends the row to the journal ([`core::protocol::journal`]); this is all that replication costs a writer. Each peer has a
//!    cursor in the journal. The peer's session sends everything after its cursor as one batch, and pauses briefly between batches when
//!    writes are frequent.
//! 6. The commit thread flushes and syncs everything written since its last round, and then all writers of that round get their answers.
//!    With `?w=` they also wait until enough peers have acknowledged the journal up to their entry.
//! 7. A peer merges the batch in the same way, syncs, and acknowledges all batches up to that one. Its own subscribers see the change.
//!
//! # The way of a repair
//! ```text
//! round: digest of all but the newest 2 s -> equal: note the instant, move the floor
//!                                         -> different: compare tables -> children -> rows -> send and merge the later ones
//! ```
//! 1. Once a second, linked nodes send each other the digest of everything they held two seconds ago. Writes in transit are younger than
//!    that, so constant writing makes no difference between replicas that hold the same.
//! 2. If the digests differ, one node opens a comparison: the sums of its tables, then in turns the children that differ, down to four
//!    bytes per row of a small bucket. The answering node keeps no state, so a lost message costs one round.
//! 3. The rows that differ are named, sent, and merged like all writes. The later timestamp wins, whoever sent it.
//! 4. If the digests are equal, both nodes note the instant: up to there they hold the same. Every member announces the least of these
//!    instants over all members; the least of all announcements is the floor ([`core::protocol::floor`]).
//! 5. A node that starts next to others is *syncing* until its digest has equalled that of a *complete* member, one that holds everything
//!    the cluster held. It takes what that member has, hands over what only it has, and removes what the member proves to have been deleted
//!    meanwhile.
//!
//! # The way of a write to a strong table
//! ```text
//! node::strong -> replication::strong::group -> (link) -> the leader's proposer -> core::strong::evaluate -> log of a majority
//!                                                                                                              |
//!                                             answer <- storage::table::merge, on every member <- state machine
//! ```
//! 1. Any node takes the request and passes it to the leader. One task there evaluates all requests that wait, in order, and proposes one
//!    entry with the registers that they come to.
//! 2. Each member syncs the entry to its log before it counts. Once a majority has it, every member merges the registers: the same merge, so
//!    subscribers and digests see a write like any other.
//! 3. A read waits until its node has applied everything that the leader had committed when the read began.
//!
//! # The way of a tombstone
//! 1. A DELETE is a write like any other: a register without a value, the *tombstone*. It gets a timestamp, is sent and compared, and wins
//!    over older values.
//! 2. It stays until the floor has passed it by a grace period. Then all members have it, including those that are down. A forgotten member
//!    no longer holds back the floor.
//! 3. Before the first tombstone is removed, the limit up to which they may be removed is made durable. Nodes announce that limit in each
//!    round, and remove up to it before digests are compared again, so that sweeping on one node does not look like a difference on
//!    another.
//! 4. A member that stays away for long is forgotten, by a majority of the members only. The others remember up to when all held the same.
//!    When the member returns, that instant tells which of its rows were deleted meanwhile and which nobody else has seen. It hands over
//!    its tombstones before it sweeps them, and the others keep them until all members have them.
//!    Only those who went on without it make it complete again: one that was forgotten with it may not know so yet.
//! 5. Expired values are hidden everywhere from the instant of their expiry, and removed by the floor without a tombstone.

pub mod error;

pub mod core;

pub mod storage;

pub mod replication;

pub mod node;

pub mod http;

pub mod grpc;

pub mod cli;
pub mod config;

pub use error::{Error, Result};
