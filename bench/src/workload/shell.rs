//! The shell as people and scripts use it, in processes of its own: how fast it imports a file, beside the same number of rows in batches, and
//! how long a whole process of `get` and of `put` takes.
//!
//! Both loads take turns in each run, so that what else the machine does meets both, and write new keys of the same kind.

use std::{
    env,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::{self, Command, Output, Stdio},
    time::{Duration, Instant},
};

use indicatif::ProgressBar;

use crate::{
    binary::BinaryOptions,
    client::{
        document::Documents,
        target::{self, Target},
    },
    error::{Error, Result},
    options::LoadOptions,
    progress,
    report::{Figure, Latencies, Report},
    workload::batch,
};

/// What is compared.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Where the binary is.
    #[command(flatten)]
    pub binary: BinaryOptions,
    /// The batches beside.
    #[command(flatten)]
    pub batch: batch::Options,
    /// Processes of get, and of put, in one run
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub processes: u64,
}

/// Loads `--keys` rows in batches and as many by an import, and calls `put` and `get`, in each run.
pub async fn run(shell: &Options, target: &Target, options: &LoadOptions) -> Result<Report> {
    target.expect_node("shell")?;
    let binary = shell.binary.find()?;
    let mut report = Report::new("shell", target.to_string())
        .setting("rows", options.keys)
        .setting("value_bytes", options.value_bytes)
        .setting("connections", options.connections_or(1))
        .setting("batch_rows", shell.batch.batch_rows)
        .setting("processes", shell.processes);
    let bar = progress::bar("shell", u64::from(options.runs)).with_message("runs");
    for run in 0..u64::from(options.runs) {
        let first = 2 * run * options.keys;
        let middle = first + options.keys;
        let (batch_rate, _) =
            batch::once(shell.batch, target, options, first..middle, &ProgressBar::hidden()).await?;
        let import_rate = import(&binary, target, options, middle)?;
        let mut figures = vec![
            Figure::new("batch_rows_per_s", batch_rate),
            Figure::new("import_rows_per_s", import_rate),
            Figure::new("import_to_batch", import_rate / batch_rate),
        ];
        let put = |key: &str| {
            ["put".to_owned(), target.table.clone(), key.to_owned(), "{\"n\":1}".to_owned()].to_vec()
        };
        let get = |key: &str| ["get".to_owned(), target.table.clone(), key.to_owned()].to_vec();
        figures.extend(processes(&binary, target, shell.processes, put)?.figures("put_process"));
        figures.extend(processes(&binary, target, shell.processes, get)?.figures("get_process"));
        report.run(figures);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(report)
}

/// A file of rows, which dropping it removes.
struct Rows(PathBuf);

impl Rows {
    fn write(target: &Target, options: &LoadOptions, first: u64) -> Result<Self> {
        let path = env::temp_dir().join(format!("dynarust-bench-{}.ndjson", process::id()));
        let written = || {
            let mut file = BufWriter::new(File::create(&path)?);
            let mut documents = Documents::new(options.seed + first, options.value_bytes);
            let mut row = Vec::new();
            for number in first..first + options.keys {
                row.clear();
                write!(row, r#"{{"table":"{}","key":"{}","value":"#, target.table, target::key(number))?;
                documents.write(&mut row);
                row.extend_from_slice(b"}\n");
                file.write_all(&row)?;
            }
            file.flush()?;
            // Otherwise the syncs of the node would wait until the system has written this file too.
            file.get_ref().sync_all()
        };
        let rows = Self(path.clone());
        written().map(|()| rows).map_err(|e| Error::io(format_args!("writing {}", path.display()), &e))
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        // It is in a folder for temporary files: the system removes what cannot be removed here.
        fs::remove_file(&self.0).ok();
    }
}

/// Imports as many rows as `--keys` says; how many a second, the start of the process included.
fn import(binary: &Path, target: &Target, options: &LoadOptions, first: u64) -> Result<f64> {
    let rows = Rows::write(target, options, first)?;
    let file = rows.0.to_string_lossy().into_owned();
    let start = Instant::now();
    call(binary, target, &["import".to_owned(), "--restart".to_owned(), file])?;
    Ok(options.keys as f64 / start.elapsed().as_secs_f64())
}

/// Runs processes one after the other.
fn processes(
    binary: &Path,
    target: &Target,
    count: u64,
    arguments: impl Fn(&str) -> Vec<String>,
) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    for number in 0..count {
        latencies.record(call(binary, target, &arguments(&target::key(number)))?);
    }
    Ok(latencies)
}

/// Runs the binary to its end; how long it took.
fn call(binary: &Path, target: &Target, arguments: &[String]) -> Result<Duration> {
    let mut command = Command::new(binary);
    command.args(arguments).arg("--endpoint").arg(target.address.to_string()).stdin(Stdio::null());
    let start = Instant::now();
    let ended = command.output().map_err(|e| Error::io(format_args!("starting {}", binary.display()), &e))?;
    let took = start.elapsed();
    let Output { status, stderr, .. } = ended;
    match status.success() {
        true => Ok(took),
        false => {
            let why = String::from_utf8_lossy(&stderr);
            Err(Error::Failed(format!("DynaRust {}: {status}: {}", arguments.join(" "), why.trim())))
        }
    }
}
