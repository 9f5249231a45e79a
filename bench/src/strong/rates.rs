//! Durable writes and linearizable reads of a closed loop. Three nodes: on the leader, and on a follower, which asks the leader. One node:
//! beside an eventual table of the same build. And etcd: three members, by its JSON gateway, so that both take HTTP.

use std::{path::Path, time::Duration};

use super::{etcd::Etcd, group};
use crate::{
    client::target::Target,
    cluster::workspace::Workspace,
    error::{Error, Result},
    options::LoadOptions,
    report::{Figure, Report},
    workload::closed_loop::{self, Mix},
};

/// What is loaded, under the name of its figures.
struct Contender<'a> {
    name: &'static str,
    reads_percent: u64,
    target: &'a Target,
}

/// Loads all contenders in turn for `--duration` each, `--runs` times.
pub async fn run(etcd: Option<&Path>, workspace: &Workspace, options: &LoadOptions) -> Result<Report> {
    let nodes = group::start(workspace, 3).await?;
    let leads = group::leader(&nodes).await?;
    let (leader, follower) = (&nodes[leads], &nodes[(leads + 1) % 3]);
    let lone = group::start(workspace, 1).await?;
    let mut eventual = workspace.node()?;
    eventual.start().await?;
    let etcd = match etcd {
        Some(binary) => Some(Etcd::start(binary, workspace.directory(), 3).await?),
        None => None,
    };

    let mut contenders = vec![
        Contender { name: "leader", reads_percent: 0, target: leader.target() },
        Contender { name: "follower", reads_percent: 0, target: follower.target() },
        Contender { name: "one_node", reads_percent: 0, target: lone[0].target() },
        Contender { name: "eventual", reads_percent: 0, target: eventual.target() },
        Contender { name: "leader", reads_percent: 100, target: leader.target() },
        Contender { name: "follower", reads_percent: 100, target: follower.target() },
        Contender { name: "eventual", reads_percent: 100, target: eventual.target() },
    ];
    if let Some(etcd) = &etcd {
        let leads = etcd.leader().await?;
        let (leader, follower) = (etcd.target(leads), etcd.target((leads + 1) % 3));
        contenders.extend([
            Contender { name: "etcd_leader", reads_percent: 0, target: leader },
            Contender { name: "etcd_leader", reads_percent: 100, target: leader },
            Contender { name: "etcd_follower", reads_percent: 100, target: follower },
        ]);
    }
    for contender in &contenders {
        closed_loop::fill(contender.target, options).await?;
    }
    let mut report = Report::new("rates", "strong: 3 nodes, and 1; eventual: 1")
        .setting("connections", options.connections_or(closed_loop::CONNECTIONS))
        .setting("keys", options.keys)
        .setting("value_bytes", options.value_bytes)
        .setting("run_s", options.duration.as_secs_f64());
    for round in 0..u64::from(options.runs) {
        let once = LoadOptions { runs: 1, seed: options.seed + round, ..options.clone() };
        // Only the first run finds everything cold.
        let warmup = if round == 0 { options.warmup } else { Duration::ZERO };
        let once = LoadOptions { warmup, ..once };
        let mut figures = Vec::new();
        for contender in &contenders {
            figures.extend(contender.load(&once).await?);
        }
        figures.extend(ratios(&figures));
        report.run(figures);
    }
    Ok(report)
}

impl Contender<'_> {
    async fn load(&self, options: &LoadOptions) -> Result<Vec<Figure>> {
        let mix = Mix { reads_percent: self.reads_percent };
        let report = closed_loop::run("rates", mix, self.target, options).await?;
        let method = if self.reads_percent == 0 { "put" } else { "get" };
        let figure = |suffix: &str| {
            let value = report.median(&format!("{method}_{suffix}"));
            let none = || Error::Failed("nothing was answered: use a longer --duration".into());
            Ok(Figure::new(format!("{}_{method}_{suffix}", self.name), value.ok_or_else(none)?))
        };
        ["per_s", "p50_ms", "p99_ms"].into_iter().map(figure).collect()
    }
}

/// What is to be compared, of what was measured.
fn ratios(figures: &[Figure]) -> Vec<Figure> {
    let rate = |name: &str| figures.iter().find(|figure| figure.name == name).map(|figure| figure.value);
    [
        ("one_node_put_to_eventual", "one_node_put_per_s", "eventual_put_per_s"),
        ("leader_put_to_etcd", "leader_put_per_s", "etcd_leader_put_per_s"),
        ("leader_get_to_etcd", "leader_get_per_s", "etcd_leader_get_per_s"),
        ("follower_get_to_etcd", "follower_get_per_s", "etcd_follower_get_per_s"),
    ]
    .into_iter()
    .filter_map(|(name, one, other)| Some(Figure::new(name, rate(one)? / rate(other)?)))
    .collect()
}
