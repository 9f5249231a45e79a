//! Opens the window onto a cluster, the program `dynarust-gui`. Everything is in the library.

use std::process::ExitCode;

use dynarust::cli;

fn main() -> ExitCode {
    cli::gui::main()
}
