//! Replication lag: from a PUT sent to one node to its event received from another, while other keys are written. Both nodes
//! acknowledge and replicate only what is durable, as by default.

use std::time::{Duration, Instant};

use tokio::time;

use super::workspace::Workspace;
use crate::{
    client::{
        document::Documents,
        subscribers::{self, Arrivals, SendTimes},
        target::FANOUT_KEY,
        writer::{Plan, Writer},
    },
    error::Result,
    options::LoadOptions,
    progress,
    report::{Figure, Report},
    workload::fanout::Publisher,
};

/// Pause after an event has arrived.
const PAUSE: Duration = Duration::from_millis(5);

/// What else is written.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// lag: writes a second to other keys at the same time
    #[arg(long, default_value_t = 300)]
    pub lag_rate: u64,
}

/// Measures the lag for `--duration`, `--runs` times.
pub async fn run(lag: Options, workspace: &Workspace, options: &LoadOptions) -> Result<Report> {
    let nodes = workspace.cluster(2).await?;
    let (written, read) = (nodes[0].target(), nodes[1].target());
    let send_times = SendTimes::new();
    let arrivals = Arrivals::new(send_times.clone());
    let streams = subscribers::open("lag", read, vec![read.subscribe(FANOUT_KEY)]).await?;
    subscribers::follow(streams, &arrivals);

    let (keys, value_bytes, seed) = (options.keys, options.value_bytes, options.seed);
    let plan = Plan { rate_per_s: lag.lag_rate, keys, value_bytes, seed };
    let others = Writer::start(written, plan, &send_times);
    let mut publisher =
        Publisher::open(written, Documents::new(seed, value_bytes), send_times, &arrivals).await?;
    let mut report = Report::new("lag", "2 nodes")
        .setting("write_rate", lag.lag_rate)
        .setting("value_bytes", value_bytes)
        .setting("run_s", options.duration.as_secs_f64());
    progress::follow_time("warmup", options.warmup).await;
    for _ in 0..options.runs {
        let bar = tokio::task::spawn_local(progress::follow_time("lag", options.duration));
        let (start, mut events, mut lost) = (Instant::now(), 0, 0);
        while start.elapsed() < options.duration {
            time::sleep(PAUSE).await;
            let (_, missing) = publisher.send(1).await?;
            events += 1;
            lost += missing;
        }
        bar.await.expect("a bar does not panic");
        let mut figures = vec![Figure::new("events", f64::from(events))];
        figures.extend(arrivals.take_latencies().figures("lag"));
        figures.push(Figure::new("lost", lost as f64));
        report.run(figures);
    }
    let others = others.finish().await?;
    report.note("others_per_s", others.latencies.count() as f64 / others.elapsed.as_secs_f64());
    report.notes(others.latencies.figures("others_put"));
    report.note("resyncs", arrivals.resyncs() as f64);
    Ok(report)
}
