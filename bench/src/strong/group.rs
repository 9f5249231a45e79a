//! Nodes with a strong table, and who of them leads.

use std::time::{Duration, Instant};

use tokio::time;

use crate::{
    client::connection::Connection,
    cluster::{
        node::Node,
        view::{self, Group},
        workspace::Workspace,
    },
    error::{Error, Result},
};

/// The measurement fails if the group does not get there by then.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How often nodes are asked.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Starts a cluster whose table is strong, and waits until all its nodes vote, up to five.
pub async fn start(workspace: &Workspace, count: usize) -> Result<Vec<Node>> {
    let nodes = workspace.cluster(count).await?;
    make_strong(&nodes[0]).await?;
    settled(&nodes.iter().collect::<Vec<_>>()).await?;
    Ok(nodes)
}

/// Makes the table of the workload strong.
async fn make_strong(node: &Node) -> Result<()> {
    let target = node.target();
    let mut request = Vec::new();
    let line = format!("PUT /_/tables/{}", target.table);
    target.with_body(&line, &[br#"{"mode":"strong"}"#], &mut request);
    match Connection::open(node.address()).await?.exchange(&request).await? {
        201 => Ok(()),
        status => Err(Error::Failed(format!("making a strong table got {status}"))),
    }
}

/// Waits until all these nodes know one leader, vote, and have applied the same entry.
pub async fn settled(nodes: &[&Node]) -> Result<()> {
    let start = Instant::now();
    loop {
        let mut groups = Vec::new();
        for node in nodes {
            groups.extend(view::view(node).await?.strong);
        }
        let is_settled = |one: &Group| {
            one.leader.is_some()
                && one.voters.len() == nodes.len().min(5)
                && one.applied_index == groups[0].applied_index
        };
        if groups.len() == nodes.len() && groups.iter().all(is_settled) {
            return Ok(());
        }
        if start.elapsed() > TIMEOUT {
            return Err(Error::Failed(format!("the group does not settle within {TIMEOUT:?}: {groups:?}")));
        }
        time::sleep(POLL_INTERVAL).await;
    }
}

/// The number of the node that leads.
pub async fn leader(nodes: &[Node]) -> Result<usize> {
    let start = Instant::now();
    loop {
        for node in nodes {
            let leader = view::view(node).await?.strong.and_then(|group| group.leader);
            let number =
                leader.and_then(|leader| nodes.iter().position(|node| node.advertised() == leader.address));
            if let Some(number) = number {
                return Ok(number);
            }
        }
        if start.elapsed() > TIMEOUT {
            return Err(Error::Failed(format!("no node leads within {TIMEOUT:?}")));
        }
        time::sleep(POLL_INTERVAL).await;
    }
}
