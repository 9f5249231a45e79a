//! Disk space of records, as loaded and after each was overwritten five times.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tokio::time;

use super::Setup;
use crate::{
    error::Result,
    options::LoadOptions,
    process, progress,
    report::{Figure, Report},
    workload::batch,
};

/// How often each record is overwritten.
const OVERWRITES: u64 = 5;
/// Space counts once it has been the same for so long: the store gives room back a while after it was written.
const STILL: Duration = Duration::from_secs(3);
/// Or after this, if it never is.
const STILL_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Each round with a new node.
pub async fn disk(setup: &Setup<'_>) -> Result<Report> {
    let load = LoadOptions { keys: setup.scaled(100_000), ..setup.load.clone() };
    let mut report = Report::new("disk", "a node")
        .setting("rows", load.keys)
        .setting("value_bytes", load.value_bytes)
        .setting("overwrites", OVERWRITES);
    let bar = progress::bar("disk", load.keys * OVERWRITES * u64::from(load.runs)).with_message("rows");
    for _ in 0..load.runs {
        let mut node = setup.workspace.node()?;
        node.start().await?;
        batch::fill(node.target(), &load).await?;
        let loaded = settled_mib(&node.data()).await?;
        for round in 1..=OVERWRITES {
            let rows =
                batch::Options { batch_rows: 1000, overwrite: true, endpoint: batch::Endpoint::Import };
            let load = LoadOptions { seed: load.seed + round, ..load.clone() };
            batch::once(rows, node.target(), &load, 0..load.keys, &bar).await?;
        }
        let overwritten = settled_mib(&node.data()).await?;
        report.run(vec![Figure::new("loaded_mib", loaded), Figure::new("overwritten_mib", overwritten)]);
    }
    bar.finish_and_clear();
    Ok(report)
}

async fn settled_mib(data: &Path) -> Result<f64> {
    let (start, mut since) = (Instant::now(), Instant::now());
    let mut bytes = process::disk_bytes(data)?;
    while since.elapsed() < STILL && start.elapsed() < STILL_TIMEOUT {
        time::sleep(POLL_INTERVAL).await;
        let now = process::disk_bytes(data)?;
        if now != bytes {
            (bytes, since) = (now, Instant::now());
        }
    }
    Ok(process::mebibytes(bytes))
}
