//! A million records: memory once they are loaded, after reads, and after a restart, and how long the start takes.

use std::time::{Duration, Instant};

use tokio::time;

use super::Setup;
use crate::{
    cluster::node::Node,
    error::{Error, Result},
    options::LoadOptions,
    process,
    report::{Figure, Report},
    workload::{
        batch,
        closed_loop::{self, Mix},
        start,
    },
};

/// The comparison fails if a node is not ready by then.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How often it is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Before memory is read: what a load or a start leaves to do is done by then.
const SETTLE_TIME: Duration = Duration::from_secs(3);

/// Each round with a new node.
pub async fn run(setup: &Setup<'_>) -> Result<Report> {
    let load = LoadOptions { keys: setup.scaled(1_000_000), ..setup.load.clone() };
    let setup = Setup { load: &load, ..*setup };
    let mut report = Report::new("million", "a node")
        .setting("rows", load.keys)
        .setting("value_bytes", load.value_bytes)
        .setting("read_s", load.duration.as_secs_f64());
    for round in 0..load.runs {
        report.run(once(&setup, &setup.round(round)).await?);
    }
    Ok(report)
}

async fn once(setup: &Setup<'_>, load: &LoadOptions) -> Result<Vec<Figure>> {
    let mut node = setup.workspace.node()?;
    node.start().await?;
    batch::fill(node.target(), load).await?;
    let loaded = settled_mib(&node).await?;
    closed_loop::run("get", Mix { reads_percent: 100 }, node.target(), load).await?;
    let after_reads = settled_mib(&node).await?;
    node.stop().await?;
    let started =
        start::start_once(setup.workspace.binary(), setup.core, &node.data(), node.target(), load).await?;
    node.start().await?;
    ready(&node).await?;
    let restarted = settled_mib(&node).await?;
    node.stop().await?;
    // The disk is for the next round.
    std::fs::remove_dir_all(node.data()).map_err(|e| Error::io("removing the data of a round", &e))?;
    let mut figures = vec![
        Figure::new("loaded_mib", loaded),
        Figure::new("after_reads_mib", after_reads),
        Figure::new("restarted_mib", restarted),
    ];
    figures.extend(started);
    Ok(figures)
}

async fn settled_mib(node: &Node) -> Result<f64> {
    time::sleep(SETTLE_TIME).await;
    Ok(process::mebibytes(process::resident_bytes(node.pid())?))
}

async fn ready(node: &Node) -> Result<()> {
    let start = Instant::now();
    while !node.is_ready().await? {
        if start.elapsed() > TIMEOUT {
            return Err(Error::Failed(format!(
                "a node is not ready within {TIMEOUT:?}; it logged:\n{}",
                node.log()
            )));
        }
        time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}
