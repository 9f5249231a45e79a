//! `DynaRust check`: reads every record of a stopped node's database and reports damage.

use serde_json::json;

use super::{Exit, output, progress::Progress};
use crate::{
    error::Result,
    node,
    storage::{
        offline::check::{Report, TableReport, check},
        open,
    },
};

/// Where the database is, and how to print the report.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data: super::flags::DataFlags,
}

/// Checks the database. `Exit::Failure` if anything is damaged.
///
/// # Errors
/// As `storage::offline::check::check`.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let progress = Progress::start("records read");
    let data = arguments.data.directory()?;
    let mut report = check(&data, &node::wall_clock(), |records| progress.set(records))?;
    let _lock = open::lock(&data)?;
    report.damaged.extend(node::strong::check_log(&data)?);
    drop(progress);
    output::print(&if arguments.json { render_json(&report) } else { render_text(&report) })?;
    Ok(if report.is_sound() { Exit::Success } else { Exit::Failure })
}

fn render_text(report: &Report) -> String {
    let line = |table: &TableReport| {
        let TableReport { name, rows, damaged } = table;
        let mut text = format!(
            "{name}: {} keys, {} tombstones, {} damaged\n",
            rows.live,
            rows.tombstones,
            damaged.len()
        );
        damaged.iter().for_each(|what| text += &format!("  {what}\n"));
        text
    };
    let tables: String = report.tables.iter().map(line).collect();
    let beside: String = report.damaged.iter().map(|what| format!("{what}\n")).collect();
    let verdict = if report.is_sound() {
        "every record is intact"
    } else {
        "found damage: save what is readable with DynaRust salvage, or restore a backup"
    };
    let doubt =
        report.suspected_loss.as_ref().map(|why| format!("acknowledged writes may be missing: {why}\n"));
    format!("{tables}{beside}{}{} bytes on disk; {verdict}\n", doubt.unwrap_or_default(), report.disk_bytes)
}

fn render_json(report: &Report) -> String {
    let table = |table: &TableReport| {
        json!({
            "name": table.name.as_str(),
            "keys": table.rows.live,
            "tombstones": table.rows.tombstones,
            "damaged": table.damaged,
        })
    };
    let tables: Vec<_> = report.tables.iter().map(table).collect();
    format!(
        "{}\n",
        json!({
            "sound": report.is_sound(),
            "disk_bytes": report.disk_bytes,
            "tables": tables,
            "damaged": report.damaged,
            "doubt": report.suspected_loss,
        })
    )
}
