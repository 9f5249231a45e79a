//! Compiles every `.proto` file below `proto/` to Rust, by protox, so that no protoc is needed.
//!
//! In `OUT_DIR`: `services.rs`, a module for each package with its messages and servers, which `src/grpc/proto.rs` includes;
//! `clients/clients.rs`, the same with clients instead, for the tests; and `descriptors.bin`, the set of all descriptors, for reflection.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use protox::prost::Message;

/// Where the sources are.
const ROOT: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut files = Vec::new();
    find(Path::new(ROOT), &mut files)?;
    files.sort();
    let mut compiler = protox::Compiler::new([ROOT])?;
    // Comments become the documentation of the Rust types.
    compiler.include_source_info(true).include_imports(true).open_files(files)?;
    let mut set = compiler.file_descriptor_set();
    let builder = || tonic_prost_build::configure().build_transport(false).emit_rerun_if_changed(false);
    builder().build_client(false).include_file("services.rs").compile_fds(set.clone())?;
    let clients = out.join("clients");
    fs::create_dir_all(&clients)?;
    builder().build_server(false).out_dir(clients).include_file("clients.rs").compile_fds(set.clone())?;
    // Reflection needs no comments.
    for file in &mut set.file {
        file.source_code_info = None;
    }
    fs::write(out.join("descriptors.bin"), set.encode_to_vec())?;
    Ok(())
}

/// The `.proto` files in a directory and those below it.
fn find(directory: &Path, found: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    Ok(())
}
