//! A closed loop: each connection sends its next request when the one before is answered. It finds the highest rate that a target
//! sustains. Its latencies are those of a saturated target; use `latency` for one that is not.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::batch;
use crate::{
    client::{
        connection::Connection,
        document::{Documents, Random},
        target::{self, Kind, Target},
    },
    error::Result,
    options::LoadOptions,
    progress,
    report::{Figure, Latencies, Report},
};

/// Default number of connections.
pub const CONNECTIONS: u32 = 64;

/// The share of reads.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct Mix {
    /// Percentage of reads
    #[arg(long = "reads", default_value_t = 90, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub reads_percent: u64,
}

/// Loads the target with random reads and writes.
pub async fn run(workload: &'static str, mix: Mix, target: &Target, options: &LoadOptions) -> Result<Report> {
    if mix.reads_percent > 0 {
        fill(target, options).await?;
    }
    let connections = options.connections_or(CONNECTIONS);
    let mut opened = Vec::new();
    for _ in 0..connections {
        opened.push(Connection::open(target.address).await?);
    }
    let load = Rc::new(Load {
        reads_percent: mix.reads_percent,
        target: target.clone(),
        reads: reads(mix, target, options),
        keys: options.keys,
        timeline: Timeline::start(options),
        runs: RefCell::new((0..options.runs).map(|_| Run::new()).collect()),
    });
    let mut workers = JoinSet::new();
    for (number, connection) in (0..).zip(opened) {
        let seed = options.seed.wrapping_mul(1 << 16) + number;
        workers.spawn_local(work(load.clone(), connection, seed, options.value_bytes));
    }
    let bar = tokio::task::spawn_local(progress::follow_time(workload, load.timeline.length()));
    while let Some(worker) = workers.join_next().await {
        worker.expect("a worker does not panic")?;
    }
    bar.await.expect("a bar does not panic");

    let mut report = Report::new(workload, target.to_string())
        .setting("connections", connections)
        .setting("keys", options.keys)
        .setting("value_bytes", options.value_bytes)
        .setting("run_s", options.duration.as_secs_f64());
    for run in load.runs.borrow().iter() {
        report.run(run.figures(options.duration));
    }
    Ok(report)
}

/// Writes the keys that will be read, unless the last of them exists: from an earlier run, or in a bare server's map.
pub async fn fill(target: &Target, options: &LoadOptions) -> Result<()> {
    let mut request = Vec::new();
    let mut connection = Connection::open(target.address).await?;
    match target.kind {
        Kind::Dynarust => {
            target.get(&target::key(options.keys - 1), &mut request);
            if connection.exchange(&request).await? != 200 {
                batch::fill(target, options).await?;
            }
        }
        Kind::Etcd => {
            let mut documents = Documents::new(options.seed, options.value_bytes);
            let mut value = Vec::new();
            for number in 0..options.keys {
                value.clear();
                request.clear();
                documents.write(&mut value);
                target.put(&target::key(number), &value, &mut request);
                connection.expect_ok(&request).await?;
            }
        }
    }
    Ok(())
}

fn reads(mix: Mix, target: &Target, options: &LoadOptions) -> Vec<Vec<u8>> {
    let keys = if mix.reads_percent > 0 { options.keys } else { 0 };
    let read = |number| {
        let mut request = Vec::new();
        target.get(&target::key(number), &mut request);
        request
    };
    (0..keys).map(read).collect()
}

/// What all connections share.
struct Load {
    reads_percent: u64,
    target: Target,
    reads: Vec<Vec<u8>>,
    keys: u64,
    timeline: Timeline,
    runs: RefCell<Vec<Run>>,
}

/// The latencies of one run.
struct Run {
    reads: Latencies,
    writes: Latencies,
}

impl Run {
    fn new() -> Self {
        Self { reads: Latencies::default(), writes: Latencies::default() }
    }

    fn figures(&self, length: Duration) -> Vec<Figure> {
        let mut figures = Vec::new();
        for (name, latencies) in [("get", &self.reads), ("put", &self.writes)] {
            if latencies.count() > 0 {
                let rate = latencies.count() as f64 / length.as_secs_f64();
                figures.push(Figure::new(format!("{name}_per_s"), rate));
                figures.extend(latencies.figures(name));
            }
        }
        figures
    }
}

/// Warm-up, then the runs without pauses.
struct Timeline {
    start: Instant,
    warmup: Duration,
    run: Duration,
    runs: u32,
}

enum Phase {
    Warmup,
    Run(usize),
    Over,
}

impl Timeline {
    fn start(options: &LoadOptions) -> Self {
        Self { start: Instant::now(), warmup: options.warmup, run: options.duration, runs: options.runs }
    }

    fn length(&self) -> Duration {
        self.warmup + self.run * self.runs
    }

    fn phase(&self, now: Instant) -> Phase {
        let Some(measured) = now.duration_since(self.start).checked_sub(self.warmup) else {
            return Phase::Warmup;
        };
        let run = measured.as_nanos() / self.run.as_nanos().max(1);
        if run < u128::from(self.runs) { Phase::Run(run as usize) } else { Phase::Over }
    }
}

async fn work(load: Rc<Load>, mut connection: Connection, seed: u64, value_bytes: usize) -> Result<()> {
    let mut random = Random::new(seed);
    let mut documents = Documents::new(seed, value_bytes);
    let (mut value, mut write) = (Vec::new(), Vec::new());
    loop {
        let is_read = random.below(100) < load.reads_percent;
        let number = random.below(load.keys);
        let request = if is_read {
            &load.reads[number as usize]
        } else {
            value.clear();
            write.clear();
            documents.write(&mut value);
            load.target.put(&target::key(number), &value, &mut write);
            &write
        };
        let start = Instant::now();
        connection.expect_ok(request).await?;
        let end = Instant::now();
        match load.timeline.phase(end) {
            Phase::Warmup => {}
            Phase::Run(run) => {
                let run = &mut load.runs.borrow_mut()[run];
                let latencies = if is_read { &mut run.reads } else { &mut run.writes };
                latencies.record(end - start);
            }
            Phase::Over => return Ok(()),
        }
    }
}
