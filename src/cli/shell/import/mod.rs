//! `import`: rows from a file or standard input into tables. A thread reads and cuts the rows into pieces; several pieces are on their way to
//! the node at a time, so that it always has one to commit. What is done is noted beside, so that an import that was interrupted goes on
//! where it stopped.

mod export_lines;
mod place;
mod rows;
mod source;

use std::{path::PathBuf, time::Duration};

use dynarust_client::{Client, Code, Error as ClientError, Imported};
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::{sync::mpsc, time::sleep};

use self::{
    place::Place,
    rows::{Format, Piece, Reading},
};
use crate::{
    cli::{
        Exit,
        progress::Transfer,
        remote::CommandError,
        shell::{Common, Outcome, run},
    },
    error::Result,
};

/// Pieces on their way at a time. The node commits them together.
const PIECES_MAX: usize = 8;
/// How long a node may be away before an import gives up: as long as a restart takes.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// The pause before a piece is sent again.
const PAUSE: Duration = Duration::from_millis(500);

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
        let place = Place::find(&arguments.file, arguments.table.as_deref(), arguments.restart)?;
        let done_before = place.as_ref().map_or(0, Place::rows);
        if done_before > 0 {
            eprintln!(
                "DynaRust: going on after row {done_before}, where it was interrupted; --restart begins at the first"
            );
        }
        let reading = Reading {
            key: arguments.key.clone(),
            is_typed: !arguments.strings,
            accepts_partial: arguments.partial,
            skip: done_before,
        };
        let source = source::open(&arguments.file, arguments.format, arguments.key.is_some())?;
        let (total_bytes, read_bytes) = (source.total_bytes, source.read_bytes.clone());
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let reader = tokio::task::spawn_blocking(move || rows::read(source, &reading, &sender));
        let progress = Transfer::of_bytes("imported", total_bytes, read_bytes);
        let mut running =
            Running { arguments, client, place, progress, rows: done_before, imported: Imported::default() };
        running.send(pieces).await?;
        let read = reader.await.map_err(|error| failed(error.to_string()))?;
        read.map_err(|why| running.wrong_file(why))?;
        running.finish()
    })
}

fn failed(why: String) -> CommandError {
    CommandError { exit: Exit::Failure, why }
}

/// An import at work.
struct Running<'a> {
    arguments: &'a Arguments,
    client: Client,
    /// `None` for standard input, which cannot be read again.
    place: Option<Place>,
    progress: Transfer,
    /// Rows that are done, those of earlier runs included.
    rows: u64,
    imported: Imported,
}

impl Running<'_> {
    async fn send(&mut self, mut pieces: mpsc::Receiver<Piece>) -> std::result::Result<(), CommandError> {
        let (client, arguments) = (self.client.clone(), self.arguments);
        let pieces = stream::poll_fn(move |context| pieces.poll_recv(context));
        let mut sent = std::pin::pin!(
            pieces.map(|piece| send_piece(client.clone(), arguments, piece)).buffered(PIECES_MAX)
        );
        while let Some(done) = sent.next().await {
            let (rows, imported) = done.map_err(|(piece, error)| self.refused(&piece, error))?;
            self.rows += rows;
            self.imported.written += imported.written;
            self.imported.skipped += imported.skipped;
            self.progress.set(self.rows);
            if let Some(place) = &mut self.place {
                place.note(self.rows)?;
            }
        }
        Ok(())
    }

    /// The error for a piece that the node does not take, with the row in the file.
    fn refused(&self, piece: &Piece, error: ClientError) -> CommandError {
        let member = |name: &str| error.problem()?.members.get(name)?.as_u64();
        // The node commits rows by the thousand, and says how many of this piece it has.
        let taken = member("written").unwrap_or(0) + member("skipped").unwrap_or(0);
        let done = format!("{} rows are imported", piece.first_row - 1 + taken);
        let CommandError { exit, why } = CommandError::from(error.clone());
        let why = match (member("line"), error.problem()) {
            (Some(line), Some(problem)) => {
                let row = piece.first_row + line - 1;
                format!("row {row} of {}: {}. {done}", self.arguments.file.display(), problem.detail)
            }
            _ => format!("{why}. {done}"),
        };
        CommandError { exit, why }
    }

    fn wrong_file(&self, why: String) -> CommandError {
        failed(format!("{}: {why}. {} rows are imported", self.arguments.file.display(), self.rows))
    }

    fn finish(mut self) -> Outcome {
        if let Some(place) = self.place.take() {
            place.remove();
        }
        let Imported { written, skipped, .. } = self.imported;
        let skipped_text = match skipped {
            0 => String::new(),
            _ => format!(", {skipped} skipped: the same or a later write is there"),
        };
        let total = json!({ "rows": self.rows, "written": written, "skipped": skipped });
        let text = format!("imported {written} rows{skipped_text}");
        self.progress.finish(&text, written + skipped, self.arguments.common.json.then_some(total))?;
        Ok(Exit::Success)
    }
}

/// Sends a piece until the node takes or refuses it.
async fn send_piece(
    client: Client,
    arguments: &Arguments,
    piece: Piece,
) -> std::result::Result<(u64, Imported), (Piece, ClientError)> {
    let mut away = Duration::ZERO;
    loop {
        let mut import = client.import(piece.body.clone());
        if let Some(table) = &arguments.table {
            import = import.table(table);
        }
        if arguments.new {
            import = import.as_new_writes();
        }
        match import.await {
            Ok(imported) => return Ok((piece.rows, imported)),
            // The same rows again: with versions that changes nothing, and without they are written once more.
            Err(error) if is_passing(&error) && away < AWAY_MAX => {
                sleep(PAUSE).await;
                away += PAUSE;
            }
            Err(error) => return Err((piece, error)),
        }
    }
}

/// Whether it may work if it is tried again.
fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable(_) | ClientError::Unanswered { .. } => true,
        ClientError::Refused(problem) => matches!(
            problem.code,
            Code::Overloaded
                | Code::NotReady
                | Code::Draining
                | Code::NoQuorum
                | Code::TooMany
                | Code::RequestTimeout
        ),
        _ => false,
    }
}
