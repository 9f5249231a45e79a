//! The members of the cluster and their states, as this node knows them: SWIM, by `foca`, plus what links report.
//! [`Members`] does no I/O: calls bring events and the time, and return what to do.
//!
//! - Packets are sent over links. A packet for a member without a link is dropped; the dialer makes sure that there is
//!   one.
//! - Links say more than probes. A member that is heard over its link is not down, however late a packet is. A member
//!   whose link ends or is silent for a while is suspect at once. Every node gives a suspect the same time to refute,
//!   whoever suspected it.
//! - Members are not dropped. A member that is down or has left is remembered and dialed, even across restarts, until
//!   it is forgotten: by an operator, by leaving for good, or after a long time. Forgotten nodes are remembered too, by
//!   incarnation, and accepted again only with a higher one.
//! - A member that is wrongly declared down learns it from the first node it talks to, and returns with its next
//!   incarnation.
//!
//! SWIM spreads that a member is down. That a member leaves is announced only over its own links; a member without such
//! a link sees it go down instead, and treats it the same way.
//!
//! The events of links arrive in `events`. `failures` decides who is down, `forgotten` and `majority` who is forgotten,
//! and [`Dialer`] whom to dial. `saved` and `cluster_record` are what a restart needs. `cluster_identity` decides which
//! cluster the node is in, `renewal` changes its identity, and `leave` ends it.

pub(super) mod cluster_identity;
pub(super) mod cluster_record;
mod dialer;
mod effects;
pub(super) mod events;
mod failures;
mod forgotten;
pub mod identity;
pub(super) mod leave;
mod majority;
mod member;
mod protocol;
mod renewal;
mod saved;
mod steady_clock;

use std::collections::BTreeMap;

use foca::State;

pub use self::{
    dialer::Dialer,
    forgotten::Refusal,
    member::{DialFrequency, Member, MemberState, Options, Wanted},
    saved::SavedMembers,
};
use self::{
    effects::Effects, failures::CHECK_MS, identity::Identity, member::Record, renewal::Protocol,
    steady_clock::SteadyClock,
};
use crate::{
    core::{clock::NodeId, protocol::message::Message},
    error::{Error, Result},
};

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send this over the link with that node.
    Send(NodeId, Message),
    /// Tell that node which members were forgotten, by incarnation.
    TellForgotten(NodeId, Vec<(NodeId, u64)>),
    /// A member is new, or changed.
    Changed(Member),
    /// End the link with that node: it was forgotten.
    Close(NodeId),
    /// This node has a new identity. Handshakes use it from now on.
    Renewed(Identity),
}

/// The members of the cluster, as this node knows them.
pub struct Members {
    foca: Protocol,
    effects: Effects,
    clock: SteadyClock,
    options: Options,
    seed: u64,
    /// This node's address, if it was learned from peers and not configured.
    learned_address: Option<String>,
    records: BTreeMap<NodeId, Record>,
    actions: Vec<Action>,
    announced: Identity,
    check_due_ms: u64,
    unsaved: bool,
    leaving: bool,
    faults: u64,
}

impl Members {
    /// The members as this node knows them at its start. The incarnation of `local` is raised above the last one and to
    /// `now_ms` (Unix milliseconds); its address may be empty. Members that were alive when the node stopped count as
    /// alive for a while.
    pub fn new(local: Identity, remembered: SavedMembers, seed: u64, options: Options, now_ms: u64) -> Self {
        let incarnation = local.incarnation.max(now_ms).max(remembered.incarnation.saturating_add(1));
        let local = Identity { incarnation, ..local };
        let learned_address = remembered.address.filter(|address| *address == local.address);
        let mut members = Self {
            foca: renewal::protocol(&local, options, seed),
            effects: Effects::default(),
            clock: SteadyClock::new(now_ms),
            options,
            seed,
            learned_address,
            records: BTreeMap::new(),
            actions: Vec::new(),
            announced: local,
            check_due_ms: CHECK_MS,
            unsaved: true,
            leaving: false,
            faults: 0,
        };
        for member in remembered.members {
            if member.node != members.announced.node {
                members.restore_member(member, now_ms);
            }
        }
        members
    }

