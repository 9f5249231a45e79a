//! Strong tables on clusters of real processes: one order of writes, whatever is killed, stopped, cut off or wiped.
//!
//! - `table`, `conditions`, `transactions`, `watching`: what users see, on a cluster that tests share.
//! - `refusals`: what bad use gets.
//! - `failures`, `cuts`, `group`, `life`: nodes that die, hang, are cut off, come and go.
//! - `restored`: members that come back from a backup.
//! - `disks`: full disks, power cuts and damaged logs.
//! - `operators`: who votes and leads, and groups that cannot start by themselves, by `DynaRust strong`.
//! - `backend`: on which backend they run. `etcd`: what is about an etcd only.
//! - `history`: the linearizability checker, which the simulation shares. `recorder`: clients that record. `linearizable`: histories of real clusters under faults.

mod backend;
mod client;
mod conditions;
mod cuts;
mod damage;
mod disks;
mod etcd;
mod failures;
mod group;
#[path = "../../proptests/linearizability/checker.rs"]
mod history;
mod ledger;
mod life;
mod linearizable;
mod operators;
mod recorder;
mod refusals;
mod restored;
mod roles;
mod table;
mod transactions;
mod watching;

use std::{
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use crate::harness::{
    DEADLINE, Node,
    cluster::{CONVERGENCE, Cluster, wait_until_ready},
    wait_until,
};

/// How long the members of a group may take until they answer again after a failure.
const RECOVERY: Duration = CONVERGENCE;

/// A strong table of one test, on a cluster of three that tests share.
struct Strong {
    cluster: Arc<Cluster>,
    name: String,
}

/// A strong table that no other test uses.
fn strong() -> Strong {
    let (cluster, name) = (shared(), fresh_name());
    make(&cluster[0], &name);
    // The others may learn of it a moment later.
    for node in cluster.running() {
        wait_until_strong(node, &name);
    }
    Strong { cluster, name }
}

/// The cluster that tests share. It stops with the last of them.
fn shared() -> Arc<Cluster> {
    static CLUSTER: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
    // Statics are never dropped, so this one is weak. If a test fails to start the cluster, the next one tries again.
    let mut shared = CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = shared.upgrade().unwrap_or_else(|| Arc::new(start_shared()));
    *shared = Arc::downgrade(&cluster);
    cluster
}

fn start_shared() -> Cluster {
    let log = "info,dynarust::replication::strong::serve=debug";
    Cluster::start_with(3, |setup| backend::of_backend(setup).flag("--log", log))
}

/// A name of a table that no other test uses.
fn fresh_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("strong{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Strong {
    /// A path in this table: `key/a`, `keys?limit=3`.
    fn path(&self, rest: &str) -> String {
        format!("/{}/{rest}", self.name)
    }

    /// An operation or comparison of a transaction, of a key of this table.
    fn of(&self, key: &str, members: &Value) -> Value {
        let mut operation = members.clone();
        operation["table"] = json!(self.name);
        operation["key"] = json!(key);
        operation
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.cluster.running()
    }
}

impl Deref for Strong {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

/// Makes a strong table. A group that has just started may have no leader yet.
pub fn make(node: &Node, table: &str) {
    let mut last = String::new();
    wait_until(&format!("{table} is made"), RECOVERY, || {
        let made = node.put(&format!("/_/tables/{table}"), r#"{"mode":"strong"}"#);
        last = made.to_string();
        matches!(made.status, 200 | 201)
    });
}

/// Waits until a node knows that a table is strong: it refuses `w`, and writes nothing.
fn wait_until_strong(node: &Node, table: &str) {
    wait_until(&format!("{} knows that {table} is strong", node.address()), RECOVERY, || {
        node.delete(&format!("/{table}/key/absent?w=1")).status == 400
    });
}

/// The one of these members, which all run, that led last in the highest term, as they logged.
fn leader(cluster: &Cluster, members: impl IntoIterator<Item = usize>) -> Option<usize> {
    let members: Vec<_> = members.into_iter().collect();
    if backend::is_etcd() {
        // None leads, and each is as good as another.
        return members.into_iter().find(|member| cluster.is_running(*member));
    }
    let heard = members.iter().filter_map(|member| leader_heard_of(&cluster[*member]));
    let (_, leader) = heard.max()?;
    members.into_iter().find(|member| cluster[*member].view()["node"] == *leader)
}

/// The last leader that a node heard of, and its term.
fn leader_heard_of(node: &Node) -> Option<(u64, String)> {
    let log = node.log();
    let line = log.lines().rev().find(|line| line.contains("the strong tables have a leader"))?;
    let field = |name: &str| line.split(&format!("{name}=")).nth(1)?.split_whitespace().next();
    Some((field("term")?.parse().ok()?, field("leader")?.to_owned()))
}

/// Waits until these members have the same rows of a table, without asking the leader. Returns them.
fn wait_until_same(cluster: &Cluster, table: &str) -> Value {
    let rows = |node: &Node| {
        let rows = node.get(&format!("/{table}/store?read=stale"));
        (rows.status == 200).then(|| rows.json())
    };
    let mut first = None;
    wait_until(&format!("{table} is the same everywhere"), RECOVERY, || {
        let mut all = cluster.running().map(rows);
        first = all.next().expect("one runs");
        first.is_some() && all.all(|rows| rows == first)
    });
    first.expect("waited for")
}

/// Waits until a write through this node is answered.
fn wait_until_writable(node: &Node, table: &str) {
    wait_until(&format!("{} takes writes of {table}", node.address()), RECOVERY, || {
        node.put(&format!("/{table}/key/writable"), r#"{"value":true}"#).status == 200
    });
}

/// Waits until all that run are ready and linked and take writes of a table.
pub fn wait_until_whole(cluster: &Cluster, table: &str) {
    cluster.running().for_each(wait_until_ready);
    cluster.wait_until_linked();
    cluster.running().for_each(|node| wait_until_writable(node, table));
}

/// Waits until a linearizable read on this node gives this body.
#[track_caller]
fn wait_for(node: &Node, path: &str, body: &str) {
    wait_until(&format!("{path} on {} is {body}", node.address()), DEADLINE.max(RECOVERY), || {
        let answer = node.get(path);
        answer.status == 200 && answer.text().trim_end() == body
    });
}
