//! A follower that was away while some rows of many changed, in more entries than the log keeps: the leader compares and sends the rows
//! that differ. Measured are the bytes that it is sent, and the time.

use std::time::Instant;

use super::group;
use crate::{
    client::{connection::Connection, document::Documents, target},
    cluster::{view::Counters, workspace::Workspace},
    error::Result,
    options::LoadOptions,
    progress,
    report::{Figure, Report},
    workload::batch,
};

/// How many rows.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// catch-up: rows of the table
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub table_rows: u64,
    /// catch-up: rows that change while the follower is away
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub missed_rows: u64,
    /// catch-up: writes to these rows, each an entry of the log; the log keeps some thousand
    #[arg(long, default_value_t = 7000, value_parser = clap::value_parser!(u64).range(1..))]
    pub missed_writes: u64,
}

/// Measures `--runs` absences.
pub async fn run(catch_up: Options, workspace: &Workspace, options: &LoadOptions) -> Result<Report> {
    let mut nodes = group::start(workspace, 3).await?;
    let leads = group::leader(&nodes).await?;
    let away = (leads + 1) % 3;
    batch::fill(nodes[leads].target(), &LoadOptions { keys: catch_up.table_rows, ..options.clone() }).await?;
    group::settled(&nodes.iter().collect::<Vec<_>>()).await?;
    let mut report = Report::new("catch-up", "3 nodes")
        .setting("table_rows", catch_up.table_rows)
        .setting("missed_rows", catch_up.missed_rows)
        .setting("missed_writes", catch_up.missed_writes)
        .setting("value_bytes", options.value_bytes);
    let mut documents = Documents::new(options.seed + 1, options.value_bytes);
    for _ in 0..options.runs {
        nodes[away].stop().await?;
        let target = nodes[leads].target();
        let mut connection = Connection::open(target.address).await?;
        let bar = progress::bar("catch-up", catch_up.missed_writes).with_message("writes");
        let (mut value, mut request) = (Vec::new(), Vec::new());
        for write in 0..catch_up.missed_writes {
            // Spread over the table: rows that are neighbours cost less to find.
            let row = write % catch_up.missed_rows * (catch_up.table_rows / catch_up.missed_rows).max(1);
            value.clear();
            request.clear();
            documents.write(&mut value);
            target.put(&target::key(row), &value, &mut request);
            connection.expect_ok(&request).await?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        let others: Vec<_> = (0..3).filter(|number| *number != away).map(|number| &nodes[number]).collect();
        let before = Counters::of(&others).await?;
        let start = Instant::now();
        nodes[away].start().await?;
        let all: Vec<_> = nodes.iter().collect();
        group::settled(&all).await?;
        let seconds = start.elapsed().as_secs_f64();
        let others: Vec<_> = (0..3).filter(|number| *number != away).map(|number| &nodes[number]).collect();
        let sent = Counters::of(&others).await? - before;
        report.run(vec![
            Figure::new("sent_bytes", sent.bytes_sent as f64),
            Figure::new("caught_up_after_s", seconds),
        ]);
    }
    Ok(report)
}
