//! Storage (skeleton).
pub mod table;
pub mod watch;
