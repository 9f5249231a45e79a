//! What `build.rs` makes of the files below `proto/`: a module for each package, with its messages and servers.

#![expect(
    clippy::allow_attributes,
    missing_docs,
    reason = "this is generated code, which has attributes of its own"
)]

include!(concat!(env!("OUT_DIR"), "/services.rs"));

/// The descriptors of all packages, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
