//! The identity of a node: its id, its incarnation and its address.
//!
//! The incarnation decides between two claims about the same node. It starts at the Unix milliseconds of the node's
//! start, or above the last one saved, so it grows across restarts even if the storage was lost. It grows by one
//! whenever the node returns after being declared down, or changes its address.

use serde::{Deserialize, Deserializer, Serialize};

use crate::{core::clock::NodeId, replication::link::error::sanitize};

/// One incarnation of a node.
///
/// `==` compares node and incarnation. The address may become known later.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// The incarnation. The higher one wins.
    pub incarnation: u64,
    /// Where the node is reached. Resolved on every dial. Empty while unknown.
    #[serde(deserialize_with = "sanitized_text")]
    pub address: String,
}

/// Text from another node, made safe for logs and terminals.
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

    /// An address went to the log and to terminals exactly as another node sent it.
    #[test]
    fn a_received_address_has_no_control_characters() {
        let sent =
            Identity { node: NodeId(7), incarnation: 5, address: "a\u{1b}[2J\nWARN all is lost:1".into() };
        let bytes = postcard::to_stdvec(&sent).expect("encodes");
        let came: Identity = postcard::from_bytes(&bytes).expect("decodes");
        assert_eq!(came.address, "a [2J WARN all is lost:1");
    }

    #[test]
    fn the_higher_incarnation_wins_and_renewing_raises_it() {
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
    fn nodes_that_differ_only_by_address_are_equal() {
        let here = Identity { node: NodeId(7), incarnation: 5, address: "a:1".into() };
        assert_eq!(here, Identity { address: "b:1".into(), ..here.clone() });
        assert_ne!(here, Identity { incarnation: 6, ..here.clone() });
    }
}
