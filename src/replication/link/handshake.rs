//! What two nodes tell each other before they link, and when one refuses. The exchange on the wire is in `link`; here is what
//! it says, and the decision, which is a pure function.
//!
//! 1. Initiator: its hello, under the secret alone. Whoever learns the secret later can read it, and anyone can send a recorded
//!    one again: the responder commits to nothing yet, and the digest key is not in it.
//! 2. Responder: its hello, or a refusal, under keys that only these two have.
//! 3. Initiator: the digest key of its cluster, or a refusal. Only now does the responder know that it is no recording.
//! 4. Responder: the digest key of its cluster. The link stands.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{LinkError, sanitize};
use crate::core::{clock::NodeId, digest::DigestKey};

/// Both directions of a handshake together may take that long.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a hello may be under way without telling anything of the clocks: the responder cannot measure it.
const TRANSIT_MS_MAX: i64 = 1000;

/// Which cluster a node belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// Random, made with the first node.
    pub id: u64,
    /// Whether it belongs to it: for good, or because it is getting all that the cluster has. One that does not goes over to the cluster
    /// of one that does.
    pub linked: bool,
    /// The secret under which the cluster's rows are hashed.
    pub digest_key: DigestKey,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its id.
    pub node: NodeId,
    /// Larger with each start of the node, and not likely the same for two nodes: the time of its start.
    pub incarnation: u64,
    /// Its cluster.
    pub cluster: ClusterIdentity,
    /// The address it advertises, as text; `None` while it knows none that others could use.
    pub address: Option<String>,
    /// The address at which the initiator reached the responder, as text. Empty from the responder.
    pub reached_as: String,
    /// Its wall clock when it said this, in Unix milliseconds.
    pub now_ms: u64,
    /// Whether it has finished its first sync.
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

/// A hello as it travels: without the digest key.
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
    /// Of this node, now, to the one reached as `reached_as`.
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

    /// Whose it is, and what its wall clock showed, in Unix milliseconds.
    pub fn clock(&self) -> (NodeId, u64) {
        (self.node, self.now_ms)
    }

    /// The hello that it stands for, with a digest key of zeros until the true one comes.
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

/// What is said during a handshake.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::replication) enum HandshakeMessage {
    /// First and second.
    Hello(WireHello),
    /// Second or third: no link. With the sender's id and wall clock, so that a node whose own clock is wrong learns it.
    Refusal(Refusal, NodeId, u64),
    /// Third and fourth: the digest key of the sender's cluster.
    Agreed(DigestKey),
}

impl HandshakeMessage {
    pub fn encode(&self) -> Result<Vec<u8>, LinkError> {
        postcard::to_stdvec(self).map_err(|error| LinkError::Broken(format!("writing a handshake: {error}")))
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, LinkError> {
        match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => Ok(message),
            Ok(_) | Err(_) => Err(LinkError::Broken("the other side says what no handshake says".into())),
        }
    }
}

/// Why one node refuses another that has the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What is in the way.
    pub kind: RefusalKind,
    /// What is wrong and what to do, for both sides to read.
    pub text: String,
}

/// What is in the way of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RefusalKind {
    /// The node has reached itself.
    Itself,
    /// Another node has the same id.
    SameNode,
    /// Both belong to a cluster, and not the same one.
    OtherCluster,
    /// The clocks are too far apart.
    ClocksApart,
}

/// Which side of a link a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It dialed.
    Initiator,
    /// It was dialed.
    Responder,
}

/// Who takes over whose cluster identity, once the link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both have the same.
    Same,
    /// This node takes over the other's.
    LocalAdopts,
    /// The other node takes over this one's.
    RemoteAdopts,
}

/// How far the other node's clock is ahead of this one's: between these two, for certain. In milliseconds; below zero it is
/// behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// At least.
    pub least_ms: i64,
    /// At most.
    pub most_ms: i64,
}

impl Offset {
    /// As the initiator measures it: the answer was written at some moment of the round trip.
    pub fn of_round_trip(remote_ms: u64, received_ms: u64, round_trip: Duration) -> Self {
        let round_trip_ms = i64::try_from(round_trip.as_millis()).unwrap_or(i64::MAX).saturating_add(1);
        let least_ms = difference(remote_ms, received_ms);
        Self { least_ms, most_ms: least_ms.saturating_add(round_trip_ms) }
    }

    /// As the responder estimates it, which does not know how long the hello was under way.
    pub fn of_arrival(remote_ms: u64, received_ms: u64) -> Self {
        let least_ms = difference(remote_ms, received_ms);
        Self { least_ms, most_ms: least_ms.saturating_add(TRANSIT_MS_MAX) }
    }

    /// The middle.
    pub fn estimate_ms(self) -> i64 {
        self.least_ms.midpoint(self.most_ms)
    }
}

fn difference(remote_ms: u64, local_ms: u64) -> i64 {
    // Saturating both ways: the other side may say any number.
    let of = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    of(remote_ms).saturating_sub(of(local_ms))
}

/// Whether two nodes may link, as one of them sees it, and what becomes of their clusters. Both sides come to verdicts that
/// match: where one adopts, the other is adopted.
///
/// # Errors
/// Why not.
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
                "{} belongs to cluster {:016x} and {} to cluster {:016x}, and clusters do not merge: to move a node to \
                 another cluster, start it on an empty --data",
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
            "both nodes have the id {}: they were started on copies of one directory. Start one of them on an empty --data, \
             and it gets everything from the other",
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
    fn both_sides_come_to_verdicts_that_match() {
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
    fn one_id_twice_is_told_from_a_node_that_reached_itself() {
        let mut copy = hello(1, 1, true);
        let itself = decide(&copy.clone(), &copy, Role::Initiator, NEAR, 500).expect_err("itself");
        assert_eq!(itself.kind, RefusalKind::Itself);
        copy.incarnation += 1;
        let copied = decide(&hello(1, 1, true), &copy, Role::Responder, NEAR, 500).expect_err("a copy");
        assert_eq!(copied.kind, RefusalKind::SameNode);
        assert!(copied.text.contains("copies of one directory"), "{}", copied.text);
    }

    #[test]
    fn clocks_are_refused_only_where_they_are_certainly_apart() {
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
    fn offsets_allow_for_what_was_not_measured() {
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
    fn what_travels_first_has_no_digest_key() {
        let hello = hello(1, 1, true);
        let said = HandshakeMessage::Hello(WireHello::of(&hello, "other:1", 5)).encode().expect("encodes");
        assert!(!said.windows(32).any(|bytes| bytes == hello.cluster.digest_key.0));
        let Ok(HandshakeMessage::Hello(hello)) = HandshakeMessage::decode(&said) else { panic!("a hello") };
        let told = hello.into_hello();
        assert_eq!((told.node, told.now_ms, told.reached_as.as_str()), (NodeId(1), 5, "other:1"));
        assert_eq!(told.cluster.digest_key.0, [0; 32]);
    }

    #[test]
    fn sayings_are_decoded_whole_or_not_at_all() {
        let mut said = HandshakeMessage::Agreed(DigestKey([1; 32])).encode().expect("encodes");
        assert!(HandshakeMessage::decode(&said[..said.len() - 1]).is_err());
        said.push(0);
        assert!(HandshakeMessage::decode(&said).is_err());
        assert!(HandshakeMessage::decode(&[9]).is_err());
    }
}
