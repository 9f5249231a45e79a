//! What replicas cost the node that takes the writes: its rate without replicas, with two of them, and with one of the two hung. Each
//! run measures all three, one after another, so that other work of the machine affects all of them alike. The rate without replicas
//! is that of another node, which never had any.
//!
//! Processor time is counted until the replicas have everything, not only until the load ends.

use std::time::Duration;

use super::{node::Node, view, workspace::Workspace};
use crate::{
    error::{Error, Result},
    options::LoadOptions,
    process,
    report::{Figure, Report},
    workload::closed_loop,
};

/// Measures each of the three for `--duration`, `--runs` times.
pub async fn run(workspace: &Workspace, options: &LoadOptions) -> Result<Report> {
    let mut alone = workspace.node()?;
    alone.start().await?;
    let nodes = workspace.cluster(3).await?;
    let (writer, near, far) = (&nodes[0], &nodes[1], &nodes[2]);
    let once = LoadOptions { runs: 1, warmup: Duration::ZERO, ..options.clone() };
    if !options.warmup.is_zero() {
        let warmup = LoadOptions { duration: options.warmup, ..once.clone() };
        put("warmup", &warmup, &[&alone]).await?;
        put("warmup", &warmup, &[writer, near, far]).await?;
    }

    let mut report = Report::new("replicas", "1 node, and 3")
        .setting("connections", options.connections_or(closed_loop::CONNECTIONS))
        .setting("keys", options.keys)
        .setting("value_bytes", options.value_bytes)
        .setting("run_s", options.duration.as_secs_f64());
    for round in 0..u64::from(options.runs) {
        let options = LoadOptions { seed: options.seed + round, ..once.clone() };
        let lone = put("alone", &options, &[&alone]).await?;
        let following = put("following", &options, &[writer, near, far]).await?;
        far.pause()?;
        let hung = put("hung", &options, &[writer, near]).await;
        // Also after a failure: a stopped process does not end by itself.
        far.resume()?;
        let hung = hung?;
        let caught_up = view::in_sync(&[writer, near, far]).await?;

        let mut figures = Vec::new();
        for (name, phase) in [("alone", &lone), ("following", &following), ("hung", &hung)] {
            figures.push(Figure::new(format!("{name}_put_per_s"), phase.put_per_s));
            figures.push(Figure::new(format!("{name}_writer_cpu_s_per_1000"), phase.cpu_s_per_1000[0]));
            for (number, seconds) in phase.cpu_s_per_1000.iter().enumerate().skip(1) {
                figures.push(Figure::new(format!("{name}_replica{number}_cpu_s_per_1000"), *seconds));
            }
            figures.push(Figure::new(format!("{name}_in_sync_after_s"), phase.in_sync_after.as_secs_f64()));
        }
        figures.push(Figure::new("following_to_alone", following.put_per_s / lone.put_per_s));
        figures.push(Figure::new("hung_to_alone", hung.put_per_s / lone.put_per_s));
        figures.push(Figure::new("hung_to_following", hung.put_per_s / following.put_per_s));
        figures.push(Figure::new("hung_caught_up_after_s", caught_up.as_secs_f64()));
        report.run(figures);
    }
    Ok(report)
}

struct Phase {
    put_per_s: f64,
    /// One value per node.
    cpu_s_per_1000: Vec<f64>,
    /// Time from the end of the load until all nodes held the same.
    in_sync_after: Duration,
}

/// Loads the first of these nodes, and waits until the others hold the same.
async fn put(name: &'static str, options: &LoadOptions, nodes: &[&Node]) -> Result<Phase> {
    let before = cpu_seconds(nodes)?;
    let report =
        closed_loop::run(name, closed_loop::Mix { reads_percent: 0 }, nodes[0].target(), options).await?;
    let Some(put_per_s) = report.median("put_per_s") else {
        return Err(Error::Failed("no write was answered: use a longer --duration".into()));
    };
    let in_sync_after = view::in_sync(nodes).await?;
    let thousands = put_per_s * options.duration.as_secs_f64() / 1000.0;
    let after = cpu_seconds(nodes)?;
    let cpu_s_per_1000 = after.iter().zip(before).map(|(after, before)| (after - before) / thousands);
    Ok(Phase { put_per_s, cpu_s_per_1000: cpu_s_per_1000.collect(), in_sync_after })
}

fn cpu_seconds(nodes: &[&Node]) -> Result<Vec<f64>> {
    nodes.iter().map(|node| process::cpu_seconds(node.pid())).collect()
}
