//! DynaRust: a replicated, real-time key-value store in one binary.

pub mod cli;
pub mod client;
pub mod config;
pub mod core;
pub mod error;
pub mod http;
pub mod node;
pub mod storage;

pub use error::{Error, Result};
