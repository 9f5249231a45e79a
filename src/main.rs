//! Parses the arguments and runs what they ask for: a node, or a command. Everything is in the library.

use std::process::ExitCode;

use dynarust::cli;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
