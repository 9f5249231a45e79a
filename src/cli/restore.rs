//! `DynaRust restore`: makes a database of a backup.

use std::path::PathBuf;

use super::{Exit, output, place, privacy, progress::Progress, unlock::Unlock};
use crate::{
    error::{Error, Result},
    node,
    storage::offline::restore::{Identity, Restored, restore},
};

/// Which backup to restore, and where to.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It checks the backup first. The database is that of the same node of the same cluster: started, it takes from the \
                        other members what it missed, deletions included. Do not start two nodes of one backup, nor beside the node itself. \
                        To restore a whole cluster, restore one backup with --new-cluster, start it alone, and let empty nodes join it. \
                        Example:\n  \
                        DynaRust restore monday --data restored.db\n  \
                        DynaRust 127.0.0.1:6660 --data restored.db"
)]
pub struct Arguments {
    /// The backup: a directory, or s3://BUCKET/NAME
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The database directory to create; it must not exist yet
    #[arg(long, value_name = "NEW")]
    data: PathBuf,
    /// The id that the backup must have: who alters a backup can give it another id, too
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Make it the first node of a new cluster
    #[arg(long)]
    new_cluster: bool,
    #[command(flatten)]
    unlock: Unlock,
}

/// Restores the backup, and prints what to do next.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    privacy::restrict_new_files();
    let (place, checked) = match place::open(&arguments.directory) {
        Err(Error::NotFound(why)) => {
            eprintln!("DynaRust: {why}");
            return Ok(Exit::NotFound);
        }
        opened => opened?,
    };
    checked.expect_id(arguments.id.as_deref())?;
    let secret = arguments.unlock.of(&checked.manifest)?;
    let backup = checked.open(secret.as_ref())?;
    let identity = if arguments.new_cluster { Identity::NewCluster } else { Identity::Same };
    let progress = Progress::start("rows written");
    let clock = node::wall_clock();
    let restored = restore(&backup, &arguments.data, identity, &clock, |rows| progress.set(rows));
    let restored = restored.map_err(|error| place.named(error))?;
    drop(progress);
    output::print(&to_text(&restored, identity, &arguments.data.display().to_string()))?;
    Ok(Exit::Success)
}

fn to_text(restored: &Restored, identity: Identity, data: &str) -> String {
    let Restored { live, tombstones, has_strong } = restored;
    let next = match (identity, has_strong) {
        (Identity::Same, false) => "Start the node on it: it takes what it missed from the other members.\n",
        (Identity::Same, true) => {
            "Start the node on it: it takes what it missed from the other members. For the strong tables they take it in as a new member. Where \
             a majority of their voters is lost for good, run `DynaRust strong init --force` on it.\n"
        }
        (Identity::NewCluster, false) => "Start it alone: it is the first node of a new cluster.\n",
        (Identity::NewCluster, true) => {
            "Start it alone: it is the first node of a new cluster. Then run `DynaRust strong init --force` on it, for the strong tables.\n"
        }
    };
    format!("{data}: {live} keys and {tombstones} tombstones restored\n{next}")
}
