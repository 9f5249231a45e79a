//! `DynaRust compact`: copies a stopped node's database into a new one without the space of deleted rows.

use super::{Exit, output, progress::Progress, salvage};
use crate::{error::Result, node, storage::offline::compact::compact};

/// Where the database is, and whether damaged rows may be lost.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It refuses a damaged database, because the new one would look complete. With --accept-loss it keeps what is \
                        readable and lists what is lost. The node then says at each start that rows may be missing; in a cluster \
                        it gets them back from the other members."
)]
pub struct Arguments {
    /// Rebuild a damaged database from what is readable
    #[arg(long)]
    accept_loss: bool,
    #[command(flatten)]
    data: super::flags::DataFlags,
}

/// Compacts the database, and prints how much space that freed.
///
/// # Errors
/// As `storage::offline::compact::compact`.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    super::privacy::restrict_new_files();
    let progress = Progress::start("rows copied");
    let data = arguments.data.directory()?;
    let compacted = compact(&data, &node::wall_clock(), arguments.accept_loss, |rows| progress.set(rows))?;
    drop(progress);
    let lost = compacted.salvaged.as_ref().map(|salvaged| salvage::render(salvaged, "it"));
    output::print(&format!(
        "{}{} rows; {} bytes on disk before, {} now\n",
        lost.unwrap_or_default(),
        compacted.rows,
        compacted.bytes_before,
        compacted.bytes_after
    ))?;
    Ok(Exit::Success)
}
