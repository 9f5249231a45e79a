//! `dynarust-bench backup`: what a backup of a running node costs, on a node of its own: its rate beside that of the disk, what a writer
//! notices, and how little a second one writes.
//!
//! In each run the same is done in turn: a file is written in sequence, a writer writes alone, then while a backup is made, and then a backup is
//! made without a writer. Node, writer and command share one machine, so the ratios say more than the times.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{process::Command, time};

use crate::{
    client::{
        document::Documents,
        subscribers::SendTimes,
        writer::{Plan, Writer},
    },
    cluster::{node::Node, unless_interrupted, workspace::WorkspaceOptions},
    error::{Error, Result},
    options::LoadOptions,
    process::mebibytes,
    progress,
    report::{Figure, Latencies, Report},
    workload::batch,
};

/// Wait until a node has finished its work after a load.
const SETTLE_TIME: Duration = Duration::from_secs(3);
/// Bytes of one write to the file that shows how fast the disk is.
const WRITE_BYTES: usize = 4 << 20;

/// What is measured, and how.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Arguments {
    /// Writes a second of the writer
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub write_rate: u64,
    /// Size of the file that is written to learn the rate of the disk
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..))]
    pub disk_mib: u64,
    /// Where nodes run, and from what.
    #[command(flatten)]
    pub workspace: WorkspaceOptions,
    /// How much load, for how long.
    #[command(flatten)]
    pub load: LoadOptions,
}

/// Measures, and hands over the report.
pub async fn run(arguments: &Arguments, sink: &mut dyn FnMut(Report) -> Result<()>) -> Result<()> {
    unless_interrupted(async { sink(measure(arguments).await?) }).await
}

