//! The workloads, one file each: what is done to one target, and which figures that gives.

pub mod batch;
pub mod closed_loop;
pub mod fanout;
pub mod idle;
pub mod many;
pub mod shell;
pub mod stalled;
pub mod start;
