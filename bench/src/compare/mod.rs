//! `dynarust-bench compare`: the figures that have a target, each measured in turn with what it is compared with, several rounds. A rate of a
//! shared machine says little; its ratio to the rate of something else in the same half minute says more, and the spread of the ratio how
//! much.
//!
//! The node, or what it is compared with, has one core, and the load another; where the system has but one, they share it, and that is said.
//! Rows about several nodes leave all where the system puts them.

mod cores;
mod goal;
mod million;
mod rates;
mod rival;
mod size;
mod streams;

use std::time::Duration;

use self::{cores::Cores, goal::Goal};
use crate::{
    cluster::{
        self, unless_interrupted,
        workspace::{Workspace, WorkspaceOptions},
    },
    error::{Error, Result},
    options::LoadOptions,
    report::Report,
};

/// An idle node takes some milliseconds of a core in a second, and the system counts in steps of ten.
const IDLE: Duration = Duration::from_secs(60);

/// Takes each report as soon as it is there.
type Sink<'a> = dyn FnMut(Report) -> Result<()> + 'a;

/// What is measured, and how.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Arguments {
    /// What to measure [default: all, in this order]
    #[arg(value_enum)]
    pub rows: Vec<Row>,
    /// Core of the node, and of what it is compared with
    #[arg(long, default_value_t = 0)]
    pub server_core: usize,
    /// Core of the load
    #[arg(long, default_value_t = 1)]
    pub load_core: usize,
    /// Divides the numbers of rows, subscribers and streams, for a quick look: the figures then compare with no target
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub divide_by: u64,
    /// Where nodes run, and from what.
    #[command(flatten)]
    pub workspace: WorkspaceOptions,
    /// How much load, for how long.
    #[command(flatten)]
    pub load: LoadOptions,
}

/// What has a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Row {
    /// Reads, beside a bare hyper server
    Get,
    /// Durable writes, beside Redis that syncs each of them, and a bare server that puts them into sled
    Put,
    /// A durable import, beside bare sled
    Batch,
    /// 5,000 subscribers of one key, beside a bare loop of sends
    Fanout,
    /// Memory of an idle event stream, and of an idle WebSocket
    Streams,
    /// 15,000 subscribers, each of its own key, at 300 writes a second
    Many,
    /// Memory of 1,000,000 records, and the start with them
    Million,
    /// Disk space of 100,000 records, also after five overwrites
    Disk,
    /// Writes with two replicas following, and with one of them stopped, beside a node alone
    Replicas,
    /// How much an empty node grows that joins one with 100,000 records
    FirstSync,
    /// Processor time of an idle node
    Idle,
}

impl Row {
    const ALL: [Self; 11] = [
        Self::Get,
        Self::Put,
        Self::Batch,
        Self::Fanout,
        Self::Streams,
        Self::Many,
        Self::Million,
        Self::Disk,
        Self::Replicas,
        Self::FirstSync,
        Self::Idle,
    ];

    /// The figures of its report that have a target.
    fn goals(self) -> &'static [Goal] {
        const GOALS: [&[Goal]; 11] = [
            &[Goal::at_least("get_to_hyper", 0.85)],
            &[Goal::at_least("put_to_redis", 0.75)],
            &[Goal::at_least("batch_to_sled", 0.70)],
            &[Goal::at_most("last_to_loop", 1.25), Goal::at_most("others_put_p99_ms", 5.0)],
            &[Goal::at_most("sse_kib", 10.0), Goal::at_most("websocket_kib", 4.0)],
            &[Goal::at_most("each_p99_ms", 1.0)],
            &[
                Goal::at_most("after_reads_mib", 250.0),
                Goal::at_most("first_read_s", 0.3),
                Goal::at_most("ready_s", 1.0),
            ],
            &[Goal::at_most("loaded_mib", 30.0), Goal::at_most("overwritten_mib", 45.0)],
            &[Goal::at_least("following_to_alone", 0.65), Goal::at_least("hung_to_alone", 0.90)],
            &[Goal::at_most("joining_rss_grown_mib", 50.0)],
            &[Goal::at_most("cpu_percent_per_node", 0.1)],
        ];
        GOALS[self as usize]
    }

    /// Whether it is about one node, which has a core of its own.
    fn is_pinned(self) -> bool {
        !matches!(self, Self::Replicas | Self::FirstSync | Self::Idle)
    }
}

