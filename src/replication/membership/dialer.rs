//! Which addresses to dial, and when.
//!
//! Addresses to join are dialed until a link came up, and again while the node has no link. Members are dialed until
//! they have a link. The wait doubles after each failure, up to a limit that depends on how likely the node is to be
//! there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

use super::{DialFrequency, Wanted};
use crate::replication::link::error::{Cause, Obstacle};

/// The wait after the first failure.
const WAIT_MIN_MS: u64 = 100;

/// The longest wait for a node that should be there. Both sides dial, so a network cut heals sooner than this.
const WAIT_MAX_OFTEN_MS: u64 = 3_000;

/// The longest wait for a node that has been down for long, and for addresses to join once there is a link.
const WAIT_MAX_SELDOM_MS: u64 = 10_000;

/// The longest wait for a node that left, and after refusals.
const WAIT_MAX_RARELY_MS: u64 = 30_000;

/// The wait after the first refusal. The reason often goes away within seconds: a clock is set, the other node gets the
/// secret too, or the former link of a node that moved falls silent. If it does not, few dials are wasted; each costs
/// the other side a handshake and a log line.
const WAIT_REFUSED_MS: u64 = 1_000;

/// Nodes that are started together answer each other within this time, so failures before it are not logged.
const LOG_AFTER_MS: u64 = 2_000;

/// Decides what to dial.
pub struct Dialer {
    /// When the first dial was due.
    first_dial_ms: Option<u64>,
    join: BTreeMap<String, JoinState>,
    /// The last reason why there is no link with an address to join.
    reasons: BTreeMap<String, String>,
    targets: BTreeMap<String, Target>,
    rng: Xoshiro256PlusPlus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JoinState {
    /// There was no link yet, or only a refused one.
    NotYet,
    Once,
    /// It is a name that stands for this node alone, so far: that of a service of containers stands for others later.
    Itself,
    /// It is this node's own address.
    Never,
}

/// An address to dial.
#[derive(Debug, Default)]
struct Target {
    wait_ms: u64,
    /// The wait after the last refusal. 0 if nothing was refused since the address failed to answer or a link lasted.
    refused_wait_ms: u64,
    limit_ms: u64,
    due_ms: u64,
    dialing: bool,
    refusals: BTreeSet<Obstacle>,
    /// Why nothing answered, since the last link.
    causes: BTreeSet<Cause>,
    /// A link came up, and it is not known yet whether it lasts.
    unproven: bool,
    is_wanted: bool,
}

impl Dialer {
    /// A dialer for the addresses to `join`.
    pub fn new(join: impl IntoIterator<Item = String>, seed: u64) -> Self {
        Self {
            first_dial_ms: None,
            join: join.into_iter().map(|address| (address, JoinState::NotYet)).collect(),
            reasons: BTreeMap::new(),
            targets: BTreeMap::new(),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
        }
    }

    /// The addresses to dial now. Each counts as being dialed until its outcome is reported. `wanted` comes from
    /// `Members::wanted`; `alone` means that there is no link.
    pub fn due(&mut self, wanted: &[Wanted], alone: bool, now_ms: u64) -> Vec<String> {
        self.first_dial_ms.get_or_insert(now_ms);
        let wanted = self.limits(wanted, alone);
        // An address that is no longer wanted starts over when it is wanted again, unless its outcome is still to come.
        self.targets
            .retain(|address, target| target.dialing || target.unproven || wanted.contains_key(address));
        let mut due = Vec::new();
        self.targets.values_mut().for_each(|target| target.is_wanted = false);
        for (address, limit_ms) in wanted {
            let target = self.targets.entry(address.clone()).or_default();
            target.limit_ms = limit_ms;
            target.is_wanted = true;
            // An address with a shorter limit now need not wait out the former one. Nor does a clock that was set back
            // delay a dial.
            let wait_max_ms = if target.refusals.is_empty() { limit_ms } else { WAIT_MAX_RARELY_MS };
            target.due_ms = target.due_ms.min(now_ms.saturating_add(wait_max_ms));
            if !target.dialing && target.due_ms <= now_ms {
                target.dialing = true;
                due.push(address);
            }
        }
        due
    }

