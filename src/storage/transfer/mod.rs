//! Transfer of rows between replicas: reading them for a peer, and applying those of a peer.

pub(super) mod apply;
pub(super) mod read;
