//! `DynaRust verify`: checks that a backup is as it was made.

use std::path::PathBuf;

use serde_json::json;

use super::{Exit, output, place, progress::Progress, unlock::Unlock};
use crate::error::{Error, Result};

/// Which backup to check.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It reads every file and every row, and refuses a backup in which anything was altered, is missing or was added. \
                        Without the secret of an encrypted backup it checks the files only, and says so. Example:\n  \
                        DynaRust verify monday\n\
                        Exit codes: 0 if it is sound, 1 if not, 3 if there is none."
)]
pub struct Arguments {
    /// The backup: a directory, or s3://BUCKET/NAME
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The id that it must have: who alters a backup can give it another id, too
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    unlock: Unlock,
}

/// Checks the backup, and prints what it has.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let directory = &arguments.directory;
    let (place, checked) = match place::open(directory) {
        Err(Error::NotFound(why)) => {
            eprintln!("DynaRust: {why}");
            return Ok(Exit::NotFound);
        }
        opened => opened?,
    };
    checked.expect_id(arguments.id.as_deref())?;
    let (id, manifest) = (checked.id.clone(), checked.manifest.clone());
    let secret = arguments.unlock.of(&manifest)?;
    if manifest.encryption.is_some() && secret.is_none() {
        let text = match arguments.json {
            true => format!("{:#}\n", json!({ "id": id, "made": manifest.made, "rows_checked": false })),
            false => format!(
                "{}: its files are as they were made; its rows are encrypted, and were not checked\nid {id}\n",
                directory.display()
            ),
        };
        return output::print(&text).map(|()| Exit::Success);
    }
    let backup = checked.open(secret.as_ref())?;
    let progress = Progress::start("rows read");
    let mut rows = 0_u64;
    let contents = backup.read_all(|_, _, _| {
        rows += 1;
        if rows.is_multiple_of(1000) {
            progress.set(rows);
        }
        Ok(())
    });
    let contents = contents.map_err(|error| place.named(error))?;
    drop(progress);
    let text = match arguments.json {
        true => {
            let (keys, tombstones) = (contents.live, contents.tombstones);
            let made = &manifest.made;
            format!(
                "{:#}\n",
                json!({ "id": id, "made": made, "keys": keys, "tombstones": tombstones, "rows_checked": true })
            )
        }
        false => format!(
            "{}: sound, made {} of node {}: {} keys and {} tombstones in {} tables\nid {id}\n",
            directory.display(),
            manifest.made,
            manifest.node,
            contents.live,
            contents.tombstones,
            backup.summary.tables.len()
        ),
    };
    output::print(&text)?;
    Ok(Exit::Success)
}
