//! The command line: `DynaRust <LISTEN> [JOIN]...` runs a node, and a few commands stand beside it. One file per command;
//! the flags of all of them come from the table of knobs in `config.rs`.

pub mod banner;
pub mod bench;
pub mod check;
pub mod clock;
pub mod compact;
pub mod config;
pub mod environment;
pub mod first_sync;
pub mod flags;
pub mod forget;
pub mod huge_pages;
pub mod leave;
pub mod listener;
pub mod logging;
pub mod members;
pub mod open_files;
pub mod output;
pub mod privacy;
pub mod progress;
pub mod remote;
pub mod salvage;
pub mod signals;
pub mod status;
pub mod sync;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::error::{Error, Result};

/// A replicated, real-time key-value store you can curl
///
/// Serves the database in the working directory's storage.db: DynaRust 127.0.0.1:6660
#[derive(Debug, Parser)]
#[command(name = "DynaRust", version, args_conflicts_with_subcommands = true)]
#[command(override_usage = "DynaRust [OPTIONS] <LISTEN> [JOIN]...\n       DynaRust <COMMAND>")]
#[command(
    after_help = "Every option can also be set in the environment or in a file; `DynaRust config` shows what is set, \
                        and by whom.\nExit codes: 0 ok, 1 failed, 2 wrong usage, 3 not found, 5 unreachable, \
                        6 not allowed."
)]
pub struct Arguments {
    /// A command; without one, a node runs.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How the node runs.
    #[command(flatten)]
    pub flags: flags::Flags,
}

/// A command beside running a node.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows every setting, its value, and who gave it
    Config(config::Arguments),
    /// Reads every record of a stopped node's database and reports damage
    Check(check::Arguments),
    /// Rebuilds a stopped node's database without the space that deleted rows left
    Compact(compact::Arguments),
    /// Shows and mends what a wrong clock has left in a stopped node's database
    Clock(clock::Arguments),
    /// Saves what can be read of a damaged database into a new one
    Salvage(salvage::Arguments),
    /// Asks a running node how it is
    Status(status::Arguments),
    /// Lists the members of a cluster as a running node sees them
    Members(members::Arguments),
    /// Tells a cluster that a member will not come back
    Forget(forget::Arguments),
    /// Tells a running node to hand everything over and to go for good
    Leave(leave::Arguments),
    /// Tells a running node to compare with all others now
    Sync(sync::Arguments),
    /// Loads a running node and reports rates and latencies
    Bench(Box<bench::Arguments>),
}

impl Command {
    /// Runs the command to its end.
    pub fn run(self) -> Result<Exit> {
        match self {
            Self::Config(arguments) => config::run(&arguments),
            Self::Check(arguments) => check::run(&arguments),
            Self::Compact(arguments) => compact::run(&arguments),
            Self::Clock(arguments) => clock::run(&arguments),
            Self::Salvage(arguments) => salvage::run(&arguments),
            Self::Status(arguments) => status::run(&arguments),
            Self::Members(arguments) => members::run(&arguments),
            Self::Forget(arguments) => forget::run(&arguments),
            Self::Leave(arguments) => leave::run(&arguments),
            Self::Sync(arguments) => sync::run(&arguments),
            Self::Bench(arguments) => bench::run(*arguments).map(|()| Exit::Success),
        }
    }
}

/// How a command ended, for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked for.
    Success,
    /// It did not, or it found what should not be.
    Failure,
    /// It was not asked rightly.
    Usage,
    /// What it was asked about is not there.
    NotFound,
    /// Nobody answered.
    Unreachable,
    /// Whoever asked may not.
    NotAllowed,
}

impl Exit {
    /// The exit code of the process.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Unreachable => 5,
            Self::NotAllowed => 6,
        }
    }
}

/// Ends the process's work: says what went wrong, and gives the exit code.
pub fn conclude(outcome: Result<Exit>) -> ExitCode {
    let exit = outcome.unwrap_or_else(|error| {
        match &error {
            // That of a node at work says that reads go on.
            Error::StorageFull(why) => eprintln!(
                "DynaRust: the disk has no room, or fails ({why}): make room, and start again. All that was acknowledged is kept"
            ),
            other => eprintln!("DynaRust: {other}"),
        }
        if !matches!(error, Error::Config(_)) {
            return Exit::Failure;
        }
        eprintln!("\nFor the options and commands, try 'DynaRust --help'.");
        Exit::Usage
    });
    exit.code().into()
}

/// Says how to call the program, for a call that asks for nothing.
pub fn explain_usage() -> Exit {
    eprintln!("{}", Arguments::command().render_help());
    Exit::Usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_node_and_a_command_are_told_apart() {
        let node =
            Arguments::try_parse_from(["DynaRust", "127.0.0.1:6661", "127.0.0.1:6660"]).expect("a node");
        assert!(node.command.is_none());
        let command = Arguments::try_parse_from(["DynaRust", "check", "--data", "d"]).expect("a command");
        assert!(matches!(command.command, Some(Command::Check(_))));
        // A command comes first. Behind a flag it is an address, and not a good one.
        let late = Arguments::try_parse_from(["DynaRust", "--data", "d", "check"]).expect("a node");
        assert!(late.command.is_none() && late.flags.config().is_err());
        assert!(Arguments::try_parse_from(["DynaRust", "--no-such-flag", "127.0.0.1:6660"]).is_err());
    }
}
