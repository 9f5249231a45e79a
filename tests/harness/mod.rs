//! Starts, stops and watches the real binary. A node is either a `Setup` (a directory and a command line, nothing running) or a `Node`
//! (running), and one turns into the other: `Setup::start`, `Node::kill`, `Node::terminate`.
//!
//! Nothing here sleeps for a guessed time: every wait has a condition and a deadline. If the deadline passes, the panic says what was
//! waited for and what the node logged. Only children started here are ever killed.

pub mod cluster;
pub mod etcd;
pub mod fake;
pub mod http;
pub mod network;
mod running;
pub mod sse;
mod table;
mod wire;
pub mod ws;

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use etcd::Etcd;
use http::{Connection, Request, Response};
use network::Namespace;
pub use running::Outcome;
use running::Running;
pub use table::{Table, table};
use wire::Reachable;

/// How long anything may take before the test fails. Far longer than needed, because machines differ.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for `condition`; panics if `deadline` passes first.
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {deadline:?}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// A directory and a command line to start nodes from, one at a time.
pub struct Setup {
    binary: &'static str,
    directory: tempfile::TempDir,
    listen: String,
    join: Vec<String>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    namespace: Option<Namespace>,
    /// It must not end before the node.
    etcd: Option<Arc<Etcd>>,
}

impl Setup {
    /// A fresh directory and a free port.
    pub fn new() -> Self {
        let directory =
            tempfile::Builder::new().prefix("dynarust-").tempdir().expect("a temporary directory");
        std::fs::create_dir(directory.path().join("home")).expect("a directory in a temporary one");
        Self {
            binary: env!("CARGO_BIN_EXE_DynaRust"),
            directory,
            listen: "127.0.0.1:0".to_owned(),
            join: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            namespace: None,
            etcd: None,
        }
    }

    /// Starts this binary instead of `DynaRust`.
    pub fn binary(mut self, path: &'static str) -> Self {
        self.binary = path;
        self
    }

    /// Listens on this address instead of a free loopback port.
    pub fn listen(mut self, address: &str) -> Self {
        address.clone_into(&mut self.listen);
        self
    }

    /// The configured address, or port 0.
    pub fn listening_at(&self) -> String {
        self.listen.clone()
    }

    /// Joins through the node at this address. Further calls add more nodes to join through.
    pub fn join(mut self, address: &str) -> Self {
        self.join.push(address.to_owned());
        self
    }

    /// Joins nobody.
    pub fn without_join(mut self) -> Self {
        self.join.clear();
        self
    }

    /// Runs in this network namespace; the harness connects from inside it.
    pub fn inside(mut self, namespace: Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// An etcd keeps the strong tables.
    pub fn etcd(mut self, etcd: &Arc<Etcd>) -> Self {
        self.etcd = Some(etcd.clone());
        self.environment("DYNARUST_STRONG_BACKEND", etcd.url())
    }

    /// Adds a flag with a value.
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

    /// Removes an environment variable set before.
    pub fn without_environment(mut self, name: &str) -> Self {
        self.environment.retain(|(known, _)| known.to_str() != Some(name));
        self
    }

    /// The working directory of the nodes, which contains `storage.db`.
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

    /// Starts a node that may refuse to start, and returns how it ended if so.
    pub fn try_start(self) -> Result<Node, Outcome> {
        let mut command = self.command();
        let logged_before = self.log().len();
        let (running, address) = Running::spawn(self, &mut command);
        let end = Instant::now() + DEADLINE;
        loop {
            match address.recv_timeout(Duration::from_millis(20)) {
                Ok(address) => return Ok(Node { running: Some(running), address }),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(running.wait().1),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            if let Some(address) =
                address_in_json(running.setup.log().get(logged_before..).unwrap_or_default())
            {
                return Ok(Node { running: Some(running), address });
            }
            if Instant::now() > end {
                let setup = running.kill();
                panic!("it does not say within {DEADLINE:?} where it listens; it logged:\n{}", setup.log());
            }
        }
    }

    /// Runs the binary with exactly these arguments in the same directory, until it ends.
    pub fn run(self, arguments: &[&str]) -> (Self, Outcome) {
        let mut command = self.bare_command();
        command.args(arguments);
        Running::spawn(self, &mut command).0.wait()
    }

    /// As `run`, with the flags of the setup after the arguments.
    pub fn run_with(self, arguments: &[&str]) -> Outcome {
        let mut command = self.bare_command();
        command.args(arguments).args(&self.arguments);
        Running::spawn(self, &mut command).0.wait().1
    }

    fn command(&self) -> Command {
        let mut command = self.bare_command();
        command.arg(&self.listen).args(&self.join).args(&self.arguments);
        command
    }

    fn bare_command(&self) -> Command {
        let log = File::options().create(true).append(true).open(log_path(self.directory.path()));
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(self.binary),
            None => Command::new(self.binary),
        };
        // Variables of the developer's shell must not affect tests.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DYNARUST_") {
                command.env_remove(name);
            }
        }
        command
            .env_remove("CLUSTER_SECRET")
            .env_remove("CLUSTER_SECRET_FILE")
            .env_remove("RUST_LOG")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.expect("a log file in a temporary directory"));
        command
    }
}

/// A running node. Dropping it kills it and removes its directory.
pub struct Node {
    /// `None` only inside `kill` and `wait`.
    running: Option<Running>,
    address: SocketAddr,
}

impl Node {
    /// Starts a node without flags in a fresh directory.
    pub fn start() -> Self {
        Setup::new().start()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The working directory, which contains `storage.db`.
    pub fn home(&self) -> PathBuf {
        self.running().setup.home()
    }

    /// What it has logged, including earlier runs in this directory.
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

    /// Sends a signal by name (`TERM`, `INT`, `STOP`).
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.expect("kill runs").success(), "kill -{name} {}", self.pid());
        if name == "STOP" {
            // On a busy machine its threads go on until one of them has seen the signal.
            wait_until("the process stands still", Duration::from_secs(10), || self.stands_still());
        }
    }

    fn stands_still(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        let mut states = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
        states.all(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't'])))
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(self) -> (Setup, Outcome) {
        self.signal("TERM");
        self.wait()
    }

    /// Waits for an end that something else causes.
    pub fn wait(mut self) -> (Setup, Outcome) {
        self.running.take().expect("a node is running").wait()
    }

    /// A new connection, kept alive.
    pub fn connect(&self) -> Connection {
        self.try_connect().expect("the node accepts connections")
    }

    /// A connection to a node that may be gone.
    pub fn try_connect(&self) -> io::Result<Connection> {
        Connection::over(self.stream()?)
    }

    /// Sends one request on a new connection.
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

    /// The cluster as this node sees it.
    pub fn view(&self) -> Value {
        self.get("/_/cluster").expect(200).json()
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("a node is running")
    }
}

/// Connects from inside the node's namespace, if it has one.
impl Reachable for &Node {
    fn stream(self) -> io::Result<TcpStream> {
        match &self.running().setup.namespace {
            Some(namespace) => namespace.connect(self.address),
            None => self.address.stream(),
        }
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

/// The address in the first line of a JSON log. A node with such a log prints nothing on stdout.
fn address_in_json(log: &str) -> Option<SocketAddr> {
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let started = lines.find(|line| line["message"] == "started")?;
    started["address"].as_str()?.parse().ok()
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("stderr.log")
}

fn read_log(directory: &Path) -> String {
    let bytes = std::fs::read(log_path(directory)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
