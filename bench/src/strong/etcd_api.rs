//! Durable puts and linearizable ranges of the etcd API by gRPC: three nodes with `--etcd` and three members of etcd, on the leader and on a
//! follower. Processor time is counted too, of whoever answers and of the other two together: where all share one machine, it is what rates
//! come down to.

use std::{path::Path, time::Duration};

use super::{etcd::Etcd, group, watch_streams::WatchStreams};
use crate::{
    client::target::Target,
    cluster::{node::Node, workspace::Workspace},
    error::{Error, Result},
    options::LoadOptions,
    process,
    report::{Figure, Report},
    workload::closed_loop::{self, Mix},
};

/// Members on each side.
const MEMBERS: usize = 3;

/// Who else is there.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// etcd-grpc: streams on each member that watch a key which nobody writes
    #[arg(long, default_value_t = 0)]
    pub watch_streams: u64,
}

/// Three members of one kind.
struct Side {
    name: &'static str,
    targets: Vec<Target>,
    pids: Vec<u32>,
    leads: usize,
    watchers: Vec<WatchStreams>,
}

/// Loads both sides in turn for `--duration` each, `--runs` times.
pub async fn run(
    api: Options,
    etcd: Option<&Path>,
    workspace: &Workspace,
    options: &LoadOptions,
) -> Result<Report> {
    let nodes = workspace.cluster_of(MEMBERS, Node::serve_etcd).await?;
    let targets: Vec<_> = nodes.iter().filter_map(Node::etcd_target).collect();
    // The first write makes the table, which wakes the group.
    closed_loop::fill(&targets[0], options).await?;
    group::settled(&nodes.iter().collect::<Vec<_>>()).await?;
    let pids = nodes.iter().map(Node::pid).collect();
    let watchers = watch(&targets, api).await?;
    let leads = group::leader(&nodes).await?;
    let mut sides = vec![Side { name: "dynarust", targets, pids, leads, watchers }];
    let etcd = match etcd {
        Some(binary) => Some(Etcd::start(binary, workspace.directory(), MEMBERS).await?),
        None => None,
    };
    if let Some(etcd) = &etcd {
        let targets: Vec<_> = (0..MEMBERS).map(|member| etcd.grpc_target(member)).collect();
        closed_loop::fill(&targets[0], options).await?;
        let pids = (0..MEMBERS).map(|member| etcd.pid(member)).collect();
        let watchers = watch(&targets, api).await?;
        sides.push(Side { name: "etcd", targets, pids, leads: etcd.leader().await?, watchers });
    }
    let mut report = Report::new("etcd-grpc", "3 nodes, 3 members of etcd")
        .setting("connections", options.connections_or(closed_loop::CONNECTIONS))
        .setting("calls", options.calls)
        .setting("watch_streams", api.watch_streams)
        .setting("keys", options.keys)
        .setting("value_bytes", options.value_bytes)
        .setting("run_s", options.duration.as_secs_f64());
    let warmup = LoadOptions { runs: 1, warmup: Duration::ZERO, duration: options.warmup, ..options.clone() };
    for round in 0..u64::from(options.runs) {
        let once = LoadOptions { duration: options.duration, seed: options.seed + round, ..warmup.clone() };
        let mut figures = Vec::new();
        for (role, place) in [("leader", 0), ("follower", 1)] {
            for reads_percent in [0, 100] {
                for side in &sides {
                    if round == 0 {
                        side.load(place, reads_percent, &warmup).await?;
                    }
                    figures.extend(side.measure(role, place, reads_percent, &once).await?);
                }
            }
        }
        figures.extend(ratios(&figures));
        report.run(figures);
    }
    sides.iter().flat_map(|side| &side.watchers).try_for_each(WatchStreams::check)?;
    Ok(report)
}

/// Has the streams of watchers opened on each member.
async fn watch(targets: &[Target], api: Options) -> Result<Vec<WatchStreams>> {
    let mut all = Vec::new();
    for target in targets {
        all.push(WatchStreams::open(target.address, api.watch_streams).await?);
    }
    Ok(all)
}

impl Side {
    /// Loads the member that is `place` after the leader.
    async fn load(&self, place: usize, reads_percent: u64, options: &LoadOptions) -> Result<Report> {
        let target = &self.targets[(self.leads + place) % MEMBERS];
        closed_loop::load_filled("etcd-grpc", Mix { reads_percent }, target, options).await
    }

    /// The same, with what it shows.
    async fn measure(
        &self,
        role: &str,
        place: usize,
        reads_percent: u64,
        options: &LoadOptions,
    ) -> Result<Vec<Figure>> {
        let member = (self.leads + place) % MEMBERS;
        let before = self.cpu_seconds(member)?;
        let report = self.load(place, reads_percent, options).await?;
        let after = self.cpu_seconds(member)?;
        let method = if reads_percent == 0 { "put" } else { "get" };
        let median = |suffix: &str| {
            let value = report.median(&format!("{method}_{suffix}"));
            value.ok_or_else(|| Error::Failed("nothing was answered: use a longer --duration".into()))
        };
        let name = |suffix: &str| format!("{}_{role}_{method}_{suffix}", self.name);
        let mut figures = Vec::new();
        for suffix in ["per_s", "p50_ms", "p99_ms"] {
            figures.push(Figure::new(name(suffix), median(suffix)?));
        }
        let calls = median("per_s")? * options.duration.as_secs_f64();
        for (place, whose) in ["asked", "others", "client"].into_iter().enumerate() {
            let micros = 1e6 * (after[place] - before[place]) / calls;
            figures.push(Figure::new(name(&format!("{whose}_cpu_us")), micros));
        }
        Ok(figures)
    }

    /// Processor time of a member, of the others, and of this process.
    fn cpu_seconds(&self, member: usize) -> Result<[f64; 3]> {
        let mut seconds = [0.0, 0.0, process::cpu_seconds(std::process::id())?];
        for (number, pid) in self.pids.iter().enumerate() {
            seconds[usize::from(number != member)] += process::cpu_seconds(*pid)?;
        }
        Ok(seconds)
    }
}

/// What is to be compared, of what was measured.
fn ratios(figures: &[Figure]) -> Vec<Figure> {
    let rate = |name: &str| figures.iter().find(|figure| figure.name == name).map(|figure| figure.value);
    let ratio = |what: &str| {
        let ratio = rate(&format!("dynarust_{what}_per_s"))? / rate(&format!("etcd_{what}_per_s"))?;
        Some(Figure::new(format!("{what}_to_etcd"), ratio))
    };
    ["leader_put", "leader_get", "follower_put", "follower_get"].into_iter().filter_map(ratio).collect()
}
