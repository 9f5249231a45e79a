//! The handshake messages of two nodes, and the decision whether they may link. The exchange itself is in `establish`;
//! the decision is a pure function.
//!
//! 1. Initiator: its hello, encrypted under the secret alone. Anyone who learns the secret later can read it, and
//!    anyone can replay a recording. So the responder commits to nothing yet, and the digest key is not in it.
//! 2. Responder: its hello or a refusal, under keys that only these two nodes have.
//! 3. Initiator: the digest key of its cluster, or a refusal. Only now does the responder know that it is not talking
//!    to a recording.
//! 4. Responder: the digest key of its cluster. The link is up.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{LinkError, sanitize};
use crate::core::{clock::NodeId, digest::DigestKey};

/// The time limit of a whole handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a hello may be in transit: the responder cannot measure it, so it allows for this much.
const TRANSIT_MS_MAX: i64 = 1000;

/// The cluster a node belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// Random, made with the cluster's first node.
    pub id: u64,
    /// Whether the node has joined it: for good, or while it is syncing with a complete member. A node that has not
    /// joined adopts the cluster of one that has.
    pub linked: bool,
    /// The secret key that the cluster's rows are hashed with.
    pub digest_key: DigestKey,
}

/// What a node says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its id.
    pub node: NodeId,
    /// Grows with each start of the node, and is unlikely to be equal for two nodes: the time of its start.
    pub incarnation: u64,
    /// Its cluster.
    pub cluster: ClusterIdentity,
    /// The address it advertises. `None` while it knows none that others could use.
    pub address: Option<String>,
    /// The address at which the initiator reached the responder. Empty from the responder.
    pub reached_as: String,
    /// Its wall clock at the time of this message, in Unix milliseconds.
    pub now_ms: u64,
    /// Whether it is complete: see `core::protocol::agreement`.
    pub complete: bool,
    /// It has removed tombstones up to here (Unix milliseconds; 0: none).
    pub swept: u64,
}

impl Hello {
    fn describe(&self) -> String {
        match &self.address {
            Some(address) => format!("node {} at {address}", self.node),
            None => format!("node {}", self.node),
        }
    }
}

/// A hello as it is sent: without the digest key.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::replication) struct WireHello {
    node: NodeId,
    incarnation: u64,
    cluster: u64,
    linked: bool,
    address: Option<String>,
    reached_as: String,
    now_ms: u64,
    complete: bool,
    swept: u64,
}

impl WireHello {
    /// The hello of this node, now, to the node reached as `reached_as`.
    pub fn of(hello: &Hello, reached_as: &str, now_ms: u64) -> Self {
        Self {
            node: hello.node,
            incarnation: hello.incarnation,
            cluster: hello.cluster.id,
            linked: hello.cluster.linked,
            address: hello.address.clone(),
            reached_as: reached_as.to_owned(),
            now_ms,
            complete: hello.complete,
            swept: hello.swept,
        }
    }

    /// Its node, and that node's wall clock in Unix milliseconds.
    pub fn clock(&self) -> (NodeId, u64) {
        (self.node, self.now_ms)
    }

    /// The hello, with a digest key of zeros until the real one arrives.
    pub fn into_hello(self) -> Hello {
        let cluster =
            ClusterIdentity { id: self.cluster, linked: self.linked, digest_key: DigestKey([0; 32]) };
        Hello {
            node: self.node,
            incarnation: self.incarnation,
            cluster,
            address: self.address.as_deref().map(sanitize),
            reached_as: sanitize(&self.reached_as),
            now_ms: self.now_ms,
            complete: self.complete,
            swept: self.swept,
        }
    }
}

/// A handshake message.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::replication) enum HandshakeMessage {
    /// First and second message.
    Hello(WireHello),
    /// Second or third message: no link. Includes the sender's id and wall clock, so that a node with a wrong clock
    /// learns of it.
    Refusal(Refusal, NodeId, u64),
    /// Third and fourth message: the digest key of the sender's cluster.
    Agreed(DigestKey),
}

impl HandshakeMessage {
    pub fn encode(&self) -> Result<Vec<u8>, LinkError> {
        postcard::to_stdvec(self)
            .map_err(|error| LinkError::Broken(format!("encoding a handshake message: {error}")))
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, LinkError> {
        match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => Ok(message),
            Ok(_) | Err(_) => {
                Err(LinkError::Broken("the other side sent an invalid handshake message".into()))
            }
        }
    }
}

/// Why a node refuses another that has the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The kind.
    pub kind: RefusalKind,
    /// What is wrong and what to do, for both sides.
    pub text: String,
}

/// Why a link is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RefusalKind {
    /// The node has dialed itself.
    Itself,
    /// Another node has the same id.
    SameNode,
    /// Both have joined clusters, and not the same one.
    OtherCluster,
    /// The clocks are too far apart.
    ClocksApart,
}

