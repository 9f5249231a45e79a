//! One member: its public state, and what this node keeps about it.

use std::{
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use foca::{PeriodicParams, State};
use serde::{Deserialize, Serialize};

use super::{
    failures::{HEARD_LATELY_MS, REANNOUNCE_MS},
    identity::Identity,
};
use crate::core::clock::NodeId;

/// How many other members probe one that does not answer.
const INDIRECT_PROBES: NonZeroUsize = NonZeroUsize::new(3).expect("not 0");

/// How often an update is passed on, to three members each time. This reaches hundreds of members.
const TRANSMISSIONS_MAX: NonZeroU8 = NonZeroU8::new(10).expect("not 0");

/// Time between two gossip rounds, while there are updates.
const GOSSIP_MS: u64 = 200;

/// Time between two requests for the full member list, which repairs what gossip missed.
const LIST_MS: u64 = 10_000;

/// Longest packet. Packets are sent over a stream, so they need not fit a datagram. The list of some hundred members
/// fits.
const PACKET_BYTES_MAX: NonZeroUsize = NonZeroUsize::new(32 * 1024).expect("not 0");

/// A forgotten node is dialed for this long: 30 days.
const DIAL_FORGOTTEN_MS: u64 = 30 * 24 * 3_600 * 1_000;

/// A member that has been down for longer is dialed less often.
const DIAL_OFTEN_MS: u64 = 10 * 60 * 1_000;

/// The settings of failure detection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Time between two probes of a member, in milliseconds. Default 1 s. Shorter detects failures sooner and costs
    /// packets.
    pub probe_period_ms: u64,
    /// How long a probe may take before other members are asked, in milliseconds. Default 300 ms; less than half a
    /// period.
    pub probe_answer_ms: u64,
    /// How long a link may be silent before its member is suspect, in milliseconds. Default 2 s: two rounds.
    pub silence_max_ms: u64,
    /// How long a suspect has to refute before it is declared down, in milliseconds. Default 2 s.
    pub suspicion_ms: u64,
    /// How long a member may be away before it is forgotten, in milliseconds. Default 72 h. Until then it keeps
    /// tombstones from being removed. If it returns later, it syncs from the cluster again.
    pub forget_after_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            probe_period_ms: 1_000,
            probe_answer_ms: 300,
            silence_max_ms: 2_000,
            suspicion_ms: 2_000,
            forget_after_ms: 72 * 3_600 * 1_000,
        }
    }
}

impl Options {
    pub(in crate::replication::membership) fn protocol(&self) -> foca::Config {
        let one = NonZeroUsize::MIN;
        let every =
            |ms, num_members| Some(PeriodicParams { frequency: Duration::from_millis(ms), num_members });
        foca::Config {
            probe_period: Duration::from_millis(self.probe_period_ms),
            probe_rtt: Duration::from_millis(self.probe_answer_ms),
            num_indirect_probes: INDIRECT_PROBES,
            max_transmissions: TRANSMISSIONS_MAX,
            suspect_to_down_after: Duration::from_millis(self.suspicion_ms),
            // Down members are remembered, both here and by the protocol.
            remove_down_after: None,
            max_packet_size: PACKET_BYTES_MAX,
            notify_down_members: true,
            periodic_announce: every(LIST_MS, one),
            // `Members` itself announces to members that are declared down and still linked.
            periodic_announce_to_down_members: None,
            periodic_gossip: every(GOSSIP_MS, INDIRECT_PROBES),
        }
    }
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Where it is reached; empty while unknown.
    pub address: String,
    /// Its incarnation.
    pub incarnation: u64,
    /// Its state.
    pub state: MemberState,
}

/// The state of a member. Instants are this node's, in Unix milliseconds; if the clock jumps, they are moved with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// It is present.
    Alive,
    /// It did not answer, or its link ended. It may still refute this.
    Suspect {
        /// Since when.
        since_ms: u64,
    },
    /// It did not refute. It is dialed, and counts as a member.
    Down {
        /// Since when.
        since_ms: u64,
    },
    /// It said that it leaves for now. Like down, but expected.
    Left {
        /// Since when.
        since_ms: u64,
    },
    /// The cluster goes on without it. It may return with a higher incarnation.
    Forgotten {
        /// Since when.
        since_ms: u64,
    },
}

impl MemberState {
    /// Whether it is present, as far as this node knows.
    pub fn is_here(self) -> bool {
        match self {
            Self::Alive | Self::Suspect { .. } => true,
            Self::Down { .. } | Self::Left { .. } | Self::Forgotten { .. } => false,
        }
    }

    /// Whether the cluster goes on without it.
    pub fn is_forgotten(self) -> bool {
        matches!(self, Self::Forgotten { .. })
    }

    /// Moves its instant with a clock that jumped.
    pub(in crate::replication::membership) fn jump(&mut self, jump_ms: i64) {
        match self {
            Self::Alive => {}
            Self::Suspect { since_ms }
            | Self::Down { since_ms }
            | Self::Left { since_ms }
            | Self::Forgotten { since_ms } => *since_ms = since_ms.saturating_add_signed(jump_ms),
        }
    }
}

/// A member to be dialed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The node.
    pub node: NodeId,
    /// Where it is reached.
    pub address: String,
    /// How often to dial it.
    pub frequency: DialFrequency,
}

/// How often to dial a member that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DialFrequency {
    /// It should be there: the cluster heals within seconds of a network cut.
    Often,
    /// It has been down for long.
    Seldom,
    /// It has left, and dials when it returns.
    Rarely,
}

impl Member {
    /// A member of which nothing is known yet. Anything learned next is newer.
    pub(in crate::replication::membership) fn unknown(node: NodeId) -> Self {
        Self { node, address: String::new(), incarnation: 0, state: MemberState::Alive }
    }
}

