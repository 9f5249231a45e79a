//! `dynarust-bench cluster`: measures nodes together. Each measurement starts its own nodes, processes of the DynaRust binary on free
//! ports of the loopback with their own directories, and removes all of it at the end.
//!
//! All nodes and the load share one machine, so times only compare with each other. Bytes, messages and rows are counters of the nodes,
//! and the same on every machine.

pub(crate) mod diverge;
pub(crate) mod first_sync;
mod heal;
pub(crate) mod idle;
mod lag;
pub(crate) mod node;
mod proxy;
pub(crate) mod replicas;
mod steady;
pub(crate) mod view;
pub(crate) mod workspace;

use tokio::signal::unix::{SignalKind, signal};

use self::workspace::WorkspaceOptions;
use crate::{
    error::{Error, Result},
    options::LoadOptions,
    report::Report,
};

/// Takes each report as soon as it is there.
type Sink<'a> = dyn FnMut(Report) -> Result<()> + 'a;

/// What is measured, and how.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Arguments {
    /// What to measure [default: all, in this order]
    #[arg(value_enum)]
    pub measurements: Vec<Measurement>,
    /// Where nodes run, and from what.
    #[command(flatten)]
    pub workspace: WorkspaceOptions,
    /// How much load, for how long.
    #[command(flatten)]
    pub load: LoadOptions,
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
    /// Time from a PUT sent to one node to its event received from another
    Lag,
    /// What replicas cost the node that takes the writes, also when one of them hangs
    Replicas,
    /// Cost of finding a few rows that differ among many
    Diverge,
    /// Traffic, disk writes and processor time of three idle nodes
    Idle,
    /// Whether nodes under constant writes compare rows needlessly
    Steady,
    /// Time until an empty node holds what another has
    FirstSync,
    /// Time until two nodes agree after a network cut
    Heal,
}

impl Measurement {
    const ALL: [Self; 7] =
        [Self::Lag, Self::Replicas, Self::Diverge, Self::Idle, Self::Steady, Self::FirstSync, Self::Heal];
}

/// Measures, and hands over each report as soon as it is there.
pub async fn run(cluster: &Arguments, sink: &mut Sink<'_>) -> Result<()> {
    unless_interrupted(measure_all(cluster, sink)).await
}

/// Measures until it is done, or told to end by a signal: dropping the measurement ends its processes and removes their data.
pub(crate) async fn unless_interrupted(measurement: impl Future<Output = Result<()>>) -> Result<()> {
    let listen = |kind| signal(kind).map_err(|e| Error::io("listening for signals", &e));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::select! {
        result = measurement => result,
        _ = terminate.recv() => Err(Error::Failed("interrupted".into())),
        _ = interrupt.recv() => Err(Error::Failed("interrupted".into())),
    }
}

async fn measure_all(cluster: &Arguments, sink: &mut Sink<'_>) -> Result<()> {
    let measurements = match cluster.measurements.as_slice() {
        [] => &Measurement::ALL,
        chosen => chosen,
    };
    let load = &cluster.load;
    for measurement in measurements {
        let workspace = cluster.workspace.create(&load.table)?;
        let report = match measurement {
            Measurement::Lag => lag::run(cluster.lag, &workspace, load).await,
            Measurement::Replicas => replicas::run(&workspace, load).await,
            Measurement::Diverge => diverge::run(cluster.diverge, &workspace, load).await,
            Measurement::Idle => idle::run(cluster.idle, &workspace, load).await,
            Measurement::Steady => steady::run(cluster.steady, &workspace, load).await,
            Measurement::FirstSync => first_sync::run(cluster.first_sync, &workspace, load).await,
            Measurement::Heal => heal::run(cluster.heal, &workspace, load).await,
        };
        sink(report?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn all_measurements_are_made_by_default() {
        assert_eq!(Measurement::ALL, Measurement::value_variants());
    }
}
