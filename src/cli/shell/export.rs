//! `export`: all rows of a table, or of all tables, to a file or to standard output. A file is there whole or not at all.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use dynarust_client::{Client, Export, Exporting};
use flate2::{Compression, write::GzEncoder};
use futures_util::StreamExt;
use serde::{Deserialize, Deserializer};
use serde_json::{json, value::RawValue};

use super::{Common, bounds::Bounds, run, usage};
use crate::{
    cli::{Exit, progress::Transfer, remote::CommandError},
    core::nearest,
    error::Result,
};

/// How an export is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A row a line, with versions, as `import` takes it back unchanged
    Ndjson,
    /// One object of keys and values
    Json,
    /// Columns `key` and `value`, the value as JSON
    Csv,
}

/// What to export.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  DynaRust export --table users\n  DynaRust export --table users users.ndjson.gz\n  \
                        DynaRust export all.ndjson\n  DynaRust export --table users --format csv users.csv\n\n\
                        A file whose name ends in .gz is compressed.\n\n\
                        Exit codes: 0 it is exported, 3 there is no such table."
)]
pub struct Arguments {
    /// The file to write; - is standard output
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Only this table; without it, all
    #[arg(long)]
    table: Option<String>,
    #[command(flatten)]
    bounds: Bounds,
    /// How to write it; json and csv need a table
    #[arg(long, value_enum, default_value = "ndjson")]
    format: Format,
    /// Compress it with gzip
    #[arg(long)]
    gzip: bool,
    #[command(flatten)]
    common: Common,
}

/// Writes the export.
pub fn export(arguments: &Arguments) -> Result<Exit> {
    let client = arguments.common.connection.client(None)?;
    run(async {
        if arguments.format != Format::Ndjson && arguments.table.is_none() {
            return Err(usage("rows of several tables need --format ndjson: name one with --table"));
        }
        let mut exporting = client.export();
        if let Some(table) = &arguments.table {
            check_table(&client, table).await?;
            exporting = exporting.table(table);
        }
        let by = [Exporting::prefix, Exporting::start, Exporting::end];
        let rows = arguments.bounds.apply(exporting, by).begin().await?;
        let mut progress = Transfer::of_rows("exported", rows.rows);
        let mut sink = Sink::create(arguments)?;
        match write_rows(rows, &mut sink, arguments.format, &mut progress).await {
            Err(Stopped::Closed) => Ok(Exit::Success),
            Err(Stopped::Failed(error)) => Err(error),
            Ok(count) => {
                sink.finish()?;
                let is_json = arguments.common.json && arguments.file != Path::new("-");
                let total = is_json.then(|| json!({ "rows": count }));
                progress.finish(&format!("exported {count} rows"), count, total)?;
                Ok(Exit::Success)
            }
        }
    })
}

/// Checks that a table is there: an export of none is whole, and nobody would notice that its name is misspelled.
async fn check_table(client: &Client, table: &str) -> std::result::Result<(), CommandError> {
    let tables = client.tables().await?;
    let names: Vec<_> = tables.iter().map(|info| info.name.as_str()).collect();
    if names.contains(&table) {
        return Ok(());
    }
    let meant = nearest::nearest(table, names.iter().copied());
    let meant = meant.map_or_else(
        || "`DynaRust tables` lists those that are there".to_owned(),
        |name| format!("did you mean {name:?}?"),
    );
    Err(CommandError { exit: Exit::NotFound, why: format!("there is no table {table:?}: {meant}") })
}

/// Why an export stopped.
enum Stopped {
    /// Nobody reads any more.
    Closed,
    Failed(CommandError),
}

impl From<CommandError> for Stopped {
    fn from(error: CommandError) -> Self {
        Self::Failed(error)
    }
}

impl From<dynarust_client::Error> for Stopped {
    fn from(error: dynarust_client::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Failed(cannot_write(&error)),
        }
    }
}

fn cannot_write(error: &io::Error) -> CommandError {
    CommandError { exit: Exit::Failure, why: format!("cannot write the export: {error}") }
}

/// A line of an export: the first, a row, or the last.
#[derive(Deserialize)]
struct Line<'a> {
    key: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    blake3: Option<String>,
}

