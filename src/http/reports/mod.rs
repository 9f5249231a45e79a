//! What the nodes of a cluster report, for whoever watches it: how each is, its last 15 minutes, its comparisons with the others, and where
//! the replicas of a table differ.
//!
//! Each node answers for itself ([`question`]), keeps a [`series`] and a log of [`comparisons`], and collects the answers of the others
//! ([`collect`]) over the links. So one connection to any node shows the whole cluster, and nobody has to reach them all.

pub mod collect;
pub mod comparisons;
pub mod question;
pub mod render;
pub mod series;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::{MissedTickBehavior, interval};

use self::{
    comparisons::Comparisons,
    question::Question,
    series::{STEP_MS, Series, Totals},
};
use super::request::traffic::{Kind, Traffic};
use crate::node::{Node, reports::Reporter};

/// What this node reports.
pub struct Reports {
    node: Weak<Node>,
    traffic: Arc<Traffic>,
    series: Mutex<Series>,
    comparisons: Mutex<Comparisons>,
}

impl Reports {
    /// Begins to keep what is reported, for as long as the node is there.
    pub fn start(node: &Arc<Node>, traffic: Arc<Traffic>) {
        let node_lives = Arc::downgrade(node);
        let reports = Arc::new(Self {
            node: node_lives.clone(),
            traffic,
            series: Mutex::default(),
            comparisons: Mutex::default(),
        });
        node.serve_reports(Arc::new(Answers(Arc::downgrade(&reports))));
        tokio::spawn(async move {
            let mut ticks = interval(Duration::from_millis(STEP_MS));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                match node_lives.upgrade() {
                    Some(node) if !node.is_draining() => reports.observe(&node),
                    Some(_) | None => return,
                }
            }
        });
    }

    fn observe(&self, node: &Node) {
        let (stats, view, now_ms) = (node.quick_stats(), node.cluster(), node.now_ms());
        let sum = |figure: fn(&crate::node::MemberView) -> u64| view.members.iter().map(figure).sum();
        let connections = Kind::ALL.iter().map(|kind| self.traffic.open(*kind)).sum();
        self.series().add(Totals {
            at_ms: now_ms,
            requests: self.traffic.requests().read(),
            counters: [
                stats.writes,
                stats.changes,
                sum(|member| member.rows_sent),
                sum(|member| member.rows_received),
                sum(|member| member.bytes_sent),
                sum(|member| member.bytes_received),
            ],
            gauges: [
                node.keys_total(|_| true).unwrap_or_default(),
                stats.memory_bytes.unwrap_or_default(),
                connections,
                stats.subscriptions,
            ],
        });
        self.comparisons().observe(&view, now_ms);
    }

    fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    fn series(&self) -> MutexGuard<'_, Series> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn comparisons(&self) -> MutexGuard<'_, Comparisons> {
        self.comparisons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers as long as this node keeps reports.
struct Answers(Weak<Reports>);

impl Reporter for Answers {
    fn report(&self, question: Vec<u8>) -> BoxFuture<'static, std::result::Result<Vec<u8>, String>> {
        let reports = self.0.upgrade();
        async move {
            let stopping = || "this node is stopping".to_owned();
            let reports = reports.ok_or_else(stopping)?;
            let node = reports.node.upgrade().ok_or_else(stopping)?;
            let question: Question =
                serde_json::from_slice(&question).map_err(|error| format!("not a question: {error}"))?;
            let answer = reports.answer(&node, question).await.map_err(|error| error.to_string())?;
            Ok(answer.to_string().into_bytes())
        }
        .boxed()
    }
}
