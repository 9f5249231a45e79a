//! The state and the counters that nodes report, and waiting until nodes agree.

use std::{
    ops::{Add, Sub},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{net::TcpStream, task, time};

use super::node::Node;
use crate::error::{Error, Result};

/// The measurement fails if the nodes do not agree by then.
const TIMEOUT: Duration = Duration::from_secs(300);
/// How often nodes are asked: the resolution of the times.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The answer of `/_/cluster`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct View {
    /// Whether the node has finished its first sync.
    pub whole: bool,
    /// All members, the node included.
    pub members: Vec<Member>,
    /// The group that keeps the strong tables, once there are any.
    #[serde(default)]
    pub strong: Option<Group>,
}

/// The group that keeps the strong tables, as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Group {
    /// The leader that it knows.
    pub leader: Option<GroupMember>,
    /// The last entry that it has applied.
    pub applied_index: u64,
    /// Who votes.
    pub voters: Vec<GroupMember>,
}

/// A member of that group.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GroupMember {
    /// Its address.
    pub address: String,
}

/// A member, as another node sees it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Member {
    /// Its address.
    pub address: String,
    /// Whether there is a link to it.
    pub linked: bool,
    /// How long ago both were last known to hold the same, where that is known.
    pub lag_ms: Option<u64>,
    /// Messages in sequence in the last comparison with it; two are a round trip.
    pub comparison_steps: u64,
    /// The counters of its link.
    #[serde(flatten)]
    pub counters: Counters,
}

/// The counters of a link, or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Counters {
    /// Rounds received.
    pub rounds: u64,
    /// Comparisons that this node started.
    pub sessions: u64,
    /// Comparisons that found nothing.
    pub false_sessions: u64,
    /// Messages of comparisons.
    pub comparison_messages: u64,
    /// Bytes of those messages.
    pub comparison_bytes: u64,
    /// All bytes sent.
    pub bytes_sent: u64,
    /// Rows sent.
    pub rows_sent: u64,
}

impl Counters {
    /// As `of`, but waits until the counters include all that has happened: nodes compare the roots of a moment in the past, so they
    /// learn later that they hold the same, and the counters of a link are up to one round old.
    pub async fn settled(nodes: &[&Node]) -> Result<Self> {
        let start = Instant::now();
        for node in nodes {
            while !knows_of_equality(&view(node).await?, start.elapsed()) {
                if start.elapsed() > TIMEOUT {
                    return Err(Error::Failed(format!(
                        "the nodes do not find their roots equal within {TIMEOUT:?}: {}",
                        node.log()
                    )));
                }
                time::sleep(POLL_INTERVAL).await;
            }
        }
        Self::of(nodes).await
    }

    /// The counters of these nodes with all members, since each node started.
    pub async fn of(nodes: &[&Node]) -> Result<Self> {
        let mut sum = Self::default();
        for node in nodes {
            sum = view(node).await?.members.iter().fold(sum, |sum, member| sum + member.counters);
        }
        Ok(sum)
    }

    fn combine(self, other: Self, with: fn(u64, u64) -> u64) -> Self {
        Self {
            rounds: with(self.rounds, other.rounds),
            sessions: with(self.sessions, other.sessions),
            false_sessions: with(self.false_sessions, other.false_sessions),
            comparison_messages: with(self.comparison_messages, other.comparison_messages),
            comparison_bytes: with(self.comparison_bytes, other.comparison_bytes),
            bytes_sent: with(self.bytes_sent, other.bytes_sent),
            rows_sent: with(self.rows_sent, other.rows_sent),
        }
    }
}

impl Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.combine(other, |a, b| a + b)
    }
}

impl Sub for Counters {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        // A node that was restarted counts from 0.
        self.combine(before, u64::saturating_sub)
    }
}

/// A table in `/_/tables`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Live keys.
    pub keys: u64,
    /// Deleted keys.
    pub tombstones: u64,
    /// Digest of its rows, where the node knows it.
    pub root: Option<String>,
}

/// The cluster, as a node sees it.
pub async fn view(node: &Node) -> Result<View> {
    ask(node, "/_/cluster").await
}

/// The tables of a node.
pub async fn tables(node: &Node) -> Result<Vec<Table>> {
    ask(node, "/_/tables").await
}

/// Live keys and tombstones in all tables of a node.
pub async fn rows(node: &Node) -> Result<(u64, u64)> {
    let tables = tables(node).await?;
    Ok(tables.iter().fold((0, 0), |(keys, deleted), table| (keys + table.keys, deleted + table.tombstones)))
}

