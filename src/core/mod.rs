//! What a replica is, as pure functions: names and values, the clock, the register and its merge. Time and randomness are
//! arguments; nothing here reads a file, a socket or a clock, or logs.

pub mod agreement;
pub mod believed;
pub mod clock;
pub mod digest;
pub mod floor;
pub mod journal;
pub mod json;
pub mod merkle;
pub mod message;
pub mod name;
pub mod nearest;
pub mod peer;
pub mod reconcile;
pub mod register;
mod repairs;
pub mod replica;
pub mod standing;