    /// The saved state did not become durable and must be saved again.
    pub fn mark_unsaved(&mut self) {
        self.unsaved = true;
    }

    /// The current identity of this node.
    pub fn local(&self) -> &Identity {
        self.foca.identity()
    }

    /// All other members, including forgotten ones.
    pub fn others(&self) -> impl Iterator<Item = &Member> {
        self.records.values().map(|record| &record.member)
    }

    /// One of the others.
    pub fn other(&self, node: NodeId) -> Option<&Member> {
        self.records.get(&node).map(|record| &record.member)
    }

    /// Whether there is a link with that node, in the current cluster.
    pub fn is_linked(&self, node: NodeId) -> bool {
        self.records.get(&node).is_some_and(|record| record.linked)
    }

    /// The addresses of the members present, sorted, including this node's.
    pub fn addresses(&self) -> Vec<String> {
        let here = self.others().filter(|member| member.state.is_here()).map(|member| &member.address);
        let known = here.chain([&self.local().address]).filter(|address| !address.is_empty());
        let mut addresses: Vec<_> = known.cloned().collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// The ids of all other members that are not forgotten: those that hold the floor back.
    pub fn member_ids(&self) -> Vec<NodeId> {
        let member_ids = self.others().filter(|member| !member.state.is_forgotten());
        member_ids.map(|member| member.node).collect()
    }

    /// The members to dial: they have an address and no link, and no other node is at that address.
    pub fn wanted(&self, now_ms: u64) -> Vec<Wanted> {
        if self.leaving {
            return Vec::new();
        }
        let taken = self.taken_addresses();
        let wanted = self.records.values().filter_map(|record| record.wanted(now_ms));
        wanted.filter(|wanted| !taken.contains_key(wanted.address.as_str())).collect()
    }

    /// The addresses of linked nodes and of this node. A node that lost its directory comes back as another node at the
    /// same address.
    pub(super) fn taken_addresses(&self) -> BTreeMap<&str, NodeId> {
        let linked = self.records.values().filter(|record| record.linked);
        let linked = linked.map(|record| (record.member.address.as_str(), record.member.node));
        let local = self.local();
        linked
            .chain([(local.address.as_str(), local.node)])
            .filter(|(address, _)| !address.is_empty())
            .collect()
    }

    /// Packets that were not understood and protocol errors, since the start.
    pub fn faults(&self) -> u64 {
        self.faults
    }

    /// A link with `remote` came up, perhaps replacing another. Ask `may_link` first.
    pub fn linked(&mut self, remote: Identity, now_ms: u64) -> Vec<Action> {
        self.begin(now_ms);
        if self.leaving || self.may_link(&remote).is_err() {
            return vec![Action::Close(remote.node)];
        }
        self.learn(&remote, 0, State::Alive);
        let steady_ms = self.clock.steady_ms();
        if let Some(record) = self.records.get_mut(&remote.node) {
            record.linked = true;
            record.heard_ms = steady_ms;
            record.last_announce_ms = steady_ms;
            // Both addresses belong to this incarnation, and this one was received last.
            if record.member.incarnation == remote.incarnation && record.member.address != remote.address {
                record.member.address.clone_from(&remote.address);
                self.changed(remote.node);
            }
        }
        self.announce(remote.clone());
        let mut forgotten = self.forgotten_list();
        // It may have a later incarnation without knowing that it was forgotten: after a restart, or at another address.
        let itself = self.records.get(&remote.node).and_then(|record| record.forgotten);
        forgotten.extend(itself.map(|incarnation| (remote.node, incarnation)));
        if !forgotten.is_empty() {
            self.actions.push(Action::TellForgotten(remote.node, forgotten));
        }
        self.finish()
    }

    /// The last link with `node` has ended.
    pub fn unlinked(&mut self, node: NodeId, now_ms: u64) -> Vec<Action> {
        self.begin(now_ms);
        if let Some(record) = self.records.get_mut(&node) {
            record.linked = false;
            self.suspect(node);
        }
        self.finish()
    }

    /// Something arrived over the link with `node`.
    pub fn heard(&mut self, node: NodeId, now_ms: u64) {
        let steady_ms = self.advance(now_ms);
        if let Some(record) = self.records.get_mut(&node) {
            record.heard_ms = steady_ms;
        }
    }

    /// A membership packet arrived over the link with `from`.
    ///
    /// # Errors
    /// `BadRequest` if it is not one. End the link then.
    pub fn packet(&mut self, from: NodeId, packet: &[u8], now_ms: u64) -> Result<Vec<Action>> {
        self.heard(from, now_ms);
        self.begin(now_ms);
        // After leaving, an answer would mean a return. And packets of an unlinked node are outdated.
        if self.leaving || !self.is_linked(from) {
            return Ok(Vec::new());
        }
        let handled = self.foca.handle_data(packet, &mut self.effects);
        if let Err(error) = handled {
            self.faults += 1;
            return Err(Error::BadRequest(format!("node {from} sent an invalid membership packet: {error}")));
        }
        Ok(self.finish())
    }

    /// `node` announced over its link that it leaves; `permanent`: for good.
    pub fn left(&mut self, node: NodeId, permanent: bool, now_ms: u64) -> Vec<Action> {
        self.begin(now_ms);
        if let Some(record) = self.records.get_mut(&node) {
            let identity = record.identity();
            if !record.member.state.is_forgotten() {
                record.member.state = MemberState::Left { since_ms: now_ms };
                self.changed(node);
            }
            self.learn(&identity, 0, State::Down);
            if permanent {
                self.spread_forgotten(vec![(node, identity.incarnation)]);
            }
        }
        self.finish()
    }

    /// Announces that this node leaves; `permanent`: for good. Nothing is sent or dialed from then on.
    pub fn leave(&mut self, permanent: bool, now_ms: u64) -> Vec<Action> {
        self.begin(now_ms);
        if !self.leaving {
            self.broadcast(&Message::Leaving { permanent });
            let left = self.foca.leave_cluster(&mut self.effects);
            self.count(left);
            self.dispatch();
            self.leaving = true;
        }
        std::mem::take(&mut self.actions)
    }

    /// When `tick` has something to do. A late timer does no harm.
    pub fn next_timer_ms(&self) -> u64 {
        let due_ms = self.effects.next_ms().map_or(self.check_due_ms, |timer| timer.min(self.check_due_ms));
        self.clock.wall_at(due_ms)
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Action> {
        self.begin(now_ms);
        if self.leaving {
            return Vec::new();
        }
        while let Some(timer) = self.effects.pop_due() {
            let handled = self.foca.handle_timer(timer, &mut self.effects);
            self.count(handled);
        }
        if self.check_due_ms <= self.clock.steady_ms() {
            self.check_due_ms = self.clock.steady_ms() + CHECK_MS;
            self.check();
        }
        self.finish()
    }

    fn begin(&mut self, now_ms: u64) {
        self.effects.now_ms = self.advance(now_ms);
    }

    /// Moves the clock. If the wall clock jumps, instants jump with it: nobody is gone for longer because a clock was
    /// set or this node was suspended.
    fn advance(&mut self, now_ms: u64) -> u64 {
        let jump_ms = self.clock.jump_ms(now_ms);
        if jump_ms != 0 {
            self.records.values_mut().for_each(|record| record.member.state.jump(jump_ms));
            self.unsaved = true;
        }
        self.clock.advance(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn identity(node: u64, incarnation: u64, address: &str) -> Identity {
        Identity { node: NodeId(node), incarnation, address: address.into() }
    }

    fn members() -> Members {
        let local = identity(1, 0, "one:6660");
        Members::new(local, SavedMembers::default(), 1, Options::default(), NOW_MS)
    }

    fn restarted(members: &mut Members, now_ms: u64) -> Members {
        let note = members.take_unsaved().expect("something changed");
        let remembered = Members::restore(&note).expect("whole");
        Members::new(identity(1, 0, "one:6660"), remembered, 2, Options::default(), now_ms)
    }

    fn state(members: &Members, node: u64) -> Option<MemberState> {
        members.other(NodeId(node)).map(|member| member.state)
    }

    /// Lets time pass in ticks.
    fn pass(members: &mut Members, from_ms: u64, for_ms: u64) -> Vec<Action> {
        (0..=for_ms / 50).flat_map(|step| members.tick(from_ms + 50 * step)).collect()
    }

    #[test]
    fn each_start_has_a_higher_incarnation_even_if_the_clock_was_set_back() {
        let mut first = members();
        assert_eq!(first.local().incarnation, NOW_MS);
        assert_eq!(restarted(&mut first, NOW_MS - 5_000).local().incarnation, NOW_MS + 1);
        assert!(first.take_unsaved().is_none(), "nothing has changed since");
    }

    /// When a clock was set a year ahead, every member that was down was forgotten.
    #[test]
    fn a_clock_that_jumps_forgets_nobody() {
        const YEAR_MS: u64 = 365 * 24 * 3_600 * 1_000;
        let options = Options { forget_after_ms: 600_000, ..Options::default() };
        for jump in [|now_ms| now_ms + YEAR_MS, |now_ms| now_ms - YEAR_MS] {
            let since = MemberState::Down { since_ms: NOW_MS };
            let down = Member { node: NodeId(2), address: "two:6660".into(), incarnation: 7, state: since };
            let remembered = SavedMembers { members: vec![down], ..SavedMembers::default() };
            let mut members = Members::new(identity(1, 0, "one:6660"), remembered, 1, options, NOW_MS);
            // Two of three are a majority.
            members.linked(identity(3, 7, "three:6660"), NOW_MS);
            let pass = |members: &mut Members, from_ms: u64, for_ms: u64| {
                for step in 0..=for_ms / 50 {
                    members.heard(NodeId(3), from_ms + 50 * step);
                    members.tick(from_ms + 50 * step);
                }
            };
            pass(&mut members, NOW_MS, 300_000);
            let jumped_ms: u64 = jump(NOW_MS + 300_000);
            pass(&mut members, jumped_ms, 290_000);
            assert!(matches!(state(&members, 2), Some(MemberState::Down { .. })), "{:?}", state(&members, 2));
            pass(&mut members, jumped_ms + 290_000, 20_000);
            assert!(
                matches!(state(&members, 2), Some(MemberState::Forgotten { .. })),
                "{:?}",
                state(&members, 2)
            );
        }
    }

    #[test]
    fn a_member_that_was_alive_is_dialed_after_a_restart_and_counts_as_alive_for_a_while() {
        let mut first = members();
        first.linked(identity(2, 7, "two:6660"), NOW_MS);
        let mut second = restarted(&mut first, NOW_MS + 100);
        assert_eq!(second.addresses(), ["one:6660", "two:6660"]);
        assert_eq!(second.member_ids(), [NodeId(2)]);
        let wanted = second.wanted(NOW_MS + 100);
        assert_eq!((wanted.len(), wanted[0].address.as_str()), (1, "two:6660"));
        pass(&mut second, NOW_MS + 100, 3_000);
        assert!(matches!(state(&second, 2), Some(MemberState::Down { .. })));
        assert_eq!((second.addresses(), second.member_ids()), (vec!["one:6660".into()], vec![NodeId(2)]));
        assert_eq!(second.wanted(NOW_MS + 3_100).len(), 1);
        second.linked(identity(2, 7, "two:6660"), NOW_MS + 3_200);
        assert_eq!(state(&second, 2), Some(MemberState::Alive), "it was up all the time");
    }

    #[test]
    fn suspension_of_this_node_makes_nobody_suspect() {
        let mut members = members();
        members.linked(identity(2, 7, "two:6660"), NOW_MS);
        members.tick(NOW_MS + 600_000);
        assert_eq!(state(&members, 2), Some(MemberState::Alive));
    }

    #[test]
    fn a_learned_address_is_saved_and_a_configured_one_is_not() {
        let mut first =
            Members::new(identity(1, 0, ""), SavedMembers::default(), 1, Options::default(), NOW_MS);
        let address = |members: &mut Members| {
            let note = members.take_unsaved().expect("something changed");
            Members::restore(&note).expect("whole").address
        };
        assert_eq!(address(&mut first), None);
        first.change_address("learned:6660", NOW_MS + 10);
        let note = first.take_unsaved().expect("something changed");
        let remembered = Members::restore(&note).expect("whole");
        for (local, saved) in [("learned:6660", Some("learned:6660")), ("told:6660", None)] {
            let local = identity(1, 0, local);
            let options = Options::default();
            let mut again = Members::new(local, remembered.clone(), 2, options, NOW_MS + 100);
            assert_eq!(address(&mut again).as_deref(), saved);
        }
    }

    #[test]
    fn the_later_link_decides_the_address_of_an_incarnation() {
        let mut members = members();
        members.linked(identity(2, 7, "two:6660"), NOW_MS);
        members.linked(identity(2, 7, "elsewhere:6660"), NOW_MS + 10);
        assert_eq!(members.addresses(), ["elsewhere:6660", "one:6660"]);
    }

    #[test]
    fn a_node_without_an_address_is_a_member_and_is_not_dialed() {
        let mut members = members();
        members.linked(identity(2, 7, ""), NOW_MS);
        members.unlinked(NodeId(2), NOW_MS + 10);
        assert_eq!((members.addresses().len(), members.wanted(NOW_MS + 10)), (1, vec![]));
        assert_eq!(members.member_ids(), [NodeId(2)]);
    }

    #[test]
    fn an_address_taken_by_another_node_is_not_dialed() {
        let mut members = members();
        members.linked(identity(2, 7, "two:6660"), NOW_MS);
        members.unlinked(NodeId(2), NOW_MS + 10);
        assert_eq!(members.wanted(NOW_MS + 10).len(), 1);
        members.linked(identity(3, 8, "two:6660"), NOW_MS + 20);
        assert!(members.wanted(NOW_MS + 20).is_empty());
        members.unlinked(NodeId(3), NOW_MS + 30);
        assert_eq!(members.wanted(NOW_MS + 30).len(), 2);
    }

    /// A node that lost its directory dialed itself for days, at the address of its former id.
    #[test]
    fn a_node_that_comes_back_with_a_new_id_replaces_the_former_one_after_a_minute() {
        let mut members = members();
        members.linked(identity(2, 7, "two:6660"), NOW_MS);
        members.linked(identity(3, 7, "three:6660"), NOW_MS);
        members.unlinked(NodeId(2), NOW_MS + 10);
        members.linked(identity(4, 8, "two:6660"), NOW_MS + 20);
        let keep_hearing = |members: &mut Members, from_ms: u64, for_ms: u64| {
            for step in 0..=for_ms / 50 {
                members.heard(NodeId(3), from_ms + 50 * step);
                members.heard(NodeId(4), from_ms + 50 * step);
                members.tick(from_ms + 50 * step);
            }
        };
        keep_hearing(&mut members, NOW_MS + 20, 55_000);
        assert!(matches!(state(&members, 2), Some(MemberState::Down { .. })), "{:?}", state(&members, 2));
        keep_hearing(&mut members, NOW_MS + 55_020, 12_000);
        assert!(
            matches!(state(&members, 2), Some(MemberState::Forgotten { .. })),
            "{:?}",
            state(&members, 2)
        );
        assert!(members.wanted(NOW_MS + 70_000).is_empty());
        // A member at this node's own address is this node's former self.
        members.unlinked(NodeId(3), NOW_MS + 67_020);
        members.linked(identity(5, 8, "one:6660"), NOW_MS + 67_020);
        members.unlinked(NodeId(5), NOW_MS + 67_030);
        assert!(members.wanted(NOW_MS + 70_000).iter().all(|wanted| wanted.address != "one:6660"));
    }

    #[test]
    fn only_a_majority_forgets() {
        let mut members = members();
        for node in 2..=4 {
            members.linked(identity(node, 7, &format!("{node}:6660")), NOW_MS);
        }
        assert_eq!(members.present(), (4, 4));
        for node in 3..=4 {
            members.left(NodeId(node), false, NOW_MS + 10);
        }
        assert_eq!(members.present(), (2, 4));
        let refused = members.forget(NodeId(3), false, NOW_MS + 20).expect_err("a half").to_string();
        assert!(refused.contains("2 of 4 members") && refused.contains("--force"), "{refused}");
        members.forget(NodeId(3), true, NOW_MS + 20).expect("by force");
        assert_eq!((members.present(), members.has_majority()), ((2, 3), true));
        members.forget(NodeId(4), false, NOW_MS + 30).expect("a majority");
        assert!(members.has_majority() && !members.has_majority_without(NodeId(2)));
    }

    #[test]
    fn a_copied_directory_is_refused_with_the_remedy() {
        let mut members = members();
        let itself = members.local().clone();
        assert_eq!(members.may_link(&itself), Err(Refusal::OwnAddress));
        assert_eq!(members.may_link(&identity(1, 3, "copy:6660")), Err(Refusal::SameId(NodeId(1))));
        members.linked(identity(2, 7, "two:6660"), NOW_MS);
        let copy = identity(2, 9, "copy:6660");
        let refusal = members.may_link(&copy).expect_err("the other one is heard").to_string();
        assert!(refusal.contains("two:6660") && refusal.contains("empty directory"), "{refusal}");
        // After a restart elsewhere, the former link is silent.
        pass(&mut members, NOW_MS, 2_000);
        assert_eq!(members.may_link(&copy), Ok(()));
    }

    #[test]
    fn an_ended_incarnation_gets_no_link_and_is_told_the_next_one() {
        let mut members = members();
        members.linked(identity(2, 7, "two:6660"), NOW_MS);
        let actions = members.left(NodeId(2), true, NOW_MS + 10);
        assert!(actions.contains(&Action::Close(NodeId(2))));
        assert_eq!(state(&members, 2), Some(MemberState::Forgotten { since_ms: NOW_MS + 10 }));
        let mut members = restarted(&mut members, NOW_MS + 20);
        let last = identity(2, 7, "two:6660");
        let refusal = Refusal::Superseded { node: NodeId(2), at_least: 8, forgotten: true };
        assert_eq!(members.may_link(&last), Err(refusal));
        assert_eq!(members.linked(last, NOW_MS + 30), [Action::Close(NodeId(2))]);
        assert!(members.member_ids().is_empty());
        assert_eq!(
            members.wanted(NOW_MS + 30)[0].frequency,
            DialFrequency::Rarely,
            "it may have forgotten this node too"
        );
        assert!(members.wanted(NOW_MS + 31 * 24 * 3_600 * 1_000).is_empty());
        let next = identity(2, 8, "two:6660");
        assert_eq!(members.may_link(&next), Ok(()));
        members.linked(next, NOW_MS + 40);
        assert_eq!(state(&members, 2), Some(MemberState::Alive));
    }

    /// A node that was forgotten and restarted since has a later incarnation, and was not told. It held itself to be complete by one that was forgotten
    /// with it.
    #[test]
    fn a_forgotten_node_is_told_whatever_incarnation_it_returns_as() {
        let mut members = members();
        members.linked(identity(2, 7, "two:6660"), NOW_MS);
        members.left(NodeId(2), true, NOW_MS + 10);
        let told = Action::TellForgotten(NodeId(2), vec![(NodeId(2), 7)]);
        let mut again = restarted(&mut members, NOW_MS + 20);
        for members in [&mut members, &mut again] {
            for incarnation in [9, 10] {
                let actions = members.linked(identity(2, incarnation, "two:6660"), NOW_MS + 30);
                assert!(actions.contains(&told), "{actions:?}");
            }
            let actions = members.linked(identity(3, 7, "three:6660"), NOW_MS + 40);
            assert!(!actions.iter().any(|action| matches!(action, Action::TellForgotten(..))), "{actions:?}");
        }
        // Others may have forgotten it, and it may have restarted before this node heard so.
        let told = Action::TellForgotten(NodeId(3), vec![(NodeId(3), 6)]);
        for is_first in [true, false] {
            let actions = members.forgotten(vec![(NodeId(3), 6)], NOW_MS + 50);
            assert_eq!(actions.contains(&told), is_first, "{actions:?}");
            assert_eq!(state(&members, 3), Some(MemberState::Alive));
        }
    }

    #[test]
    fn leaving_is_saved() {
        let mut members = members();
        members.linked(identity(2, 7, "two:6660"), NOW_MS);
        members.left(NodeId(2), false, NOW_MS + 10);
        members.unlinked(NodeId(2), NOW_MS + 20);
        pass(&mut members, NOW_MS + 20, 10_000);
        let second = restarted(&mut members, NOW_MS + 11_000);
        assert_eq!(state(&second, 2), Some(MemberState::Left { since_ms: NOW_MS + 10 }));
        assert_eq!(second.member_ids(), [NodeId(2)]);
        assert_eq!(second.wanted(NOW_MS + 11_000)[0].frequency, DialFrequency::Rarely);
    }

    #[test]
    fn a_forgotten_node_takes_a_new_incarnation() {
        let mut members = members();
        let actions = members.forgotten(vec![(NodeId(1), NOW_MS + 3)], NOW_MS + 10);
        assert_eq!(members.local().incarnation, NOW_MS + 4);
        assert!(actions.contains(&Action::Renewed(members.local().clone())));
        assert!(members.forgotten(vec![(NodeId(1), NOW_MS + 3)], NOW_MS + 20).is_empty(), "only once");
        assert!(members.rejoin(NOW_MS + 2, NOW_MS + 30).is_empty());
        assert!(!members.rejoin(NOW_MS + 9, NOW_MS + 30).is_empty());
        assert_eq!(members.local().incarnation, NOW_MS + 9);
    }

    #[test]
    fn after_a_cluster_switch_members_are_known_once_they_are_linked() {
        let mut members = members();
        members.linked(identity(2, 7, "two:6660"), NOW_MS);
        members.linked(identity(3, 7, "three:6660"), NOW_MS);
        members.left(NodeId(3), true, NOW_MS + 10);
        members.switch_cluster();
        let mut again = restarted(&mut members, NOW_MS + 30);
        for members in [&mut members, &mut again] {
            assert_eq!((members.others().count(), members.wanted(NOW_MS + 40)), (0, vec![]));
            // Messages still in flight from former members have no effect.
            assert_eq!(members.packet(NodeId(2), b"junk", NOW_MS + 40), Ok(vec![]));
            assert_eq!(members.left(NodeId(2), true, NOW_MS + 40), []);
            assert_eq!(members.unlinked(NodeId(2), NOW_MS + 40), []);
            for (node, address) in [(2, "two:6660"), (3, "three:6660")] {
                let last = identity(node, 7, address);
                assert_eq!(members.may_link(&last), Ok(()));
                members.linked(last, NOW_MS + 50);
                assert_eq!(state(members, node), Some(MemberState::Alive));
            }
            assert_eq!(members.faults(), 0);
        }
    }

    #[test]
    fn nothing_is_sent_after_leaving() {
        let mut members = members();
        members.linked(identity(2, 7, "two:6660"), NOW_MS);
        let leaving = Action::Send(NodeId(2), Message::Leaving { permanent: false });
        assert!(members.leave(false, NOW_MS + 10).contains(&leaving));
        assert!(pass(&mut members, NOW_MS + 10, 5_000).is_empty() && members.wanted(NOW_MS + 10).is_empty());
        assert_eq!(members.linked(identity(3, 7, "three:6660"), NOW_MS + 20), [Action::Close(NodeId(3))]);
    }

    #[test]
    fn invalid_packets_are_errors_and_packets_of_strangers_are_ignored() {
        let mut members = members();
        members.linked(identity(2, 7, "two:6660"), NOW_MS);
        for junk in [&b""[..], b"\xff\xff\xff", &[0; 64 * 1024]] {
            let error = members.packet(NodeId(2), junk, NOW_MS + 10).expect_err("junk").to_string();
            assert!(error.contains(&NodeId(2).to_string()), "{error}");
        }
        assert_eq!(members.faults(), 3);
        assert_eq!(members.packet(NodeId(3), b"junk", NOW_MS + 10), Ok(vec![]));
    }
}
