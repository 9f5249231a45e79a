//! sled alone, loading the rows that `dynarust-bench batch` sends, in the same batches, each of them durable.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::Failure;
use crate::client::{document::Documents, target};

/// What is loaded.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Directory to load into; it must not exist
    #[arg(long)]
    data: PathBuf,
    /// Rows per run
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Number of runs; the report has their median
    #[arg(long, default_value_t = 5)]
    runs: u64,
    /// Rows in one batch
    #[arg(long, default_value_t = 1000)]
    batch_rows: u64,
    /// Approximate size of a value, as JSON text
    #[arg(long, default_value_t = 350)]
    value_bytes: usize,
    /// Seed of the documents
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Opens sled and makes each batch durable as storage does, without a record format, compression or merge.
pub fn run(options: &Options) -> Result<(), Failure> {
    let (database, tree, log) = open(&options.data)?;
    let mut rates = Vec::new();
    for run in 0..options.runs {
        let mut documents = Documents::new((options.seed + run) << 16, options.value_bytes);
        let mut loading = Duration::ZERO;
        for first in (run * options.keys..(run + 1) * options.keys).step_by(options.batch_rows as usize) {
            let mut batch = ::sled::Batch::default();
            let mut rows = Vec::new();
            for number in first..(first + options.batch_rows).min((run + 1) * options.keys) {
                let mut value = Vec::new();
                documents.write(&mut value);
                rows.push((target::key(number), value));
            }
            let start = Instant::now();
            for (key, value) in rows {
                batch.insert(partitioned(&key), value);
            }
            tree.apply_batch(batch)?;
            database.flush()?;
            log.sync_data()?;
            loading += start.elapsed();
        }
        rates.push(options.keys as f64 / loading.as_secs_f64());
        println!("run {run}: {:.0} rows/s", rates[run as usize]);
    }
    rates.sort_by(f64::total_cmp);
    println!("median {:.0} rows/s of {} runs", rates[rates.len() / 2], rates.len());
    Ok(())
}

/// A new sled as storage opens it, a tree in it, and its log to be synced.
pub fn open(data: &Path) -> Result<(::sled::Db, ::sled::Tree, File), Failure> {
    if data.exists() {
        return Err(format!("{} exists", data.display()).into());
    }
    let database = ::sled::Config::new()
        .path(data)
        .segment_size(2 << 20)
        .cache_capacity(64 << 20)
        .flush_every_ms(Some(100))
        .open()?;
    let tree = database.open_tree("bench")?;
    let log = File::open(data.join("db"))?;
    Ok((database, tree, log))
}

/// The row's key as storage has it: the partition's byte first.
pub fn partitioned(key: &str) -> Vec<u8> {
    let mut row = vec![blake3::hash(key.as_bytes()).as_bytes()[0]];
    row.extend_from_slice(key.as_bytes());
    row
}
