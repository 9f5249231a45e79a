//! `DynaRust backup-key`: the keys of those who may read backups that are encrypted for them.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{Exit, output, privacy};
use crate::{
    error::{Error, Result},
    storage::backup::recipient::PrivateKey,
};

/// What to do with a key.
#[derive(Debug, clap::Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  DynaRust backup-key new backups.key\n  DynaRust backup-key show backups.key\n\n\
                  Give what is printed to `DynaRust backup --recipient` or to a node's --backup-recipient. The file opens the backups, by \
                  --key-file: keep it away from the node, and a copy of it elsewhere."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Makes a private key, in a file that only you can read, and prints its recipient
    New {
        /// The file to create
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Prints the recipient of a private key
    Show {
        /// The file of the private key
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Makes or shows a key, and prints its recipient.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let key = match &arguments.command {
        Command::New { file } => create(file)?,
        Command::Show { file } => read(file)?,
    };
    output::print(&format!("{}\n", key.recipient()))?;
    Ok(Exit::Success)
}

fn create(path: &Path) -> Result<PrivateKey> {
    privacy::restrict_new_files();
    let key = PrivateKey::generate();
    let failed = |e| Error::io(format_args!("creating {}", path.display()), &e);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(key.to_file().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(key)
}

fn read(path: &Path) -> Result<PrivateKey> {
    let text =
        fs::read_to_string(path).map_err(|e| Error::io(format_args!("reading {}", path.display()), &e))?;
    let key = PrivateKey::of_file(&text)
        .map_err(|error| Error::Config(format!("the key file {}: {error}", path.display())))?;
    key.ok_or_else(|| {
        Error::Config(format!("{} has no private key: DynaRust backup-key new makes one", path.display()))
    })
}
