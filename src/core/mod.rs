//! What a replica is, as pure functions: names and values, the clock, the register and its merge. Time and randomness are
//! arguments; nothing here reads a file, a socket or a clock, or logs.

pub mod clock;
pub mod digest;
pub mod json;
pub mod name;
pub mod nearest;
pub mod protocol;
pub mod register;
pub mod wall_clock;
