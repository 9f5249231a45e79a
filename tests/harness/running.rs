//! A running process of the binary. Its stdout is read all the time, so that it never blocks on us. Whoever ends the process gets the setup
//! back.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, ExitStatus},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{DEADLINE, Setup};

/// A process started from a setup, which it keeps until the process ends.
pub struct Running {
    pub setup: Setup,
    pub child: Child,
    stdout: JoinHandle<String>,
}

impl Running {
    pub fn spawn(setup: Setup, command: &mut Command) -> (Self, mpsc::Receiver<SocketAddr>) {
        let mut child = command.spawn().expect("the binary starts");
        let (stdout, address) = drain(child.stdout.take().expect("stdout is piped"));
        (Self { setup, child, stdout }, address)
    }

    pub fn kill(mut self) -> Setup {
        // An error means that it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.setup
    }

    pub fn wait(mut self) -> (Setup, Outcome) {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                let stdout = self.stdout.join().expect("the reader of stdout does not panic");
                let outcome = Outcome { status, stdout, log: self.setup.log() };
                return (self.setup, outcome);
            }
            if Instant::now() > end {
                let setup = self.kill();
                panic!("the process did not end within {DEADLINE:?}; it logged:\n{}", setup.log());
            }
            thread::park_timeout(Duration::from_millis(5));
        }
    }
}

/// Reads a child's stdout to the end, so that it never blocks on us. Sends the address as soon as it is printed.
fn drain(stdout: ChildStdout) -> (JoinHandle<String>, mpsc::Receiver<SocketAddr>) {
    let (sender, address) = mpsc::channel();
    // The sender moves in, so that the end of stdout disconnects the receiver.
    let reader = thread::spawn(move || {
        let mut text = String::new();
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(Ok(address)) = line.strip_prefix("listening on ").map(str::parse) {
                // Nobody listens after the first address.
                let _ = sender.send(address);
            }
            text.push_str(&line);
            text.push('\n');
        }
        text
    });
    (reader, address)
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    /// Everything on stderr of all runs in this directory.
    pub log: String,
}

impl Outcome {
    /// The exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}
