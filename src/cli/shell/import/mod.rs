//! `import`: rows from a file or standard input into tables. A thread reads and cuts the rows into pieces; several pieces are on their way to
//! the node at a time, so that it always has one to commit. What is done is noted beside, so that an import that was interrupted goes on
//! where it stopped.

mod export_lines;
mod place;
mod rows;
mod sending;
mod source;

use std::path::PathBuf;

use clap::ValueEnum;
use dynarust_client::Client;
use tokio::sync::mpsc;

use self::{
    place::{Place, Settings},
    rows::{Format, Reading},
    sending::{PIECES_MAX, Running},
};
use crate::{
    cli::{
        Exit,
        progress::Transfer,
        remote::CommandError,
        shell::{Common, run},
    },
    error::Result,
};

/// What to import.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  DynaRust import --table people people.csv --key name\n  DynaRust import users.ndjson.gz\n  \
                        printf '{\"key\":\"a\",\"value\":1}\\n' | DynaRust import --table t -\n\n\
                        Takes NDJSON (what `export` writes, rows with `key` and `value`, or with --key any documents), JSON (a list of \
                        such, or an object of keys and values), and CSV with a header, each with or without gzip. If it is interrupted, the \
                        same command goes on where it stopped."
)]
pub struct Arguments {
    /// The file; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The table of rows that name none
    #[arg(long)]
    table: Option<String>,
    /// The field, or column, of each document that is its key
    #[arg(long, value_name = "FIELD")]
    key: Option<String>,
    /// How to read it, if the name and the first bytes do not tell
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Of CSV: take all cells for strings, also numbers, true and false
    #[arg(long)]
    strings: bool,
    /// Make rows with versions new writes of now, which win over what is there
    #[arg(long)]
    new: bool,
    /// Take an export that was cut off or edited
    #[arg(long)]
    partial: bool,
    /// Begin at the first row, even if an earlier import of the file was interrupted
    #[arg(long)]
    restart: bool,
    #[command(flatten)]
    common: Common,
}

/// Imports the rows.
pub fn import(arguments: &Arguments) -> Result<Exit> {
    let client = arguments.common.connection.client(None)?;
    run(async {
        let place = Place::find(&arguments.file, settings(arguments, &client), arguments.restart)?;
        let done_before = place.as_ref().map_or(0, Place::rows);
        if done_before > 0 {
            eprintln!(
                "DynaRust: going on after row {done_before}, where it was interrupted; --restart begins at the first"
            );
        }
        let reading = Reading {
            table: arguments.table.clone(),
            key: arguments.key.clone(),
            is_typed: !arguments.strings,
            accepts_partial: arguments.partial,
            makes_new_writes: arguments.new,
            skip: done_before,
        };
        let source = source::open(&arguments.file, arguments.format, arguments.key.is_some())?;
        let progress = Transfer::of_bytes("imported", source.total_bytes);
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let reader = tokio::task::spawn_blocking(move || rows::read(source, &reading, &sender));
        let mut running = Running::new(arguments, client, place, progress);
        running.send(pieces).await?;
        let read = reader.await.map_err(|error| failed(error.to_string()))?;
        read.map_err(|why| running.wrong_file(why))?;
        running.finish()
    })
}

/// What the rows of an import depend on beside its file.
fn settings(arguments: &Arguments, client: &Client) -> Settings {
    let format = arguments.format.and_then(|format| format.to_possible_value());
    Settings {
        endpoint: client.endpoints().map(ToString::to_string).collect::<Vec<_>>().join(","),
        table: arguments.table.clone(),
        key: arguments.key.clone(),
        format: format.map(|format| format.get_name().to_owned()),
        strings: arguments.strings,
        new: arguments.new,
    }
}

fn failed(why: String) -> CommandError {
    CommandError { exit: Exit::Failure, why }
}
