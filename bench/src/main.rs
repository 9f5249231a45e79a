//! Runs the command that the arguments name. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use dynarust_bench::{Arguments, run};

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dynarust-bench: {error}");
            error.exit_code()
        }
    }
}