    /// When to call `due` again if nothing else happens. `None`: nothing is waiting.
    pub fn next_ms(&self) -> Option<u64> {
        self.targets
            .values()
            .filter(|target| target.is_wanted && !target.dialing)
            .map(|target| target.due_ms)
            .min()
    }

    /// Dialing `address` resulted in a link, even if another one stays.
    pub fn succeeded(&mut self, address: &str, now_ms: u64) {
        // The link may not last. If it ends at once, the address must not be dialed as fast as possible.
        let target = self.targets.entry(address.to_owned()).or_default();
        target.dialing = false;
        target.refusals.clear();
        target.causes.clear();
        target.wait_ms = (target.wait_ms * 2).clamp(WAIT_MIN_MS, WAIT_MAX_OFTEN_MS);
        target.due_ms = now_ms.saturating_add(target.wait_ms);
        target.unproven = true;
        if let Some(joined @ (JoinState::NotYet | JoinState::Itself)) = self.join.get_mut(address) {
            *joined = JoinState::Once;
        }
    }

    /// A link from dialing `address` lasted. When it ends, the address is dialed at once.
    pub fn link_lasted(&mut self, address: &str) {
        self.targets.remove(address);
    }

    /// Nothing answered at `address`, or the connection broke during the handshake. Returns whether to log it: for an
    /// address to join, each cause once until there is a link, but nothing in the first two seconds.
    pub fn failed(&mut self, address: &str, cause: Cause, now_ms: u64) -> bool {
        let Self { targets, rng, join, first_dial_ms, reasons: _ } = self;
        let Some(target) = targets.get_mut(address) else { return false };
        let is_early =
            first_dial_ms.is_none_or(|first_dial_ms| now_ms.saturating_sub(first_dial_ms) < LOG_AFTER_MS);
        let should_log =
            !is_early && target.causes.insert(cause) && join.get(address) == Some(&JoinState::NotYet);
        target.dialing = false;
        target.refusals.clear();
        // The node may have been restarted and no longer refuse.
        target.refused_wait_ms = 0;
        target.wait_ms = (target.wait_ms * 2).max(WAIT_MIN_MS).min(target.limit_ms);
        target.due_ms = now_ms.saturating_add(jitter(rng, target.wait_ms));
        should_log
    }

    /// Records why dialing `address` resulted in no link.
    pub fn record_reason(&mut self, address: &str, why: String) {
        if self.join.contains_key(address) {
            self.reasons.insert(address.to_owned(), why);
        }
    }

    /// The node at `address` refused the link or was refused. The wait doubles with each refusal, whatever the reason.
    /// Returns whether to log it: each obstacle once, until something else happens.
    pub fn refused(&mut self, address: &str, obstacle: Obstacle, now_ms: u64) -> bool {
        let Self { targets, rng, .. } = self;
        let Some(target) = targets.get_mut(address) else { return true };
        target.dialing = false;
        target.refused_wait_ms = (target.refused_wait_ms * 2).clamp(WAIT_REFUSED_MS, WAIT_MAX_RARELY_MS);
        target.due_ms = now_ms.saturating_add(jitter(rng, target.refused_wait_ms));
        target.refusals.insert(obstacle)
    }

    /// A link with the node at `address` came up and was then refused by one side. This is no success: the wait keeps
    /// doubling, and an address to join has not answered.
    pub fn refused_after_link(&mut self, address: &str, now_ms: u64) {
        if let Some(joined @ JoinState::Once) = self.join.get_mut(address) {
            *joined = JoinState::NotYet;
        }
        self.targets.entry(address.to_owned()).or_default();
        self.refused(address, Obstacle::RefusedAfterLink, now_ms);
    }

    /// Nobody but this node itself is at `address`. A number is not dialed again. A name to join is, as long as the node is alone:
    /// of two nodes that are started together, each may find only itself under the name of both.
    pub fn reached_self(&mut self, address: &str, now_ms: u64) {
        let joined = self.join.get_mut(address);
        let is_asked_again = joined.is_some() && is_name(address);
        if let Some(joined) = joined {
            *joined = if is_asked_again { JoinState::Itself } else { JoinState::Never };
        }
        if !is_asked_again {
            self.targets.remove(address);
            return;
        }
        let target = self.targets.entry(address.to_owned()).or_default();
        target.dialing = false;
        target.wait_ms = (target.wait_ms * 2).clamp(WAIT_MIN_MS, WAIT_MAX_OFTEN_MS);
        target.due_ms = now_ms.saturating_add(jitter(&mut self.rng, target.wait_ms));
    }

