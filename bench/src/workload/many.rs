//! Many subscribers, each of its own key, and a steady rate of writes to random keys of these: the load of an application that shows
//! each user their own data.

use std::time::{Duration, Instant};

use tokio::time;

use crate::{
    client::{
        subscribers::{self, Arrivals, SendTimes},
        target::{self, Target},
        writer::{Plan, Writer},
    },
    error::{Error, Result},
    options::LoadOptions,
    progress,
    report::{Figure, Report},
};

/// An event that takes longer than this after the last write counts as lost.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often to check whether all events have come.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Subscribers and the rate of writes.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Number of subscribers, and of keys
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub subscribers: u64,
    /// Writes a second
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub write_rate: u64,
}

/// Writes to keys that each have one subscriber.
pub async fn run(many: Options, target: &Target, options: &LoadOptions) -> Result<Report> {
    target.expect_node("many")?;
    let send_times = SendTimes::new();
    let arrivals = Arrivals::new(send_times.clone());
    let requests = (0..many.subscribers).map(|number| target.subscribe(&target::key(number))).collect();
    let opening = Instant::now();
    subscribers::follow(subscribers::open("many", target, requests).await?, &arrivals);
    let opened_s = opening.elapsed().as_secs_f64();

    let (value_bytes, seed) = (options.value_bytes, options.seed);
    let plan = Plan { rate_per_s: many.write_rate, keys: many.subscribers, value_bytes, seed };
    let writer = Writer::start(target, plan, &send_times);
    progress::follow_time("warmup", options.warmup).await;
    let mut report = Report::new("many", target.to_string())
        .setting("subscribers", many.subscribers)
        .setting("write_rate", many.write_rate)
        .setting("value_bytes", value_bytes)
        .setting("run_s", options.duration.as_secs_f64());
    arrivals.take_latencies();
    for _ in 0..options.runs {
        progress::follow_time("many", options.duration).await;
        let latencies = arrivals.take_latencies();
        let rate = latencies.count() as f64 / options.duration.as_secs_f64();
        let mut figures = vec![Figure::new("events_per_s", rate)];
        figures.extend(latencies.figures("each"));
        report.run(figures);
    }
    let written = writer.finish().await?;
    let deadline = Instant::now() + TIMEOUT;
    while arrivals.events() < written.latencies.count() && Instant::now() < deadline {
        time::sleep(POLL_INTERVAL).await;
    }
    if arrivals.closed() > 0 {
        return Err(Error::Failed(format!("the target closed {} event streams", arrivals.closed())));
    }
    report.note("opened_s", opened_s);
    report.note("writes_per_s", written.latencies.count() as f64 / written.elapsed.as_secs_f64());
    report.notes(written.latencies.figures("put"));
    report.note("lost", written.latencies.count().saturating_sub(arrivals.events()) as f64);
    report.note("resyncs", arrivals.resyncs() as f64);
    Ok(report)
}
