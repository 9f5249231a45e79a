//! Starts, stops and watches the real binary. A node is either a `Setup` (a directory and a command line, nothing running)
//! or a `Node` (running), and one turns into the other: `Setup::start`, `Node::kill`, `Node::terminate`.
//!
//! Nothing here sleeps a guess: every wait has a condition and a deadline, and a deadline that passes panics with what was
//! waited for and what the node said meanwhile. Only children started here are ever killed.

pub mod http;
pub mod sse;
mod wire;
pub mod ws;

use std::{
    ffi::OsString,
    fs::File,
    io::{BufRead, BufReader},
    net::SocketAddr,
    ops::Deref,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use http::{Connection, Request, Response};

/// How long anything may take before the test fails. Far longer than anything takes, as machines differ.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for `condition`; panics once `deadline` has passed without it.
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {deadline:?}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// A directory and a command line from which nodes are started, one at a time.
pub struct Setup {
    directory: tempfile::TempDir,
    listen: String,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Setup {
    /// A fresh directory; listens on a free port.
    pub fn new() -> Self {
        let directory =
            tempfile::Builder::new().prefix("dynarust-").tempdir().expect("a temporary directory");
        std::fs::create_dir(directory.path().join("home")).expect("a directory in a temporary one");
        Self { directory, listen: "127.0.0.1:0".to_owned(), arguments: Vec::new(), environment: Vec::new() }
    }

    /// Listens there instead of on a free port of the loopback.
    pub fn listen(mut self, address: &str) -> Self {
        address.clone_into(&mut self.listen);
        self
    }

    /// Adds a flag and its value.
    pub fn flag(self, name: &str, value: impl Into<OsString>) -> Self {
        self.argument(name).argument(value)
    }

    /// Adds one argument.
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an environment variable.
    pub fn environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The working directory of the nodes: `storage.db` lies in it.
    pub fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// What the nodes started here have logged.
    pub fn log(&self) -> String {
        read_log(self.directory.path())
    }

    /// Starts a node and waits until it listens.
    pub fn start(self) -> Node {
        self.try_start().unwrap_or_else(|outcome| panic!("the node did not start: {outcome:?}"))
    }

    /// Starts a node that may refuse to: how it ended, then.
    pub fn try_start(self) -> Result<Node, Outcome> {
        let mut command = self.command();
        let (running, address) = Running::spawn(self, &mut command);
        match address.recv_timeout(DEADLINE) {
            Ok(address) => Ok(Node { running: Some(running), address }),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(running.wait().1),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let setup = running.kill();
                panic!(
                    "no line `listening on ADDRESS` on stdout within {DEADLINE:?}; it logged:\n{}",
                    setup.log()
                );
            }
        }
    }

    /// Runs the binary with these arguments, and nothing else, in the same directory, until it ends.
    pub fn run(self, arguments: &[&str]) -> (Self, Outcome) {
        let mut command = self.bare_command();
        command.args(arguments);
        Running::spawn(self, &mut command).0.wait()
    }

    fn command(&self) -> Command {
        let mut command = self.bare_command();
        command.arg(&self.listen).args(&self.arguments);
        command
    }

    fn bare_command(&self) -> Command {
        let log = File::options().create(true).append(true).open(log_path(self.directory.path()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_DynaRust"));
        // What the developer's shell has set is no part of a test.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DYNARUST_") {
                command.env_remove(name);
            }
        }
        command
            .env_remove("CLUSTER_SECRET")
            .env_remove("RUST_LOG")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.expect("a log file in a temporary directory"));
        command
    }
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
    /// The exit code; `None` where a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// A running node. Dropping it kills it and removes its directory.
pub struct Node {
    /// `None` only while `kill` or `wait` takes it apart.
    running: Option<Running>,
    address: SocketAddr,
}

impl Node {
    /// Starts a node without any flags in a fresh directory.
    pub fn start() -> Self {
        Setup::new().start()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The working directory: `storage.db` lies in it.
    pub fn home(&self) -> PathBuf {
        self.running().setup.home()
    }

    /// What it has logged, its earlier runs in this directory included.
    pub fn log(&self) -> String {
        self.running().setup.log()
    }

    pub fn pid(&self) -> u32 {
        self.running().child.id()
    }

    /// Ends it as `kill -9` does: no handler runs.
    pub fn kill(mut self) -> Setup {
        self.running.take().expect("a node is running").kill()
    }

    /// Sends a signal, by name (`TERM`, `INT`, `STOP`).
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.expect("kill runs").success(), "kill -{name} {}", self.pid());
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(self) -> (Setup, Outcome) {
        self.signal("TERM");
        self.wait()
    }

    /// Waits for the end that something else brings about.
    pub fn wait(mut self) -> (Setup, Outcome) {
        self.running.take().expect("a node is running").wait()
    }

    /// A connection of one's own, kept alive.
    pub fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    /// One request on one connection.
    pub fn send(&self, request: &Request) -> Response {
        self.connect().send(request)
    }

    pub fn get(&self, path: &str) -> Response {
        self.send(&Request::new("GET", path))
    }

    pub fn put(&self, path: &str, body: impl Into<Vec<u8>>) -> Response {
        self.send(&Request::new("PUT", path).body(body))
    }

    pub fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> Response {
        self.send(&Request::new("POST", path).body(body))
    }

    pub fn delete(&self, path: &str) -> Response {
        self.send(&Request::new("DELETE", path))
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("a node is running")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let setup = running.kill();
            if thread::panicking() {
                eprintln!("--- log of {} ---\n{}", self.address, setup.log());
            }
        }
    }
}

