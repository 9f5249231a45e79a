//! The data model and the replication protocol, as pure functions and state machines. Time and randomness are
//! arguments: nothing here reads a file, a socket or a clock, or logs.
//!
//! - [`access`] decides what a client may do.
//! - [`name`], [`json`] and [`register`] are the data: tables, keys, values and the last-writer-wins register.
//! - [`mod@write`] is what a client can write, and how that becomes a register.
//! - [`clock`] makes timestamps. [`wall_clock`] decides which readings of the system's clock to trust.
//! - [`digest`] summarizes rows, so that replicas can compare them. [`protocol`] keeps two replicas the same.
//! - [`etcd`] is the data model of etcd's API on rows of a strong table.
//! - [`hex`] is bytes as text.
//! - [`nearest`] finds the known name that a misspelled one meant.

pub mod access;
pub mod clock;
pub mod digest;
pub mod etcd;
pub mod hex;
pub mod json;
pub mod memory_pressure;
pub mod name;
pub mod nearest;
pub mod protocol;
pub mod register;
pub mod strong;
pub mod wall_clock;
pub mod write;
