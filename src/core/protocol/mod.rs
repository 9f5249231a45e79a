//! The protocol that keeps two replicas the same, as pure state machines: messages in, messages and reads and writes of rows out.
//!
//! [`peer`] is one link's state machine. It pushes what the [`journal`] names, tells in each round what a node holds, and opens a
//! [`comparison`] where two differ; [`repairs`] holds what that found. [`progress`] and [`floor`] say up to which instant all members
//! hold the same, and [`agreement`] what may be concluded from a row that is not there. Rows are reached through [`replica`].

pub mod agreement;
pub mod comparison;
pub mod floor;
pub mod journal;
pub mod message;
pub mod peer;
pub mod progress;
pub(super) mod repairs;
pub mod replica;
