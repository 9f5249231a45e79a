//! Loads rows in batches, each of them one durable commit. Every run writes new keys, as `bare sled` does, which it is compared
//! with.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    rc::Rc,
    time::Instant,
};

use indicatif::ProgressBar;
use tokio::task::JoinSet;

use crate::{
    client::{
        connection::Connection,
        document::Documents,
        target::{self, Target},
    },
    error::Result,
    options::LoadOptions,
    process, progress,
    report::{Figure, Latencies, Report},
};

/// Batch size when a table is filled to be read.
const FILL_BATCH_ROWS: u64 = 1000;

/// How rows are loaded.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Rows in one batch
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub batch_rows: u64,
    /// Write the same keys in every run instead of new ones
    #[arg(long)]
    pub overwrite: bool,
    /// Request that takes the batch
    #[arg(long, value_enum, default_value_t)]
    pub endpoint: Endpoint,
}

/// Which request takes a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Endpoint {
    /// POST /_/import
    #[default]
    Import,
    /// POST /{table}/batch
    Batch,
}

/// Loads `--keys` rows per run.
pub async fn run(batch: Options, target: &Target, options: &LoadOptions) -> Result<Report> {
    target.expect_node("batch")?;
    let connections = options.connections_or(1);
    let mut report = Report::new("batch", target.to_string())
        .setting("connections", connections)
        .setting("batch_rows", batch.batch_rows)
        .setting("rows", options.keys)
        .setting("value_bytes", options.value_bytes);
    let bar = progress::bar("batch", options.keys * u64::from(options.runs)).with_message("rows");
    for run in 0..u64::from(options.runs) {
        let first = if batch.overwrite { 0 } else { run * options.keys };
        let numbers = first..first + options.keys;
        let (rate, latencies) = once(batch, target, options, numbers, &bar).await?;
        let mut figures = vec![Figure::new("rows_per_s", rate)];
        if let Some(data) = &target.data {
            figures.push(Figure::new("disk_mib", process::mebibytes(process::disk_bytes(data)?)));
        }
        figures.extend(latencies.figures("batch"));
        report.run(figures);
    }
    bar.finish_and_clear();
    Ok(report)
}

/// Loads these rows; how many a second, and the latencies of the batches.
pub async fn once(
    batch: Options,
    target: &Target,
    options: &LoadOptions,
    numbers: Range<u64>,
    bar: &ProgressBar,
) -> Result<(f64, Latencies)> {
    let (count, seed) = (numbers.end - numbers.start, options.seed + numbers.start);
    let rows = Rc::new(Rows {
        next: Cell::new(numbers.start),
        end: numbers.end,
        batch,
        target: target.clone(),
        bar: bar.clone(),
    });
    let start = Instant::now();
    let latencies = load(rows, options.connections_or(1), seed, options.value_bytes).await?;
    Ok((count as f64 / start.elapsed().as_secs_f64(), latencies))
}

/// Loads the first `--keys` rows.
pub async fn fill(target: &Target, options: &LoadOptions) -> Result<()> {
    let bar = progress::bar("fill", options.keys).with_message("rows");
    let rows = Rows {
        next: Cell::new(0),
        end: options.keys,
        batch: Options { batch_rows: FILL_BATCH_ROWS, overwrite: true, endpoint: Endpoint::Import },
        target: target.clone(),
        bar: bar.clone(),
    };
    load(Rc::new(rows), 1, options.seed, options.value_bytes).await?;
    bar.finish_and_clear();
    Ok(())
}

/// The rows still to be loaded.
struct Rows {
    next: Cell<u64>,
    end: u64,
    batch: Options,
    target: Target,
    bar: ProgressBar,
}

impl Rows {
    /// The number of rows in the next batch, and the request for it.
    fn next_request(&self, documents: &mut Documents) -> Option<(u64, Vec<u8>)> {
        let start = self.next.get();
        let end = (start + self.batch.batch_rows).min(self.end);
        self.next.set(end);
        (start < end).then(|| (end - start, self.request(start..end, documents)))
    }

    fn request(&self, numbers: Range<u64>, documents: &mut Documents) -> Vec<u8> {
        let mut body = Vec::new();
        for number in numbers {
            let key = target::key(number);
            let line = match self.batch.endpoint {
                Endpoint::Import => format!(r#"{{"table":"{}","key":"{key}","value":"#, self.target.table),
                Endpoint::Batch => format!(r#"{{"op":"put","key":"{key}","value":"#),
            };
            body.extend_from_slice(line.as_bytes());
            documents.write(&mut body);
            body.extend_from_slice(b"}\n");
        }
        let line = match self.batch.endpoint {
            Endpoint::Import => "POST /_/import".to_owned(),
            Endpoint::Batch => format!("POST /{}/batch", self.target.table),
        };
        let mut request = Vec::with_capacity(body.len() + 256);
        self.target.with_body(&line, &[&body], &mut request);
        request
    }
}

async fn load(rows: Rc<Rows>, connections: u32, seed: u64, value_bytes: usize) -> Result<Latencies> {
    let latencies = Rc::new(RefCell::new(Latencies::default()));
    let mut workers = JoinSet::new();
    for number in 0..u64::from(connections) {
        let mut connection = Connection::open(rows.target.address).await?;
        let mut documents = Documents::new((seed << 16) + number, value_bytes);
        let (rows, latencies) = (rows.clone(), latencies.clone());
        workers.spawn_local(async move {
            let mut next = rows.next_request(&mut documents);
            while let Some((count, request)) = next {
                let start = Instant::now();
                // The next batch is built while the target works on this one, so that it never waits for the client.
                let (answered, following) =
                    tokio::join!(connection.expect_ok(&request), async { rows.next_request(&mut documents) });
                answered?;
                latencies.borrow_mut().record(start.elapsed());
                rows.bar.inc(count);
                next = following;
            }
            Ok(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.expect("a worker does not panic")?;
    }
    Ok(Rc::try_unwrap(latencies).expect("all workers are done").into_inner())
}
