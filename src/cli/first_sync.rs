//! Shows how far a node's first sync is: a bar on a terminal, a line in the log now and then elsewhere.

use std::{
    io::IsTerminal,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::interval;
use tracing::info;

use super::progress;
use crate::node::{Node, Readiness};

/// How often the bar moves.
const LOOK: Duration = Duration::from_millis(200);
/// How often a line is logged where there is no bar.
const LINE: Duration = Duration::from_secs(5);

/// Shows the first sync of a node until it is done, if it has one to do.
pub async fn show(node: Arc<Node>) {
    let mut looks = interval(LOOK);
    let mut bar = None;
    let mut said = None;
    loop {
        looks.tick().await;
        let (done, total) = match node.readiness() {
            Readiness::Syncing { done, total } => (done, total),
            Readiness::Joining(_) | Readiness::Refused(_) | Readiness::Clock(_) => continue,
            Readiness::Ready
            | Readiness::ReadOnly(_)
            | Readiness::Repairing { .. }
            | Readiness::Broken(_)
            | Readiness::Draining => break,
        };
        if std::io::stderr().is_terminal() {
            let bar = bar.get_or_insert_with(|| progress::bar("first sync", total).with_message("rows"));
            bar.set_length(total);
            bar.set_position(done.min(total));
        } else if said.is_none_or(|said: Instant| said.elapsed() >= LINE) {
            info!(done, total, "first sync");
            said = Some(Instant::now());
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if said.is_some() {
        info!("first sync done");
    }
}
