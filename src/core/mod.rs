//! What a replica is, as pure functions: names and values, the clock, the register and its merge. Time and randomness are
//! arguments; nothing here reads a file, a socket or a clock, or logs.

pub mod clock;
pub mod json;
pub mod name;
pub mod register;
