//! A real node for a test: the program that `cargo build` makes, on free ports, with data of its own.

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

/// How long anything may take in a test.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How long a window waits before it is drawn again by itself, while something is going on.
const REPAINT: Duration = Duration::from_millis(100);

/// Wakes a test whenever a client has told something.
pub struct Bell(Receiver<()>);

impl Bell {
    /// With what rings it.
    pub fn new() -> (Self, impl Fn() + Send + Sync + 'static) {
        // One that was not heard yet is as good as many.
        let (rings, heard) = mpsc::sync_channel(1);
        (Self(heard), move || {
            let _is_rung_already = rings.try_send(());
        })
    }

    /// Waits until something is so. It looks whenever the bell rings, and as often as a window is drawn.
    #[track_caller]
    pub fn wait_until<T>(&self, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(begin.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
            match self.0.recv_timeout(REPAINT) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("{what}: the client has ended"),
            }
        }
    }
}

/// An address that no other test uses, and that stays the node's over a restart: its port is below those of outgoing connections.
fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let process = std::process::id();
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let address = format!("127.0.0.1:{}", 10_000 + (process * 50 + number) % 20_000);
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

/// The program of the node, as the sources are now: cargo builds it if it is older.
fn binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let this = std::env::current_exe().expect("a path");
        let folder = this.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--bin", "DynaRust"]).current_dir(root);
        if folder.file_name().is_some_and(|name| name == "release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo runs").success(), "the node cannot be built");
        folder.join("DynaRust").with_extension(std::env::consts::EXE_EXTENSION)
    })
}

/// A new token in a file of tokens, which may read and write everything.
pub fn token(file: &str) -> String {
    let arguments = ["token", "new", "window", "--rights", "read,write", "--tokens", file];
    let output = Command::new(binary()).args(arguments).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// Makes an authority, and certificates of a server and of a client `me`, in a directory.
pub fn certificates(directory: &std::path::Path) {
    let output = Command::new(binary()).arg("certs").arg(directory).args(["--client", "me"]).output();
    let output = output.expect("it runs");
    assert!(output.status.success(), "{output:?}");
}

/// Where a node listens for gRPC, if this line of its log says so.
fn listening(line: &str) -> Option<SocketAddr> {
    let (_, address) = line.split_once("listening for gRPC")?.1.split_once("address=")?;
    address.split_whitespace().next()?.parse().ok()
}

/// A node that runs.
pub struct Node {
    process: Child,
    data: tempfile::TempDir,
    pub grpc: SocketAddr,
}

impl Node {
    /// On free ports, with these arguments besides.
    pub fn start(arguments: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        Self::start_at(&free_address(), data, arguments)
    }

    #[track_caller]
    fn start_at(grpc: &str, data: tempfile::TempDir, arguments: &[&str]) -> Self {
        let mut process = Command::new(binary())
            .args(["127.0.0.1:0", "--grpc", grpc, "--data"])
            .arg(data.path().join("storage.db"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the node starts");
        let log = process.stderr.take().expect("it is a pipe");
        let (found, address) = mpsc::channel();
        // It reads on until the node ends, so that the pipe is never full.
        thread::spawn(move || {
            let mut lines = BufReader::new(log).lines().map_while(Result::ok);
            if let Some(grpc) = lines.find_map(|line| listening(&line)) {
                found.send(grpc).unwrap_or_default();
            }
            lines.for_each(drop);
        });
        let grpc = address.recv_timeout(DEADLINE);
        if grpc.is_err() {
            drop(process.kill());
        }
        let grpc = grpc.expect("the node listens for gRPC");
        Self { process, data, grpc }
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        self.process.kill().expect("it ran");
        self.process.wait().expect("it ends");
    }

    /// Starts it again, with its data, where it was.
    pub fn restart(mut self) -> Self {
        self.kill();
        let grpc = self.grpc.to_string();
        let data = std::mem::replace(&mut self.data, tempfile::tempdir().expect("a folder"));
        Self::start_at(&grpc, data, &[])
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
