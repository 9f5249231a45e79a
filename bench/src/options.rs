//! The options that workloads and measurements of clusters share.

use std::time::Duration;

/// How much load, for how long, and how it is reported.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct LoadOptions {
    /// Table to use; its keys are overwritten
    #[arg(long, default_value = "bench")]
    pub table: String,
    /// Connections that send requests [default: 64; batch: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub connections: Option<u32>,
    /// Calls at a time on each connection to --target etcd-grpc
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub calls: u32,
    /// Keys to choose from; for batch, rows per run
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Approximate size of a value, as JSON text
    #[arg(long, default_value_t = 350)]
    pub value_bytes: usize,
    /// Length of one run
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Load before the first run, not counted
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,
    /// Number of runs; the report has their median
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// Seed of keys and documents: equal seeds send equal requests
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Never sleep, so that the target does not pay for waking this process: give it a core of its own
    #[arg(long)]
    pub spin: bool,
    /// Report as one line of JSON
    #[arg(long)]
    pub json: bool,
}

impl LoadOptions {
    /// Connections of a workload, where the command does not say.
    pub fn connections_or(&self, default: u32) -> u32 {
        self.connections.unwrap_or(default)
    }
}
