//! `DynaRust compact`: rebuilds a stopped node's database into a fresh one.
use super::Exit;
use crate::error::Result;

/// Where the database is.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    data: super::flags::DataFlags,
}
/// Compacts.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    todo!("{:?}", arguments.data.directory())
}
