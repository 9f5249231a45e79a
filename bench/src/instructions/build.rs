//! Builds the operations with the flags that the counts of the repository are of.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::error::{Error, Result};

/// With this argument the operations print their names.
pub const NAMES: &str = "names";
/// Optimized as far as takes little time, without the checks of a debug build. In few units of code: what the compiler inlines depends on
/// its cut. Without the lines of source, which valgrind would read for nothing.
const FLAGS: [&str; 12] = [
    "--cfg",
    "counting",
    "-C",
    "opt-level=1",
    "-C",
    "codegen-units=4",
    "-C",
    "debuginfo=0",
    "-C",
    "debug-assertions=off",
    "-C",
    "overflow-checks=off",
];

/// The program of the operations. Plain `cargo test` has built all that it needs but itself.
pub fn operations(root: &Path) -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["rustc", "-p", "dynarust-kv", "--example", "instructions", "--"]).args(FLAGS);
    // What cargo tells the programs that it runs about themselves. ring is built anew where that differs, and all that needs ring.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_EXE_"].iter().any(|start| name.starts_with(start)) {
            command.env_remove(&*name);
        }
    }
    command.current_dir(root).env("CARGO_INCREMENTAL", "0").stdin(Stdio::null());
    let status = command.status().map_err(|e| Error::io("starting cargo", &e))?;
    if !status.success() {
        return Err(Error::Failed(format!("the operations do not compile: cargo ended with {status}")));
    }
    // This is target/debug/deps/instructions-0123456789abcdef.
    let program = env::current_exe().map_err(|e| Error::io("finding this program", &e))?;
    let built = program.parent().and_then(Path::parent).map(|debug| debug.join("examples/instructions"));
    built.filter(|built| built.is_file()).ok_or_else(|| {
        Error::Failed(format!(
            "cargo built no examples/instructions beside {}: run this as `cargo instructions`",
            program.display()
        ))
    })
}

/// The names of the operations in `program`, in order.
pub fn names(program: &Path) -> Result<Vec<String>> {
    let said = output(Command::new(program).arg(NAMES), "asking for the names of the operations")?;
    Ok(said.lines().map(str::to_owned).collect())
}

/// The tools that make the program and its counts, each as the first line that it prints of its version.
pub fn tools() -> Result<Vec<String>> {
    // ldd is part of the C library.
    let tools = ["rustc", "cc", "ldd", "valgrind"];
    let version = |tool| {
        let said = output(Command::new(tool).arg("--version"), &format!("asking {tool} for its version"))?;
        Ok(said.lines().next().unwrap_or_default().to_owned())
    };
    tools.into_iter().map(version).collect()
}

fn output(command: &mut Command, doing: &str) -> Result<String> {
    let output = command.output().map_err(|e| Error::io(doing, &e))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Failed(format!("{doing}: it ended with {}: {said}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
