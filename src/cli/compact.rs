//! `DynaRust compact`: rebuilds a stopped node's database into a fresh one.

use super::{Exit, output, progress::Progress};
use crate::{error::Result, node, storage::compact::compact};

/// Where the database is.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    data: super::flags::DataFlags,
}

/// Compacts.
///
/// # Errors
/// As `storage::compact::compact`.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let progress = Progress::start("rows copied");
    let compacted = compact(&arguments.data.directory()?, &node::wall_clock(), |rows| progress.set(rows))?;
    drop(progress);
    output::print(&format!(
        "{} rows; {} bytes on disk before, {} now\n",
        compacted.rows, compacted.bytes_before, compacted.bytes_after
    ))?;
    Ok(Exit::Success)
}
