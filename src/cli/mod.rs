//! The commands: what `DynaRust` does besides running a node.

pub mod bench;
