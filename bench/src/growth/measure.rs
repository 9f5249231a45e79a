//! One point: so many rows on one node, or on several.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tokio::time;

use crate::{
    cluster::{diverge, node::Node, view, workspace::Workspace},
    error::{Error, Result},
    options::LoadOptions,
    process,
    report::rounded,
    workload::{
        batch,
        closed_loop::{self, Mix},
        start,
    },
};

/// Before memory and disk are read: what a load leaves to do is done by then.
const SETTLE_TIME: Duration = Duration::from_secs(3);

type Figures = BTreeMap<String, f64>;

/// Time, memory and disk of one node, and how long it takes to start.
pub async fn alone(workspace: &Workspace, load: &LoadOptions) -> Result<Figures> {
    let rows = load.keys as f64;
    let mut figures = Figures::new();
    let mut node = workspace.node()?;
    node.start().await?;
    let empty_bytes = process::resident_bytes(node.pid())?;
    let begun = Instant::now();
    batch::fill(node.target(), load).await?;
    add(&mut figures, "import_rows_per_s", rows / begun.elapsed().as_secs_f64());
    time::sleep(SETTLE_TIME).await;
    let grown_bytes = process::resident_bytes(node.pid())?.saturating_sub(empty_bytes);
    add(&mut figures, "memory_bytes_per_row", grown_bytes as f64 / rows);
    add(&mut figures, "disk_bytes_per_row", process::disk_bytes(&node.data())? as f64 / rows);
    for (name, reads_percent) in [("get", 100), ("put", 0)] {
        loaded(name, reads_percent, &[&node], load, &mut figures).await?;
    }
    node.stop().await?;
    let started = start::start_once(workspace.binary(), None, &node.data(), node.target(), load).await?;
    for figure in started.into_iter().filter(|figure| ["first_read_s", "ready_s"].contains(&&*figure.name)) {
        add(&mut figures, &figure.name, figure.value);
    }
    Ok(figures)
}

/// What it costs two nodes to find one row that differs.
pub async fn comparison(workspace: &Workspace, load: &LoadOptions) -> Result<Figures> {
    let mut figures = Figures::new();
    let report = diverge::run(diverge::Options { diverge_rows: load.keys }, workspace, load).await?;
    for (name, figure) in
        [("comparison_bytes", "d1_metadata_bytes"), ("comparison_round_trips", "d1_round_trips")]
    {
        let value = report.median(figure);
        add(&mut figures, name, value.ok_or_else(|| Error::Failed(format!("there is no {figure}")))?);
    }
    Ok(figures)
}

/// Writes to one of several nodes that all follow, and reads from it.
pub async fn cluster(workspace: &Workspace, count: usize, load: &LoadOptions) -> Result<Figures> {
    let nodes = workspace.cluster(count).await?;
    let nodes: Vec<&Node> = nodes.iter().collect();
    let mut figures = Figures::new();
    let begun = Instant::now();
    batch::fill(nodes[0].target(), load).await?;
    view::in_sync(&nodes).await?;
    add(&mut figures, "import_rows_per_s", load.keys as f64 / begun.elapsed().as_secs_f64());
    for (name, reads_percent) in [("get", 100), ("put", 0)] {
        loaded(name, reads_percent, &nodes, load, &mut figures).await?;
    }
    Ok(figures)
}

/// The rate of the first node, and the processor time of an operation there and, if it is a write, on each of the others.
async fn loaded(
    name: &'static str,
    reads_percent: u64,
    nodes: &[&Node],
    load: &LoadOptions,
    figures: &mut Figures,
) -> Result<()> {
    // The processor time is that of the whole load, so all of it counts.
    let load = LoadOptions { warmup: Duration::ZERO, ..load.clone() };
    let before = cpu_seconds(nodes)?;
    let report = closed_loop::run(name, Mix { reads_percent }, nodes[0].target(), &load).await?;
    if nodes.len() > 1 {
        view::in_sync(nodes).await?;
    }
    let after = cpu_seconds(nodes)?;
    let Some(per_s) = report.median(&format!("{name}_per_s")) else {
        return Err(Error::Failed("nothing was answered: use a longer --duration".into()));
    };
    let operations = per_s * load.duration.as_secs_f64();
    let us_each: Vec<f64> =
        after.iter().zip(before).map(|(after, before)| (after - before) * 1e6 / operations).collect();
    add(figures, &format!("{name}_per_s"), per_s);
    add(figures, &format!("{name}_cpu_us"), us_each[0]);
    if let (0, [_, replicas @ ..]) = (reads_percent, &us_each[..])
        && !replicas.is_empty()
    {
        add(figures, "put_replica_cpu_us", replicas.iter().sum::<f64>() / replicas.len() as f64);
    }
    Ok(())
}

fn cpu_seconds(nodes: &[&Node]) -> Result<Vec<f64>> {
    nodes.iter().map(|node| process::cpu_seconds(node.pid())).collect()
}

fn add(figures: &mut Figures, name: &str, value: f64) {
    figures.insert(name.to_owned(), rounded(value));
}
