//! Subscribers that never read while events are written: how a node handles clients that have silently gone. Events fill the kernel's
//! buffers first, then the node's queues, and nothing ever tells the node that the client is gone.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use tokio::time;

use crate::{
    client::{
        subscribers::{self, SendTimes},
        target::Target,
        writer::{Plan, Writer},
    },
    error::{Error, Result},
    options::LoadOptions,
    process, progress,
    report::{Figure, Report},
};

/// How often to check which subscribers are connected, and the memory.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Number of subscribers, and the events that they do not read.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Number of subscribers of the whole table; none of them reads
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub subscribers: u64,
    /// Events a second
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    pub write_rate: u64,
    /// Longest time to wait until all are closed
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// Writes until the target has closed all subscribers.
pub async fn run(stalled: Options, target: &Target, options: &LoadOptions) -> Result<Report> {
    target.expect_node("stalled")?;
    let requests = (0..stalled.subscribers).map(|_| target.subscribe_to_table()).collect();
    let streams = subscribers::open("stalled", target, requests).await?;
    let ports: Result<HashSet<u16>> = streams
        .iter()
        .map(|stream| {
            stream.local_addr().map(|a| a.port()).map_err(|e| Error::io("reading the port of a stream", &e))
        })
        .collect();
    let mut open = ports?;
    let mut memory = Memory::new(target.pid)?;

    let (keys, value_bytes, seed) = (options.keys, options.value_bytes, options.seed);
    let plan = Plan { rate_per_s: stalled.write_rate, keys, value_bytes, seed };
    let writer = Writer::start(target, plan, &SendTimes::new());
    let start = Instant::now();
    let mut closed_after = Vec::new();
    let bar = progress::bar("stalled", stalled.subscribers).with_message("closed");
    while !open.is_empty() && start.elapsed() < stalled.timeout {
        time::sleep(POLL_INTERVAL).await;
        memory.update()?;
        let connected = process::ports_connected_to(target.address.port())?;
        open.retain(|port| connected.contains(port));
        closed_after.resize(stalled.subscribers as usize - open.len(), start.elapsed().as_secs_f64());
        bar.set_position(closed_after.len() as u64);
    }
    bar.finish_and_clear();
    let written = writer.finish().await?;

    let mut report = Report::new("stalled", target.to_string())
        .setting("subscribers", stalled.subscribers)
        .setting("write_rate", stalled.write_rate)
        .setting("value_bytes", value_bytes);
    report.note("closed", closed_after.len() as f64);
    for (name, at) in [("closed_first_s", closed_after.first()), ("closed_last_s", closed_after.last())] {
        at.into_iter().for_each(|seconds| report.note(name, *seconds));
    }
    report.note("writes_per_s", written.latencies.count() as f64 / written.elapsed.as_secs_f64());
    report.notes(written.latencies.figures("put"));
    report.notes(memory.figures());
    drop(streams);
    Ok(report)
}

/// Peak memory.
struct Memory {
    pid: Option<u32>,
    resident_bytes_before: u64,
    resident_bytes_max: u64,
    socket_bytes_before: u64,
    socket_bytes_max: u64,
}

impl Memory {
    fn new(pid: Option<u32>) -> Result<Self> {
        let resident_bytes = pid.map_or(Ok(0), process::resident_bytes)?;
        let socket_bytes = process::socket_bytes()?;
        Ok(Self {
            pid,
            resident_bytes_before: resident_bytes,
            resident_bytes_max: resident_bytes,
            socket_bytes_before: socket_bytes,
            socket_bytes_max: socket_bytes,
        })
    }

    fn update(&mut self) -> Result<()> {
        let resident_bytes = self.pid.map_or(Ok(0), process::resident_bytes)?;
        self.resident_bytes_max = self.resident_bytes_max.max(resident_bytes);
        self.socket_bytes_max = self.socket_bytes_max.max(process::socket_bytes()?);
        Ok(())
    }

    fn figures(&self) -> Vec<Figure> {
        let mut figures = vec![
            Figure::new("sockets_before_mib", process::mebibytes(self.socket_bytes_before)),
            Figure::new("sockets_max_mib", process::mebibytes(self.socket_bytes_max)),
        ];
        if self.pid.is_some() {
            figures.push(Figure::new("rss_before_mib", process::mebibytes(self.resident_bytes_before)));
            figures.push(Figure::new("rss_max_mib", process::mebibytes(self.resident_bytes_max)));
        }
        figures
    }
}
