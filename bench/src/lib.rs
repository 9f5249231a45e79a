//! `dynarust-bench`: loads a running node, from a process of its own, and reports what clients see.
//!
//! The figures in docs/figures.md come from here and from nothing else, so the client must never be the bottleneck and never flatter.
//! It has one thread. It builds requests before it starts their clock, and reads no more of an answer than its status and its
//! length. Its documents compress like real ones. Any answer that is not the expected one ends the run. The same client loads
//! what a node is compared with: the servers in [`bare`], and etcd.
//!
//! One run says little on a shared machine: every workload repeats, and reports the median, the minimum and the maximum.
//!
//! - [`client`] sends requests and reads answers and events.
//! - [`workload`] has one file for each thing that is done to one target.
//! - [`cluster`] starts nodes of its own, and measures what they do together.
//! - [`strong`] does the same for strong tables, beside etcd.
//! - [`compare`] holds the figures that have a target, each in turn with what it is compared with.
//! - [`growth`] measures how cost grows with rows and nodes.
//! - [`backup`] measures backups of a node of its own.
//! - [`bare`] has the servers that a node is compared with.
//! - [`instructions`] counts what the hot operations cost, for `cargo instructions`.
//! - [`report`], [`progress`] and [`process`] are what the figures are made of.

pub mod backup;
pub mod bare;
pub mod binary;
pub mod client;
pub mod cluster;
pub mod compare;
pub mod error;
pub mod growth;
pub mod instructions;
pub mod options;
pub mod process;
pub mod progress;
pub mod report;
pub mod strong;
pub mod workload;

use std::{future::Future, io};

pub use self::error::{Error, Result};
use self::{
    client::target::{Target, TargetOptions},
    options::LoadOptions,
    report::Report,
    workload::{batch, closed_loop, fanout, idle, many, shell, stalled, start},
};

/// Loads DynaRust nodes, and reports rates, latencies and what they cost
#[derive(Debug, clap::Parser)]
#[command(name = "dynarust-bench", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Reads random keys; each connection sends its next request when the one before is answered
    Get(Load<NoOptions>),
    /// Writes random keys; each connection sends its next request when the one before is answered
    Put(Load<NoOptions>),
    /// Reads and writes random keys
    Mixed(Load<closed_loop::Mix>),
    /// Writes --keys new rows in batches, and reports rows per second
    Batch(Load<batch::Options>),
    /// Many subscribers of one key: from PUT sent until the last of them has the event
    Fanout(Load<fanout::Options>),
    /// One subscriber while other keys are written: from PUT sent to event received
    Latency(Load<fanout::LatencyOptions>),
    /// Many subscribers, each of its own key: from PUT sent to event received
    Many(Load<many::Options>),
    /// Subscribers that never read: whether and when each is closed, and how much memory they take
    Stalled(Load<stalled::Options>),
    /// Opens event streams and holds them: how much memory each takes
    Idle(Load<idle::Options>),
    /// The DynaRust binary as a client: an import of --keys rows beside the same in batches, and whole processes of get and put
    Shell(Load<shell::Options>),
    /// Starts a node on --data: time until it reads, and until it is ready
    Start(Load<start::Options>),
    /// Starts nodes of its own and measures them together: lag, replicas, repair, first sync, recovery from a cut
    Cluster(Box<cluster::Arguments>),
    /// Starts nodes of its own, and etcd if it is installed, and measures strong tables: rates, a hot key, a killed leader
    Strong(Box<strong::Arguments>),
    /// Starts a node of its own and measures backups: their rate, what a writer notices, what a second one writes
    Backup(Box<backup::Arguments>),
    /// Starts nodes of its own and what they are compared with, in turn, and says which figures reach their targets
    Compare(Box<compare::Arguments>),
    /// Starts nodes of its own with more and more rows, and prints how cost grows, a line of JSON for each number of rows and nodes
    Growth(Box<growth::Arguments>),
    /// Runs a minimal server to compare a node with
    Bare(bare::Arguments),
}

/// The options of a workload, and those that all workloads share.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Load<T: clap::Args> {
    /// Those of this workload.
    #[command(flatten)]
    pub workload: T,
    /// What is loaded.
    #[command(flatten)]
    pub target: TargetOptions,
    /// How much, and for how long.
    #[command(flatten)]
    pub load: LoadOptions,
}