    /// The node switches to another cluster. The nodes at the addresses to join may not have switched too.
    pub fn switch_cluster(&mut self) {
        for joined in self.join.values_mut().filter(|joined| **joined == JoinState::Once) {
            *joined = JoinState::NotYet;
        }
    }

    /// The addresses to join that have not answered with a link and are not this node's own. The cluster to join may be
    /// there and just not running.
    pub fn unanswered(&self) -> impl Iterator<Item = &str> {
        let unanswered = self.join.iter().filter(|(_, joined)| **joined == JoinState::NotYet);
        unanswered.map(|(address, _)| address.as_str())
    }

    /// The last reason why an address to join resulted in no link.
    pub fn reason(&self, address: &str) -> Option<&str> {
        self.reasons.get(address).map(String::as_str)
    }

    /// Whether an address has not answered or failed once since the start.
    pub fn is_dialing_first(&self) -> bool {
        let is_first =
            |target: &Target| target.is_wanted && target.wait_ms == 0 && target.refused_wait_ms == 0;
        self.first_dial_ms.is_none() || self.targets.values().any(is_first)
    }

    /// Whether all addresses to join are this node's own, so that there is nobody to wait for.
    pub fn joins_only_itself(&self) -> bool {
        !self.join.is_empty()
            && self.join.values().all(|joined| matches!(joined, JoinState::Itself | JoinState::Never))
    }

