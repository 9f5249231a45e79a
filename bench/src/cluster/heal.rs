//! A cut between two nodes: both are written to meanwhile, the same keys on both sides, puts and deletes; how long after the cut
//! has healed until both hold the same.
//!
//! Each node tells others the address of a proxy to it, and knows of the other none but that: with both proxies closed there is
//! no way left.

use std::time::{Duration, Instant};

use tokio::time;

use super::{
    node::Node,
    proxy::Proxy,
    view::{self, Counters},
    workspace::Workspace,
};
use crate::{
    client::{
        connection::Connection,
        document::{Documents, Random},
        target,
    },
    error::{Error, Result},
    options::LoadOptions,
    progress,
    report::{Figure, Report},
    workload::batch,
};

/// Writes of one batch.
const BATCH_ROWS: u64 = 100;
/// One write in so many is a delete.
const DELETE_ONE_IN: u64 = 4;
/// Between looks: what the times are true to.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// A link that is not noticed to be gone by then, or does not come back, never will.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How long, and what happens.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// heal: how long the nodes do not reach each other
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub cut: Duration,
    /// heal: keys that are written or deleted on both sides meanwhile
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub conflicts: u64,
}

/// Cuts and heals, `--runs` times.
pub async fn run(heal: Options, workspace: &Workspace, options: &LoadOptions) -> Result<Report> {
    let (mut near, mut far) = (workspace.node()?, workspace.node()?);
    let ways = [Proxy::start(near.address()).await?, Proxy::start(far.address()).await?];
    near.advertise(ways[0].address().to_string());
    far.advertise(ways[1].address().to_string());
    far.join(near.advertised());
    near.start().await?;
    far.start().await?;
    let nodes = [&near, &far];
    view::in_sync(&nodes).await?;
    batch::fill(near.target(), &LoadOptions { keys: heal.conflicts, ..options.clone() }).await?;
    view::in_sync(&nodes).await?;

    let mut report = Report::new("heal", "2 nodes")
        .setting("cut_s", heal.cut.as_secs_f64())
        .setting("conflicts", heal.conflicts)
        .setting("value_bytes", options.value_bytes);
    for run in 0..u64::from(options.runs) {
        let before = Counters::settled(&nodes).await?;
        ways.iter().for_each(Proxy::cut);
        let cut_at = Instant::now();
        wait_for_link(&nodes, false).await?;
        let bar = tokio::task::spawn_local(progress::follow_time("cut", heal.cut));
        let seed = options.seed + 2 * run;
        let sides = [(seed, &near), (seed + 1, &far)];
        let [(near_seed, near), (far_seed, far)] = sides;
        tokio::try_join!(
            write(near, heal, near_seed, options.value_bytes),
            write(far, heal, far_seed, options.value_bytes)
        )?;
        time::sleep_until((cut_at + heal.cut).into()).await;
        bar.await.expect("a bar does not panic");
        if Counters::of(&nodes).await?.rows_sent != before.rows_sent {
            return Err(Error::Failed("the nodes found another way: this was no cut".into()));
        }

        ways.iter().for_each(Proxy::heal);
        let healed = Instant::now();
        wait_for_link(&nodes, true).await?;
        let linked_s = healed.elapsed().as_secs_f64();
        view::in_sync(&nodes).await?;
        let in_sync_s = healed.elapsed().as_secs_f64();
        let counters = Counters::settled(&nodes).await? - before;
        let (keys, deleted) = view::rows(near).await?;
        report.run(vec![
            Figure::new("linked_s", linked_s),
            Figure::new("in_sync_s", in_sync_s),
            Figure::new("sessions", counters.sessions as f64),
            Figure::new("rows_sent", counters.rows_sent as f64),
            Figure::new("metadata_bytes", counters.comparison_bytes as f64),
            Figure::new("keys", keys as f64),
            Figure::new("deleted", deleted as f64),
        ]);
    }
    Ok(report)
}

async fn wait_for_link(nodes: &[&Node], standing: bool) -> Result<()> {
    let start = Instant::now();
    for node in nodes {
        loop {
            let members = view::view(node).await?.members;
            if members.iter().any(|member| member.linked) == standing {
                break;
            }
            if start.elapsed() > TIMEOUT {
                let log = node.log();
                let what = if standing { "comes up" } else { "ends" };
                return Err(Error::Failed(format!("no link {what} within {TIMEOUT:?}; it logged:\n{log}")));
            }
            time::sleep(POLL_INTERVAL).await;
        }
    }
    Ok(())
}

/// Writes every key once, evenly over the time of the cut.
async fn write(node: &Node, heal: Options, seed: u64, value_bytes: usize) -> Result<()> {
    let mut random = Random::new(seed);
    let mut documents = Documents::new(seed, value_bytes);
    let mut connection = Connection::open(node.address()).await?;
    let start = Instant::now();
    for first in (0..heal.conflicts).step_by(BATCH_ROWS as usize) {
        let share = first as f64 / heal.conflicts as f64;
        time::sleep_until((start + heal.cut.mul_f64(share)).into()).await;
        let mut body = Vec::new();
        for number in first..(first + BATCH_ROWS).min(heal.conflicts) {
            operation(number, random.below(DELETE_ONE_IN) == 0, &mut documents, &mut body);
        }
        let mut request = Vec::new();
        node.target().with_body(&format!("POST /{}/batch", node.target().table), &[&body], &mut request);
        connection.expect_ok(&request).await?;
    }
    Ok(())
}

/// Appends a line of a batch.
fn operation(number: u64, is_delete: bool, documents: &mut Documents, body: &mut Vec<u8>) {
    let key = target::key(number);
    if is_delete {
        // By force: a run before may have deleted it.
        return body.extend_from_slice(
            format!("{{\"op\":\"delete\",\"key\":\"{key}\",\"force\":true}}\n").as_bytes(),
        );
    }
    body.extend_from_slice(format!(r#"{{"op":"put","key":"{key}","value":"#).as_bytes());
    documents.write(body);
    body.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_lines_of_json() {
        let (mut documents, mut body) = (Documents::new(1, 350), Vec::new());
        operation(7, true, &mut documents, &mut body);
        operation(8, false, &mut documents, &mut body);
        let text = String::from_utf8(body).expect("text");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
        assert_eq!(
            (lines[0]["op"].as_str(), lines[0]["key"].as_str()),
            (Some("delete"), Some("user-00000007"))
        );
        assert_eq!((lines[1]["op"].as_str(), lines[1]["key"].as_str()), (Some("put"), Some("user-00000008")));
        assert!(lines[1]["value"].is_object());
    }
}
