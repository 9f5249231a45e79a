//! Opens the window. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    dynarust_gui::desktop::main()
}
