//! `DynaRust check`: reads every record of a stopped node's database and says what it found.
use super::Exit;
use crate::error::Result;

/// Where the database is, and how to print what was found.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data: super::flags::DataFlags,
}
/// Checks.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    todo!("{:?} {:?}", arguments.json, arguments.data.directory())
}
