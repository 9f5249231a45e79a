//! The client libraries in `clients/`, on real nodes: the blocks of their READMEs, what their own scripts try, and a page in a real
//! browser. Where `node`, `python3` or a browser is missing the test says so and is skipped.

mod browser;
mod codes;
mod readme;
mod script;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::pages::page;

/// A language that has a client.
struct Language {
    /// The folder below `clients`.
    name: &'static str,
    /// What blocks of its code are marked with.
    fence: &'static str,
    program: &'static str,
    /// Makes the program read its code from stdin.
    from_stdin: &'static [&'static str],
    /// Prints a line with what it gets in place of `{}`.
    print: &'static str,
    /// Its own tests, in this folder.
    script: &'static str,
}

const JAVASCRIPT: Language = Language {
    name: "javascript",
    fence: "js",
    program: "node",
    from_stdin: &["--input-type=module", "-"],
    print: "console.log(\"{}\");",
    script: "javascript.mjs",
};

const PYTHON: Language = Language {
    name: "python",
    fence: "python",
    program: "python3",
    from_stdin: &["-u", "-"],
    print: "print(\"{}\")",
    script: "python.py",
};

impl Language {
    fn folder(&self) -> PathBuf {
        page::root().join("clients").join(self.name)
    }

    /// The program, if it is there.
    fn command(&self) -> Option<Command> {
        let asked = Command::new(self.program).arg("--version").stdin(Stdio::null()).output();
        if asked.is_ok_and(|outcome| outcome.status.success()) {
            return Some(Command::new(self.program));
        }
        eprintln!("SKIPPED: no {} to try clients/{} with (see .ci/run)", self.program, self.name);
        None
    }
}
