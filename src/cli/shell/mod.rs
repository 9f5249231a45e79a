//! The commands for data: read, write, follow, move. All of them take the same flags for where to connect and how to print, and each has a
//! file. They are built on the client library, and start no more than they need, so that a `get` takes a few milliseconds.

mod bounds;
mod context;
mod export;
mod import;
mod input;
mod manual;
mod read;
mod top;
mod watch;
mod write;

use clap::Subcommand;

use super::{Exit, connection::Connection, output, remote, remote::CommandError};
use crate::error::Result;

/// What a command gives while it runs.
type Outcome = std::result::Result<Exit, CommandError>;

/// How to print, and where to connect.
#[derive(Debug, clap::Args)]
struct Common {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// A command for data.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reads the value of a key
    Get(read::Get),
    /// Writes a value
    Put(write::Put),
    /// Changes a part of a value
    Patch(write::Patch),
    /// Deletes keys
    Del(write::Del),
    /// Lists the keys of a table
    Keys(read::Keys),
    /// Lists the keys of a table with their values
    Store(read::Store),
    /// Counts the keys of a table
    Count(read::Count),
    /// Lists the tables
    Tables(read::Tables),
    /// Makes a strong table
    Create(write::Create),
    /// Runs many writes in one commit
    Batch(write::Batch),
    /// Runs a transaction over keys of strong tables
    Txn(write::Txn),
    /// Follows changes as they happen
    Watch(watch::Watch),
    /// Writes rows to a file
    Export(export::Arguments),
    /// Reads rows from a file
    Import(import::Arguments),
    /// Shows the nodes of a cluster and what they do, on a full screen
    Top(top::Top),
    /// Keeps names for endpoints, and says which is in use
    Context(context::Arguments),
    /// Prints a script that completes command lines
    Completions(manual::Completions),
    /// Prints manual pages
    Man(manual::Man),
}

impl Command {
    /// Runs the command to its end.
    ///
    /// # Errors
    /// For settings that cannot be used; what nodes refuse is printed, and is the exit code.
    pub fn run(self) -> Result<Exit> {
        match self {
            Self::Get(arguments) => read::get(&arguments),
            Self::Put(arguments) => write::put(&arguments),
            Self::Patch(arguments) => write::patch(&arguments),
            Self::Del(arguments) => write::del(&arguments),
            Self::Keys(arguments) => read::keys(&arguments),
            Self::Store(arguments) => read::store(&arguments),
            Self::Count(arguments) => read::count(&arguments),
            Self::Tables(arguments) => read::tables(&arguments),
            Self::Create(arguments) => write::create(&arguments),
            Self::Batch(arguments) => write::batch(&arguments),
            Self::Txn(arguments) => write::txn(&arguments),
            Self::Watch(arguments) => watch::watch(&arguments),
            Self::Export(arguments) => export::export(&arguments),
            Self::Import(arguments) => import::import(&arguments),
            Self::Top(arguments) => top::top(&arguments),
            Self::Context(arguments) => context::run(&arguments),
            Self::Completions(arguments) => manual::completions(&arguments),
            Self::Man(arguments) => manual::man(&arguments),
        }
    }
}

/// Runs a command that prints by itself.
fn run(command: impl Future<Output = Outcome>) -> Result<Exit> {
    remote::run_command(async { command.await.map(|exit| (exit, String::new())) })
}

/// An error of the command line itself.
fn usage(why: impl Into<String>) -> CommandError {
    CommandError { exit: Exit::Usage, why: why.into() }
}

/// JSON for people: indented on a terminal, one line elsewhere.
fn render(value: &serde_json::Value) -> String {
    if output::is_terminal() { format!("{value:#}\n") } else { format!("{value}\n") }
}
