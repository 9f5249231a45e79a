//! Figures of the process by the names that Prometheus's own clients use, so that stock dashboards know them, and those of its connections.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{Encoded, encode_one};
use crate::{
    http::request::{
        budget::Budget,
        rate_limit::RateLimits,
        traffic::{Kind, Traffic},
    },
    node::process,
};

/// Exports the figures of the process. Those that the system does not tell are left out.
#[derive(Debug)]
pub struct ProcessFigures {
    /// When the process was started: Unix seconds.
    pub started: f64,
}

impl Collector for ProcessFigures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Encoded {
        let cpu = ConstCounter::new(process::cpu_seconds());
        encode_one(&mut encoder, "process_cpu_seconds", "CPU time of the process, user and system", &cpu)?;
        let start = ConstGauge::new(self.started);
        encode_one(
            &mut encoder,
            "process_start_time_seconds",
            "When the process started, in Unix seconds",
            &start,
        )?;
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory of the process", process::memory_bytes()),
            ("process_open_fds", "Open file descriptors", process::open_descriptors()),
            ("process_max_fds", "Most open file descriptors", process::descriptors_max()),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                encode_one(&mut encoder, name, help, &ConstGauge::new(value))?;
            }
        }
        Ok(())
    }
}

/// The memory of the process, and that of bodies and answers, as series.
#[derive(Debug)]
pub struct BudgetFigures {
    /// The memory for bodies and answers.
    pub budget: Arc<Budget>,
    /// What the process may use.
    pub limit_bytes: u64,
}

impl Collector for BudgetFigures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Encoded {
        let gauges = [
            ("memory_budget_bytes", "Memory that the process may use", self.limit_bytes),
            (
                "memory_used_bytes",
                "Memory that the process uses, without the pages of files",
                self.budget.process_bytes(),
            ),
            (
                "memory_pressure",
                "How scarce memory is: 0 enough, 1 long bodies are refused, 2 writes are refused",
                self.budget.level() as u64,
            ),
            ("body_memory_bytes", "Memory there is for bodies and answers", self.budget.total()),
            ("body_memory_used_bytes", "Memory that bodies and answers hold now", self.budget.used()),
        ];
        for (name, help, value) in gauges {
            encode_one(&mut encoder, name, help, &ConstGauge::new(value))?;
        }
        let refused = ConstCounter::new(self.budget.refused());
        encode_one(&mut encoder, "body_memory_refused", "Requests refused as it was used up", &refused)
    }
}

/// Exports what was built, the connections, and what the rate limits refused.
#[derive(Debug)]
pub struct ServerFigures {
    /// The connections.
    pub traffic: Arc<Traffic>,
    /// The rate limits.
    pub rate_limits: RateLimits,
}

impl Collector for ServerFigures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Encoded {
        encode_build(&mut encoder)?;
        let help = "Open connections, by what they carry";
        let mut family = encoder.encode_descriptor("connections", help, None, MetricType::Gauge)?;
        for kind in Kind::ALL {
            ConstGauge::new(self.traffic.open(kind))
                .encode(family.encode_family(&[("kind", kind.name())])?)?;
        }
        for (name, help, value) in [
            (
                "received_bytes",
                "Bytes received on connections that were accepted",
                self.traffic.received_bytes(),
            ),
            ("sent_bytes", "Bytes sent on connections that were accepted", self.traffic.sent_bytes()),
        ] {
            encode_one(&mut encoder, name, help, &ConstCounter::new(value))?;
        }
        let help = "Requests refused by a rate limit, by whose limit it was";
        let mut family = encoder.encode_descriptor("rate_limited", help, None, MetricType::Counter)?;
        for (by, refused) in self.rate_limits.refused() {
            ConstCounter::new(refused).encode(family.encode_family(&[("by", by)])?)?;
        }
        Ok(())
    }
}

fn encode_build(encoder: &mut DescriptorEncoder) -> std::result::Result<(), fmt::Error> {
    let help = "1, with what was built as labels";
    let mut family = encoder.encode_descriptor("build_info", help, None, MetricType::Gauge)?;
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("arch", std::env::consts::ARCH),
        ("os", std::env::consts::OS),
        ("profile", if cfg!(debug_assertions) { "debug" } else { "release" }),
        ("etcd", if cfg!(feature = "etcd") { "true" } else { "false" }),
    ];
    ConstGauge::new(1_u64).encode(family.encode_family(&labels)?)
}
