//! A real node for a test: the program that `cargo build` makes, on free ports, with data of its own.

use std::{
    fs::File,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

/// How long anything may take in a test.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until something is so.
#[track_caller]
pub fn wait_until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begin.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::yield_now();
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
        Self::start_at("127.0.0.1:0", data, arguments)
    }

    fn start_at(grpc: &str, data: tempfile::TempDir, arguments: &[&str]) -> Self {
        let log = data.path().join("log.txt");
        let process = Command::new(binary())
            .args(["127.0.0.1:0", "--grpc", grpc, "--data"])
            .arg(data.path().join("storage.db"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a file"))
            .spawn()
            .expect("the node starts");
        let mut node = Self { process, data, grpc: ([0, 0, 0, 0], 0).into() };
        node.grpc = wait_until("the node listens for gRPC", || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let line = text.lines().find(|line| line.contains("listening for gRPC"))?;
            let (_, address) = line.split_once("address=")?;
            address.split_whitespace().next()?.parse().ok()
        });
        node
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
