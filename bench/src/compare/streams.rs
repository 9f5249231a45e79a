//! Event streams: many of one key, many of a key each, and idle ones.

use std::time::Duration;

use super::{Setup, rival::Server};
use crate::{
    client::target::Target,
    cluster::node::Node,
    error::{Error, Result},
    report::{Figure, Report},
    workload::{
        fanout, idle,
        many::{self},
    },
};

/// Before the memory of idle streams is read.
const HOLD: Duration = Duration::from_secs(5);

/// From a PUT until the last of many subscribers has it, of a node and of a loop of sends.
pub async fn fanout(setup: &Setup<'_>) -> Result<Report> {
    let options = fanout::Options {
        subscribers: setup.scaled(5000),
        events: 20,
        pause: Duration::from_millis(100),
        write_rate: 300,
    };
    let mut report = Report::new("fanout", "a node, and a bare loop")
        .setting("subscribers", options.subscribers)
        .setting("events", options.events)
        .setting("write_rate", options.write_rate);
    for round in 0..setup.load.runs {
        let once = setup.round(round);
        // Each with streams of this round only: those of an earlier one may not be closed yet.
        let node = node(setup).await?;
        let of_node = fanout::run("fanout", options, node.target(), &once).await?;
        drop(node);
        let server = Server::bare("fanout", &[], setup).await?;
        let of_loop = fanout::run("fanout", options, server.target(), &once).await?;
        let (ours, theirs) = (last_ms(&of_node, options)?, last_ms(&of_loop, options)?);
        report.run(vec![
            Figure::new("node_last_p50_ms", ours),
            Figure::new("loop_last_p50_ms", theirs),
            Figure::new("last_to_loop", ours / theirs),
            Figure::new("others_put_p99_ms", figure(&of_node, "others_put_p99_ms")?),
            Figure::new("lost", figure(&of_node, "lost")?),
        ]);
    }
    Ok(report)
}

/// When the last subscriber has an event; one subscriber is the last.
fn last_ms(report: &Report, options: fanout::Options) -> Result<f64> {
    figure(report, if options.subscribers > 1 { "last_p50_ms" } else { "each_p50_ms" })
}

/// Many subscribers of a key each.
pub async fn many(setup: &Setup<'_>) -> Result<Report> {
    let node = node(setup).await?;
    let options = many::Options { subscribers: setup.scaled(15_000), write_rate: 300 };
    many::run(options, node.target(), setup.load).await
}

/// Memory of an idle stream of each kind.
pub async fn idle(setup: &Setup<'_>) -> Result<Report> {
    let streams = setup.scaled(5000);
    let mut report = Report::new("streams", "a node").setting("streams", streams);
    for _ in 0..setup.load.runs {
        let mut figures = Vec::new();
        for (name, protocol) in [("sse_kib", idle::Protocol::Sse), ("websocket_kib", idle::Protocol::Ws)] {
            // A node of its own: memory that one kind has left would serve the other.
            let node = node(setup).await?;
            let target = Target { pid: Some(node.pid()), ..node.target().clone() };
            let hold = HOLD.min(setup.load.duration);
            let idle = idle::run(idle::Options { streams, protocol, hold }, &target).await?;
            let held = figure(&idle, "held")?;
            if held < streams as f64 {
                return Err(Error::Failed(format!("the node held {held} of {streams} idle streams")));
            }
            figures.push(Figure::new(name, figure(&idle, "rss_kib_per_stream")?));
        }
        report.run(figures);
    }
    Ok(report)
}

async fn node(setup: &Setup<'_>) -> Result<Node> {
    let mut node = setup.workspace.node()?;
    node.start().await?;
    Ok(node)
}

fn figure(report: &Report, name: &str) -> Result<f64> {
    let spread = report.spread(name);
    spread
        .map(|spread| spread.median)
        .ok_or_else(|| Error::Failed(format!("there is no {name}: use a longer --duration")))
}
