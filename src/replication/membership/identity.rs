//! Who a node is to the others: its id, which of its lives this is, and where it is reached.
//!
//! The incarnation is what decides between two claims about one node. It starts at the Unix milliseconds of the node's start, or
//! above the last one it remembers, so that it grows over restarts even where the storage was lost; and it grows by one whenever
//! the node comes back from having been declared down, or changes its address.

use serde::{Deserialize, Deserializer, Serialize};

use crate::{core::clock::NodeId, replication::link::error::sanitize};

/// One life of a node.
///
/// Equal where node and incarnation are: the address is what is known about it, and may be learned later than the rest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// Which of its lives: the higher wins.
    pub incarnation: u64,
    /// Where it is reached, as text: whoever dials resolves it, each time anew. Empty while the node does not know.
    #[serde(deserialize_with = "sanitized_text")]
    pub address: String,
}

/// Text that another node sent, fit for the log and the terminals that it is shown on.
fn sanitized_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|text| sanitize(&text))
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        (self.node, self.incarnation) == (other.node, other.incarnation)
    }
}

impl Eq for Identity {}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        let incarnation = self.incarnation.checked_add(1)?;
        Some(Self { incarnation, ..self.clone() })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.incarnation > adversary.incarnation
    }
}

#[cfg(test)]
mod tests {
    use foca::Identity as _;

    use super::*;

    /// An address went into the log, and onto the terminals of those who asked for members, as it was sent.
    #[test]
    fn an_address_that_comes_has_no_control_characters() {
        let sent =
            Identity { node: NodeId(7), incarnation: 5, address: "a\u{1b}[2J\nWARN all is lost:1".into() };
        let bytes = postcard::to_stdvec(&sent).expect("encodes");
        let came: Identity = postcard::from_bytes(&bytes).expect("decodes");
        assert_eq!(came.address, "a [2J WARN all is lost:1");
    }

    #[test]
    fn the_higher_incarnation_wins_and_a_renewed_one_is_higher() {
        let first = Identity { node: NodeId(7), incarnation: 5, address: "a:1".into() };
        let renewed = first.renew().expect("there are higher ones");
        assert_eq!((renewed.node, renewed.incarnation, renewed.address.as_str()), (NodeId(7), 6, "a:1"));
        assert!(renewed.win_addr_conflict(&first) && !first.win_addr_conflict(&renewed));
        assert_eq!(renewed.addr(), first.addr());
    }

    #[test]
    fn the_last_incarnation_has_no_next() {
        assert!(
            Identity { node: NodeId(7), incarnation: u64::MAX, address: String::new() }.renew().is_none()
        );
    }

    #[test]
    fn an_address_learned_later_makes_no_other_node() {
        let here = Identity { node: NodeId(7), incarnation: 5, address: "a:1".into() };
        assert_eq!(here, Identity { address: "b:1".into(), ..here.clone() });
        assert_ne!(here, Identity { incarnation: 6, ..here.clone() });
    }
}
