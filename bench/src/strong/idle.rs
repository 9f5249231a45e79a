//! Three idle nodes without strong tables, whose group sleeps, and three with one: processor time, and bytes to disk.

use std::time::{Duration, Instant};

use super::group;
use crate::{
    cluster::{node::Node, workspace::Workspace},
    error::Result,
    options::LoadOptions,
    process, progress,
    report::{Figure, Report},
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

/// Measures both, one after the other, `--runs` times.
pub async fn run(idle: Options, workspace: &Workspace, options: &LoadOptions) -> Result<Report> {
    let mut report = Report::new("idle", "3 nodes").setting("run_s", idle.idle.as_secs_f64());
    for _ in 0..options.runs {
        let mut figures = Vec::new();
        for name in ["asleep", "awake"] {
            let nodes = match name {
                "asleep" => workspace.cluster(3).await?,
                _ => group::start(workspace, 3).await?,
            };
            // A short run says little anyway, and is not worth a long wait.
            progress::follow_time("settling", SETTLE_TIME.min(idle.idle)).await;
            let (before, start) = (sum(&nodes)?, Instant::now());
            progress::follow_time(name, idle.idle).await;
            let (after, seconds) = (sum(&nodes)?, start.elapsed().as_secs_f64());
            let each = nodes.len() as f64;
            let percent = 100.0 * (after.0 - before.0) / seconds / each;
            figures.push(Figure::new(format!("{name}_cpu_percent_per_node"), percent));
            let written = (after.1 - before.1) as f64 / each;
            figures.push(Figure::new(format!("{name}_written_bytes_per_node"), written));
        }
        report.run(figures);
    }
    Ok(report)
}

/// Processor seconds and written bytes of all nodes.
fn sum(nodes: &[Node]) -> Result<(f64, u64)> {
    let mut sum = (0.0, 0);
    for node in nodes {
        sum.0 += process::cpu_seconds(node.pid())?;
        sum.1 += process::written_bytes(node.pid())?;
    }
    Ok(sum)
}
