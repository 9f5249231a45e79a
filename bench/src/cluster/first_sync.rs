//! The first sync: an empty node joins one that has rows. Measures the time until it is ready and holds all rows, and how much memory
//! that takes on both sides.

use std::time::{Duration, Instant};

use tokio::time;

use super::{view, workspace::Workspace};
use crate::{
    error::{Error, Result},
    options::LoadOptions,
    process, progress,
    report::{Figure, Report},
    workload::batch,
};

/// How often nodes are asked: the resolution of the times.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// The measurement fails if the sync takes longer.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Wait until a node has finished its work after a start or a load.
const SETTLE_TIME: Duration = Duration::from_secs(3);

/// How much is synced.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// first-sync: rows that the first node holds
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub sync_rows: u64,
}

/// Syncs a new pair of nodes, `--runs` times.
pub async fn run(sync: Options, workspace: &Workspace, options: &LoadOptions) -> Result<Report> {
    let mut report = Report::new("first-sync", "2 nodes")
        .setting("rows", sync.sync_rows)
        .setting("value_bytes", options.value_bytes);
    let bar = progress::bar("first-sync", u64::from(options.runs)).with_message("syncs");
    for _ in 0..options.runs {
        report.run(sync_once(sync, workspace, options).await?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(report)
}

async fn sync_once(sync: Options, workspace: &Workspace, options: &LoadOptions) -> Result<Vec<Figure>> {
    let empty_bytes = empty_resident_bytes(workspace).await?;
    let mut source = workspace.node()?;
    source.start().await?;
    batch::fill(source.target(), &LoadOptions { keys: sync.sync_rows, ..options.clone() }).await?;
    time::sleep(SETTLE_TIME).await;
    let filled_bytes = process::resident_bytes(source.pid())?;
    process::reset_peak(source.pid())?;

    let mut joining = workspace.node()?;
    joining.join(source.address().to_string());
    let start = Instant::now();
    joining.start().await?;
    let started = start.elapsed();
    let mut ready = None;
    let synced = loop {
        if ready.is_none() && joining.is_ready().await? {
            ready = Some(start.elapsed());
        }
        let rows = view::rows(&joining).await?;
        if ready.is_some() && rows == (sync.sync_rows, 0) {
            break start.elapsed();
        }
        joining.expect_running()?;
        if start.elapsed() > TIMEOUT {
            let log = joining.log();
            return Err(Error::Failed(format!(
                "the first sync does not end within {TIMEOUT:?}, with {} of {} rows; it logged:\n{log}",
                rows.0, sync.sync_rows
            )));
        }
        time::sleep(POLL_INTERVAL).await;
    };
    let source_peak_bytes = process::peak_bytes(source.pid())?;
    let joining_peak_bytes = process::peak_bytes(joining.pid())?;
    view::in_sync(&[&source, &joining]).await?;
    let grown = |peak: u64, before: u64| process::mebibytes(peak.saturating_sub(before));
    Ok(vec![
        Figure::new("answers_s", started.as_secs_f64()),
        Figure::new("ready_s", ready.unwrap_or(synced).as_secs_f64()),
        Figure::new("synced_s", synced.as_secs_f64()),
        Figure::new("in_sync_s", start.elapsed().as_secs_f64()),
        Figure::new("source_rss_mib", process::mebibytes(filled_bytes)),
        Figure::new("source_rss_grown_mib", grown(source_peak_bytes, filled_bytes)),
        Figure::new("empty_rss_mib", process::mebibytes(empty_bytes)),
        Figure::new("joining_rss_grown_mib", grown(joining_peak_bytes, empty_bytes)),
    ])
}

/// The memory of an empty node without a cluster: the baseline for the node that joins.
async fn empty_resident_bytes(workspace: &Workspace) -> Result<u64> {
    let mut node = workspace.node()?;
    node.start().await?;
    time::sleep(SETTLE_TIME).await;
    process::resident_bytes(node.pid())
}
