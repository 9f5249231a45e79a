//! How the cluster looks from this node, for those who ask.

use super::{Replication, belong::awaited, members::Member, registry::Totals};

/// The cluster, as this node sees it.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The cluster's id.
    pub cluster: u64,
    /// The address this node tells others, once it knows one.
    pub address: Option<String>,
    /// Which of its lives this is.
    pub incarnation: u64,
    /// Whether it has finished its first sync.
    pub whole: bool,
    /// While it has not, and is linked with a member that has: rows it has, and rows there are.
    pub sync: Option<(u64, u64)>,
    /// While it has not, and is linked with none that has: which addresses to join have not answered, and what to do.
    pub awaited: Option<String>,
    /// Up to here every member has everything, in Unix milliseconds; 0 while that is not known.
    pub floor_ms: u64,
    /// The other members.
    pub peers: Vec<PeerView>,
}

/// Another member, as this node sees it.
#[derive(Clone, Debug)]
pub struct PeerView {
    /// Who it is and how.
    pub member: Member,
    /// Whether a link stands.
    pub linked: bool,
    /// Why it takes no rows, if it said so.
    pub storage_full: Option<String>,
    /// What was counted with it.
    pub totals: Totals,
    /// Entries of the journal that it has not acknowledged.
    pub outbox: u64,
    /// The last instant at which it held the same as this node, in Unix milliseconds; 0 while that is not known.
    pub equal_ms: u64,
}

impl Replication {
    /// The cluster as it is now.
    pub fn membership(&self) -> Membership {
        let inner = &self.0;
        let state = inner.state();
        let standing = inner.shared.standing();
        let last = inner.shared.journal().last();
        let view = |member: &Member| {
            let node = member.node;
            let link = state.registry.link(node);
            let acked = standing.acked.get(&node).map(|acked| acked.upto).unwrap_or_default();
            PeerView {
                member: member.clone(),
                linked: link.is_some(),
                storage_full: link.and_then(|link| link.refusal()),
                totals: state.registry.totals_of(node),
                outbox: last - acked,
                equal_ms: standing.floor.equal_ms(node).unwrap_or_default(),
            }
        };
        let peers: Vec<_> = state.members.others().map(view).collect();
        let rows_there = peers.iter().filter(|peer| peer.linked);
        let rows_there = rows_there.filter_map(|peer| peer.totals.figures.rows_there).max();
        let (waits, reaches_whole) = (!standing.whole, state.registry.reaches_whole());
        let sync = rows_there.filter(|_| waits && reaches_whole);
        let sync = sync.map(|total| (inner.store.rows_total(), total));
        Membership {
            cluster: state.birth.cluster,
            address: state.advertised.current().or(state.advertised.candidate()).map(str::to_owned),
            incarnation: state.members.local().incarnation,
            whole: standing.whole,
            sync,
            awaited: awaited(&state).filter(|_| waits && !reaches_whole),
            floor_ms: standing.floor.floor_ms(),
            peers,
        }
    }

    /// How many members hold replicas, those that are away and this node included.
    pub fn replicas(&self) -> usize {
        1 + self.0.state().members.unforgotten().len()
    }
}
