//! What `build.rs` makes of the node's protocol.

#![expect(
    missing_docs,
    reason = "the .proto file has the comments, and they are in the code that is made of it where they fit"
)]

tonic::include_proto!("dynarust.v1");
