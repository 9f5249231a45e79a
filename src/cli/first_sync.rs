//! Shows how far a node's first sync is: a bar on a terminal, a line in the log now and then elsewhere. One that is done at once is not
//! worth a line.

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

/// How often the bar moves.
const BAR_INTERVAL: Duration = Duration::from_millis(200);
/// How often a line is logged where there is no bar.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// How long it may take before a line is logged.
const LOG_DELAY: Duration = Duration::from_secs(2);

/// Shows the first sync of a node until it is done, if it has one to do.
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
            info!("first sync: {done} of {total} rows");
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