/// A member, and what this node keeps about it.
pub(in crate::replication::membership) struct Record {
    pub(in crate::replication::membership) member: Member,
    /// Whether there is a link with it.
    pub(in crate::replication::membership) linked: bool,
    /// When something last arrived over its link, on the members' clock.
    pub(in crate::replication::membership) heard_ms: u64,
    /// When an announcement was last sent to it, on the members' clock.
    pub(in crate::replication::membership) last_announce_ms: u64,
    /// Since when it is suspect, on the members' clock.
    pub(in crate::replication::membership) suspected_ms: Option<u64>,
    /// What the protocol knows of this incarnation: its number of refutations, and its state.
    pub(in crate::replication::membership) protocol_state: Option<(u16, State)>,
    /// The member as it was last marked for saving.
    pub(in crate::replication::membership) saved: Option<Member>,
    /// The incarnation that was forgotten last, as far as is known since the start.
    pub(in crate::replication::membership) forgotten: Option<u64>,
}

impl Record {
    pub(in crate::replication::membership) fn new(member: Member, steady_ms: u64) -> Self {
        Self {
            forgotten: member.state.is_forgotten().then_some(member.incarnation),
            member,
            linked: false,
            heard_ms: steady_ms,
            last_announce_ms: steady_ms,
            suspected_ms: None,
            protocol_state: None,
            saved: None,
        }
    }

    pub(in crate::replication::membership) fn identity(&self) -> Identity {
        let Member { node, incarnation, ref address, state: _ } = self.member;
        Identity { node, incarnation, address: address.clone() }
    }

    pub(in crate::replication::membership) fn is_heard(&self, steady_ms: u64) -> bool {
        self.linked && steady_ms.saturating_sub(self.heard_ms) < HEARD_LATELY_MS
    }

    /// Whether it is linked while the protocol considers it down. An announcement tells it so, and it returns with its
    /// next incarnation.
    pub(in crate::replication::membership) fn needs_announce(&self, steady_ms: u64) -> bool {
        let held_down = match self.protocol_state {
            Some((_, State::Alive | State::Suspect)) => false,
            Some((_, State::Down)) | None => true,
        };
        let gone = match self.member.state {
            MemberState::Left { .. } | MemberState::Forgotten { .. } => true,
            MemberState::Alive | MemberState::Suspect { .. } | MemberState::Down { .. } => false,
        };
        held_down
            && !gone
            && self.is_heard(steady_ms)
            && steady_ms.saturating_sub(self.last_announce_ms) >= REANNOUNCE_MS
    }

    pub(in crate::replication::membership) fn wanted(&self, now_ms: u64) -> Option<Wanted> {
        let Member { node, ref address, state, .. } = self.member;
        let frequency = match state {
            MemberState::Alive | MemberState::Suspect { .. } => DialFrequency::Often,
            MemberState::Down { since_ms } if now_ms.saturating_sub(since_ms) < DIAL_OFTEN_MS => {
                DialFrequency::Often
            }
            MemberState::Down { .. } => DialFrequency::Seldom,
            MemberState::Left { .. } => DialFrequency::Rarely,
            // It may have forgotten this node too, and then nobody else dials.
            MemberState::Forgotten { since_ms } if now_ms.saturating_sub(since_ms) < DIAL_FORGOTTEN_MS => {
                DialFrequency::Rarely
            }
            MemberState::Forgotten { .. } => return None,
        };
        let wanted = !self.linked && !address.is_empty();
        wanted.then(|| Wanted { node, address: address.clone(), frequency })
    }

    /// Takes over what the protocol knows. Returns whether the member changed.
    pub(in crate::replication::membership) fn adopt(
        &mut self,
        protocol_state: &foca::Member<Identity>,
        steady_ms: u64,
        now_ms: u64,
    ) -> bool {
        let identity = protocol_state.id();
        if identity.incarnation < self.member.incarnation {
            return false;
        }
        let newer = identity.incarnation > self.member.incarnation;
        let seen = (protocol_state.incarnation(), protocol_state.state());
        if newer || self.protocol_state != Some(seen) {
            self.protocol_state = Some(seen);
            self.suspected_ms = (protocol_state.state() == State::Suspect).then_some(steady_ms);
        }
        let state = self.next_state(protocol_state.state(), newer, steady_ms, now_ms);
        let changed = newer || state != self.member.state;
        self.member.state = state;
        if newer {
            self.member.incarnation = identity.incarnation;
            self.member.address.clone_from(&identity.address);
        }
        changed
    }

    fn next_state(&self, protocol_state: State, newer: bool, steady_ms: u64, now_ms: u64) -> MemberState {
        let current = self.member.state;
        let is_final = match current {
            MemberState::Left { .. } | MemberState::Forgotten { .. } => true,
            MemberState::Alive | MemberState::Suspect { .. } | MemberState::Down { .. } => false,
        };
        if is_final && !newer {
            return current;
        }
        match (protocol_state, current) {
            // This incarnation has left or is already down.
            (State::Down, MemberState::Left { .. } | MemberState::Down { .. }) => current,
            (
                State::Down,
                MemberState::Alive | MemberState::Suspect { .. } | MemberState::Forgotten { .. },
            ) => MemberState::Down { since_ms: now_ms },
            (State::Alive, _) => MemberState::Alive,
            (State::Suspect, _) if self.is_heard(steady_ms) => MemberState::Alive,
            (State::Suspect, MemberState::Suspect { since_ms }) => MemberState::Suspect { since_ms },
            (
                State::Suspect,
                MemberState::Alive
                | MemberState::Down { .. }
                | MemberState::Left { .. }
                | MemberState::Forgotten { .. },
            ) => MemberState::Suspect { since_ms: now_ms },
        }
    }
}
