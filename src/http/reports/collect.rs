//! A report on the whole cluster: the answers of all nodes that can be asked, without what the client may not see.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use serde_json::{Map, Value, json};

use super::question::{PartitionRows, Question, VERSIONS_MAX};
use crate::{
    core::{
        access::{Right, Touched},
        clock::{NodeId, Timestamp},
        name::{Key, TableName},
    },
    error::{Error, Result},
    http::access::Principal,
    node::Node,
};

/// A report that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// How each node is.
    Status,
    /// The last 15 minutes of each.
    Series,
    /// The comparisons of each with the others.
    Comparisons,
    /// The roots of the tables of each.
    Roots,
    /// The digests of the partitions of a table on each.
    Partitions(TableName),
    /// The rows of a partition that are not the same on all.
    Differences(TableName, u8),
}

impl Report {
    /// The names of all.
    pub const NAMES: [&str; 6] = ["status", "series", "comparisons", "roots", "partitions", "differences"];
}

/// What a node answered, or why it did not.
type Answered = (NodeId, String, std::result::Result<Value, String>);

impl Report {
    /// Whether the client may have it.
    ///
    /// # Errors
    /// `NotGranted`.
    pub fn check(&self, principal: &Principal) -> Result<()> {
        match self {
            Self::Status | Self::Series | Self::Comparisons | Self::Roots => {
                principal.check(Right::Read, Touched::Node)
            }
            Self::Partitions(table) | Self::Differences(table, _) => {
                principal.check(Right::Read, Touched::Keys(table, ""))
            }
        }
    }

    /// Asks all nodes.
    ///
    /// # Errors
    /// As `Node::partition_rows` of each.
    pub async fn collect(self, node: &Node, principal: &Principal) -> Result<Value> {
        Ok(match self {
            Self::Status => {
                let mut nodes = render(ask(node, &Question::Status).await);
                nodes.iter_mut().for_each(|status| hide(status, principal));
                let client = client(principal, &nodes);
                let (own, now_ms) = (node.id().to_string(), node.now_ms());
                json!({ "node": own, "now_ms": now_ms, "nodes": nodes, "client": client })
            }
            Self::Series => json!({ "nodes": render(ask(node, &Question::Series).await) }),
            Self::Comparisons => json!({ "nodes": render(ask(node, &Question::Comparisons).await) }),
            Self::Roots => {
                let at_ms = node.settled_ms();
                let mut nodes = render(ask(node, &Question::Roots { at_ms }).await);
                nodes.iter_mut().for_each(|roots| hide(roots, principal));
                json!({ "at_ms": at_ms, "nodes": nodes })
            }
            Self::Partitions(table) => {
                let at_ms = node.settled_ms();
                let nodes = ask(node, &Question::Partitions { table, at_ms }).await;
                json!({ "at_ms": at_ms, "nodes": render(nodes) })
            }
            Self::Differences(table, partition) => differences(node, table, partition).await?,
        })
    }
}

/// Asks this node, and those that are linked with it.
async fn ask(node: &Node, question: &Question) -> Vec<Answered> {
    let question = json!(question).to_string().into_bytes();
    let members = node.cluster().members;
    let asked = members.into_iter().filter(|member| member.state.is_replica()).map(|member| {
        let question = question.clone();
        async move {
            let answer = node.ask_for_report(member.node, question).await;
            let answer = answer.and_then(|text| {
                serde_json::from_slice(&text).map_err(|error| format!("not an answer: {error}"))
            });
            (member.node, member.address, answer)
        }
    });
    join_all(asked).await
}

/// Each answer with its node.
fn render(nodes: Vec<Answered>) -> Vec<Value> {
    let one = |(node, address, answer): Answered| match answer {
        Ok(answer) => json!({ "node": node.to_string(), "address": address, "answer": answer }),
        Err(error) => json!({ "node": node.to_string(), "address": address, "error": error }),
    };
    nodes.into_iter().map(one).collect()
}

