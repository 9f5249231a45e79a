//! `DynaRust salvage`: copies the readable rows of a damaged database into a new one.

use std::path::PathBuf;

use super::{Exit, output, progress::Progress};
use crate::{
    error::Result,
    node,
    storage::{
        engine::suspected_loss,
        offline::salvage::{Salvaged, Step, salvage},
    },
};

/// The damaged database, and where to create the new one.
#[derive(Debug, clap::Args)]
#[command(after_help = "The damaged directory is only read. Example:\n  \
                        DynaRust salvage storage.db --into salvaged.db\n  \
                        DynaRust 127.0.0.1:6660 --data salvaged.db\n\
                        Exit codes: 0 if it saved everything or a part, as it lists; 1 if it could save nothing.")]
pub struct Arguments {
    /// The damaged database of a stopped node
    #[arg(value_name = "DIR")]
    data: PathBuf,
    /// The directory to create; it must not exist yet, and needs twice the space of the rows
    #[arg(long, value_name = "NEW")]
    into: PathBuf,
}

/// Copies the readable rows, and prints what was saved and lost.
///
/// # Errors
/// As `storage::offline::salvage::salvage`.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let (reading, writing) = (Progress::start("bytes read"), Progress::start("rows saved"));
    let salvaged = salvage(&arguments.data, &arguments.into, &node::wall_clock(), |step| match step {
        Step::Read(bytes) => reading.set(bytes),
        Step::Written(rows) => writing.set(rows),
    })?;
    drop((reading, writing));
    output::print(&render(&salvaged, &arguments.into.display().to_string()))?;
    Ok(Exit::Success)
}

/// What was saved and what was lost, as text.
pub fn render(salvaged: &Salvaged, into: &str) -> String {
    let line = |what: &String| format!("damaged: {what}\n");
    let mut text: String = salvaged.damaged.iter().map(line).collect();
    salvaged.tables.iter().for_each(|table| text += &table.to_string());
    salvaged.forgotten.iter().for_each(|what| text += &format!("lost: {what}\n"));
    if salvaged.orphans > 0 {
        text += &format!("lost: {} rows of unknown tables\n", salvaged.orphans);
    }
    let rows = salvaged.rows();
    text += &if salvaged.is_complete() {
        format!("{rows} rows saved; nothing was lost\n")
    } else {
        format!(
            "{rows} rows saved, but not all: {}; a node on {into} says so at each start\n",
            suspected_loss::MEANING
        )
    };
    text
}
