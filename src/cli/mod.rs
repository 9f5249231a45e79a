//! The command line. `DynaRust <LISTEN> [JOIN]...` runs a node; the commands inspect and manage nodes. Each command has a file.
//! Their flags come from the table of settings in `config.rs`.

pub mod access;
pub mod address_file;
pub mod allocator;
pub mod backup;
pub mod backup_key;
pub mod banner;
pub mod certs;
pub mod check;
pub mod clock;
pub mod compact;
pub mod config;
pub mod connection;
pub mod container;
pub mod contexts;
pub mod diff;
pub mod distributed_kv;
pub mod environment;
pub mod first_sync;
pub mod flags;
pub mod forget;
pub mod gui;
pub mod health;
pub mod huge_pages;
pub mod leave;
pub mod listener;
pub mod logging;
pub mod members;
pub mod memory;
pub mod node;
pub mod open_files;
pub mod otlp;
pub mod output;
pub mod place;
pub mod privacy;
pub mod progress;
pub mod reload;
pub mod remote;
pub mod restore;
pub mod rpcs;
pub mod salvage;
pub mod shell;
pub mod signals;
pub mod status;
pub mod strong;
pub mod sync;
pub mod systemd;
pub mod token;
pub mod unlock;
pub mod verify;

use std::{env, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

use crate::{
    config::{Config, types::LogFormat},
    core::nearest,
    error::{Error, Result},
};

/// A replicated, real-time key-value store you can curl
///
/// Without arguments it serves 127.0.0.1:6660 and keeps its data in storage.db in the working directory.
#[derive(Debug, Parser)]
#[command(name = "DynaRust", version, args_conflicts_with_subcommands = true)]
#[command(override_usage = "DynaRust [OPTIONS] [LISTEN] [JOIN]...\n       DynaRust <COMMAND>")]
#[command(after_help = "Examples:\n  DynaRust                                a node on 127.0.0.1:6660\n  \
                        DynaRust 6661 127.0.0.1:6660            a second node, on port 6661, that joins it\n\n\
                        Every option can also be set in the environment or in a file; `DynaRust config` shows each value \
                        and where it is set.\nExit codes: 0 ok, 1 failed, 2 wrong usage, 3 not found, \
                        4 precondition failed, 5 unreachable, 6 not allowed.")]
pub struct Arguments {
    /// A command; without one, a node runs.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The settings of the node.
    #[command(flatten)]
    pub flags: flags::Flags,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as the help of the command")]
    Shell(shell::Command),
    /// Shows every setting, its value, and where it is set
    Config(config::Arguments),
    /// Reads every record of a stopped node's database and reports damage
    Check(check::Arguments),
    /// Rebuilds a stopped node's database to give back the space of deleted rows
    Compact(compact::Arguments),
    /// Shows and repairs timestamps that a wrong clock left in a stopped node's database
    Clock(clock::Arguments),
    /// Saves what is readable of a damaged database into a new one
    Salvage(salvage::Arguments),
    /// Shows whether a running node is ready, and its figures
    Status(status::Arguments),
    /// Tells whether a running node answers, for health checks
    Health(health::Arguments),
    /// Lists the members of a cluster as a running node sees them
    Members(members::Arguments),
    /// Tells a cluster that a member will not come back
    Forget(forget::Arguments),
    /// Makes a running node hand over its data and leave the cluster for good
    Leave(leave::Arguments),
    /// Makes a running node compare its data with all other members now
    Sync(sync::Arguments),
    /// Makes, lists and revokes the tokens of clients, in the file that --tokens names
    Token(token::Arguments),
    /// Makes certificates for HTTPS while you develop: an authority, and what it signs for a node
    Certs(certs::Arguments),
    /// Makes a backup of a running node
    Backup(backup::Arguments),
    /// Makes keys for those who may read encrypted backups
    BackupKey(backup_key::Arguments),
    /// Checks that a backup is as it was made
    Verify(verify::Arguments),
    /// Makes a database of a backup
    Restore(restore::Arguments),
    /// Lists the keys by which two backups or nodes differ
    Diff(diff::Arguments),
    /// Starts the group of the strong tables, and says who votes and leads
    Strong(strong::Arguments),
}

impl Command {
    /// Runs the command to its end.
    pub fn run(self) -> Result<Exit> {
        match self {
            Self::Shell(command) => command.run(),
            Self::Config(arguments) => config::run(&arguments),
            Self::Check(arguments) => check::run(&arguments),
            Self::Compact(arguments) => compact::run(&arguments),
            Self::Clock(arguments) => clock::run(&arguments),
            Self::Salvage(arguments) => salvage::run(&arguments),
            Self::Status(arguments) => status::run(&arguments),
            Self::Health(arguments) => health::run(&arguments),
            Self::Members(arguments) => members::run(&arguments),
            Self::Forget(arguments) => forget::run(&arguments),
            Self::Leave(arguments) => leave::run(&arguments),
            Self::Sync(arguments) => sync::run(&arguments),
            Self::Token(arguments) => token::run(&arguments),
            Self::Certs(arguments) => certs::run(&arguments),
            Self::Backup(arguments) => backup::run(&arguments),
            Self::BackupKey(arguments) => backup_key::run(&arguments),
            Self::Verify(arguments) => verify::run(&arguments),
            Self::Restore(arguments) => restore::run(&arguments),
            Self::Diff(arguments) => diff::run(&arguments),
            Self::Strong(arguments) => strong::run(&arguments),
        }
    }
}

/// The program: parses the arguments and runs what they ask for, a command or a node.
pub fn main() -> ExitCode {
    // Before the process has allocated much.
    huge_pages::disable();
    let mut arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return report_usage_error(&error),
    };
    match arguments.command.take() {
        Some(command) => report_outcome(command.run(), LogFormat::Text),
        None => {
            let config = arguments.flags.config().map_err(|error| suggest_command(&arguments, error));
            run_node(config, &arguments.flags)
        }
    }
}

