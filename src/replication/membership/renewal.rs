//! Changes this node's identity: another address, a later incarnation, or another cluster.

use foca::{Foca, NoCustomBroadcast, PostcardCodec};
use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

use super::{Action, Members, Options, effects::Effects, identity::Identity};

/// The membership protocol, with its parameters.
pub(in crate::replication::membership) type Protocol =
    Foca<Identity, PostcardCodec, Xoshiro256PlusPlus, NoCustomBroadcast>;

/// The protocol at the start, knowing nobody.
pub(in crate::replication::membership) fn protocol(
    local: &Identity,
    options: Options,
    seed: u64,
) -> Protocol {
    Foca::new(local.clone(), options.protocol(), Xoshiro256PlusPlus::seed_from_u64(seed), PostcardCodec)
}

impl Members {
    /// Other nodes reach this one at another address from now on.
    pub fn change_address(&mut self, address: &str, now_ms: u64) -> Vec<Action> {
        self.begin(now_ms);
        let local = self.local();
        if local.address != address {
            let incarnation = local.incarnation.saturating_add(1);
            let renewed = Identity { node: local.node, incarnation, address: address.to_owned() };
            self.learned_address = Some(address.to_owned());
            self.change_identity(renewed);
        }
        self.finish()
    }

    /// A peer accepts only a later incarnation (see `Refusal`): takes at least that one.
    pub fn rejoin(&mut self, incarnation: u64, now_ms: u64) -> Vec<Action> {
        self.begin(now_ms);
        let local = self.local();
        if local.incarnation < incarnation {
            self.change_identity(Identity { incarnation, ..local.clone() });
        }
        self.finish()
    }

    /// This node switches to another cluster. It drops all members it knew; they are known again once they are linked.
    pub fn switch_cluster(&mut self) {
        // Starts over, because the protocol would keep telling the other cluster about them.
        self.seed = self.seed.wrapping_add(1);
        self.foca = protocol(self.foca.identity(), self.options, self.seed);
        self.effects = Effects::default();
        self.records.clear();
        self.unsaved = true;
    }

    pub(in crate::replication::membership) fn change_identity(&mut self, identity: Identity) {
        self.effects.clear_timers();
        let changed = self.foca.change_identity(identity, &mut self.effects);
        self.count(changed);
        let looked = self.foca.apply_many(std::iter::empty(), true, &mut self.effects);
        self.count(looked);
    }
}
