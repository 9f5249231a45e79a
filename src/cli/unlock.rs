//! What opens an encrypted backup: a key file, the file of a passphrase, or a passphrase that is typed.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::{
    error::{Error, Result},
    storage::backup::{
        content::Manifest,
        seal::{Kind, Secret},
    },
};

/// The flags.
#[derive(Debug, clap::Args)]
pub struct Unlock {
    /// File whose first line is the passphrase of the backup
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    passphrase_file: Option<PathBuf>,
    /// File with the key of the backup, as `openssl rand -hex 32` makes it, or with the private key of its recipient
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

impl Unlock {
    /// The secret that is named.
    ///
    /// # Errors
    /// As `Secret::passphrase_file` and `Secret::key_file`.
    pub fn named(&self) -> Result<Option<Secret>> {
        match (&self.passphrase_file, &self.key_file) {
            (Some(file), _) => Secret::passphrase_file(file).map(Some),
            (None, Some(file)) => Secret::key_file(file).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The secret of a backup: the one that is named, or what is typed if the backup needs a passphrase and this is a terminal.
    ///
    /// # Errors
    /// As `named`; `Io`.
    pub fn of(&self, manifest: &Manifest) -> Result<Option<Secret>> {
        match self.named()? {
            None if is_terminal() && asks_for_passphrase(manifest) => {
                ask("Passphrase of the backup: ").and_then(|text| Secret::passphrase(&text)).map(Some)
            }
            named => Ok(named),
        }
    }
}

fn asks_for_passphrase(manifest: &Manifest) -> bool {
    manifest.encryption.as_ref().is_some_and(|envelope| envelope.kind == Kind::Passphrase)
}

/// A new passphrase, typed twice.
///
/// # Errors
/// `Config` if this is no terminal, if the two differ, or if it is too short.
pub fn new_passphrase() -> Result<Secret> {
    if !is_terminal() {
        return Err(Error::Config(
            "--encrypt asks for a passphrase, and there is no terminal: name it with --passphrase-file or --key-file".into(),
        ));
    }
    let typed = ask("Passphrase of the new backup: ")?;
    let secret = Secret::passphrase(&typed)?;
    if ask("The same again: ")? == typed {
        Ok(secret)
    } else {
        Err(Error::Config("the two passphrases differ".into()))
    }
}

fn is_terminal() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for a line that is not shown.
fn ask(prompt: &str) -> Result<String> {
    let failed = |error: io::Error| Error::io("reading the passphrase", &error);
    let stdin = io::stdin();
    eprint!("{prompt}");
    io::stderr().flush().map_err(failed)?;
    let shown = tcgetattr(&stdin).map_err(|error| failed(error.into()))?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(|error| failed(error.into()))?;
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    tcsetattr(&stdin, OptionalActions::Flush, &shown).map_err(|error| failed(error.into()))?;
    eprintln!();
    read.map_err(failed)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
