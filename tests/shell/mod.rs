//! The commands for data, as a person or a script uses them: the real binary against a real node.

mod around;
mod flow;
mod import;
mod plain;
mod screen;
mod transfer;

use std::{
    io::Write,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::harness::{Node, http::Request};

/// Exit codes of the contract.
pub const FAILED: i32 = 1;
pub const USAGE: i32 = 2;
pub const NOT_FOUND: i32 = 3;
pub const PRECONDITION_FAILED: i32 = 4;
pub const UNREACHABLE: i32 = 5;

/// Someone at a shell, with a home of their own.
pub struct Shell {
    home: tempfile::TempDir,
    endpoint: Option<String>,
}

/// Whether the node has a topic for all tables.
pub fn follows_all_tables(node: &Node) -> bool {
    let follows = node.send(&Request::new("HEAD", "/_/subscribe?topic=*")).status == 200;
    if !follows {
        eprintln!("SKIPPED: the node has no topic for all tables");
    }
    follows
}

/// How a command ended.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Shell {
    /// Commands go to this node.
    pub fn at(node: &Node) -> Self {
        Self::with_endpoint(Some(node.address().to_string()))
    }

    /// Commands go where the variable says, if there is one.
    pub fn with_endpoint(endpoint: Option<String>) -> Self {
        Self { home: tempfile::tempdir().expect("a directory"), endpoint }
    }

    pub fn home(&self) -> PathBuf {
        self.home.path().to_owned()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_DynaRust"));
        // Variables of the developer's shell must not affect tests.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DYNARUST_") {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .current_dir(self.home.path())
            .env("HOME", self.home.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_STATE_HOME")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(endpoint) = &self.endpoint {
            command.env("DYNARUST_ENDPOINT", endpoint);
        }
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments).spawn().expect("the binary starts"))
    }

    pub fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Done {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().expect("the binary starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(input).expect("it reads");
        drop(stdin);
        Done::of(child)
    }
}

impl Done {
    pub fn of(child: Child) -> Self {
        let output = child.wait_with_output().expect("it ends");
        Self {
            code: output.status.code().expect("no signal ended it"),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// It succeeded; what it printed.
    #[track_caller]
    pub fn printed(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    /// It ended with this code and said these words.
    #[track_caller]
    pub fn expect(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word}: {self:?}");
        }
    }
}
