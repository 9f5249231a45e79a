//! `DynaRust bench`: loads a node that runs, from a process of its own, and reports what it saw.
//!
//! The figures that the README states come from here and from nothing else, so the client must never be the bottleneck and
//! never flatter: one thread, requests built before their clock starts, an HTTP client that reads no more of an answer than
//! its status and its length, documents that compress like real ones, and any answer that is not the expected one ends the
//! run. The same client loads what a node is compared with: the bare servers of `benches/bare.rs`, and etcd.
//!
//! Numbers of one run say little on a shared machine: all workloads repeat, and report the median, the least and the greatest.

mod batch;
mod cluster;
mod connection;
pub mod document;
mod fanout;
mod idle;
mod load;
mod many;
mod process;
mod progress;
mod report;
mod stalled;
mod start;
mod subscribers;
mod target;
mod writer;

use std::{io, path::PathBuf, time::Duration};

use self::{report::Report, target::Target};
use crate::error::{Error, Result};

/// The key that all subscribers of the fan-out follow; the bare fan-out server knows it by this name.
pub const FANOUT_KEY: &str = "fanout";

/// Loads a running node and reports rates and latencies
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// What to do to it.
    #[command(subcommand)]
    pub workload: Workload,
    /// What all workloads share.
    #[command(flatten)]
    pub options: Options,
}

/// What to do to the target.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Workload {
    /// Reads random keys, each connection as fast as it is answered
    Get,
    /// Writes random keys, each connection as fast as it is answered
    Put,
    /// Reads and writes random keys
    Mixed(load::Mix),
    /// Writes --keys new rows in batches, and reports rows per second
    Batch(batch::Options),
    /// Many subscribers of one key: from PUT sent to the last one has it
    Fanout(fanout::Options),
    /// One subscriber while other keys are written: from PUT sent to event received
    Latency(fanout::LatencyOptions),
    /// Many subscribers, each of its own key: from PUT sent to event received
    Many(many::Options),
    /// Subscribers that never read: whether and when each is closed, and what memory they take
    Stalled(stalled::Options),
    /// Opens event streams and holds them: what memory each takes
    Idle(idle::Options),
    /// Starts a node on --data: how long until it reads, and until it is ready
    Start,
    /// Starts nodes of its own and measures what they do together: lag, replicas, repair, first sync, a cut that heals
    Cluster(Box<cluster::Options>),
}

/// What all workloads share.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address of the target
    #[arg(long, global = true, default_value = "127.0.0.1:6660")]
    pub address: String,
    /// What listens there
    #[arg(long, global = true, value_enum, default_value_t)]
    pub target: target::Kind,
    /// Take a target that is not on this machine: its figures are the network's as well
    #[arg(long, global = true)]
    pub allow_remote: bool,
    /// Table to work in; its keys are overwritten
    #[arg(long, global = true, default_value = "bench")]
    pub table: String,
    /// Connections that send requests [default: 64; batch: 1]
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub connections: Option<u32>,
    /// Keys to choose from; for batch, rows per run
    #[arg(long, global = true, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Size of a value, as JSON text, about
    #[arg(long, global = true, default_value_t = 350)]
    pub value_bytes: usize,
    /// Length of one run
    #[arg(long, global = true, default_value = "10s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Load before the first run, not counted
    #[arg(long, global = true, default_value = "2s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,
    /// Runs, of which the median is reported
    #[arg(long, global = true, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// Seed of keys and documents: equal seeds send equal requests
    #[arg(long, global = true, default_value_t = 1)]
    pub seed: u64,
    /// Process id of the target, to report its resident memory
    #[arg(long, global = true)]
    pub pid: Option<u32>,
    /// Storage directory of the target, to report its size on disk
    #[arg(long, global = true)]
    pub data: Option<PathBuf>,
    /// Never sleep, so that the target does not pay for waking this process: give it a core of its own
    #[arg(long, global = true)]
    pub spin: bool,
    /// Report as one line of JSON
    #[arg(long, global = true)]
    pub json: bool,
}

impl Options {
    /// Connections of a closed loop.
    fn connections_or(&self, default: u32) -> u32 {
        self.connections.unwrap_or(default)
    }
}

/// Runs a workload and prints what it found to standard output. Makes its own runtime: not to be called inside one.
///
/// # Errors
/// `Config` for a target that is not one, `Io` where the target does not answer, or not as expected.
pub fn run(arguments: Arguments) -> Result<()> {
    let json = arguments.options.json;
    measure(&arguments, &mut |report| {
        let written = report.write(json, &mut io::stdout().lock());
        written.or_else(|error| match error.kind() {
            // The reader has seen enough.
            io::ErrorKind::BrokenPipe => Ok(()),
            _ => Err(Error::io("writing the report", &error)),
        })
    })
}

/// Who takes reports, each as soon as it is there.
type Taker<'a> = dyn FnMut(Report) -> Result<()> + 'a;

/// Runs a workload and hands over its reports.
fn measure(arguments: &Arguments, take: &mut Taker<'_>) -> Result<()> {
    let options = &arguments.options;
    // One thread: the load side has one core, and tasks that share a thread share their counters without locks.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("starting the runtime", &e))?;
    let tasks = tokio::task::LocalSet::new();
    if options.spin {
        tasks.spawn_local(spin());
    }
    if let Workload::Cluster(cluster) = &arguments.workload {
        return tasks.block_on(&runtime, cluster::run(cluster, options, take));
    }
    let target = Target::resolve(options.target, &options.address, &options.table, options.allow_remote)?;
    let mut report = tasks.block_on(&runtime, dispatch(&arguments.workload, &target, options))?;
    if let Some(pid) = options.pid {
        report.note("rss_mib", process::mebibytes(process::resident_bytes(pid)?));
    }
    if let Some(data) = &options.data {
        report.note("disk_mib", process::mebibytes(process::disk_bytes(data)?));
    }
    take(report)
}

/// Keeps the runtime looking for what has come, for as long as it runs. On one machine a write to a socket whose reader sleeps
/// costs the writer several microseconds, to wake the other core, and the slower the target the oftener its load sleeps: of two
/// targets the slower would pay for more than its own work. Over a network no target wakes its clients.
async fn spin() {
    loop {
        tokio::task::yield_now().await;
    }
}

async fn dispatch(workload: &Workload, target: &Target, options: &Options) -> Result<Report> {
    match workload {
        Workload::Get => load::run("get", load::Mix { reads_percent: 100 }, target, options).await,
        Workload::Put => load::run("put", load::Mix { reads_percent: 0 }, target, options).await,
        Workload::Mixed(mix) => load::run("mixed", *mix, target, options).await,
        Workload::Batch(batch) => batch::run(*batch, target, options).await,
        Workload::Fanout(fanout) => fanout::run("fanout", *fanout, target, options).await,
        Workload::Latency(latency) => fanout::run("latency", (*latency).into(), target, options).await,
        Workload::Many(many) => many::run(*many, target, options).await,
        Workload::Stalled(stalled) => stalled::run(*stalled, target, options).await,
        Workload::Idle(idle) => idle::run(*idle, target, options).await,
        Workload::Start => start::run(target, options).await,
        Workload::Cluster(_) => unreachable!("it starts its own nodes, and has no target"),
    }
}
