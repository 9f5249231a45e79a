//! Whether nodes under constant writes compare rows needlessly: their roots must leave out writes that are still being replicated.

use std::time::Duration;

use super::{
    view::{self, Counters},
    workspace::Workspace,
};
use crate::{
    client::{
        subscribers::SendTimes,
        writer::{Plan, Writer},
    },
    error::Result,
    options::LoadOptions,
    progress,
    report::{Figure, Report},
};

/// How many writes, for how long.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// steady: writes a second
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    pub steady_rate: u64,
    /// steady: length of one run
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub steady: Duration,
}

/// Writes to one of three nodes, `--runs` times.
pub async fn run(steady: Options, workspace: &Workspace, options: &LoadOptions) -> Result<Report> {
    let nodes = workspace.cluster(3).await?;
    let nodes: Vec<_> = nodes.iter().collect();
    let (keys, value_bytes) = (options.keys, options.value_bytes);
    let mut report = Report::new("steady", "3 nodes")
        .setting("write_rate", steady.steady_rate)
        .setting("keys", keys)
        .setting("value_bytes", value_bytes)
        .setting("run_s", steady.steady.as_secs_f64());
    for run in 0..u64::from(options.runs) {
        let before = Counters::settled(&nodes).await?;
        let plan = Plan { rate_per_s: steady.steady_rate, keys, value_bytes, seed: options.seed + run };
        let writer = Writer::start(nodes[0].target(), plan, &SendTimes::new());
        progress::follow_time("steady", steady.steady).await;
        let written = writer.finish().await?;
        // A comparison is counted once the roots are equal again.
        let in_sync_after = view::in_sync(&nodes).await?;
        let counters = Counters::settled(&nodes).await? - before;
        let writes = written.latencies.count() as f64;
        let mut figures = vec![
            Figure::new("writes_per_s", writes / written.elapsed.as_secs_f64()),
            Figure::new("rounds", counters.rounds as f64),
            Figure::new("sessions", counters.sessions as f64),
            Figure::new("false_sessions", counters.false_sessions as f64),
            Figure::new("rows_sent_per_write", counters.rows_sent as f64 / writes),
            Figure::new("in_sync_after_s", in_sync_after.as_secs_f64()),
        ];
        figures.extend(written.latencies.figures("put"));
        report.run(figures);
    }
    Ok(report)
}
