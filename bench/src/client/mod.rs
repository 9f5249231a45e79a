//! The client: where requests go, what they carry, and how their answers and events are read. Nothing here knows what is measured.

pub mod calls;
pub mod connection;
pub mod document;
pub mod subscribers;
pub mod target;
pub mod writer;
