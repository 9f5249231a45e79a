//! Rates: reads beside hyper, durable writes beside Redis and the least that sled allows, an import beside sled.

use super::{
    Setup,
    rival::{self, Redis, Server},
};
use crate::{
    client::target::Target,
    error::{Error, Result},
    options::LoadOptions,
    progress,
    report::{Figure, Report},
    workload::{
        batch,
        closed_loop::{self, Mix},
    },
};

/// Rows of an import's batch.
const BATCH_ROWS: u64 = 1000;

/// Reads of a node, and of a bare hyper server that answers the same bytes.
pub async fn get(setup: &Setup<'_>) -> Result<Report> {
    let arguments = [
        ("keys", setup.load.keys),
        ("value-bytes", setup.load.value_bytes as u64),
        ("seed", setup.load.seed),
    ];
    let hyper =
        Server::bare("http", &arguments.map(|(name, number)| format!("--{name}={number}")), setup).await?;
    let mut node = setup.workspace.node()?;
    node.start().await?;
    // Else what answers slower pays more often to wake the load.
    let spinner = tokio::task::spawn_local(crate::spin());
    let mut report = report("get", "a node, and bare hyper", setup);
    for round in 0..setup.load.runs {
        let (ours, theirs) =
            (rate(node.target(), 100, setup, round).await?, rate(hyper.target(), 100, setup, round).await?);
        report.run(vec![
            Figure::new("node_get_per_s", ours),
            Figure::new("hyper_get_per_s", theirs),
            Figure::new("get_to_hyper", ours / theirs),
        ]);
    }
    spinner.abort();
    Ok(report)
}

/// Durable writes of a node, of a bare server that puts them into sled, and of Redis.
pub async fn put(setup: &Setup<'_>) -> Result<Report> {
    let redis = Redis::start(setup.workspace.directory(), setup).await?;
    let data = setup.workspace.directory().join("bare-put");
    let bare = Server::bare("put", &[format!("--data={}", data.display())], setup).await?;
    let mut node = setup.workspace.node()?;
    node.start().await?;
    let mut report = report("put", "a node, a bare server on sled, and redis", setup);
    for round in 0..setup.load.runs {
        let ours = rate(node.target(), 0, setup, round).await?;
        let least = rate(bare.target(), 0, setup, round).await?;
        let mut figures = vec![
            Figure::new("node_put_per_s", ours),
            Figure::new("bare_put_per_s", least),
            Figure::new("put_to_bare", ours / least),
        ];
        if let Some(redis) = &redis {
            let theirs = redis.writes_per_s(setup).await?;
            figures.push(Figure::new("redis_set_per_s", theirs));
            figures.push(Figure::new("put_to_redis", ours / theirs));
            figures.push(Figure::new("bare_to_redis", least / theirs));
        }
        report.run(figures);
    }
    Ok(report)
}

/// An import of `--keys` new rows into a new node, and of the same into sled.
pub async fn batch(setup: &Setup<'_>) -> Result<Report> {
    let load = LoadOptions { keys: setup.scaled(100_000).max(setup.load.keys), ..setup.load.clone() };
    let setup = Setup { load: &load, ..*setup };
    let mut report = Report::new("batch", "a node, and bare sled")
        .setting("rows", load.keys)
        .setting("batch_rows", BATCH_ROWS);
    let bar = progress::bar("batch", load.keys * u64::from(load.runs)).with_message("rows");
    for round in 0..load.runs {
        let once = setup.round(round);
        let mut node = setup.workspace.node()?;
        node.start().await?;
        let rows =
            batch::Options { batch_rows: BATCH_ROWS, overwrite: false, endpoint: batch::Endpoint::Import };
        let (ours, _) = batch::once(rows, node.target(), &once, 0..load.keys, &bar).await?;
        node.stop().await?;
        let data = setup.workspace.directory().join(format!("sled{round}"));
        let theirs = rival::sled_rows_per_s(&data, BATCH_ROWS, &setup, once.seed).await?;
        report.run(vec![
            Figure::new("node_rows_per_s", ours),
            Figure::new("sled_rows_per_s", theirs),
            Figure::new("batch_to_sled", ours / theirs),
        ]);
    }
    bar.finish_and_clear();
    Ok(report)
}

fn report(row: &'static str, target: &str, setup: &Setup<'_>) -> Report {
    Report::new(row, target)
        .setting("connections", setup.load.connections_or(closed_loop::CONNECTIONS))
        .setting("keys", setup.load.keys)
        .setting("value_bytes", setup.load.value_bytes)
        .setting("run_s", setup.load.duration.as_secs_f64())
}

/// The rate of one round.
async fn rate(target: &Target, reads_percent: u64, setup: &Setup<'_>, round: u32) -> Result<f64> {
    let name = if reads_percent == 0 { "put" } else { "get" };
    let report = closed_loop::run(name, Mix { reads_percent }, target, &setup.round(round)).await?;
    report
        .median(&format!("{name}_per_s"))
        .ok_or_else(|| Error::Failed("nothing was answered: use a longer --duration".into()))
}
