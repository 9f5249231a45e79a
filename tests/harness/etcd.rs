//! A real etcd of one member, on loopback ports and in a directory of its own. A shell between it and this process ends it when this process
//! ends, however that comes.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use serde_json::{Value, json};

use super::{
    DEADLINE,
    cluster::free_address,
    http::{Connection, Request},
    wait_until,
};

/// Starts etcd, says its process id, and ends it when nobody holds the other end of stdin any more.
const SHELL: &str = r#"etcd "$@" </dev/null >/dev/null 2>"$0" & echo $!; read -r end; kill -9 $! && wait $!"#;

/// An etcd, running or not. It keeps its addresses and its data over restarts.
pub struct Etcd {
    directory: tempfile::TempDir,
    clients: String,
    peers: String,
    running: Mutex<Option<Running>>,
}

struct Running {
    shell: Child,
    end: Option<ChildStdin>,
    pid: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end.take();
        // An error means that it has ended.
        let _ = self.shell.wait();
    }
}

impl Etcd {
    /// Starts one. `None` where none is installed.
    pub fn start() -> Option<Self> {
        let version =
            Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.ok().filter(std::process::ExitStatus::success)?;
        let etcd = Self {
            directory: tempfile::Builder::new()
                .prefix("dynarust-etcd-")
                .tempdir()
                .expect("a temporary directory"),
            clients: free_address(),
            peers: free_address(),
            running: Mutex::default(),
        };
        etcd.restart();
        Some(etcd)
    }

    /// The value of `--strong-backend`.
    pub fn url(&self) -> String {
        format!("etcd://{}", self.clients)
    }

    /// Starts it again, and waits until it answers.
    pub fn restart(&self) {
        let (clients, peers) = (format!("http://{}", self.clients), format!("http://{}", self.peers));
        let log = self.directory.path().join("log");
        let mut command = Command::new("sh");
        command.arg("-c").arg(SHELL).arg(&log).arg("--data-dir").arg(self.directory.path().join("data"));
        command.args(["--log-level", "error", "--initial-cluster", &format!("default={peers}")]);
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        // The shell says there that it killed it.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut shell = command.spawn().expect("a shell starts etcd");
        let mut pid = String::new();
        let mut stdout = BufReader::new(shell.stdout.take().expect("stdout is piped"));
        stdout.read_line(&mut pid).expect("the shell says the process id");
        let running = Running { end: shell.stdin.take(), shell, pid: pid.trim().to_owned() };
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
        wait_until("etcd is healthy", DEADLINE, || {
            let health = self.connect().and_then(|mut etcd| etcd.try_send(&Request::new("GET", "/health")));
            health.is_ok_and(|health| health.status == 200 && health.json()["health"] == "true")
        });
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&self) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Loses all its data. It must not run.
    pub fn wipe(&self) {
        std::fs::remove_dir_all(self.directory.path().join("data")).expect("its data can be removed");
    }

    /// Copies its data into a backup, or back. It must not run.
    pub fn copy(&self, from: &str, to: &str) {
        let path = |name: &str| self.directory.path().join(name);
        let status = Command::new("cp").arg("-rT").arg(path(from)).arg(path(to)).status();
        assert!(status.expect("cp runs").success(), "{from} is copied to {to}");
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = &running.as_ref().expect("it runs").pid;
        let status = Command::new("kill").arg(format!("-{name}")).arg(pid).status();
        assert!(status.expect("kill runs").success(), "kill -{name} {pid}");
    }

    /// Forgets what was overwritten and deleted up to now.
    pub fn compact(&self) {
        let revision = self.call("/v3/kv/range", &json!({ "key": "YQ==" }))["header"]["revision"].clone();
        self.call("/v3/kv/compaction", &json!({ "revision": revision, "physical": true }));
    }

    fn call(&self, path: &str, request: &Value) -> Value {
        let request = Request::new("POST", path).body(request.to_string());
        self.connect().expect("etcd accepts connections").send(&request).expect(200).json()
    }

    fn connect(&self) -> std::io::Result<Connection> {
        Connection::over(std::net::TcpStream::connect(&self.clients)?)
    }
}
