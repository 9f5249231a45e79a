//! Makes the client of `dynarust.v1` from the node's own `.proto` file, by protox, so that no protoc is needed.

use std::error::Error;

/// Where the node has its protocols.
const ROOT: &str = "../proto";
const FILE: &str = "dynarust/v1/kv.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}/{FILE}");
    println!("cargo::rerun-if-changed=build.rs");
    let set = protox::compile([FILE], [ROOT])?;
    tonic_prost_build::configure().build_server(false).build_transport(false).compile_fds(set)?;
    Ok(())
}
