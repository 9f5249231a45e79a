//! The leader is killed (kill -9): how long writes go without an answer. A client writes to a member that lives, and tries again
//! whenever it is told that there is no leader, until a write is answered with success.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tokio::time;

use super::{etcd::Etcd, group};
use crate::{
    client::{
        connection::Connection,
        target::{self, Target},
    },
    cluster::workspace::Workspace,
    error::{Error, Result},
    options::LoadOptions,
    progress,
    report::{Figure, Report},
};

/// How long the client waits for an answer before it tries again: some targets hold a request until they give up on their leader.
const ATTEMPT: Duration = Duration::from_millis(250);
/// Between two attempts of the client.
const RETRY: Duration = Duration::from_millis(5);
/// The measurement fails if no write is answered by then.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long all is quiet before the leader is killed.
const REST: Duration = Duration::from_millis(500);

/// How often.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// failover: how many times the leader is killed
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub kills: u32,
}

/// Kills the leader of three nodes, and that of three members of etcd, `--kills` times.
pub async fn run(
    failover: Options,
    etcd: Option<&Path>,
    workspace: &Workspace,
    options: &LoadOptions,
) -> Result<Report> {
    let mut nodes = group::start(workspace, 3).await?;
    let mut etcd = match etcd {
        Some(binary) => Some(Etcd::start(binary, workspace.directory(), 3).await?),
        None => None,
    };
    let mut report = Report::new("failover", "3 nodes").setting("kills", failover.kills);
    let bar = progress::bar("failover", u64::from(failover.kills)).with_message("kills");
    for _ in 0..failover.kills {
        let leads = group::leader(&nodes).await?;
        time::sleep(REST).await;
        nodes[leads].kill();
        let survivor = nodes[(leads + 1) % 3].target();
        let silent = until_written(survivor, options.value_bytes).await?;
        nodes[leads].start().await?;
        group::settled(&nodes.iter().collect::<Vec<_>>()).await?;
        let mut figures = vec![Figure::new("without_writes_ms", milliseconds(silent))];
        if let Some(etcd) = &mut etcd {
            let leads = etcd.leader().await?;
            time::sleep(REST).await;
            etcd.kill(leads);
            let silent = until_written(etcd.target((leads + 1) % 3), options.value_bytes).await?;
            etcd.restart(leads).await?;
            figures.push(Figure::new("etcd_without_writes_ms", milliseconds(silent)));
        }
        report.run(figures);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(report)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The time until a write to this member, begun now, is answered with success.
async fn until_written(target: &Target, value_bytes: usize) -> Result<Duration> {
    let start = Instant::now();
    let value = format!("\"{}\"", "x".repeat(value_bytes));
    let mut request = Vec::new();
    target.put(&target::key(0), value.as_bytes(), &mut request);
    while start.elapsed() < TIMEOUT {
        let mut connection = Connection::open(target.address).await?;
        if let Ok(status) = time::timeout(ATTEMPT, connection.exchange(&request)).await
            && status? == 200
        {
            return Ok(start.elapsed());
        }
        time::sleep(RETRY).await;
    }
    Err(Error::Failed(format!("no write is answered within {TIMEOUT:?} after the leader was killed")))
}
