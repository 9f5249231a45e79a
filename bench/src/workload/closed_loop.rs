//! A closed loop: each connection sends its next request when the one before is answered. It finds the highest rate that a target
//! sustains. One that makes gRPC calls may have several at a time. Its latencies are those of a saturated target; use `latency` for one
//! that is not.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::batch;
use crate::{
    client::{
        calls::Calls,
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

/// Keys that are written at a time before they are read, by gRPC.
const FILLS: usize = 32;

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
    load_filled(workload, mix, target, options).await
}

/// As `run`, where the keys that are read were written before.
pub async fn load_filled(
    workload: &'static str,
    mix: Mix,
    target: &Target,
    options: &LoadOptions,
) -> Result<Report> {
    let connections = options.connections_or(CONNECTIONS);
    let mut opened = Vec::new();
    for _ in 0..connections {
        opened.push(Opened::open(target).await?);
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
        let worker =
            Worker::new(load.clone(), options.seed.wrapping_mul(1 << 16) + number, options.value_bytes);
        match connection {
            Opened::Http1(connection) => workers.spawn_local(worker.exchange(connection)),
            Opened::Grpc(calls) => workers.spawn_local(worker.call(*calls, options.calls)),
        };
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
    if target.kind == Kind::EtcdGrpc {
        report = report.setting("calls", options.calls);
    }
    for run in load.runs.borrow().iter() {
        report.run(run.figures(options.duration));
    }
    Ok(report)
}

/// Writes the keys that will be read; to a node only unless the last of them exists, from an earlier run, or in a bare server's map.
pub async fn fill(target: &Target, options: &LoadOptions) -> Result<()> {
    let mut request = Vec::new();
    match target.kind {
        Kind::Dynarust => {
            let mut connection = Connection::open(target.address).await?;
            target.get(&target::key(options.keys - 1), &mut request);
            if connection.exchange(&request).await? != 200 {
                batch::fill(target, options).await?;
            }
        }
        Kind::Etcd => {
            let mut connection = Connection::open(target.address).await?;
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
        Kind::EtcdGrpc => {
            let mut calls = Calls::open(target.address).await?;
            let mut documents = Documents::new(options.seed, options.value_bytes);
            let (mut value, mut answered, mut open) = (Vec::new(), Vec::new(), 0);
            for number in 0..options.keys {
                value.clear();
                request.clear();
                documents.write(&mut value);
                target.put(&target::key(number), &value, &mut request);
                calls.begin(target::PUT, &request, 0)?;
                open += 1;
                while open == FILLS || open > 0 && number + 1 == options.keys {
                    calls.answered(&mut answered).await?;
                    open -= answered.drain(..).count();
                }
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

/// A connection of the kind that the target takes.
enum Opened {
    Http1(Connection),
    Grpc(Box<Calls>),
}

impl Opened {
    async fn open(target: &Target) -> Result<Self> {
        match target.kind {
            Kind::Dynarust | Kind::Etcd => Connection::open(target.address).await.map(Self::Http1),
            Kind::EtcdGrpc => Calls::open(target.address).await.map(|calls| Self::Grpc(Box::new(calls))),
        }
    }
}

/// What loads the target by one connection.
struct Worker {
    load: Rc<Load>,
    random: Random,
    documents: Documents,
    value: Vec<u8>,
    write: Vec<u8>,
}

impl Worker {
    fn new(load: Rc<Load>, seed: u64, value_bytes: usize) -> Self {
        let documents = Documents::new(seed, value_bytes);
        Self { load, random: Random::new(seed), documents, value: Vec::new(), write: Vec::new() }
    }

    /// The next request, and whether it reads.
    fn next(&mut self) -> (&[u8], bool) {
        let is_read = self.random.below(100) < self.load.reads_percent;
        let number = self.random.below(self.load.keys);
        if is_read {
            return (&self.load.reads[number as usize], true);
        }
        self.value.clear();
        self.write.clear();
        self.documents.write(&mut self.value);
        self.load.target.put(&target::key(number), &self.value, &mut self.write);
        (&self.write, false)
    }

    async fn exchange(mut self, mut connection: Connection) -> Result<()> {
        loop {
            let (request, is_read) = self.next();
            let start = Instant::now();
            connection.expect_ok(request).await?;
            if self.load.note(is_read, start, Instant::now()) {
                return Ok(());
            }
        }
    }

    async fn call(mut self, mut calls: Calls, streams: u32) -> Result<()> {
        let mut made: Vec<_> = (0..streams).map(|_| (false, Instant::now())).collect();
        let mut answered: Vec<_> = (0..made.len()).collect();
        let mut is_over = false;
        while !is_over {
            for whose in answered.drain(..) {
                let (request, is_read) = self.next();
                calls.begin(if is_read { target::GET } else { target::PUT }, request, whose)?;
                made[whose] = (is_read, Instant::now());
            }
            calls.answered(&mut answered).await?;
            let end = Instant::now();
            for whose in &answered {
                let (is_read, start) = made[*whose];
                is_over = self.load.note(is_read, start, end);
            }
        }
        Ok(())
    }
}

impl Load {
    /// Notes a request that was answered. Returns whether the runs are over.
    fn note(&self, is_read: bool, start: Instant, end: Instant) -> bool {
        match self.timeline.phase(end) {
            Phase::Warmup => {}
            Phase::Run(run) => {
                let run = &mut self.runs.borrow_mut()[run];
                let latencies = if is_read { &mut run.reads } else { &mut run.writes };
                latencies.record(end - start);
            }
            Phase::Over => return true,
        }
        false
    }
}
