//! A network cut between two nodes. During the cut both take puts and deletes of the same keys; measured is the time from the end of the
//! cut until both hold the same.
//!
//! Each node advertises the address of a proxy in front of it, and that is the only address that the other knows: while both proxies
//! are cut, there is no connection.

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

/// Writes in one batch.
const BATCH_ROWS: u64 = 100;
/// One write of this many is a delete.
const DELETE_ONE_IN: u64 = 4;
/// How often nodes are asked: the resolution of the times.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// The measurement fails if a link does not end, or does not come back, by then.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The length of the cut, and the writes during it.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// heal: length of the cut
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub cut: Duration,
    /// heal: keys written or deleted on both sides during the cut
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub conflicts: u64,
}

/// Measures a cut, `--runs` times.
pub async fn run(heal: Options, workspace: &Workspace, options: &LoadOptions) -> Result<Report> {
    let (mut near, mut far) = (workspace.node()?, workspace.node()?);
    let proxies = [Proxy::start(near.address()).await?, Proxy::start(far.address()).await?];
    near.advertise(proxies[0].address().to_string());
    far.advertise(proxies[1].address().to_string());
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
        proxies.iter().for_each(Proxy::cut);
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
            return Err(Error::Failed(
                "the nodes replicated during the cut: they have another connection".into(),
            ));
        }

        proxies.iter().for_each(Proxy::heal);
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

async fn wait_for_link(nodes: &[&Node], up: bool) -> Result<()> {
    let start = Instant::now();
    for node in nodes {
        loop {
            let members = view::view(node).await?.members;
            if members.iter().any(|member| member.linked) == up {
                break;
            }
            if start.elapsed() > TIMEOUT {
                let log = node.log();
                let what = if up { "comes up" } else { "ends" };
                return Err(Error::Failed(format!("no link {what} within {TIMEOUT:?}; it logged:\n{log}")));
            }
            time::sleep(POLL_INTERVAL).await;
        }
    }
    Ok(())
}

/// Writes every key once, evenly during the cut.
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
        // By force: an earlier run may have deleted it.
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
