//! Writes at a steady rate, on a thread of its own, so that writing and the reading of events do not delay each other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, task::JoinSet, time};

use super::{
    connection::Connection,
    document::{Documents, Random},
    subscribers::SendTimes,
    target::{self, Target},
};
use crate::{
    error::{Error, Result},
    report::Latencies,
};

/// Durable writes a second that one connection manages easily.
const RATE_PER_CONNECTION: u64 = 50;
/// The most connections that a writer opens.
const CONNECTIONS_MAX: u64 = 64;

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Writes a second; 0 writes nothing.
    pub rate_per_s: u64,
    /// Number of keys to choose from.
    pub keys: u64,
    /// Size of a value.
    pub value_bytes: usize,
    /// Seed of keys and values.
    pub seed: u64,
}

/// What was written.
#[derive(Debug)]
pub struct Written {
    /// From sent to answered. Where the target falls behind, writes also wait for a free connection; that is not included.
    pub latencies: Latencies,
    /// From the first write to the last.
    pub elapsed: Duration,
}

/// A running writer.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    written: oneshot::Receiver<Result<Written>>,
}

impl Writer {
    /// Starts to write.
    pub fn start(target: &Target, plan: Plan, send_times: &Arc<SendTimes>) -> Self {
        let stop = Arc::new(AtomicBool::new(plan.rate_per_s == 0));
        let (sender, written) = oneshot::channel();
        let (target, send_times, stopped) = (target.clone(), send_times.clone(), stop.clone());
        std::thread::spawn(move || {
            let written = write_all(&target, plan, &send_times, &stopped);
            // If the workload has failed, nobody receives it.
            sender.send(written).ok();
        });
        Self { stop, written }
    }

    /// Stops it, and returns what it wrote.
    pub async fn finish(self) -> Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        self.written.await.unwrap_or_else(|_| Err(Error::Failed("the writer thread ended early".into())))
    }
}

fn write_all(
    target: &Target,
    plan: Plan,
    send_times: &Arc<SendTimes>,
    stop: &Arc<AtomicBool>,
) -> Result<Written> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("starting the runtime", &e))?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let connections = (plan.rate_per_s / RATE_PER_CONNECTION).clamp(1, CONNECTIONS_MAX);
        let start = Instant::now();
        let mut workers = JoinSet::new();
        for number in 0..connections {
            let connection = Connection::open(target.address).await?;
            let pace = Pace { start, number, connections, rate_per_s: plan.rate_per_s };
            workers.spawn_local(write(
                target.clone(),
                plan,
                pace,
                connection,
                send_times.clone(),
                stop.clone(),
            ));
        }
        let mut latencies = Latencies::default();
        while let Some(worker) = workers.join_next().await {
            latencies.add(&worker.expect("a worker does not panic")?);
        }
        Ok(Written { latencies, elapsed: start.elapsed() })
    })
}

/// When each of several connections writes, so that their writes are evenly spaced.
#[derive(Clone, Copy)]
struct Pace {
    start: Instant,
    number: u64,
    connections: u64,
    rate_per_s: u64,
}

impl Pace {
    fn instant(self, turn: u64) -> Instant {
        let write = turn * self.connections + self.number;
        self.start + Duration::from_secs_f64(write as f64 / self.rate_per_s as f64)
    }
}

async fn write(
    target: Target,
    plan: Plan,
    pace: Pace,
    mut connection: Connection,
    send_times: Arc<SendTimes>,
    stop: Arc<AtomicBool>,
) -> Result<Latencies> {
    let seed = plan.seed.wrapping_mul(1 << 16) + pace.number;
    let mut random = Random::new(seed);
    let mut documents = Documents::new(seed, plan.value_bytes);
    let mut latencies = Latencies::default();
    let (mut value, mut request) = (Vec::new(), Vec::new());
    for turn in 0.. {
        time::sleep_until(pace.instant(turn).into()).await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let sequence = send_times.next();
        value.clear();
        request.clear();
        documents.write_numbered(sequence, &mut value);
        target.put(&target::key(random.below(plan.keys)), &value, &mut request);
        let sent = send_times.send(sequence);
        connection.expect_ok(&request).await?;
        latencies.record(sent.elapsed());
    }
    Ok(latencies)
}