    /// The wanted addresses, with the longest wait between two dials.
    fn limits(&self, wanted: &[Wanted], alone: bool) -> BTreeMap<String, u64> {
        let mut limits = BTreeMap::new();
        for (address, joined) in &self.join {
            match joined {
                JoinState::NotYet | JoinState::Once | JoinState::Itself if alone => {
                    limits.insert(address.clone(), WAIT_MAX_OFTEN_MS);
                }
                // There may be nodes that nobody here has met.
                JoinState::NotYet => {
                    limits.insert(address.clone(), WAIT_MAX_SELDOM_MS);
                }
                JoinState::Once | JoinState::Itself | JoinState::Never => (),
            }
        }
        for Wanted { address, frequency, node: _ } in wanted {
            let limit_ms = match frequency {
                DialFrequency::Often => WAIT_MAX_OFTEN_MS,
                DialFrequency::Seldom => WAIT_MAX_SELDOM_MS,
                DialFrequency::Rarely => WAIT_MAX_RARELY_MS,
            };
            if self.join.get(address) != Some(&JoinState::Never) {
                let limit = limits.entry(address.clone()).or_insert(limit_ms);
                *limit = limit_ms.min(*limit);
            }
        }
        limits
    }
}

/// Whether an address is a name that may stand for another machine later.
fn is_name(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let is_number = host.parse::<Ipv4Addr>().is_ok() || host.starts_with('[');
    !is_number && !host.eq_ignore_ascii_case("localhost")
}

/// A random wait between half and all of `wait_ms`, so that nodes which failed together do not retry together.
fn jitter(rng: &mut Xoshiro256PlusPlus, wait_ms: u64) -> u64 {
    rng.random_range(wait_ms / 2..=wait_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{core::clock::NodeId, replication::link::handshake::RefusalKind};

    const CLOCK: Obstacle = Obstacle::Refused(RefusalKind::ClocksApart);

    fn wanted(address: &str, frequency: DialFrequency) -> Wanted {
        Wanted { node: NodeId(1), address: address.into(), frequency }
    }

    /// Dials and fails repeatedly. Returns the waits.
    fn waits(dialer: &mut Dialer, wanted: &[Wanted], alone: bool) -> Vec<u64> {
        let mut now_ms = 1_000_000;
        let mut waits = Vec::new();
        for _ in 0..20 {
            let due = dialer.due(wanted, alone, now_ms);
            assert_eq!(due.len(), 1);
            assert_eq!(dialer.due(wanted, alone, now_ms), Vec::<String>::new(), "one dial at a time");
            dialer.failed(&due[0], Cause::Refused, now_ms);
            dialer.due(wanted, alone, now_ms);
            let next_ms = dialer.next_ms().expect("it is tried again");
            waits.push(next_ms - now_ms);
            assert_eq!(
                dialer.due(wanted, alone, next_ms - 1),
                Vec::<String>::new(),
                "not before the wait is over"
            );
            now_ms = next_ms;
        }
        waits
    }

    #[test]
    fn waits_double_from_a_tenth_of_a_second_to_the_limit_of_the_address() {
        for (frequency, limit_ms) in [
            (DialFrequency::Often, WAIT_MAX_OFTEN_MS),
            (DialFrequency::Seldom, WAIT_MAX_SELDOM_MS),
            (DialFrequency::Rarely, WAIT_MAX_RARELY_MS),
        ] {
            let waits = waits(&mut Dialer::new([], 1), &[wanted("a:1", frequency)], false);
            for (index, wait_ms) in waits.iter().enumerate() {
                let full_ms = (WAIT_MIN_MS << index).min(limit_ms);
                assert!(*wait_ms >= full_ms / 2 && *wait_ms <= full_ms, "{waits:?}");
            }
        }
    }

    #[test]
    fn addresses_to_join_are_dialed_until_linked_and_again_while_alone() {
        let mut dialer = Dialer::new(["a:1".to_owned(), "b:1".to_owned()], 1);
        assert_eq!(dialer.due(&[], true, 0), ["a:1", "b:1"]);
        dialer.succeeded("a:1", 0);
        dialer.failed("b:1", Cause::Refused, 0);
        assert_eq!(dialer.due(&[], false, 60_000), ["b:1"], "there may be another part of the cluster");
        dialer.succeeded("b:1", 60_000);
        assert_eq!((dialer.due(&[], false, 120_000), dialer.next_ms()), (vec![], None));
        assert_eq!(dialer.due(&[], true, 180_000), ["a:1", "b:1"]);
    }

    #[test]
    fn each_cause_of_a_failing_address_to_join_is_logged_once() {
        let mut dialer = Dialer::new(["a:1".to_owned()], 1);
        let member = wanted("b:1", DialFrequency::Often);
        assert_eq!(dialer.due(std::slice::from_ref(&member), true, 0), ["a:1", "b:1"]);
        assert!(!dialer.failed("a:1", Cause::UnknownName, LOG_AFTER_MS - 1), "it may be starting as well");
        let later_ms = LOG_AFTER_MS;
        assert!(dialer.failed("a:1", Cause::UnknownName, later_ms));
        assert!(
            !dialer.failed("a:1", Cause::UnknownName, later_ms)
                && dialer.failed("a:1", Cause::Refused, later_ms)
        );
        assert!(!dialer.failed("b:1", Cause::Refused, later_ms), "a member that is away is not logged");
        dialer.record_reason("a:1", "it is away".into());
        dialer.record_reason("b:1", "it is away".into());
        assert_eq!((dialer.reason("a:1"), dialer.reason("b:1")), (Some("it is away"), None));
    }

    #[test]
    fn a_node_with_only_its_own_address_to_join_knows_after_dialing() {
        let mut dialer = Dialer::new(["a:1".to_owned(), "b:1".to_owned()], 1);
        dialer.reached_self("a:1", 0);
        assert!(!dialer.joins_only_itself());
        dialer.reached_self("b:1", 0);
        assert!(dialer.joins_only_itself() && !Dialer::new([], 1).joins_only_itself());
    }

    #[test]
    fn addresses_to_join_are_dialed_again_after_a_cluster_switch() {
        let mut dialer = Dialer::new(["a:1".to_owned(), "b:1".to_owned()], 1);
        assert_eq!(dialer.due(&[], true, 0), ["a:1", "b:1"]);
        dialer.succeeded("a:1", 0);
        dialer.reached_self("b:1", 0);
        dialer.switch_cluster();
        assert_eq!(dialer.due(&[], false, WAIT_MAX_OFTEN_MS), ["a:1"]);
    }

    #[test]
    fn an_address_to_join_has_answered_after_a_link_or_if_it_is_the_nodes_own() {
        let addresses = ["failed:1", "kept-out:1", "linked:1", "myself:1", "refused:1"];
        let mut dialer = Dialer::new(addresses.map(str::to_owned), 1);
        assert_eq!(dialer.due(&[], true, 0), addresses);
        assert_eq!(dialer.unanswered().collect::<Vec<_>>(), addresses);
        dialer.failed("failed:1", Cause::Refused, 0);
        dialer.succeeded("kept-out:1", 0);
        dialer.refused_after_link("kept-out:1", 0);
        dialer.succeeded("linked:1", 0);
        dialer.reached_self("myself:1", 0);
        dialer.refused_after_link("myself:1", 0);
        dialer.refused("refused:1", Obstacle::SecretDiffers, 0);
        assert_eq!(dialer.unanswered().collect::<Vec<_>>(), ["failed:1", "kept-out:1", "refused:1"]);
        for address in ["failed:1", "kept-out:1", "refused:1"] {
            dialer.succeeded(address, WAIT_MAX_RARELY_MS);
        }
        dialer.link_lasted("linked:1");
        dialer.failed("linked:1", Cause::Refused, WAIT_MAX_RARELY_MS);
        assert_eq!(dialer.unanswered().count(), 0, "an answer counts for good");
    }

    #[test]
    fn a_clock_set_back_after_a_refusal_delays_no_dial() {
        let mut dialer = Dialer::new(["a:1".to_owned()], 1);
        let ahead_ms = 3_600_000;
        assert_eq!(dialer.due(&[], true, ahead_ms), ["a:1"]);
        dialer.refused("a:1", CLOCK, ahead_ms);
        assert!(dialer.due(&[], true, 0).is_empty(), "not at once");
        assert_eq!(dialer.due(&[], true, WAIT_MAX_RARELY_MS), ["a:1"]);
    }

    #[test]
    fn a_link_that_lasted_resets_the_waits() {
        let mut dialer = Dialer::new([], 1);
        let target = [wanted("a:1", DialFrequency::Often)];
        waits(&mut dialer, &target, false);
        let now_ms = 10_000_000;
        assert_eq!(dialer.due(&target, false, now_ms), ["a:1"]);
        dialer.succeeded("a:1", now_ms);
        assert!(dialer.due(&[], false, now_ms).is_empty());
        dialer.link_lasted("a:1");
        assert_eq!(dialer.due(&target, false, now_ms), ["a:1"]);
        dialer.failed("a:1", Cause::Refused, now_ms);
        assert!(dialer.next_ms().expect("again") <= now_ms + WAIT_MIN_MS);
    }

    /// Links that came up and ended at once (a full disk, one table too many) were dialed again ten times a second.
    #[test]
    fn links_that_end_at_once_are_dialed_ever_more_slowly() {
        let mut dialer = Dialer::new([], 1);
        let target = [wanted("a:1", DialFrequency::Often)];
        let mut now_ms = 10_000_000;
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert_eq!(dialer.due(&target, false, now_ms), ["a:1"]);
            dialer.succeeded("a:1", now_ms);
            assert!(dialer.due(&[], false, now_ms).is_empty());
            assert_eq!(dialer.next_ms(), None, "nothing waits while the link is up");
            assert!(dialer.due(&target, false, now_ms).is_empty());
            let next_ms = dialer.next_ms().expect("it is dialed again");
            waits.push(next_ms - now_ms);
            now_ms = next_ms;
        }
        assert!(waits.is_sorted(), "{waits:?}");
        assert_eq!((waits[0], waits[7]), (WAIT_MIN_MS, WAIT_MAX_OFTEN_MS));
    }

    #[test]
    fn a_refusing_node_is_retried_soon_and_then_ever_more_slowly() {
        for stood in [false, true] {
            let mut dialer = Dialer::new(["a:1".to_owned()], 1);
            let mut now_ms = 0;
            for full_ms in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
                assert_eq!(dialer.due(&[], true, now_ms), ["a:1"]);
                if stood {
                    dialer.succeeded("a:1", now_ms);
                    dialer.refused_after_link("a:1", now_ms);
                } else {
                    dialer.refused("a:1", CLOCK, now_ms);
                }
                assert!(dialer.due(&[], true, now_ms + full_ms / 2 - 1).is_empty(), "{full_ms}");
                now_ms += full_ms;
            }
            assert_eq!(dialer.due(&[], true, now_ms), ["a:1"]);
            dialer.failed("a:1", Cause::Refused, now_ms);
            assert_eq!(dialer.due(&[], true, now_ms + WAIT_MAX_OFTEN_MS), ["a:1"], "it was restarted");
            dialer.refused("a:1", CLOCK, now_ms);
            assert_eq!(dialer.due(&[], true, now_ms + WAIT_REFUSED_MS), ["a:1"], "the waits start over");
        }
    }

