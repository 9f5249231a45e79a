//! The cost for two nodes of finding a few rows that differ among many: messages, bytes and round trips. The rows are written while
//! one node is down, and the other is restarted before it returns: its journal is then gone, and only a comparison finds them.

use std::time::Instant;

use super::{
    node::Node,
    view::{self, Counters},
    workspace::Workspace,
};
use crate::{
    client::{connection::Connection, document::Documents, target},
    error::{Error, Result},
    options::LoadOptions,
    progress,
    report::{Figure, Report},
    workload::batch,
};

/// How many rows differ.
const DIVERGED: [u64; 3] = [1, 10, 1000];

/// The size of the table.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// diverge: rows that both nodes hold
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    pub diverge_rows: u64,
}

/// Measures the repair of 1, 10 and 1000 rows, `--runs` times.
pub async fn run(diverge: Options, workspace: &Workspace, options: &LoadOptions) -> Result<Report> {
    let rows = diverge.diverge_rows;
    let mut nodes = workspace.cluster(2).await?;
    let (mut away, mut written) = (nodes.pop().expect("two"), nodes.pop().expect("two"));
    batch::fill(written.target(), &LoadOptions { keys: rows, ..options.clone() }).await?;
    view::in_sync(&[&written, &away]).await?;

    let mut report =
        Report::new("diverge", "2 nodes").setting("rows", rows).setting("value_bytes", options.value_bytes);
    let bar = progress::bar("diverge", u64::from(options.runs) * DIVERGED.len() as u64);
    for run in 0..u64::from(options.runs) {
        let mut figures = Vec::new();
        for diverged in DIVERGED {
            away.stop().await?;
            write(&written, spread(diverged, rows, run), options, run).await?;
            written.stop().await?;
            written.start().await?;
            away.start().await?;
            let start = Instant::now();
            view::in_sync(&[&written, &away]).await?;
            let took_s = start.elapsed().as_secs_f64();
            // Both nodes have just started, so their counters hold nothing else.
            let counters = Counters::settled(&[&written, &away]).await?;
            let mut figure =
                |name, value: f64| figures.push(Figure::new(format!("d{diverged}_{name}"), value));
            figure("metadata_bytes", counters.comparison_bytes as f64);
            figure("round_trips", round_trips(&written, &away).await? as f64);
            figure("messages", counters.comparison_messages as f64);
            figure("sessions", counters.sessions as f64);
            figure("rows_sent", counters.rows_sent as f64);
            figure("link_bytes", counters.bytes_sent as f64);
            figure("in_sync_s", took_s);
            bar.inc(1);
        }
        report.run(figures);
    }
    bar.finish_and_clear();
    Ok(report)
}

/// The numbers of `count` of all rows, evenly spread, and different in each run.
fn spread(count: u64, rows: u64, run: u64) -> impl Iterator<Item = u64> {
    let apart = rows / count;
    (0..count).map(move |number| (number * apart + run) % rows)
}

/// Overwrites these rows, in one batch.
async fn write(node: &Node, rows: impl Iterator<Item = u64>, options: &LoadOptions, run: u64) -> Result<()> {
    // Other documents than those that the rows have, which come from the seed itself.
    let mut documents = Documents::new(options.seed + 1_000 + run, options.value_bytes);
    let mut body = Vec::new();
    for row in rows {
        body.extend_from_slice(format!(r#"{{"op":"put","key":"{}","value":"#, target::key(row)).as_bytes());
        documents.write(&mut body);
        body.extend_from_slice(b"}\n");
    }
    let mut request = Vec::new();
    node.target().with_body(&format!("POST /{}/batch", node.target().table), &[&body], &mut request);
    Connection::open(node.address()).await?.expect_ok(&request).await
}

/// Round trips in the last comparison of two nodes.
async fn round_trips(a: &Node, b: &Node) -> Result<u64> {
    let mut steps = 0;
    for node in [a, b] {
        let members = view::view(node).await?.members;
        steps = members.iter().map(|member| member.comparison_steps).chain([steps]).max().unwrap_or(steps);
    }
    if steps == 0 {
        return Err(Error::Failed(
            "the nodes agreed without a comparison, so there is no cost to report".into(),
        ));
    }
    Ok(steps.div_ceil(2))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn as_many_rows_differ_as_are_to() {
        for (count, rows) in [(1, 1000), (10, 1000), (1000, 1000), (1000, 5000)] {
            for run in [0, 1, 99] {
                let numbers: HashSet<_> = spread(count, rows, run).collect();
                assert_eq!(numbers.len() as u64, count, "{count} of {rows} in run {run}");
                assert!(numbers.iter().all(|number| *number < rows));
            }
        }
    }
}
