//! `completions` and `man`: made of the same description of the command line that parses it.

use std::{io, path::PathBuf};

use clap::{CommandFactory, ValueHint};
use clap_complete::Shell;

use crate::{
    cli::{self, Exit, output},
    error::{Error, Result},
};

const PROGRAM: &str = "DynaRust";

/// For which shell.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  DynaRust completions bash > completions.bash\n  DynaRust completions zsh > _DynaRust"
)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

/// Prints a script that completes command lines.
pub fn completions(arguments: &Completions) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut cli::Arguments::command(), PROGRAM, &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Success)
}

/// Which pages.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  DynaRust man get\n  DynaRust man --dir .\n\nTo read one: DynaRust man get | man -l -"
)]
pub struct Man {
    /// The command; without one, the program's own page
    command: Option<String>,
    /// Write the pages of all commands into this directory
    #[arg(long, value_name = "PATH", value_hint = ValueHint::DirPath, conflicts_with = "command")]
    dir: Option<PathBuf>,
}

/// Prints a manual page, or writes all of them.
pub fn man(arguments: &Man) -> Result<Exit> {
    let mut program = cli::Arguments::command();
    let failed = |error: io::Error| Error::io("cannot write the manual", &error);
    if let Some(folder) = &arguments.dir {
        std::fs::create_dir_all(folder).map_err(failed)?;
        clap_mangen::generate_to(program, folder).map_err(failed)?;
        return Ok(Exit::Success);
    }
    let command = match &arguments.command {
        None => program,
        Some(name) => {
            // So that its pages and usage have the program's name.
            program.build();
            let found = program.find_subcommand(name).cloned();
            let names: Vec<_> = program.get_subcommands().map(clap::Command::get_name).collect();
            found.ok_or_else(|| Error::Config(crate::core::nearest::unknown("command", name, &names)))?
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(failed)?;
    output::print(&String::from_utf8_lossy(&page))?;
    Ok(Exit::Success)
}
