//! Compare-and-set of one key by all connections at once. Each sends a transaction that replaces the value it saw last by one that
//! nobody else writes. If it loses, the answer has the value that won, and it tries again with that. Counted are those that win.

use std::{
    cell::Cell,
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::task::JoinSet;

use super::{etcd::Etcd, group};
use crate::{
    client::{
        connection::Connection,
        target::{Kind, Target},
    },
    cluster::workspace::Workspace,
    error::{Error, Result},
    options::LoadOptions,
    report::{Figure, Report},
    workload::closed_loop,
};

/// The key.
const KEY: &str = "hot";

/// Loads the strong table and etcd in turn for `--duration` each, `--runs` times.
pub async fn run(etcd: Option<&Path>, workspace: &Workspace, options: &LoadOptions) -> Result<Report> {
    let nodes = group::start(workspace, 3).await?;
    let leader = nodes[group::leader(&nodes).await?].target();
    let etcd = match etcd {
        Some(binary) => Some(Etcd::start(binary, workspace.directory(), 3).await?),
        None => None,
    };
    let connections = options.connections_or(closed_loop::CONNECTIONS);
    let mut report = Report::new("hot-key", "3 nodes")
        .setting("connections", connections)
        .setting("run_s", options.duration.as_secs_f64());
    load(leader, connections, options.warmup).await?;
    for _ in 0..options.runs {
        let won = load(leader, connections, options.duration).await?;
        let mut figures = vec![Figure::new("won_per_s", won.per_s), Figure::new("won_percent", won.percent)];
        if let Some(etcd) = &etcd {
            let theirs = load(etcd.target(etcd.leader().await?), connections, options.duration).await?;
            figures.push(Figure::new("etcd_won_per_s", theirs.per_s));
            figures.push(Figure::new("etcd_won_percent", theirs.percent));
            figures.push(Figure::new("won_to_etcd", won.per_s / theirs.per_s));
        }
        report.run(figures);
    }
    Ok(report)
}

struct Won {
    per_s: f64,
    percent: f64,
}

/// How many attempts of all connections won within this time.
async fn load(target: &Target, connections: u32, length: Duration) -> Result<Won> {
    let mut request = Vec::new();
    target.put(KEY, b"0", &mut request);
    Connection::open(target.address).await?.expect_ok(&request).await?;
    let counts = Rc::new((Cell::new(0_u32), Cell::new(0_u32)));
    let end = Instant::now() + length;
    let mut workers = JoinSet::new();
    for number in 0..connections {
        workers.spawn_local(attempt(target.clone(), number, end, counts.clone()));
    }
    while let Some(worker) = workers.join_next().await {
        worker.expect("a worker does not panic")?;
    }
    let (won, tried) = (f64::from(counts.0.get()), f64::from(counts.1.get()));
    Ok(Won { per_s: won / length.as_secs_f64(), percent: 100.0 * won / tried.max(1.0) })
}

/// Tries until the end. Counts the attempts that won, and all.
async fn attempt(
    target: Target,
    number: u32,
    end: Instant,
    counts: Rc<(Cell<u32>, Cell<u32>)>,
) -> Result<()> {
    let mut connection = Connection::open(target.address).await?;
    let mut seen = target.encoded("0");
    for turn in 1_u64.. {
        if Instant::now() >= end {
            break;
        }
        let own = target.encoded(&(turn << 16 | u64::from(number)).to_string());
        connection.expect_ok(&transaction(&target, &seen, &own)).await?;
        let answer: Value = serde_json::from_slice(connection.body())
            .map_err(|e| Error::Failed(format!("the answer to a transaction is no JSON: {e}")))?;
        counts.1.set(counts.1.get() + 1);
        seen = if answer["succeeded"] == true {
            counts.0.set(counts.0.get() + 1);
            own
        } else {
            winner(&target, &answer)?
        };
    }
    Ok(())
}

/// If the key has the value `seen`, it gets `own`; otherwise it is read.
fn transaction(target: &Target, seen: &str, own: &str) -> Vec<u8> {
    let (table, key) = (&target.table, target.encoded(KEY));
    let mut request = Vec::new();
    let (path, body) = match target.kind {
        Kind::Dynarust => (
            "POST /_/txn",
            format!(
                r#"{{"compare":[{{"table":"{table}","key":"{key}","value":{seen}}}],"success":[{{"op":"put","table":"{table}","key":"{key}","value":{own}}}],"failure":[{{"op":"get","table":"{table}","key":"{key}"}}]}}"#
            ),
        ),
        Kind::Etcd => (
            "POST /v3/kv/txn",
            format!(
                r#"{{"compare":[{{"key":"{key}","target":"VALUE","result":"EQUAL","value":"{seen}"}}],"success":[{{"requestPut":{{"key":"{key}","value":"{own}"}}}}],"failure":[{{"requestRange":{{"key":"{key}"}}}}]}}"#
            ),
        ),
        Kind::EtcdGrpc => unreachable!("both targets are loaded by HTTP/1.1"),
    };
    target.with_body(path, &[body.as_bytes()], &mut request);
    request
}

/// The value that the answer to a lost attempt has, as it is compared with.
fn winner(target: &Target, answer: &Value) -> Result<String> {
    let value = match target.kind {
        Kind::Dynarust => answer["results"][0]["value"].as_u64().map(|value| value.to_string()),
        Kind::Etcd => answer["responses"][0]["response_range"]["kvs"][0]["value"].as_str().map(str::to_owned),
        Kind::EtcdGrpc => unreachable!("both targets are loaded by HTTP/1.1"),
    };
    value.ok_or_else(|| Error::Failed(format!("the answer to a transaction has no value: {answer}")))
}