/// Runs a node to its end.
fn run_node(config: Result<Config>, flags: &flags::Flags) -> ExitCode {
    report_outcome(config.and_then(|config| node::run(&config)), flags.log_format())
}

/// How a command ended: its exit code, for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It succeeded.
    Success,
    /// It failed, or it found a problem.
    Failure,
    /// The command line is wrong.
    Usage,
    /// What it was asked about does not exist.
    NotFound,
    /// The condition of a write did not hold.
    PreconditionFailed,
    /// No node answered.
    Unreachable,
    /// The node refuses the request for lack of a valid secret or token.
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
            Self::PreconditionFailed => 4,
            Self::Unreachable => 5,
            Self::NotAllowed => 6,
        }
    }
}

/// Prints an error in the format of the log, and returns the exit code of the process.
pub fn report_outcome(outcome: Result<Exit>, format: LogFormat) -> ExitCode {
    let exit = outcome.unwrap_or_else(|error| {
        let is_usage = matches!(error, Error::Config(_));
        let why = match &error {
            // The error's own text is for a running node: it says that reads go on.
            Error::StorageFull(why) => format!(
                "the disk is full or fails ({why}): make room and start again; every acknowledged write is kept"
            ),
            other => other.to_string(),
        };
        match format {
            LogFormat::Json => logging::json_error(&why),
            LogFormat::Text if is_usage => {
                eprintln!("DynaRust: {why}\n\nFor the options and commands, try 'DynaRust --help'.");
            }
            LogFormat::Text => eprintln!("DynaRust: {why}"),
        }
        if is_usage { Exit::Usage } else { Exit::Failure }
    });
    exit.code().into()
}

/// Prints the help or the error for a command line that clap did not accept, and returns the exit code.
pub fn report_usage_error(error: &clap::Error) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let names_command = || {
        let first = arguments.first();
        first.is_some_and(|first| Arguments::command().find_subcommand(first).is_some())
    };
    if error.use_stderr() && logging::asks_for_json(&arguments) && !names_command() {
        let text = error.render().to_string();
        let why = text.lines().take_while(|line| !line.starts_with("Usage:"));
        let why: Vec<_> = why.map(str::trim).filter(|line| !line.is_empty()).collect();
        logging::json_error(why.join(" ").trim_start_matches("error: "));
    } else {
        // If this fails, nobody is reading.
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code()).into()
}

/// If the first argument is not an address but similar to a command, adds that command to the error.
pub fn suggest_command(arguments: &Arguments, error: Error) -> Error {
    let Some(first) = arguments.flags.listen().filter(|first| !first.contains([':', '.'])) else {
        return error;
    };
    let command = Arguments::command();
    let meant = nearest::nearest(first, command.get_subcommands().map(clap::Command::get_name));
    match (meant, error) {
        (Some(meant), Error::Config(why)) => {
            Error::Config(format!("{why}. Did you mean the command {meant}?"))
        }
        (_, error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_error_for_a_misspelt_command_names_the_right_one() {
        let said = |line: &[&str]| {
            let arguments = Arguments::try_parse_from([&["DynaRust"], line].concat()).expect("a node");
            let error = arguments.flags.config().expect_err("no address");
            suggest_command(&arguments, error).to_string()
        };
        assert!(said(&["stauts"]).ends_with("Did you mean the command status?"), "{}", said(&["stauts"]));
        for line in [&["zzzz"][..], &["localhost:http"], &["6660", "--cache=1B"]] {
            assert!(!said(line).contains("command"), "{}", said(line));
        }
    }

    #[test]
    fn a_node_and_a_command_are_told_apart() {
        let node =
            Arguments::try_parse_from(["DynaRust", "127.0.0.1:6661", "127.0.0.1:6660"]).expect("a node");
        assert!(node.command.is_none());
        let command = Arguments::try_parse_from(["DynaRust", "check", "--data", "d"]).expect("a command");
        assert!(matches!(command.command, Some(Command::Check(_))));
        // A command is the first argument. After a flag it is parsed as an address, and is invalid.
        let late = Arguments::try_parse_from(["DynaRust", "--data", "d", "check"]).expect("a node");
        assert!(late.command.is_none() && late.flags.config().is_err());
        assert!(Arguments::try_parse_from(["DynaRust", "--no-such-flag", "127.0.0.1:6660"]).is_err());
    }
}