/// The side of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It dialed.
    Initiator,
    /// It was dialed.
    Responder,
}

/// Which node adopts the other's cluster, once the link is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both are in the same cluster.
    Same,
    /// This node adopts the other's.
    LocalAdopts,
    /// The other node adopts this one's.
    RemoteAdopts,
}

/// How far the other node's clock is certain to be ahead of this one's: a range in milliseconds. Negative: behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// The lower end.
    pub least_ms: i64,
    /// The upper end.
    pub most_ms: i64,
}

impl Offset {
    /// As the initiator measures it. The answer was written at some moment during the round trip.
    pub fn of_round_trip(remote_ms: u64, received_ms: u64, round_trip: Duration) -> Self {
        let round_trip_ms = i64::try_from(round_trip.as_millis()).unwrap_or(i64::MAX).saturating_add(1);
        let least_ms = difference(remote_ms, received_ms);
        Self { least_ms, most_ms: least_ms.saturating_add(round_trip_ms) }
    }

    /// As the responder estimates it, without knowing how long the hello was in transit.
    pub fn of_arrival(remote_ms: u64, received_ms: u64) -> Self {
        let least_ms = difference(remote_ms, received_ms);
        Self { least_ms, most_ms: least_ms.saturating_add(TRANSIT_MS_MAX) }
    }

    /// The middle of the range.
    pub fn estimate_ms(self) -> i64 {
        self.least_ms.midpoint(self.most_ms)
    }
}

fn difference(remote_ms: u64, local_ms: u64) -> i64 {
    // Saturating, because the other side may send any number.
    let of = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    of(remote_ms).saturating_sub(of(local_ms))
}

/// Decides whether two nodes may link, and which cluster they end up in. Both sides reach matching verdicts: if one
/// adopts, the other is adopted.
///
/// # Errors
/// The refusal.
pub fn decide(
    local: &Hello,
    remote: &Hello,
    role: Role,
    offset: Offset,
    drift_max_ms: u64,
) -> Result<Verdict, Refusal> {
    if local.node == remote.node {
        return Err(refuse_same_node(local, remote));
    }
    refuse_clocks_apart(local, remote, offset, drift_max_ms)?;
    if local.cluster.id == remote.cluster.id {
        return Ok(Verdict::Same);
    }
    match (local.cluster.linked, remote.cluster.linked, role) {
        (false, true, _) | (false, false, Role::Initiator) => Ok(Verdict::LocalAdopts),
        (true, false, _) | (false, false, Role::Responder) => Ok(Verdict::RemoteAdopts),
        (true, true, _) => Err(Refusal {
            kind: RefusalKind::OtherCluster,
            text: format!(
                "{} belongs to cluster {:016x} and {} to cluster {:016x}, and clusters do not merge: to move a node \
                to another cluster, start it on an empty --data",
                local.describe(),
                local.cluster.id,
                remote.describe(),
                remote.cluster.id
            ),
        }),
    }
}

fn refuse_same_node(local: &Hello, remote: &Hello) -> Refusal {
    if local.incarnation == remote.incarnation {
        return Refusal {
            kind: RefusalKind::Itself,
            text: format!("{} has reached itself", local.describe()),
        };
    }
    Refusal {
        kind: RefusalKind::SameNode,
        text: format!(
            "both nodes have the id {}: they were started on copies of one directory. Start one of them on an empty \
            --data, and it gets all rows from the other",
            local.node
        ),
    }
}