/// A workload without options of its own.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct NoOptions {}

/// Runs a command and prints what it measured to standard output. Makes its own runtime: do not call it inside one.
///
/// # Errors
/// `Usage` for arguments that cannot work, `Failed` where the target does not answer as expected.
pub fn run(arguments: &Arguments) -> Result<()> {
    use Command as C;
    match &arguments.command {
        C::Get(load) => measure(load, async |_, target, load| {
            closed_loop::run("get", closed_loop::Mix { reads_percent: 100 }, target, load).await
        }),
        C::Put(load) => measure(load, async |_, target, load| {
            closed_loop::run("put", closed_loop::Mix { reads_percent: 0 }, target, load).await
        }),
        C::Mixed(load) => {
            measure(load, async |mix, target, load| closed_loop::run("mixed", *mix, target, load).await)
        }
        C::Batch(load) => measure(load, async |own, target, load| batch::run(*own, target, load).await),
        C::Fanout(load) => {
            measure(load, async |own, target, load| fanout::run("fanout", *own, target, load).await)
        }
        C::Latency(load) => {
            measure(load, async |own, target, load| fanout::run("latency", (*own).into(), target, load).await)
        }
        C::Many(load) => measure(load, async |own, target, load| many::run(*own, target, load).await),
        C::Stalled(load) => measure(load, async |own, target, load| stalled::run(*own, target, load).await),
        C::Idle(load) => measure(load, async |own, target, _| idle::run(*own, target).await),
        C::Shell(load) => measure(load, async |own, target, load| shell::run(own, target, load).await),
        C::Start(load) => measure(load, async |own, target, load| start::run(own, target, load).await),
        C::Cluster(cluster) => {
            block_on(&cluster.load, cluster::run(cluster, &mut print_to_stdout(&cluster.load)))
        }
        C::Strong(strong) => block_on(&strong.load, strong::run(strong, &mut print_to_stdout(&strong.load))),
        C::Backup(backup) => block_on(&backup.load, backup::run(backup, &mut print_to_stdout(&backup.load))),
        C::Compare(compare) => {
            block_on(&compare.load, compare::run(compare, &mut print_to_stdout(&compare.load)))
        }
        C::Growth(growth) => block_on(&growth.load, growth::run(growth)),
        C::Bare(bare) => bare::run(bare),
    }
}

/// Runs a workload on one target, and prints its report.
fn measure<T: clap::Args>(
    load: &Load<T>,
    workload: impl AsyncFnOnce(&T, &Target, &LoadOptions) -> Result<Report>,
) -> Result<()> {
    let target = Target::resolve(&load.target, &load.load.table)?;
    let mut report = block_on(&load.load, workload(&load.workload, &target, &load.load))?;
    if let Some(pid) = target.pid {
        report.note("rss_mib", process::mebibytes(process::resident_bytes(pid)?));
    }
    if let Some(data) = &target.data {
        report.note("disk_mib", process::mebibytes(process::disk_bytes(data)?));
    }
    print(&report, load.load.json)
}

/// Runs a measurement on one thread: the load side has one core, and tasks that share a thread share their counters without
/// locks.
fn block_on<T>(load: &LoadOptions, measurement: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("starting the runtime", &e))?;
    let tasks = tokio::task::LocalSet::new();
    if load.spin {
        tasks.spawn_local(spin());
    }
    tasks.block_on(&runtime, measurement)
}

/// Keeps the runtime polling for as long as it runs. On one machine a write to a socket whose reader sleeps costs the writer
/// several microseconds, to wake the other core, and the slower the target, the more often its load sleeps: of two targets the
/// slower would pay for more than its own work. Over a network no target wakes its clients.
pub(crate) async fn spin() {
    loop {
        tokio::task::yield_now().await;
    }
}

/// Prints each report as soon as it is there.
fn print_to_stdout(load: &LoadOptions) -> impl FnMut(Report) -> Result<()> {
    let json = load.json;
    move |report| print(&report, json)
}

fn print(report: &Report, json: bool) -> Result<()> {
    match report.write(json, &mut io::stdout().lock()) {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Error::io("writing the report", &error)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