/// What a row is measured with.
struct Setup<'a> {
    workspace: &'a Workspace,
    load: &'a LoadOptions,
    /// Core of what is loaded.
    core: Option<usize>,
    divide_by: u64,
}

impl Setup<'_> {
    /// So many of something.
    fn scaled(&self, count: u64) -> u64 {
        (count / self.divide_by).max(1)
    }

    /// The options of one round, so that what is compared gets the same load.
    fn round(&self, round: u32) -> LoadOptions {
        LoadOptions { runs: 1, seed: self.load.seed + u64::from(round), ..self.load.clone() }
    }
}

/// Measures, hands over each report as soon as it is there, and at last prints which figures reach their targets.
pub async fn run(arguments: &Arguments, sink: &mut Sink<'_>) -> Result<()> {
    unless_interrupted(measure_all(arguments, sink)).await
}

async fn measure_all(arguments: &Arguments, sink: &mut Sink<'_>) -> Result<()> {
    let rows = match arguments.rows.as_slice() {
        [] => &Row::ALL,
        chosen => chosen,
    };
    if arguments.load.spin {
        return Err(Error::Usage(
            "compare spins where both sides gain by it, and nowhere else: leave --spin out".into(),
        ));
    }
    let cores = Cores::of_system(arguments.server_core, arguments.load_core)?;
    let mut table = goal::Table::default();
    for row in rows {
        let pinned = cores.as_ref().filter(|_| row.is_pinned());
        let core = pinned.map(|cores| cores.server);
        let workspace = arguments.workspace.create(rival::TABLE)?.on_core(core);
        let load = LoadOptions { table: rival::TABLE.into(), ..arguments.load.clone() };
        let setup = Setup { workspace: &workspace, load: &load, core, divide_by: arguments.divide_by };
        let _held = pinned.map(Cores::hold_load).transpose()?;
        let report = row.measure(&setup).await?;
        table.add(*row, &report, arguments.divide_by == 1);
        sink(report)?;
    }
    if !arguments.load.json {
        print!("{table}");
    }
    Ok(())
}

impl Row {
    async fn measure(self, setup: &Setup<'_>) -> Result<Report> {
        let (workspace, load) = (setup.workspace, setup.load);
        match self {
            Self::Get => rates::get(setup).await,
            Self::Put => rates::put(setup).await,
            Self::Batch => rates::batch(setup).await,
            Self::Fanout => streams::fanout(setup).await,
            Self::Streams => streams::idle(setup).await,
            Self::Many => streams::many(setup).await,
            Self::Million => million::run(setup).await,
            Self::Disk => size::disk(setup).await,
            Self::Replicas => cluster::replicas::run(workspace, load).await,
            Self::FirstSync => {
                let sync = cluster::first_sync::Options { sync_rows: setup.scaled(100_000) };
                cluster::first_sync::run(sync, workspace, load).await
            }
            Self::Idle => {
                cluster::idle::run(cluster::idle::Options { idle: IDLE.max(load.duration) }, workspace, load)
                    .await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn all_rows_are_measured_by_default() {
        assert_eq!(Row::ALL, Row::value_variants());
    }

    #[test]
    fn goals_are_of_their_rows() {
        for (row, figure) in
            [(Row::Get, "get_to_hyper"), (Row::Disk, "loaded_mib"), (Row::Idle, "cpu_percent_per_node")]
        {
            assert!(row.goals().iter().any(|goal| goal.figure == figure), "{row:?}");
        }
    }
}