/// A value that is there: `null` is one.
fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Writes all rows and checks their hash; how many there were.
async fn write_rows(
    mut rows: Export,
    sink: &mut Sink,
    format: Format,
    progress: &mut Transfer,
) -> std::result::Result<u64, Stopped> {
    let mut hash = blake3::Hasher::new();
    let mut count = 0;
    sink.write(match format {
        Format::Ndjson => b"",
        Format::Json => b"{",
        Format::Csv => b"key,value\n",
    })?;
    while let Some(line) = rows.next().await {
        let line = line?;
        let parsed: Line = serde_json::from_slice(&line).map_err(|error| CommandError {
            exit: Exit::Failure,
            why: format!("the export has a line that is none: {error}"),
        })?;
        match parsed.blake3.filter(|_| parsed.key.is_none()) {
            Some(expected) if expected != hash.finalize().to_hex().as_str() => {
                let why = "the rows of the export are not those that the node sent: export again".to_owned();
                return Err(CommandError { exit: Exit::Failure, why }.into());
            }
            Some(_) | None => {}
        }
        hash.update(&line).update(b"\n");
        match (format, parsed.key, parsed.value) {
            (Format::Ndjson, ..) => {
                sink.write(&line)?;
                sink.write(b"\n")?;
            }
            (Format::Json, Some(key), Some(value)) => {
                let separator = if count == 0 { "\n" } else { ",\n" };
                sink.write(format!("{separator}{}:{value}", json!(key)).as_bytes())?;
            }
            (Format::Csv, Some(key), Some(value)) => {
                sink.write(&csv_row(&key, value.get())?)?;
            }
            (Format::Json | Format::Csv, ..) => {}
        }
        if parsed.value.is_some() {
            count += 1;
            progress.set(count);
        }
    }
    if format == Format::Json {
        sink.write(b"\n}\n")?;
    }
    Ok(count)
}

fn csv_row(key: &str, value: &str) -> std::result::Result<Vec<u8>, Stopped> {
    let mut row = csv::Writer::from_writer(Vec::new());
    row.write_record([key, value]).map_err(|error| Stopped::from(io::Error::other(error)))?;
    row.into_inner().map_err(|error| Stopped::from(io::Error::other(error.to_string())))
}

/// Where an export goes: standard output, or a file that gets its name once it is whole.
struct Sink {
    out: Box<dyn Finish>,
    names: Option<(PathBuf, PathBuf)>,
}

/// Output that may have an end of its own.
trait Finish: Write {
    fn finish(&mut self) -> io::Result<()>;
}

impl<W: Write> Finish for BufWriter<W> {
    fn finish(&mut self) -> io::Result<()> {
        self.flush()
    }
}

impl<W: Write> Finish for GzEncoder<W> {
    fn finish(&mut self) -> io::Result<()> {
        self.try_finish()?;
        self.get_mut().flush()
    }
}

impl Sink {
    fn create(arguments: &Arguments) -> std::result::Result<Self, CommandError> {
        let file = &arguments.file;
        let is_stdout = file == Path::new("-");
        let is_compressed = arguments.gzip || file.extension().is_some_and(|extension| extension == "gz");
        let part = file.with_file_name(format!(
            "{}.part",
            file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        ));
        let plain: Box<dyn Write> = match is_stdout {
            true => Box::new(io::stdout().lock()),
            false => Box::new(File::create(&part).map_err(|error| CommandError {
                exit: Exit::Failure,
                why: format!("cannot write {}: {error}", part.display()),
            })?),
        };
        let plain = BufWriter::with_capacity(1 << 16, plain);
        let out: Box<dyn Finish> = match is_compressed {
            true => Box::new(GzEncoder::new(plain, Compression::default())),
            false => Box::new(plain),
        };
        Ok(Self { out, names: (!is_stdout).then(|| (part, file.clone())) })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    fn finish(mut self) -> std::result::Result<(), CommandError> {
        match self.out.finish() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            ended => ended.map_err(|error| cannot_write(&error))?,
        }
        match &self.names {
            Some((part, file)) => {
                let synced = File::open(part).and_then(|part| part.sync_all());
                synced.and_then(|()| std::fs::rename(part, file)).map_err(|error| cannot_write(&error))
            }
            None => Ok(()),
        }
    }
}
