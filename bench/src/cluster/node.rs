//! A node that a measurement starts: a process of the DynaRust binary that ends with the measurement at the latest.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time;

use crate::{
    binary,
    client::{
        connection::Connection,
        target::{Kind, Target},
    },
    error::{Error, Result},
};

/// The measurement fails if a node does not serve, or does not end, by then.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Between attempts to connect.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// How much of a node's log an error quotes.
const LOG_LINES: usize = 12;

/// A node, running or not.
#[derive(Debug)]
pub struct Node {
    binary: PathBuf,
    core: Option<usize>,
    target: Target,
    home: PathBuf,
    join: Option<String>,
    advertise: Option<String>,
    etcd: Option<SocketAddr>,
    child: Option<Child>,
}

impl Node {
    /// A node that will listen on a port that is free now, with its data below `home`, on this core alone or on all.
    pub fn new(binary: PathBuf, core: Option<usize>, home: PathBuf, table: &str) -> Result<Self> {
        fs::create_dir(&home).map_err(|e| Error::io(format_args!("making {}", home.display()), &e))?;
        let target = Target::node(free_address()?, table);
        Ok(Self { binary, core, target, home, join: None, advertise: None, etcd: None, child: None })
    }

    /// Has it answer the etcd API, on another port that is free now.
    pub fn serve_etcd(&mut self) -> Result<()> {
        self.etcd = Some(free_address()?);
        Ok(())
    }

    /// The etcd API as the target of a workload, if it is answered.
    pub fn etcd_target(&self) -> Option<Target> {
        Some(Target { kind: Kind::EtcdGrpc, address: self.etcd?, ..self.target.clone() })
    }

    /// Sets the address that it joins when it starts.
    pub fn join(&mut self, address: String) {
        self.join = Some(address);
    }

    /// Sets the address that it tells other nodes.
    pub fn advertise(&mut self, address: String) {
        self.advertise = Some(address);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.target.address
    }

    /// Where other nodes reach it.
    pub fn advertised(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.address().to_string())
    }

    /// The node as the target of a workload.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.home.join("storage.db")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("only running nodes are asked for their process").id()
    }

    /// Starts it, and returns when it accepts connections.
    pub async fn start(&mut self) -> Result<()> {
        let child = self.command()?.spawn().map_err(|e| Error::io("starting a node", &e))?;
        self.child = Some(child);
        let start = Instant::now();
        while let Err(why) = Connection::open(self.address()).await {
            self.expect_running()?;
            if start.elapsed() > TIMEOUT {
                return Err(why);
            }
            time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Whether `/readyz` answers 200.
    pub async fn is_ready(&self) -> Result<bool> {
        Ok(Connection::open(self.address()).await?.exchange(&self.target.ready()).await? == 200)
    }

    /// Stops it as an operator would, and returns when it has ended.
    pub async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let start = Instant::now();
        while start.elapsed() < TIMEOUT {
            let child = self.child.as_mut().expect("a signal was just sent to it");
            if child.try_wait().map_err(|e| Error::io("waiting for a node to end", &e))?.is_some() {
                self.child = None;
                return Ok(());
            }
            time::sleep(POLL_INTERVAL).await;
        }
        Err(Error::Failed(format!("a node does not stop within {TIMEOUT:?}; it logged:\n{}", self.log())))
    }

    /// Kills it at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail where it has ended already.
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Suspends its process: to other nodes it hangs.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Resumes its process.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let pid = pid.expect("ids of processes are small and positive");
        kill_process(pid, signal).map_err(|e| Error::io("signalling a node", &e.into()))
    }

    fn command(&self) -> Result<Command> {
        let log = File::options().create(true).append(true).open(self.home.join("log"));
        let mut command = binary::command(&self.binary, self.core);
        // The environment of the caller must not change a measurement.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DYNARUST_") {
                command.env_remove(name);
            }
        }
        command
            .env_remove("CLUSTER_SECRET")
            .env_remove("CLUSTER_SECRET_FILE")
            .env_remove("RUST_LOG")
            .arg(self.address().to_string())
            .args(&self.join)
            .arg("--data")
            .arg(self.data())
            .args(self.advertise.iter().flat_map(|address| ["--advertise", address.as_str()]))
            .args(self.etcd.iter().flat_map(|address| ["--etcd".to_owned(), address.to_string()]))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.map_err(|e| Error::io("opening a node's log", &e))?);
        Ok(command)
    }

    /// Fails if it has ended by itself.
    pub fn expect_running(&mut self) -> Result<()> {
        let child = self.child.as_mut().expect("only nodes that were started are expected to run");
        match child.try_wait().map_err(|e| Error::io("checking whether a node runs", &e))? {
            Some(status) => {
                Err(Error::Failed(format!("a node ended with {status}; it logged:\n{}", self.log())))
            }
            None => Ok(()),
        }
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.home.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// An address of the loopback with a port that is free now.
pub fn free_address() -> Result<SocketAddr> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    free.map_err(|e| Error::io("looking for a free port", &e))
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
