//! `DynaRust bench cluster`: what nodes do together. Each measurement starts nodes of its own, processes of this very program on
//! free ports of the loopback with directories of their own, and leaves nothing of them behind.
//!
//! Times are the machine's, and those of a machine that all nodes and the load share: they say how nodes compare with
//! themselves under other circumstances. Bytes, messages and rows are counters of the nodes, and the same everywhere.

mod diverge;
mod first_sync;
mod heal;
mod idle;
mod lag;
mod node;
mod proxy;
mod replicas;
mod steady;
mod view;
mod workspace;

use std::path::PathBuf;

use crate::{
    cli::{bench, bench::Taker, signals},
    error::{Error, Result},
};

/// What is measured, and how much of it.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What to measure [default: all, in this order]
    #[arg(value_enum)]
    pub measurements: Vec<Measurement>,
    /// Directory for the nodes' data, on the disk that is to be measured [default: the system's for temporary files]
    #[arg(long)]
    pub directory: Option<PathBuf>,
    /// What `lag` does.
    #[command(flatten)]
    pub lag: lag::Options,
    /// What `diverge` does.
    #[command(flatten)]
    pub diverge: diverge::Options,
    /// What `idle` does.
    #[command(flatten)]
    pub idle: idle::Options,
    /// What `steady` does.
    #[command(flatten)]
    pub steady: steady::Options,
    /// What `first-sync` does.
    #[command(flatten)]
    pub first_sync: first_sync::Options,
    /// What `heal` does.
    #[command(flatten)]
    pub heal: heal::Options,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Measurement {
    /// From a PUT sent to one node to its event received from another
    Lag,
    /// What replicas cost a node that writes, and what one costs that hangs
    Replicas,
    /// What it takes to find few rows that differ among many
    Diverge,
    /// What three nodes do that have nothing to do
    Idle,
    /// Whether nodes that are written to all the time compare rows for nothing
    Steady,
    /// How long an empty node takes to hold what another has
    FirstSync,
    /// How long two nodes take to agree after a cut
    Heal,
}

impl Measurement {
    const ALL: [Self; 7] =
        [Self::Lag, Self::Replicas, Self::Diverge, Self::Idle, Self::Steady, Self::FirstSync, Self::Heal];
}

/// Measures, and hands over each report as soon as it is there.
pub async fn run(cluster: &Options, options: &bench::Options, take: &mut Taker<'_>) -> Result<()> {
    let interrupted = signals::shutdown()?;
    tokio::select! {
        result = measure_all(cluster, options, take) => result,
        // What was measured so far goes with its nodes.
        () = interrupted => Err(Error::Io("interrupted".into())),
    }
}

async fn measure_all(cluster: &Options, options: &bench::Options, take: &mut Taker<'_>) -> Result<()> {
    let measurements = match cluster.measurements.as_slice() {
        [] => &Measurement::ALL,
        chosen => chosen,
    };
    for measurement in measurements {
        let workspace = workspace::Workspace::new(cluster.directory.as_deref(), &options.table)?;
        let report = match measurement {
            Measurement::Lag => lag::run(cluster.lag, &workspace, options).await,
            Measurement::Replicas => replicas::run(&workspace, options).await,
            Measurement::Diverge => diverge::run(cluster.diverge, &workspace, options).await,
            Measurement::Idle => idle::run(cluster.idle, &workspace, options).await,
            Measurement::Steady => steady::run(cluster.steady, &workspace, options).await,
            Measurement::FirstSync => first_sync::run(cluster.first_sync, &workspace, options).await,
            Measurement::Heal => heal::run(cluster.heal, &workspace, options).await,
        };
        take(report?)?;
    }
    Ok(())
}
