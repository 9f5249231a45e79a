//! What a node can be asked about itself, and its answers, as JSON. Another node of the cluster asks over a link; whoever watches asks any
//! node over its WebSocket ([`super::collect`]), which asks the others.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Reports,
    render::{render_cluster, render_readiness, render_tables},
};
use crate::{
    core::{
        hex::to_hex,
        name::{Key, TableName},
        register::Marker,
    },
    error::{Error, Result},
    http::request::traffic::Kind,
    node::{Node, Topic},
};

/// Most tables in a status. `/_/tables` has all.
const TABLES_MAX: usize = 500;
/// Most rows of a partition that are compared: about 2 MB of names and versions.
pub const ROWS_MAX: usize = 20_000;
/// Most keys whose versions are asked for at a time.
pub const VERSIONS_MAX: usize = 200;

/// A question to one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Question {
    /// How it is.
    Status,
    /// Its last 15 minutes.
    Series,
    /// Its latest comparisons with other nodes.
    Comparisons,
    /// The roots of its tables at an instant.
    Roots {
        /// Unix milliseconds.
        at_ms: u64,
    },
    /// The digests of a table's partitions at an instant.
    Partitions {
        /// The table.
        table: TableName,
        /// Unix milliseconds.
        at_ms: u64,
    },
    /// The rows of a partition, with what tells them apart. The answer is `PartitionRows`.
    Rows {
        /// The table.
        table: TableName,
        /// Its number.
        partition: u8,
    },
    /// The versions of some keys.
    Versions {
        /// The table.
        table: TableName,
        /// At most `VERSIONS_MAX`.
        keys: Vec<Key>,
    },
}

/// The rows of a partition of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionRows {
    /// All of them: the key, and what tells the row from another of that key.
    All(Vec<(Key, String)>),
    /// None, as there are more than are compared here: why, and what to do.
    TooMany(String),
}

impl Reports {
    /// Answers for this node.
    ///
    /// # Errors
    /// Those of the storage.
    pub async fn answer(&self, node: &Node, question: Question) -> Result<Value> {
        match question {
            Question::Status => Ok(self.status(node).await),
            Question::Series => Ok(self.series().render()),
            Question::Comparisons => Ok(self.comparisons().render()),
            Question::Roots { at_ms } => {
                let roots = node.roots(at_ms).await?.into_iter();
                let tables = roots.map(|(table, root)| {
                    let (root, rows) = root.unzip();
                    json!({ "name": table.as_str(), "root": root, "rows": rows })
                });
                Ok(json!({ "tables": tables.collect::<Vec<_>>() }))
            }
            Question::Partitions { table, at_ms } => {
                let partitions = node.partitions(&table, at_ms).await?;
                Ok(json!(partitions.map(|partitions| {
                    let (digests, rows): (Vec<_>, Vec<_>) = partitions.into_iter().unzip();
                    json!({ "digests": digests.concat(), "rows": rows })
                })))
            }
            Question::Rows { table, partition } => {
                let rows = match node.partition_rows(&table, partition, ROWS_MAX).await {
                    Ok(rows) => {
                        PartitionRows::All(rows.into_iter().map(|(key, it)| (key, mark(&it))).collect())
                    }
                    Err(Error::TooMany(why)) => PartitionRows::TooMany(why),
                    Err(error) => return Err(error),
                };
                Ok(json!(rows))
            }
            Question::Versions { table, mut keys } => {
                keys.truncate(VERSIONS_MAX);
                let versions = node.row_versions(&table, keys).await?;
                let render = |version: &crate::node::reports::RowVersion| {
                    json!({
                        "version": version.timestamp.to_string(),
                        "timestamp": version.timestamp.unix_ms(),
                        "deleted": version.is_deleted,
                    })
                };
                Ok(versions.iter().map(|version| version.as_ref().map(render)).map(|it| json!(it)).collect())
            }
        }
    }

    async fn status(&self, node: &Node) -> Value {
        node.rows_counted().await;
        let stats = node.stats();
        let (shown, _) = stats.tables.split_at(stats.tables.len().min(TABLES_MAX));
        let connections = Kind::ALL.map(|kind| (kind.name().to_owned(), json!(self.traffic().open(kind))));
        let topics = node.topics();
        let topics = topics.iter().map(|(topic, count)| {
            json!({ "topic": name(topic), "table": topic.table().map(TableName::as_str), "count": count })
        });
        json!({
            "node": node.id().to_string(),
            "address": node.cluster().address,
            "version": env!("CARGO_PKG_VERSION"),
            "now_ms": node.now_ms(),
            "uptime_ms": stats.uptime_ms,
            "readiness": render_readiness(node).1,
            "memory_bytes": stats.memory_bytes,
            "disk_bytes": stats.disk_bytes,
            "subscriptions": stats.subscriptions,
            "connections": serde_json::Map::from_iter(connections),
            "tables": render_tables(shown),
            "tables_total": stats.tables.len(),
            "unreadable_ranges": stats.unreadable_ranges,
            "topics": topics.collect::<Vec<_>>(),
            "cluster": render_cluster(&node.cluster(), node.now_ms()),
            "point": self.series().latest(),
        })
    }
}

/// What tells two rows of a key apart.
fn mark(marker: &Marker) -> String {
    format!("{} {}", marker.timestamp, to_hex(&marker.fingerprint.0))
}

/// A topic as in `?topic=`.
fn name(topic: &Topic) -> String {
    match topic {
        Topic::All => "*".into(),
        Topic::Key(table, key) => format!("{}/{}", table.as_str(), key.as_str()),
        Topic::Prefix(table, prefix) => format!("{}/{prefix}*", table.as_str()),
    }
}
