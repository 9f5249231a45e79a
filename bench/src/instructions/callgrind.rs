//! Runs an operation under callgrind, and reads the total that it leaves.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::error::{Error, Result};

/// The function whose calls are counted.
const COUNTED: &str = "*count_operation*";

/// The instructions that `program` takes for an operation.
pub fn total(program: &Path, operation: &str) -> Result<u64> {
    let directory = Directory::new()?;
    let dump = directory.0.join("dump");
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", dump.display()))
        .arg(program)
        .arg(operation)
        // What the caller has in its environment moves the stack about. Stores of the operations lie in the directory, and go with it.
        .env_clear()
        .envs(env::var_os("PATH").map(|path| ("PATH", path)))
        .env("TMPDIR", &directory.0)
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Error::Usage("no valgrind on the PATH, which counts instructions: `apt-get install valgrind`, or as your system has it".into())
        }
        _ => Error::io("starting valgrind", &error),
    })?;
    if !output.status.success() {
        return Err(Error::Failed(format!(
            "valgrind ended with {} at `{operation}`:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )));
    }
    let text = fs::read_to_string(&dump).map_err(|e| {
        Error::io(format_args!("reading {}, which callgrind was to write", dump.display()), &e)
    })?;
    parse(&text)
        .ok_or_else(|| Error::Failed(format!("{} has no line of totals with a number", dump.display())))
}

/// The total of a dump.
fn parse(dump: &str) -> Option<u64> {
    dump.lines().find_map(|line| line.strip_prefix("totals:"))?.trim().parse().ok()
}

/// A directory that is removed with this.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("dynarust-instructions-{}", std::process::id()));
        fs::create_dir(&path).map_err(|e| Error::io(format_args!("creating {}", path.display()), &e))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // If that fails, a few dumps stay among temporary files.
        fs::remove_dir_all(&self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_a_dump_is_found() {
        assert_eq!(parse("version: 1\nevents: Ir\nfn=(1) a\n1 2\n\ntotals: 1234\n"), Some(1234));
        assert_eq!(parse("version: 1\n"), None);
        assert_eq!(parse("totals: many\n"), None);
    }
}
