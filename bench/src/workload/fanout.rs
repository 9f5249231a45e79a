//! One key with many subscribers: the time from a PUT until the last of them has the event, while other keys are written. With one
//! subscriber this is the latency of an event.

use std::{sync::Arc, time::Duration};

use indicatif::ProgressBar;
use tokio::time;

use crate::{
    client::{
        connection::Connection,
        document::Documents,
        subscribers::{self, Arrivals, SendTimes},
        target::{FANOUT_KEY, Target},
        writer::{Plan, Writer},
    },
    error::{Error, Result},
    options::LoadOptions,
    progress,
    report::{Figure, Latencies, Report},
};

/// An event that takes longer counts as lost.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Number of subscribers, and the events for them.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Number of subscribers
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..))]
    pub subscribers: u64,
    /// Events per run
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub events: u64,
    /// Pause after the last subscriber has an event
    #[arg(long, default_value = "100ms", value_parser = humantime::parse_duration)]
    pub pause: Duration,
    /// Writes a second to other keys at the same time
    #[arg(long, default_value_t = 300)]
    pub write_rate: u64,
}

/// The events for one subscriber.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct LatencyOptions {
    /// Events per run
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub events: u64,
    /// Pause after an event has arrived
    #[arg(long, default_value = "5ms", value_parser = humantime::parse_duration)]
    pub pause: Duration,
    /// Writes a second to other keys at the same time
    #[arg(long, default_value_t = 300)]
    pub write_rate: u64,
}

impl From<LatencyOptions> for Options {
    fn from(LatencyOptions { events, pause, write_rate }: LatencyOptions) -> Self {
        Self { subscribers: 1, events, pause, write_rate }
    }
}

/// Sends one event after another to all subscribers.
pub async fn run(
    workload: &'static str,
    fanout: Options,
    target: &Target,
    options: &LoadOptions,
) -> Result<Report> {
    target.expect_node(workload)?;
    let send_times = SendTimes::new();
    let arrivals = Arrivals::new(send_times.clone());
    let requests = (0..fanout.subscribers).map(|_| target.subscribe(FANOUT_KEY)).collect();
    subscribers::follow(subscribers::open(workload, target, requests).await?, &arrivals);

    let (keys, value_bytes, seed) = (options.keys, options.value_bytes, options.seed);
    let plan = Plan { rate_per_s: fanout.write_rate, keys, value_bytes, seed };
    let others = Writer::start(target, plan, &send_times);
    let mut publisher =
        Publisher::open(target, Documents::new(seed, value_bytes), send_times.clone(), &arrivals).await?;
    let mut report = Report::new(workload, target.to_string())
        .setting("subscribers", fanout.subscribers)
        .setting("events", fanout.events)
        .setting("write_rate", fanout.write_rate)
        .setting("value_bytes", value_bytes);
    let bar = progress::bar(workload, fanout.events * u64::from(options.runs)).with_message("events");
    for _ in 0..options.runs {
        report.run(publisher.send_all(fanout, &bar).await?);
    }
    bar.finish_and_clear();
    report.notes(others.finish().await?.latencies.figures("others_put"));
    report.note("resyncs", arrivals.resyncs() as f64);
    Ok(report)
}

/// Writes the key that subscribers follow, and waits for the events.
pub struct Publisher<'a> {
    target: &'a Target,
    connection: Connection,
    documents: Documents,
    send_times: Arc<SendTimes>,
    arrivals: &'a Arrivals,
}

impl<'a> Publisher<'a> {
    /// Writes to `target`; the subscribers may be connected to another node.
    pub async fn open(
        target: &'a Target,
        documents: Documents,
        send_times: Arc<SendTimes>,
        arrivals: &'a Arrivals,
    ) -> Result<Self> {
        let connection = Connection::open(target.address).await?;
        Ok(Self { target, connection, documents, send_times, arrivals })
    }

    /// The events of one run.
    async fn send_all(&mut self, fanout: Options, bar: &ProgressBar) -> Result<Vec<Figure>> {
        let mut last_latencies = Latencies::default();
        let mut lost = 0;
        for _ in 0..fanout.events {
            time::sleep(fanout.pause).await;
            let (latency, missing) = self.send(fanout.subscribers).await?;
            latency.into_iter().for_each(|latency| last_latencies.record(latency));
            lost += missing;
            bar.inc(1);
        }
        let mut figures = self.arrivals.take_latencies().figures("each");
        if fanout.subscribers > 1 {
            figures.extend(last_latencies.figures("last"));
        }
        figures.push(Figure::new("lost", lost as f64));
        Ok(figures)
    }

    /// Sends one event. Returns how long it took to the last subscriber that got it, and how many did not.
    pub async fn send(&mut self, subscribers: u64) -> Result<(Option<Duration>, u64)> {
        let sequence = self.send_times.next();
        let (mut value, mut request) = (Vec::new(), Vec::new());
        self.documents.write_numbered(sequence, &mut value);
        self.target.put(FANOUT_KEY, &value, &mut request);
        self.arrivals.expect(sequence, subscribers);
        let sent = self.send_times.send(sequence);
        self.connection.expect_ok(&request).await?;
        let (last, missing) = self.arrivals.wait(TIMEOUT).await;
        match self.arrivals.closed() {
            0 => Ok((last.map(|last| last - sent), missing)),
            closed => Err(Error::Failed(format!("the target closed {closed} event streams"))),
        }
    }
}
