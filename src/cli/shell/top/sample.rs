//! One measurement: what each node of the cluster says of itself, and what the node that is asked says of the others.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use dynarust_client::{Client, Method};
use futures_util::future::join_all;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::{client_of, latency::Histogram};
use crate::cli::{
    connection::Connection,
    members,
    remote::{self, CommandError},
};

/// How long to wait for a member: no longer than the screen waits for the next measurement.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(1);

/// Whom to ask.
pub struct Asked<'a> {
    pub client: Client,
    pub connection: &'a Connection,
}

/// The cluster at an instant.
pub struct Sample {
    pub at: Instant,
    pub cluster: String,
    pub nodes: Vec<NodeSample>,
}

/// A node at that instant.
pub struct NodeSample {
    pub node: String,
    pub address: String,
    pub state: String,
    /// When it last held the same as the node that is asked.
    pub data: String,
    /// `None` for a node that cannot be asked.
    pub own: Option<Own>,
}

/// What a node says of itself.
pub struct Own {
    pub keys: u64,
    pub writes: u64,
    pub subscriptions: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub requests: Histogram,
    /// The digest of each table; `None` where it is not known yet.
    pub roots: BTreeMap<String, Option<String>>,
}

impl Sample {
    /// Asks all nodes at once.
    pub async fn take(asked: &Asked<'_>) -> Result<Self, CommandError> {
        let cluster = remote::get(&asked.client, "/_/cluster").await?;
        let members = cluster.get("members").and_then(Value::as_array).cloned().unwrap_or_default();
        let nodes =
            join_all(members.iter().filter_map(Value::as_object).map(|member| node(asked, member))).await;
        Ok(Self { at: Instant::now(), cluster: text(&cluster, "cluster"), nodes })
    }

    /// How many tables have another digest on this node than on the node that is asked. While writes are under way some always do.
    pub fn differing_tables(&self, node: &NodeSample) -> Option<usize> {
        let asked = self.nodes.iter().find(|node| node.state == "self")?.own.as_ref()?;
        let roots = &node.own.as_ref()?.roots;
        let differs = |table: &String, root: &Option<String>| match (root, roots.get(table)) {
            (None, _) | (_, Some(None)) => false,
            (Some(_), theirs) => theirs != Some(root),
        };
        Some(asked.roots.iter().filter(|(table, root)| differs(table, root)).count())
    }
}

async fn node(asked: &Asked<'_>, member: &Map<String, Value>) -> NodeSample {
    let (state, address) = (text(member, "state"), text(member, "address"));
    let client = match state.as_str() {
        "self" => Some(asked.client.clone()),
        "alive" | "suspect" => client_of(asked, &address),
        _ => None,
    };
    let own = match client {
        Some(client) => timeout(MEMBER_TIMEOUT, own(&client)).await.ok().flatten(),
        None => None,
    };
    NodeSample { node: text(member, "node"), address, state, data: members::sync_state(member), own }
}

async fn own(client: &Client) -> Option<Own> {
    let stats = remote::get(client, "/stats").await.ok()?;
    let metrics = client.request(Method::GET, "/metrics").send().await.ok()?.success().ok()?;
    let count = |name: &str| stats.get(name).and_then(Value::as_u64).unwrap_or_default();
    let tables = stats.get("tables").and_then(Value::as_array).cloned().unwrap_or_default();
    let root =
        |table: &Value| Some((table["name"].as_str()?.to_owned(), table["root"].as_str().map(str::to_owned)));
    Some(Own {
        keys: count("keys"),
        writes: count("writes"),
        subscriptions: count("subscriptions"),
        memory_bytes: count("memory_bytes"),
        disk_bytes: count("disk_bytes"),
        requests: Histogram::parse(&String::from_utf8_lossy(&metrics.body)),
        roots: tables.iter().filter_map(root).collect(),
    })
}

fn text(members: &Map<String, Value>, name: &str) -> String {
    members.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}