fn refuse_clocks_apart(
    local: &Hello,
    remote: &Hello,
    offset: Offset,
    drift_max_ms: u64,
) -> Result<(), Refusal> {
    let allowed = i64::try_from(drift_max_ms).unwrap_or(i64::MAX);
    let (apart_ms, ahead, behind) = if offset.least_ms > allowed {
        (offset.least_ms, remote, local)
    } else if offset.most_ms < allowed.saturating_neg() {
        (offset.most_ms.saturating_neg(), local, remote)
    } else {
        return Ok(());
    };
    Err(Refusal {
        kind: RefusalKind::ClocksApart,
        text: format!(
            "the clock of {} is at least {apart_ms} ms ahead of that of {}, and at most {drift_max_ms} ms are allowed \
            (--max-clock-drift): set both clocks by NTP",
            ahead.describe(),
            behind.describe()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Offset = Offset { least_ms: -5, most_ms: 5 };

    fn hello(node: u64, cluster: u64, linked: bool) -> Hello {
        let cluster = ClusterIdentity { id: cluster, linked, digest_key: DigestKey([7; 32]) };
        Hello {
            node: NodeId(node),
            incarnation: node,
            cluster,
            address: Some(format!("node{node}:6660")),
            reached_as: String::new(),
            now_ms: 0,
            complete: true,
            swept: 0,
        }
    }

    #[test]
    fn both_sides_reach_matching_verdicts() {
        use Verdict::{LocalAdopts, RemoteAdopts, Same};
        for (ids, linked, expected) in [
            ((1, 1), (true, true), Some((Same, Same))),
            ((1, 1), (false, true), Some((Same, Same))),
            ((1, 2), (false, true), Some((LocalAdopts, RemoteAdopts))),
            ((1, 2), (true, false), Some((RemoteAdopts, LocalAdopts))),
            ((1, 2), (false, false), Some((LocalAdopts, RemoteAdopts))),
            ((1, 2), (true, true), None),
        ] {
            let (initiator, responder) = (hello(1, ids.0, linked.0), hello(2, ids.1, linked.1));
            let one = decide(&initiator, &responder, Role::Initiator, NEAR, 500);
            let other = decide(&responder, &initiator, Role::Responder, NEAR, 500);
            match expected {
                Some((first, second)) => {
                    assert_eq!((one, other), (Ok(first), Ok(second)), "{ids:?} {linked:?}")
                }
                None => {
                    for refusal in [one.expect_err("refused"), other.expect_err("refused")] {
                        assert_eq!(refusal.kind, RefusalKind::OtherCluster);
                        assert!(refusal.text.contains("empty --data"), "{}", refusal.text);
                    }
                }
            }
        }
    }

    #[test]
    fn a_duplicate_id_is_told_apart_from_a_node_that_dialed_itself() {
        let mut copy = hello(1, 1, true);
        let itself = decide(&copy.clone(), &copy, Role::Initiator, NEAR, 500).expect_err("itself");
        assert_eq!(itself.kind, RefusalKind::Itself);
        copy.incarnation += 1;
        let copied = decide(&hello(1, 1, true), &copy, Role::Responder, NEAR, 500).expect_err("a copy");
        assert_eq!(copied.kind, RefusalKind::SameNode);
        assert!(copied.text.contains("copies of one directory"), "{}", copied.text);
    }

    #[test]
    fn clocks_are_refused_only_if_they_certainly_differ() {
        let judged = |least_ms, most_ms| {
            let offset = Offset { least_ms, most_ms };
            decide(&hello(1, 1, true), &hello(2, 1, true), Role::Initiator, offset, 500)
        };
        for (least_ms, most_ms) in [(500, 600), (-600, -500), (-10_000, 10_000), (-501, -500)] {
            assert_eq!(judged(least_ms, most_ms), Ok(Verdict::Same), "{least_ms} to {most_ms}");
        }
        let ahead = judged(600_000, 600_010).expect_err("ahead");
        assert_eq!(ahead.kind, RefusalKind::ClocksApart);
        for words in ["node2:6660 is at least 600000 ms ahead", "NTP", "500 ms are allowed"] {
            assert!(ahead.text.contains(words), "{}", ahead.text);
        }
        let behind = judged(-600_010, -600_000).expect_err("behind").text;
        assert!(behind.contains("node1:6660 is at least 600000 ms ahead"), "{behind}");
    }

    #[test]
    fn offsets_allow_for_the_transit_time() {
        let offset = Offset::of_round_trip(1_000_050, 1_000_100, Duration::from_millis(100));
        assert_eq!(offset, Offset { least_ms: -50, most_ms: 51 });
        assert_eq!(offset.estimate_ms(), 0);
        assert_eq!(Offset::of_arrival(1000, 1400), Offset { least_ms: -400, most_ms: 600 });
        for strange in [0, u64::MAX] {
            Offset::of_arrival(strange, 1).estimate_ms();
            Offset::of_round_trip(strange, u64::MAX, Duration::MAX).estimate_ms();
        }
    }

    #[test]
    fn the_first_message_has_no_digest_key() {
        let hello = hello(1, 1, true);
        let said = HandshakeMessage::Hello(WireHello::of(&hello, "other:1", 5)).encode().expect("encodes");
        assert!(!said.windows(32).any(|bytes| bytes == hello.cluster.digest_key.0));
        let Ok(HandshakeMessage::Hello(hello)) = HandshakeMessage::decode(&said) else { panic!("a hello") };
        let told = hello.into_hello();
        assert_eq!((told.node, told.now_ms, told.reached_as.as_str()), (NodeId(1), 5, "other:1"));
        assert_eq!(told.cluster.digest_key.0, [0; 32]);
    }

    #[test]
    fn handshake_messages_with_missing_or_extra_bytes_are_refused() {
        let mut said = HandshakeMessage::Agreed(DigestKey([1; 32])).encode().expect("encodes");
        assert!(HandshakeMessage::decode(&said[..said.len() - 1]).is_err());
        said.push(0);
        assert!(HandshakeMessage::decode(&said).is_err());
        assert!(HandshakeMessage::decode(&[9]).is_err());
    }
}
