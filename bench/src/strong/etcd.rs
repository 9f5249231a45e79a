//! etcd, started to be compared with: its own processes, ports and directories.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::time;

use crate::{
    binary,
    client::{
        connection::Connection,
        target::{Kind, Target},
    },
    error::{Error, Result},
};

/// The measurement fails if etcd does not answer by then.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The etcd binary: the one that was named, or the one on the PATH, if there is any.
pub fn find(named: Option<&Path>) -> Result<Option<PathBuf>> {
    if let Some(path) = named {
        return match path.is_file() {
            true => Ok(Some(path.to_owned())),
            false => Err(Error::Usage(format!("--etcd {}: there is no such file", path.display()))),
        };
    }
    Ok(binary::on_path("etcd"))
}

/// A cluster of etcd.
pub struct Etcd {
    members: Vec<Member>,
}

struct Member {
    binary: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    target: Target,
    child: Option<Child>,
}

impl Etcd {
    /// Starts `count` members with their data below `directory`, and waits until they have a leader.
    pub async fn start(binary: &Path, directory: &Path, count: usize) -> Result<Self> {
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let mut ports = Vec::new();
        for _ in 0..count {
            let pair = free().and_then(|clients| Ok((clients, free()?)));
            ports.push(pair.map_err(|e| Error::io("looking for free ports", &e))?);
        }
        let urls = ports.iter().enumerate().map(|(number, (_, peers))| format!("m{number}=http://{peers}"));
        let all = urls.collect::<Vec<_>>().join(",");
        let mut etcd = Self { members: Vec::new() };
        for (number, (clients, peers)) in ports.into_iter().enumerate() {
            let home = directory.join(format!("etcd{number}"));
            fs::create_dir(&home).map_err(|e| Error::io(format_args!("making {}", home.display()), &e))?;
            let target = Target { kind: Kind::Etcd, ..Target::node(clients, "etcd") };
            let arguments = arguments(number, &home, clients, peers, &all);
            let mut member =
                Member { binary: binary.to_owned(), arguments, log: home.join("log"), target, child: None };
            member.start()?;
            etcd.members.push(member);
        }
        etcd.leader().await?;
        Ok(etcd)
    }

    /// A member as the target of a workload.
    pub fn target(&self, member: usize) -> &Target {
        &self.members[member].target
    }

    /// A member as the target of a workload, by gRPC.
    pub fn grpc_target(&self, member: usize) -> Target {
        Target { kind: Kind::EtcdGrpc, ..self.target(member).clone() }
    }

    /// The process id of a member.
    pub fn pid(&self, member: usize) -> u32 {
        self.members[member].child.as_ref().expect("only running members are asked for their process").id()
    }

    /// Kills a member at once.
    pub fn kill(&mut self, member: usize) {
        self.members[member].kill();
    }

    /// Starts a member again, and waits until it knows the leader.
    pub async fn restart(&mut self, member: usize) -> Result<()> {
        self.members[member].start()?;
        let start = Instant::now();
        while self.members[member].status().await.is_none_or(|(_, leader)| leader == "0") {
            if start.elapsed() > TIMEOUT {
                return Err(Error::Failed(format!("an etcd does not come back within {TIMEOUT:?}")));
            }
            time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// The number of the member that leads.
    pub async fn leader(&self) -> Result<usize> {
        let start = Instant::now();
        loop {
            for (number, member) in self.members.iter().enumerate() {
                if member.status().await.is_some_and(|(own, leader)| own == leader) {
                    return Ok(number);
                }
            }
            if start.elapsed() > TIMEOUT {
                let log = fs::read_to_string(&self.members[0].log).unwrap_or_default();
                return Err(Error::Failed(format!("no etcd leads within {TIMEOUT:?}; one logged:\n{log}")));
            }
            time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// The command line of a member. It logs errors only, and takes no metrics of a kind that a node does not take.
fn arguments(number: usize, home: &Path, clients: SocketAddr, peers: SocketAddr, all: &str) -> Vec<String> {
    let data = home.join("data").display().to_string();
    let (clients, peers) = (format!("http://{clients}"), format!("http://{peers}"));
    let pairs = [
        ("--name", format!("m{number}")),
        ("--data-dir", data),
        ("--listen-client-urls", clients.clone()),
        ("--advertise-client-urls", clients),
        ("--listen-peer-urls", peers.clone()),
        ("--initial-advertise-peer-urls", peers),
        ("--initial-cluster", all.to_owned()),
        ("--initial-cluster-state", "new".to_owned()),
        ("--log-level", "error".to_owned()),
    ];
    pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
}

impl Member {
    fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log);
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.map_err(|e| Error::io("opening the log of an etcd", &e))?);
        self.child = Some(command.spawn().map_err(|e| Error::io("starting etcd", &e))?);
        Ok(())
    }

    /// Its id and that of the leader that it knows, "0" for none; `None` while it does not answer.
    async fn status(&self) -> Option<(String, String)> {
        self.child.as_ref()?;
        let mut request = Vec::new();
        self.target.with_body("POST /v3/maintenance/status", &[b"{}"], &mut request);
        let mut connection = Connection::open(self.target.address).await.ok()?;
        let status = connection.exchange(&request).await.ok()?;
        let answer: Value = serde_json::from_slice(connection.body()).ok().filter(|_| status == 200)?;
        let id = |value: &Value| value.as_str().unwrap_or("0").to_owned();
        Some((id(&answer["header"]["member_id"]), id(&answer["leader"])))
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail where it has ended already.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
