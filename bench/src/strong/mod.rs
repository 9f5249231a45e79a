//! `dynarust-bench strong`: measures strong tables, beside eventual ones and beside etcd. Each measurement starts its own nodes, and etcd
//! if it is installed, on free ports of the loopback with their own directories, and removes all of it at the end.
//!
//! All processes and the load share one machine, and what is compared is loaded in turn within each run. So the ratios say more than the
//! rates.

mod catch_up;
mod etcd;
mod etcd_api;
mod failover;
mod group;
mod hot_key;
mod idle;
mod rates;
mod watch_streams;

use std::path::PathBuf;

use crate::{
    cluster::{unless_interrupted, workspace::WorkspaceOptions},
    error::Result,
    options::LoadOptions,
    report::Report,
};

/// Takes each report as soon as it is there.
type Sink<'a> = dyn FnMut(Report) -> Result<()> + 'a;

/// What is measured, and how.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Arguments {
    /// What to measure [default: all but etcd-grpc and catch-up, in this order]
    #[arg(value_enum)]
    pub measurements: Vec<Measurement>,
    /// etcd binary to compare with [default: etcd on the PATH; without one nothing is compared with etcd]
    #[arg(long, value_name = "PATH")]
    pub etcd: Option<PathBuf>,
    /// Where nodes run, and from what.
    #[command(flatten)]
    pub workspace: WorkspaceOptions,
    /// How much load, for how long.
    #[command(flatten)]
    pub load: LoadOptions,
    /// What `failover` does.
    #[command(flatten)]
    pub failover: failover::Options,
    /// What `etcd-grpc` does.
    #[command(flatten)]
    pub etcd_api: etcd_api::Options,
    /// What `catch-up` does.
    #[command(flatten)]
    pub catch_up: catch_up::Options,
    /// What `idle` does.
    #[command(flatten)]
    pub idle: idle::Options,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Measurement {
    /// Durable writes and linearizable reads: on the leader, on a follower, on one node
    Rates,
    /// Compare-and-set of one key by all connections
    HotKey,
    /// Time without an answer to writes after the leader was killed
    Failover,
    /// Processor time of three idle nodes without strong tables, and with one
    Idle,
    /// Puts and ranges of the etcd API by gRPC: three nodes, and three members of etcd
    EtcdGrpc,
    /// What a follower is sent that missed more than the log keeps
    CatchUp,
}

impl Measurement {
    /// Those that take minutes at most.
    const DEFAULT: [Self; 4] = [Self::Rates, Self::HotKey, Self::Failover, Self::Idle];
}

/// Measures, and hands over each report as soon as it is there.
pub async fn run(arguments: &Arguments, sink: &mut Sink<'_>) -> Result<()> {
    unless_interrupted(measure_all(arguments, sink)).await
}

async fn measure_all(arguments: &Arguments, sink: &mut Sink<'_>) -> Result<()> {
    let etcd = etcd::find(arguments.etcd.as_deref())?;
    let etcd = etcd.as_deref();
    let measurements = match arguments.measurements.as_slice() {
        [] => &Measurement::DEFAULT,
        chosen => chosen,
    };
    let load = &arguments.load;
    for measurement in measurements {
        let workspace = arguments.workspace.create(&load.table)?;
        let report = match measurement {
            Measurement::Rates => rates::run(etcd, &workspace, load).await,
            Measurement::HotKey => hot_key::run(etcd, &workspace, load).await,
            Measurement::Failover => failover::run(arguments.failover, etcd, &workspace, load).await,
            Measurement::Idle => idle::run(arguments.idle, &workspace, load).await,
            Measurement::EtcdGrpc => etcd_api::run(arguments.etcd_api, etcd, &workspace, load).await,
            Measurement::CatchUp => catch_up::run(arguments.catch_up, &workspace, load).await,
        };
        sink(report?)?;
    }
    Ok(())
}