/// Takes out the tables that the client may not read.
fn hide(status: &mut Value, principal: &Principal) {
    let may_read = |name: Option<&str>| match name.map(TableName::parse) {
        // A topic has a key or a prefix in it.
        Some(Ok(table)) => principal.check(Right::Read, Touched::Keys(&table, "")).is_ok(),
        Some(Err(_)) => false,
        None => principal.check(Right::Read, Touched::AllTables).is_ok(),
    };
    let may_see = |name: Option<&str>| {
        name.and_then(|name| TableName::parse(name).ok()).is_some_and(|table| principal.may_see(&table))
    };
    // Indexing would make the list, and an answer, where a node gave none.
    let mut keep = |list: &str, field: &str, is_kept: &dyn Fn(Option<&str>) -> bool| {
        let items = status.get_mut("answer").and_then(|answer| answer.get_mut(list));
        if let Some(items) = items.and_then(Value::as_array_mut) {
            items.retain(|item| is_kept(item[field].as_str()));
        }
    };
    keep("tables", "name", &may_see);
    keep("topics", "table", &may_read);
}

/// What the client may do.
fn client(principal: &Principal, nodes: &[Value]) -> Value {
    let tables = nodes.iter().filter_map(|node| node["answer"]["tables"].as_array()).flatten();
    let names: BTreeSet<&str> = tables.filter_map(|table| table["name"].as_str()).collect();
    let writable = |name: &&str| {
        let table = TableName::parse(name);
        table.is_ok_and(|table| principal.check(Right::Write, Touched::Table(&table)).is_ok())
    };
    json!({
        "name": principal.name(),
        "signed_in": !matches!(principal, Principal::Anyone),
        "admin": principal.check(Right::Admin, Touched::Node).is_ok(),
        "writes_all": principal.check(Right::Write, Touched::AllTables).is_ok(),
        "writes_some": principal.check(Right::Write, Touched::Node).is_ok(),
        "writable": names.into_iter().filter(writable).collect::<Vec<_>>(),
        "prefixes": principal.prefixes(),
    })
}

/// The rows of a partition that are not the same on all nodes, with the version that each has. Rows that were written after the instant up
/// to which nodes compare are on their way, and left out.
async fn differences(node: &Node, table: TableName, partition: u8) -> Result<Value> {
    let nodes = ask(node, &Question::Rows { table: table.clone(), partition }).await;
    let mut marks: BTreeMap<Key, Vec<String>> = BTreeMap::new();
    let mut answered = 0;
    let mut silent = Vec::new();
    for (id, address, answer) in nodes {
        // What has another form than ours says as little as no answer.
        match answer.map(serde_json::from_value) {
            Ok(Ok(PartitionRows::All(rows))) => {
                answered += 1;
                rows.into_iter().for_each(|(key, mark)| marks.entry(key).or_default().push(mark));
            }
            Ok(Ok(PartitionRows::TooMany(why))) => return Err(Error::TooMany(format!("{address}: {why}"))),
            Ok(Err(_)) | Err(_) => silent.push(id.to_string()),
        }
    }
    let settled_ms = node.settled_ms();
    let is_settled = |mark: &String| {
        let version = mark.split(' ').next().and_then(|version| version.parse::<Timestamp>().ok());
        version.is_none_or(|version| version.unix_ms() <= settled_ms)
    };
    let differs = |marks: &[String]| {
        (marks.len() < answered || marks.windows(2).any(|pair| pair[0] != pair[1]))
            && marks.iter().all(is_settled)
    };
    let differing: Vec<Key> =
        marks.into_iter().filter(|(_, marks)| differs(marks)).map(|(key, _)| key).collect();
    if differing.is_empty() {
        return Ok(json!({ "total": 0, "rows": [], "silent": silent }));
    }
    let total = differing.len();
    let keys: Vec<Key> = differing.into_iter().take(VERSIONS_MAX).collect();
    let names: Vec<String> = keys.iter().map(|key| key.as_str().to_owned()).collect();
    let versions = render(ask(node, &Question::Versions { table, keys }).await);
    let rows = names.iter().enumerate().map(|(place, key)| {
        let of_node = |answer: &Value| {
            (answer["node"].as_str().unwrap_or_default().to_owned(), answer["answer"][place].clone())
        };
        let reached = versions.iter().filter(|answer| answer["error"].is_null());
        json!({ "key": key, "versions": reached.map(of_node).collect::<Map<_, _>>() })
    });
    Ok(json!({ "total": total, "rows": rows.collect::<Vec<_>>(), "silent": silent }))
}
