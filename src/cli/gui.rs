//! `gui`: opens the window. That is a program of its own, `dynarust-gui`, because what it is made of would double the time that the node takes
//! to build. This one runs it from beside itself, or has cargo build it.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// The program with the window.
const WINDOW: &str = "dynarust-gui";

/// How the window is started.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    /// The program beside this one.
    Beside(PathBuf),
    /// By cargo, in the folder of the sources.
    Cargo {
        /// The cargo that runs this program.
        cargo: OsString,
        /// Where the sources are.
        folder: PathBuf,
    },
}

/// The program.
pub fn main() -> ExitCode {
    let this = env::current_exe().unwrap_or_default();
    let Some(start) = find(&this, env::var_os("CARGO"), env::var_os("CARGO_MANIFEST_DIR")) else {
        eprintln!(
            "error: there is no {WINDOW} beside {}. In the folder of the sources, run: cargo run --release -p {WINDOW}",
            this.display()
        );
        return ExitCode::FAILURE;
    };
    let mut command = match &start {
        Start::Beside(program) => Command::new(program),
        Start::Cargo { cargo, folder } => {
            eprintln!("cargo run --release -p {WINDOW}: the first time takes some minutes");
            let mut command = Command::new(cargo);
            command.current_dir(folder).args(["run", "--release", "--package", WINDOW, "--"]);
            command
        }
    };
    match command.args(env::args_os().skip(1)).status() {
        Ok(status) => {
            status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Err(error) => {
            let program = Path::new(command.get_program()).display();
            eprintln!("error: {program} cannot be run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How to start the window for the program `this`. Cargo tells the programs that it runs, in two variables, where it and the sources are.
fn find(this: &Path, cargo: Option<OsString>, sources: Option<OsString>) -> Option<Start> {
    let beside = this.with_file_name(WINDOW).with_extension(env::consts::EXE_EXTENSION);
    if beside.is_file() {
        return Some(Start::Beside(beside));
    }
    let folder = PathBuf::from(sources?);
    let has_window = folder.join("gui").join("Cargo.toml").is_file();
    cargo.filter(|_| has_window).map(|cargo| Start::Cargo { cargo, folder })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_program_beside_is_taken_before_cargo() {
        let folder = tempfile::tempdir().expect("a folder");
        let this = folder.path().join("gui-program");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
        let found = |cargo: Option<&str>, sources: Option<&Path>| {
            find(&this, cargo.map(OsString::from), sources.map(|path| path.as_os_str().to_owned()))
        };
        assert_eq!(found(None, None), None);
        assert_eq!(found(Some("cargo"), None), None);
        assert_eq!(found(Some("cargo"), Some(folder.path())), None, "other sources");
        let by_cargo = Start::Cargo { cargo: "cargo".into(), folder: sources.to_owned() };
        assert_eq!(found(Some("cargo"), Some(sources)), Some(by_cargo));
        let beside = folder.path().join(WINDOW);
        fs::write(&beside, "").expect("written");
        assert_eq!(found(Some("cargo"), Some(sources)), Some(Start::Beside(beside)));
    }
}