/// A table of its own on a node that all tests running now share: most facts need no node for themselves.
pub struct Table {
    node: Arc<Node>,
    name: String,
}

/// A table that no other test has.
pub fn table() -> Table {
    static NODE: Mutex<Weak<Node>> = Mutex::new(Weak::new());
    static NEXT: AtomicU64 = AtomicU64::new(1);

    // Weak, so that the last test to end stops the node; statics are never dropped. A test that failed to start the node
    // poisons nothing: the next one tries again.
    let mut shared = NODE.lock().unwrap_or_else(PoisonError::into_inner);
    let node = shared.upgrade().unwrap_or_else(|| Arc::new(Node::start()));
    *shared = Arc::downgrade(&node);
    Table { node, name: format!("table{}", NEXT.fetch_add(1, Ordering::Relaxed)) }
}

impl Table {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of something in this table: `key/a`, `keys?limit=3`.
    pub fn path(&self, rest: &str) -> String {
        format!("/{}/{rest}", self.name)
    }

    pub fn get(&self, rest: &str) -> Response {
        self.node.get(&self.path(rest))
    }

    pub fn put(&self, rest: &str, body: impl Into<Vec<u8>>) -> Response {
        self.node.put(&self.path(rest), body)
    }

    pub fn post(&self, rest: &str, body: impl Into<Vec<u8>>) -> Response {
        self.node.post(&self.path(rest), body)
    }

    pub fn delete(&self, rest: &str) -> Response {
        self.node.delete(&self.path(rest))
    }

    /// A request to something in this table.
    pub fn request(&self, method: &str, rest: &str) -> Request {
        Request::new(method, &self.path(rest))
    }
}

impl Deref for Table {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

/// A process that was started from a setup, and holds it until it ends.
struct Running {
    setup: Setup,
    child: Child,
    stdout: JoinHandle<String>,
}

impl Running {
    fn spawn(setup: Setup, command: &mut Command) -> (Self, mpsc::Receiver<SocketAddr>) {
        let mut child = command.spawn().expect("the binary starts");
        let (stdout, address) = drain(child.stdout.take().expect("stdout is piped"));
        (Self { setup, child, stdout }, address)
    }

    fn kill(mut self) -> Setup {
        // An error here means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.setup
    }

    fn wait(mut self) -> (Setup, Outcome) {
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

/// Reads a child's stdout to its end, so that it never waits for us; the address comes out as soon as it is printed.
fn drain(stdout: ChildStdout) -> (JoinHandle<String>, mpsc::Receiver<SocketAddr>) {
    let (sender, address) = mpsc::channel();
    // The sender moves in, so that the end of stdout disconnects the receiver.
    let reader = thread::spawn(move || {
        let mut text = String::new();
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(Ok(address)) = line.strip_prefix("listening on ").map(str::parse) {
                // Nobody listens any more once the first address is there.
                let _ = sender.send(address);
            }
            text.push_str(&line);
            text.push('\n');
        }
        text
    });
    (reader, address)
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("stderr.log")
}

fn read_log(directory: &Path) -> String {
    let bytes = std::fs::read(log_path(directory)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