async fn measure(arguments: &Arguments) -> Result<Report> {
    let load = &arguments.load;
    let workspace = arguments.workspace.create(&load.table)?;
    let mut node = workspace.node()?;
    node.start().await?;
    batch::fill(node.target(), load).await?;
    time::sleep(SETTLE_TIME).await;
    let binary = workspace.binary().to_owned();
    let scene = Scene { binary, node: &node, directory: workspace.directory(), arguments };
    let mut report = Report::new("backup", "1 node")
        .setting("rows", load.keys)
        .setting("value_bytes", load.value_bytes)
        .setting("write_rate", arguments.write_rate);
    let bar = progress::bar("backup", u64::from(load.runs)).with_message("runs");
    for _ in 0..load.runs {
        report.run(scene.run_once().await?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    report.notes(scene.back_up_changes().await?);
    Ok(report)
}

/// A node with rows, and where backups of it are made.
struct Scene<'a> {
    binary: PathBuf,
    node: &'a Node,
    directory: &'a Path,
    arguments: &'a Arguments,
}

/// A backup that was made.
struct Backup {
    elapsed: Duration,
    bytes_read: u64,
    bytes_written: u64,
}

impl Backup {
    fn mebibytes_per_s(&self) -> f64 {
        mebibytes(self.bytes_read) / self.elapsed.as_secs_f64()
    }
}

impl Scene<'_> {
    async fn run_once(&self) -> Result<Vec<Figure>> {
        let disk = self.disk_rate().await?;
        let alone = self.write_during(time::sleep(self.arguments.load.duration)).await?.1;
        let (busy, beside) = self.write_during(self.back_up("busy", None)).await?;
        let busy = busy?;
        let quiet = self.back_up("quiet", None).await?;
        for name in ["busy", "quiet"] {
            self.remove(name)?;
        }
        let rows = self.arguments.load.keys as f64;
        let mut figures = vec![
            Figure::new("disk_mib_per_s", disk),
            Figure::new("backup_mib_per_s", quiet.mebibytes_per_s()),
            Figure::new("backup_to_disk", quiet.mebibytes_per_s() / disk),
            Figure::new("backup_rows_per_s", rows / quiet.elapsed.as_secs_f64()),
            Figure::new("backup_written_mib", mebibytes(quiet.bytes_written)),
            Figure::new("busy_backup_s", busy.elapsed.as_secs_f64()),
        ];
        let p99 = |latencies: &Latencies| {
            let figures = latencies.figures("");
            figures.iter().find(|figure| figure.name == "_p99_ms").map_or(0.0, |figure| figure.value)
        };
        figures.push(Figure::new("p99_beside_to_alone", p99(&beside) / p99(&alone)));
        figures.extend(alone.figures("alone_put"));
        figures.extend(beside.figures("beside_put"));
        Ok(figures)
    }

    /// What the second of two backups writes after a hundredth of the rows was written anew.
    async fn back_up_changes(&self) -> Result<Vec<Figure>> {
        let first = self.back_up("first", None).await?;
        let load = &self.arguments.load;
        let changed = (load.keys / 100).max(1);
        let load = LoadOptions { keys: changed, seed: load.seed + 1, ..load.clone() };
        batch::fill(self.node.target(), &load).await?;
        let second = self.back_up("second", Some("first")).await?;
        Ok(vec![
            Figure::new("changed_rows", changed as f64),
            Figure::new(
                "second_backup_written_percent",
                100.0 * second.bytes_written as f64 / first.bytes_written as f64,
            ),
            Figure::new("second_backup_s", second.elapsed.as_secs_f64()),
        ])
    }

    /// Writes as long as something else goes on.
    async fn write_during<T>(&self, other: impl Future<Output = T>) -> Result<(T, Latencies)> {
        let load = &self.arguments.load;
        let rate_per_s = self.arguments.write_rate;
        let plan = Plan { rate_per_s, keys: load.keys, value_bytes: load.value_bytes, seed: load.seed };
        let writer = Writer::start(self.node.target(), plan, &SendTimes::new());
        let done = other.await;
        Ok((done, writer.finish().await?.latencies))
    }

    /// How fast the disk takes a file, in MiB a second, synced at the end.
    async fn disk_rate(&self) -> Result<f64> {
        let path = self.directory.join("sequential");
        let (to, mib) = (path.clone(), self.arguments.disk_mib);
        let mut piece = Vec::new();
        let mut documents = Documents::new(self.arguments.load.seed, WRITE_BYTES);
        documents.write(&mut piece);
        let written = tokio::task::spawn_blocking(move || {
            let start = Instant::now();
            let mut file = File::create(&to)?;
            let mut left = mib << 20;
            while left > 0 {
                let length = left.min(piece.len() as u64) as usize;
                file.write_all(&piece[..length])?;
                left -= length as u64;
            }
            file.sync_data()?;
            Ok(mib as f64 / start.elapsed().as_secs_f64())
        });
        let written = written.await.expect("writing a file does not panic");
        let rate = written.map_err(|e| Error::io(format_args!("writing {}", path.display()), &e))?;
        fs::remove_file(&path).map_err(|e| Error::io(format_args!("removing {}", path.display()), &e))?;
        Ok(rate)
    }

    /// Makes a backup by the command that people type.
    async fn back_up(&self, name: &str, base: Option<&str>) -> Result<Backup> {
        let mut command = Command::new(&self.binary);
        command.arg("backup").arg(self.directory.join(name)).arg("--json");
        command.arg("--at").arg(self.node.address().to_string()).arg("--data").arg(self.node.data());
        if let Some(base) = base {
            command.arg("--base").arg(self.directory.join(base));
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        let start = Instant::now();
        let output = command.output().await.map_err(|e| Error::io("starting DynaRust backup", &e))?;
        let elapsed = start.elapsed();
        let made: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let (Some(bytes_read), Some(bytes_written)) =
            (made["bytes_read"].as_u64(), made["bytes_written"].as_u64())
        else {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(Error::Failed(format!("DynaRust backup failed: {why}")));
        };
        Ok(Backup { elapsed, bytes_read, bytes_written })
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.directory.join(name);
        fs::remove_dir_all(&path).map_err(|e| Error::io(format_args!("removing {}", path.display()), &e))
    }
}
