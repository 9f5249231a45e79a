//! The progress of a node's first sync: a bar on a terminal, otherwise a log line every few seconds. A sync that is done within the first
//! two seconds logs nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::interval;
use tracing::info;

use super::{logging, progress};
use crate::{
    config::types::LogFormat,
    node::{Node, Readiness},
};

/// Time between two updates of the bar.
const BAR_INTERVAL: Duration = Duration::from_millis(200);
/// Time between two log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Time before the first log line.
const LOG_DELAY: Duration = Duration::from_secs(2);

/// Shows the progress of a node's first sync until it is done. Returns at once if the node needs none.
pub async fn show(node: Arc<Node>, format: LogFormat) {
    let mut started = None;
    let mut ticks = interval(BAR_INTERVAL);
    let mut bar = None;
    let mut last_logged = None;
    loop {
        ticks.tick().await;
        let (done, total) = match node.readiness() {
            Readiness::Syncing { done, total } => (done, total),
            Readiness::Joining(_) | Readiness::Refused(_) | Readiness::Clock(_) => continue,
            Readiness::Ready
            | Readiness::ReadOnly(_)
            | Readiness::Repairing { .. }
            | Readiness::Broken(_)
            | Readiness::Draining => break,
        };
        let started = *started.get_or_insert_with(Instant::now);
        if logging::is_for_people(format) {
            let bar = bar.get_or_insert_with(|| progress::bar("first sync", total).with_message("rows"));
            bar.set_length(total);
            bar.set_position(done.min(total));
        } else if started.elapsed() >= LOG_DELAY
            && last_logged.is_none_or(|last: Instant| last.elapsed() >= LOG_INTERVAL)
        {
            // The total is of the peer's last round; clients have written since.
            info!("first sync: {} of {total} rows", done.min(total));
            last_logged = Some(Instant::now());
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if last_logged.is_some() {
        info!("first sync done");
    }
}