    #[test]
    fn a_refusal_is_logged_once_per_obstacle() {
        let mut dialer = Dialer::new(["a:1".to_owned()], 1);
        let mut now_ms = 0;
        let mut logged = Vec::new();
        for obstacle in [Obstacle::SecretDiffers, Obstacle::SecretDiffers, CLOCK, Obstacle::SecretDiffers] {
            assert_eq!(dialer.due(&[], true, now_ms), ["a:1"]);
            logged.push(dialer.refused("a:1", obstacle, now_ms));
            now_ms += WAIT_MAX_RARELY_MS;
        }
        assert_eq!(logged, [true, false, true, false]);
        assert_eq!(dialer.due(&[], true, now_ms), ["a:1"]);
        dialer.failed("a:1", Cause::Refused, now_ms);
        assert_eq!(dialer.due(&[], true, now_ms + WAIT_MAX_RARELY_MS), ["a:1"]);
        assert!(
            dialer.refused("a:1", Obstacle::SecretDiffers, now_ms),
            "it is logged again after something else"
        );
    }

    /// A link that came up counts as a success, even if it is then refused for a wrong clock or a copied directory. It
    /// was dialed again ten times a second.
    #[test]
    fn a_link_refused_after_it_came_up_waits_like_any_refusal() {
        let mut dialer = Dialer::new(["a:1".to_owned()], 1);
        assert_eq!(dialer.due(&[], true, 0), ["a:1"]);
        dialer.succeeded("a:1", 0);
        dialer.refused_after_link("a:1", 0);
        dialer.refused_after_link("b:1", 0);
        let wanted = [wanted("b:1", DialFrequency::Often)];
        assert!(dialer.due(&wanted, true, WAIT_REFUSED_MS / 2 - 1).is_empty());
        assert_eq!(dialer.due(&wanted, true, WAIT_REFUSED_MS), ["a:1", "b:1"]);
    }

