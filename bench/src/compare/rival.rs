//! What a node is compared with, as processes of their own on the node's core: the bare servers of this program, and Redis.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use tokio::{process::Command, time};

use super::Setup;
use crate::{
    binary,
    client::{connection::Connection, target::Target},
    cluster::node::free_address,
    error::{Error, Result},
};

/// The table that the bare servers know.
pub const TABLE: &str = "bench";
/// A comparison fails if a server does not answer by then.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is tried.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Writes of Redis before the first round: how fast it is, so that a round takes as long as it is to.
const TRIAL_WRITES: u64 = 20_000;

/// A server. Dropping it ends it.
pub struct Server {
    child: Child,
    target: Target,
}

impl Server {
    /// One of the bare servers of this program.
    pub async fn bare(name: &str, arguments: &[String], setup: &Setup<'_>) -> Result<Self> {
        let address = free_address()?;
        let mut command = binary::command(this_program()?, setup.core);
        command.args(["bare", name, "--listen"]).arg(address.to_string()).args(arguments);
        Self::start(command, address).await
    }

    async fn start(mut command: std::process::Command, address: SocketAddr) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().map_err(|e| Error::io(format_args!("starting {command:?}"), &e))?;
        let mut server = Self { child, target: Target::node(address, TABLE) };
        let start = Instant::now();
        while let Err(why) = Connection::open(address).await {
            let ended = server.child.try_wait().map_err(|e| Error::io("waiting for a server", &e))?;
            if let Some(status) = ended {
                return Err(Error::Failed(format!("{command:?} ended with {status}")));
            }
            if start.elapsed() > TIMEOUT {
                return Err(why);
            }
            time::sleep(POLL_INTERVAL).await;
        }
        Ok(server)
    }

    /// As what a workload loads.
    pub fn target(&self) -> &Target {
        &self.target
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Rows a second that bare sled loads, of `keys` rows in a directory of its own.
pub async fn sled_rows_per_s(data: &Path, batch_rows: u64, setup: &Setup<'_>, seed: u64) -> Result<f64> {
    let mut command = binary::command(this_program()?, setup.core);
    command.args(["bare", "sled", "--runs=1", "--data"]).arg(data);
    let numbers = [
        ("--keys", setup.load.keys),
        ("--batch-rows", batch_rows),
        ("--value-bytes", setup.load.value_bytes as u64),
        ("--seed", seed),
    ];
    command.args(numbers.map(|(name, number)| format!("{name}={number}")));
    let said = output(command).await?;
    let rate = said.lines().find_map(|line| line.strip_prefix("median ")?.split(' ').next()?.parse().ok());
    rate.ok_or_else(|| Error::Failed(format!("bare sled printed no median: {said}")))
}

/// A Redis that syncs each write before it answers, and what loads it.
pub struct Redis {
    server: Server,
    benchmark: PathBuf,
    writes: u64,
}

impl Redis {
    /// Starts the Redis of this system, with its data in `directory`; `None`, and a line that says so, where there is none.
    pub async fn start(directory: &Path, setup: &Setup<'_>) -> Result<Option<Self>> {
        let (Some(server), Some(benchmark)) =
            (binary::on_path("redis-server"), binary::on_path("redis-benchmark"))
        else {
            eprintln!(
                "No redis-server or no redis-benchmark on the PATH: writes are compared with nothing. `apt-get install redis-server \
                 redis-tools`, or as your system has it."
            );
            return Ok(None);
        };
        let address = free_address()?;
        let mut command = binary::command(server, setup.core);
        command.args(["--bind", "127.0.0.1", "--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
        command.arg("--port").arg(address.port().to_string()).arg("--dir").arg(directory);
        let mut redis =
            Self { server: Server::start(command, address).await?, benchmark, writes: TRIAL_WRITES };
        let per_s = redis.writes_per_s(setup).await?;
        redis.writes = (per_s * setup.load.duration.as_secs_f64()) as u64 + 1;
        Ok(Some(redis))
    }

    /// Writes a second of as many connections, values and keys as the node gets.
    pub async fn writes_per_s(&self, setup: &Setup<'_>) -> Result<f64> {
        let mut command = std::process::Command::new(&self.benchmark);
        let connections = setup.load.connections_or(crate::workload::closed_loop::CONNECTIONS);
        let numbers = [
            ("-p", u64::from(self.server.target.address.port())),
            ("-d", setup.load.value_bytes as u64),
            ("-r", setup.load.keys),
            ("-c", u64::from(connections)),
            ("-n", self.writes),
        ];
        command.args(["-h", "127.0.0.1", "-t", "set", "--csv"]);
        command.args(numbers.into_iter().flat_map(|(name, number)| [name.to_owned(), number.to_string()]));
        let said = output(command).await?;
        rate_of(&said).ok_or_else(|| Error::Failed(format!("redis-benchmark printed no rate of SET: {said}")))
    }
}

/// The rate in the line `"SET","46620.05",...`.
fn rate_of(said: &str) -> Option<f64> {
    let fields = said.lines().find_map(|line| line.trim().strip_prefix("\"SET\",\""))?;
    fields.split('"').next()?.parse().ok()
}

fn this_program() -> Result<PathBuf> {
    env::current_exe().map_err(|e| Error::io("finding this program", &e))
}

/// What a program prints that ends by itself. It ends with this process.
async fn output(command: std::process::Command) -> Result<String> {
    let mut command = Command::from(command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|e| Error::io(format_args!("running {command:?}"), &e))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Failed(format!("{command:?} ended with {}: {stderr}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_redis_is_read_with_and_without_a_line_of_names() {
        assert_eq!(rate_of("\"SET\",\"46620.05\"\n"), Some(46_620.05));
        let with_names = "\"test\",\"rps\",\"avg_latency_ms\"\n\"SET\",\"46620.05\",\"1.2\"\n";
        assert_eq!(rate_of(with_names), Some(46_620.05));
        assert_eq!(rate_of("Could not connect"), None);
    }
}
