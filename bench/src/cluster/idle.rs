//! Three idle nodes that hold some rows: how many bytes they send each other, how many they write to disk, and how much processor
//! time they take.

use std::time::{Duration, Instant};

use super::{
    node::Node,
    view::{self, Counters},
    workspace::Workspace,
};
use crate::{
    error::{Error, Result},
    options::LoadOptions,
    process, progress,
    report::{Figure, Report},
    workload::batch,
};

/// Wait before measuring: for some seconds after a write a node records on disk how far it is replicated.
const SETTLE_TIME: Duration = Duration::from_secs(12);

/// For how long.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// idle: length of one run
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration)]
    pub idle: Duration,
}

/// Measures idle nodes, `--runs` times.
pub async fn run(idle: Options, workspace: &Workspace, options: &LoadOptions) -> Result<Report> {
    let nodes = workspace.cluster(3).await?;
    let nodes: Vec<_> = nodes.iter().collect();
    batch::fill(nodes[0].target(), options).await?;
    view::in_sync(&nodes).await?;
    // A short run says little about disks anyway, and is not worth a long wait.
    progress::follow_time("settling", SETTLE_TIME.min(idle.idle)).await;

    let mut report = Report::new("idle", "3 nodes with one table")
        .setting("keys", options.keys)
        .setting("run_s", idle.idle.as_secs_f64());
    for _ in 0..options.runs {
        let (before, start) = (Sample::of(&nodes).await?, Instant::now());
        progress::follow_time("idle", idle.idle).await;
        let (after, seconds) = (Sample::of(&nodes).await?, start.elapsed().as_secs_f64());
        let counters = after.counters - before.counters;
        if counters.rounds == 0 {
            return Err(Error::Failed("no round in that time: use a longer --idle".into()));
        }
        let each = nodes.len() as f64;
        let cpu_s = after.cpu_s - before.cpu_s;
        report.run(vec![
            Figure::new("bytes_per_peer_and_round", counters.bytes_sent as f64 / counters.rounds as f64),
            Figure::new("rounds", counters.rounds as f64),
            Figure::new("sessions", counters.sessions as f64),
            Figure::new("written_bytes_per_node", (after.written_bytes - before.written_bytes) as f64 / each),
            Figure::new("cpu_percent_per_node", 100.0 * cpu_s / seconds / each),
        ]);
    }
    Ok(report)
}

/// The counters of all nodes, summed.
struct Sample {
    counters: Counters,
    written_bytes: u64,
    cpu_s: f64,
}

impl Sample {
    async fn of(nodes: &[&Node]) -> Result<Self> {
        let mut reading = Self { counters: Counters::of(nodes).await?, written_bytes: 0, cpu_s: 0.0 };
        for node in nodes {
            reading.written_bytes += process::written_bytes(node.pid())?;
            reading.cpu_s += process::cpu_seconds(node.pid())?;
        }
        Ok(reading)
    }
}
