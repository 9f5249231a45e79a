//! The replication protocol that keeps two replicas the same, as pure state machines: messages in; messages, reads and
//! writes of rows out.
//!
//! [`peer`] is the state machine of one link. It pushes what the [`journal`] holds, sends a round about the node's
//! state, and opens a [`comparison`] if two replicas differ. `repairs` queues what that found. [`floor`] is the
//! instant up to which all members have everything, [`progress`] is what a node knows of itself and its members, and
//! [`agreement`] defines what a missing row proves. All [`message`]s are in one file. Rows are reached through the
//! trait in [`replica`].

pub mod agreement;
pub mod comparison;
pub mod floor;
pub mod journal;
pub mod message;
pub mod peer;
pub mod progress;
pub(crate) mod repairs;
pub mod replica;