/// Whether each of these nodes has a link to every other.
pub async fn linked(nodes: &[&Node]) -> Result<bool> {
    for node in nodes {
        let view = view(node).await?;
        let mut others = nodes.iter().map(|other| other.advertised()).filter(|at| *at != node.advertised());
        let is_linked = |at: String| view.members.iter().any(|member| member.address == at && member.linked);
        if !view.whole || !others.all(is_linked) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits until each node has a link to every other, and all hold the same. Returns how long that took.
pub async fn in_sync(nodes: &[&Node]) -> Result<Duration> {
    let start = Instant::now();
    while !(linked(nodes).await? && hold_the_same(nodes).await?) {
        if start.elapsed() > TIMEOUT {
            let logs: Vec<_> = nodes.iter().map(|node| node.log()).collect();
            let logs = logs.join("\n--\n");
            return Err(Error::Failed(format!(
                "nodes do not agree within {TIMEOUT:?}; they logged:\n{logs}"
            )));
        }
        time::sleep(POLL_INTERVAL).await;
    }
    Ok(start.elapsed())
}

/// Whether a node knows that it held the same as each linked member at some time within the last `span`.
fn knows_of_equality(view: &View, span: Duration) -> bool {
    let mut linked = view.members.iter().filter(|member| member.linked);
    linked.all(|member| member.lag_ms.is_some_and(|lag_ms| Duration::from_millis(lag_ms) < span))
}

async fn hold_the_same(nodes: &[&Node]) -> Result<bool> {
    let mut first = None;
    for node in nodes {
        let tables = tables(node).await?;
        if tables.iter().any(|table| table.root.is_none()) {
            return Ok(false);
        }
        let roots: Vec<_> = tables.into_iter().map(|table| (table.name, table.root)).collect();
        if *first.get_or_insert_with(|| roots.clone()) != roots {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn ask<T: DeserializeOwned>(node: &Node, path: &str) -> Result<T> {
    let failed =
        |why: String| Error::Failed(format!("asking the node at {} for {path}: {why}", node.address()));
    let (status, body) = get(node, path).await.map_err(|e| failed(e.to_string()))?;
    serde_json::from_slice(&body).map_err(|e| failed(format!("{status}: {e}")))
}

/// One GET on a connection of its own.
async fn get(
    node: &Node,
    path: &str,
) -> std::result::Result<(StatusCode, Bytes), Box<dyn std::error::Error>> {
    let stream = TcpStream::connect(node.address()).await?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The request fails with the same error.
    task::spawn_local(connection);
    let request = Request::get(path).header(header::HOST, node.address().to_string());
    let answer = requests.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let (head, body) = answer.into_parts();
    Ok((head.status, body.collect().await?.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_past_what_is_not_measured() {
        let json = r#"{"cluster":"1","whole":true,"members":[{"node":"2","address":"b:1","state":"alive","linked":true,
            "rounds":3,"sessions":2,"false_sessions":1,"comparison_messages":5,"comparison_bytes":700,"comparison_steps":7,
            "bytes_sent":900,"bytes_received":1,"rows_sent":4,"rows_received":0,"lag_ms":null}]}"#;
        let view: View = serde_json::from_str(json).expect("a view");
        let member = &view.members[0];
        assert!(view.whole && member.linked);
        assert!(!knows_of_equality(&view, Duration::MAX));
        assert_eq!((member.address.as_str(), member.comparison_steps), ("b:1", 7));
        let counters = Counters {
            rounds: 3,
            sessions: 2,
            false_sessions: 1,
            comparison_messages: 5,
            comparison_bytes: 700,
            bytes_sent: 900,
            rows_sent: 4,
        };
        assert_eq!(member.counters, counters);
        assert_eq!(counters + counters - counters, counters);
        assert_eq!(Counters::default() - counters, Counters::default());
    }

    #[test]
    fn equality_counts_from_when_it_is_asked_for() {
        let member = |linked, lag_ms| Member {
            address: "b:1".into(),
            linked,
            lag_ms,
            comparison_steps: 0,
            counters: Counters::default(),
        };
        let knows =
            |members| knows_of_equality(&View { whole: true, members, strong: None }, Duration::from_secs(2));
        assert!(knows(vec![member(true, Some(1_999)), member(false, None)]));
        assert!(!knows(vec![member(true, Some(2_000))]));
        assert!(!knows(vec![member(true, Some(0)), member(true, None)]));
    }

    #[test]
    fn a_table_may_not_know_its_root_yet() {
        let json = r#"[{"name":"t","keys":1,"tombstones":2,"root":null}]"#;
        let tables: Vec<Table> = serde_json::from_str(json).expect("tables");
        assert_eq!(tables, [Table { name: "t".into(), keys: 1, tombstones: 2, root: None }]);
    }
}