    #[test]
    fn a_node_does_not_dial_itself_again() {
        for own in ["192.0.2.1:1", "[2001:db8::1]:1", "localhost:1"] {
            let mut dialer = Dialer::new([own.to_owned()], 1);
            assert_eq!(dialer.due(&[], true, 0), [own]);
            dialer.reached_self(own, 0);
            assert!(dialer.due(&[wanted(own, DialFrequency::Often)], true, 1_000_000).is_empty());
        }
    }

    /// Two containers that were started together each found only themselves under the name of their service, and stayed two clusters.
    #[test]
    fn a_name_that_stands_for_the_node_alone_is_asked_again_while_it_is_alone() {
        let mut dialer = Dialer::new(["service:1".to_owned()], 1);
        let mut now_ms = 0;
        for _ in 0..10 {
            assert_eq!(dialer.due(&[], true, now_ms), ["service:1"]);
            dialer.reached_self("service:1", now_ms);
            assert!(dialer.joins_only_itself() && dialer.unanswered().count() == 0);
            assert!(dialer.due(&[], true, now_ms).is_empty(), "not without a pause");
            let next_ms = dialer.next_ms().expect("it is asked again");
            assert!(next_ms - now_ms <= WAIT_MAX_OFTEN_MS);
            now_ms = next_ms;
        }
        assert!(dialer.due(&[], false, now_ms).is_empty(), "it has company");
        assert_eq!(dialer.due(&[], true, now_ms), ["service:1"]);
        dialer.succeeded("service:1", now_ms);
        assert!(!dialer.joins_only_itself());
    }
}
