//! The node of `DynaRust` with the defaults of `distributed_kv`. Everything is in the library.

use std::process::ExitCode;

use dynarust::cli;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cli::distributed_kv::main()
}
