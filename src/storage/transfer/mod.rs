//! Rows on their way between replicas: read for a peer, and applied from one.

pub(super) mod apply;
pub(super) mod read;
