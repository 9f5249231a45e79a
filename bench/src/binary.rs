//! The DynaRust binary that measurements start nodes from.

use std::{
    env::{self, consts::EXE_SUFFIX},
    ffi::OsStr,
    path::PathBuf,
    process::Command,
};

use crate::error::{Error, Result};

/// How the binary is built, in the profile that this program was built in.
const BUILD_LINE: &str = if cfg!(debug_assertions) {
    "cargo build --bin DynaRust"
} else {
    "cargo build --release --bin DynaRust"
};

/// Which binary.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct BinaryOptions {
    /// DynaRust binary to start nodes from [default: the DynaRust beside this program]
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
}

impl BinaryOptions {
    /// The path of the binary.
    ///
    /// # Errors
    /// `Usage` where there is no file; the text says how to build it.
    pub fn find(&self) -> Result<PathBuf> {
        let path = match &self.binary {
            Some(path) => path.clone(),
            None => {
                let program = env::current_exe().map_err(|e| Error::io("finding this program", &e))?;
                program.with_file_name(format!("DynaRust{EXE_SUFFIX}"))
            }
        };
        if !path.is_file() {
            return Err(Error::Usage(format!(
                "no DynaRust binary at {}: build it with `{BUILD_LINE}`, or name one with --binary",
                path.display()
            )));
        }
        // A relative path without a slash would be looked for in PATH.
        path.canonicalize().map_err(|e| Error::io(format_args!("opening {}", path.display()), &e))
    }
}

/// The program of this name on the PATH, if there is one.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// Starts `program` on this core alone, or on all.
pub fn command(program: impl AsRef<OsStr>, core: Option<usize>) -> Command {
    let Some(core) = core else { return Command::new(program) };
    // It makes the process what the program is, so it has the id that was started. From inside, a program has begun before it is moved.
    let mut command = Command::new("taskset");
    command.arg("--cpu-list").arg(core.to_string()).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_binary_is_named_with_how_to_build_it() {
        let options = BinaryOptions { binary: Some("/nowhere/DynaRust".into()) };
        let Err(Error::Usage(why)) = options.find() else { panic!("there is no such file") };
        assert!(why.contains("/nowhere/DynaRust") && why.contains(BUILD_LINE), "{why}");
    }
}
