//! Clusters of members on a network in memory that loses, delays and repeats: whatever happened, once it is over all that run see
//! each other alive, with one link between each two, and each remembers those that are gone.

mod elsewhere;
mod network;

use dynarust::replication::membership::{MemberState, Options};
use proptest::{collection::vec, prelude::*};

use self::network::{FAIR, Network, Weather, id};
use crate::cases;

/// How long a cluster may take to see itself whole.
const WHOLE_MS: u64 = 15_000;

fn is_down(state: Option<MemberState>) -> bool {
    matches!(state, Some(MemberState::Down { .. }))
}

fn is_forgotten(state: Option<MemberState>) -> bool {
    matches!(state, Some(MemberState::Forgotten { .. }))
}

/// All that run hold `of` to be as `is` says.
fn all_hold(network: &Network, of: usize, is: fn(Option<MemberState>) -> bool) -> bool {
    network.running().into_iter().filter(|at| *at != of).all(|at| is(network.state(at, of)))
}

fn whole(count: usize) -> Network {
    let mut network = Network::cluster(42, count, FAIR);
    network.until(WHOLE_MS, "whole", Network::is_whole);
    network
}

#[test]
fn who_joins_through_any_member_meets_all() {
    let mut network = whole(6);
    for through in 0..6 {
        let index = network.nodes.len();
        network.start(index, Some(through), None);
        let took_ms = network.until(WHOLE_MS, "joined", Network::is_whole);
        assert!(took_ms < 2_000, "{took_ms} ms");
    }
}

#[test]
fn nobody_is_renewed_or_suspected_while_nothing_happens() {
    let mut network = whole(5);
    let before: Vec<_> = (0..5).map(|at| network.members(at).local().incarnation).collect();
    for _ in 0..600 {
        network.run(100);
        assert!(network.is_whole());
    }
    assert_eq!(before, (0..5).map(|at| network.members(at).local().incarnation).collect::<Vec<_>>());
    assert!((0..5).all(|at| network.members(at).take_unsaved().is_none()), "and nothing is to be written");
    assert!((0..5).all(|at| network.members(at).faults() == 0));
}

#[test]
fn a_link_that_works_outweighs_lost_packets() {
    let mut network = whole(4);
    network.set_weather(Weather { lost: 100, repeated: 0, late: 0 });
    for _ in 0..300 {
        network.run(100);
        assert!(network.is_whole());
    }
}

#[test]
fn a_hung_member_is_down_within_five_seconds_and_alive_within_two_of_its_return() {
    for count in 2..=6 {
        let mut network = whole(count);
        network.hang(1, true);
        let suspected_ms = network.until(3_500, "suspect", |network| {
            all_hold(network, 1, |state| !matches!(state, Some(MemberState::Alive)))
        });
        network.until(5_000 - suspected_ms, "down", |network| all_hold(network, 1, is_down));
        network.run(60_000);
        assert!(all_hold(&network, 1, is_down));
        network.hang(1, false);
        network.until(2_000, "alive again", Network::is_whole);
        // It stood still; the others did not go down for that.
        assert!(
            (0..count)
                .filter(|at| *at != 1)
                .all(|at| network.nodes[at].as_ref().expect("runs").renewals == 0)
        );
    }
}

#[test]
fn a_killed_member_is_down_soon_and_alive_after_its_restart() {
    let mut network = whole(4);
    let note = network.kill(2);
    network.until(3_000, "down", |network| all_hold(network, 2, is_down));
    network.run(120_000);
    network.start(2, None, Some(note));
    network.until(2_000, "alive again", Network::is_whole);
}

#[test]
fn two_halves_heal_within_seconds() {
    for count in 2..=7 {
        let mut network = whole(count);
        network.split(&(0..count / 2).collect::<Vec<_>>());
        network.run(60_000);
        assert!(is_down(network.state(0, count - 1)) && is_down(network.state(count - 1, 0)));
        network.heal();
        network.until(5_000, "healed", Network::is_whole);
    }
}

#[test]
fn two_that_hold_each_other_down_and_lost_the_first_packets_still_meet() {
    let mut network = whole(2);
    network.split(&[0]);
    network.run(60_000);
    network.set_weather(Weather { lost: 100, repeated: 0, late: 0 });
    network.heal();
    network.run(10_000);
    assert!(is_down(network.state(0, 1)) && is_down(network.state(1, 0)));
    network.set_weather(FAIR);
    network.until(1_500, "alive", Network::is_whole);
}

#[test]
fn a_pair_that_lost_each_other_alone_learns_from_others_that_both_are_alive() {
    let mut network = whole(5);
    network.estrange(0, 1);
    for _ in 0..600 {
        network.run(100);
        for (at, of) in [(0, 1), (1, 0), (2, 0), (2, 1)] {
            assert!(network.state(at, of).is_some_and(MemberState::is_here), "{}", network.picture());
        }
    }
    network.heal();
    network.until(4_000, "linked again", Network::is_whole);
}

#[test]
fn who_said_goodbye_is_remembered_and_welcome() {
    let mut network = whole(3);
    let note = network.leave(1, false);
    network.run(1_000);
    assert!(all_hold(&network, 1, |state| matches!(state, Some(MemberState::Left { .. }))));
    assert_eq!(network.members(0).addresses(), ["node0:6660", "node2:6660"]);
    assert_eq!(network.members(0).member_ids(), [id(1), id(2)]);
    let now_ms = network.now_ms;
    assert_eq!(network.members(0).wanted(now_ms).len(), 1);
    network.start(1, None, Some(note));
    network.until(WHOLE_MS, "back", Network::is_whole);
}

#[test]
fn who_leaves_for_ever_is_forgotten_by_all() {
    let mut network = whole(4);
    network.leave(3, true);
    network.until(1_000, "forgotten", |network| all_hold(network, 3, is_forgotten));
    network.run(30_000);
    assert!(all_hold(&network, 3, is_forgotten));
    assert_eq!(network.members(0).member_ids(), [id(1), id(2)]);
}

#[test]
fn a_forgotten_member_is_forgotten_by_all_and_may_return() {
    let mut network = whole(4);
    let note = network.kill(3);
    network.until(5_000, "down", |network| all_hold(network, 3, is_down));
    // One that is away while it happens learns of it later.
    let away = network.kill(2);
    network.forget(0, 3).expect("it is down");
    network.until(1_000, "forgotten", |network| all_hold(network, 3, is_forgotten));
    network.start(2, None, Some(away));
    network.until(5_000, "told", |network| all_hold(network, 3, is_forgotten));
    network.start(3, None, Some(note));
    network.until(WHOLE_MS, "back", Network::is_whole);
}

#[test]
fn a_member_that_hung_while_it_was_forgotten_returns_by_itself() {
    let mut network = whole(3);
    network.hang(1, true);
    network.until(6_000, "down", |network| all_hold(network, 1, is_down));
    network.forget(0, 1).expect("it is down");
    network.run(60_000);
    assert!(all_hold(&network, 1, is_forgotten));
    network.hang(1, false);
    network.until(WHOLE_MS, "back", Network::is_whole);
}

#[test]
fn forgetting_is_refused_for_the_alive_and_the_unknown() {
    let mut network = whole(3);
    let alive = network.forget(0, 1).expect_err("alive").to_string();
    assert!(alive.contains("node1:6660") && alive.contains("stop it first"), "{alive}");
    let unknown = network.forget(0, 9).expect_err("unknown").to_string();
    assert!(unknown.contains("node1:6660") && unknown.contains("node2:6660"), "{unknown}");
    let itself = network.forget(0, 0).expect_err("itself").to_string();
    assert!(itself.contains("leave"), "{itself}");
}

#[test]
fn who_is_away_for_too_long_is_forgotten_and_not_before() {
    let mut network = Network::new(7, FAIR, Options { forget_after_ms: 600_000, ..Default::default() });
    for index in 0..3 {
        network.start(index, (index > 0).then_some(0), None);
    }
    network.until(WHOLE_MS, "whole", Network::is_whole);
    network.kill(2);
    network.run(590_000);
    assert!(all_hold(&network, 2, is_down));
    network.run(20_000);
    assert!(all_hold(&network, 2, is_forgotten));
}

#[test]
fn a_cluster_that_was_off_finds_itself_by_its_notes() {
    let mut network = whole(5);
    let notes: Vec<_> = (0..5).map(|index| network.kill(index)).collect();
    network.run(4 * 24 * 3_600_000);
    for (index, note) in notes.into_iter().enumerate() {
        network.start(index, None, Some(note));
    }
    network.until(WHOLE_MS, "whole", Network::is_whole);
}

#[test]
fn dials_that_cross_leave_one_link() {
    for seed in 0..50 {
        let mut network = Network::new(seed, FAIR, Options::default());
        for index in 0..4 {
            network.start(index, (0..4).filter(|join| *join != index), None);
        }
        network.until(2_000, "whole", Network::is_whole);
        network.run(5_000);
        assert!(network.is_whole());
        assert!(network.links_made > 6, "some crossed");
    }
}

#[test]
fn what_happened_happens_again_from_the_same_seed() {
    let trace = || {
        let mut network = Network::cluster(3, 5, Weather { lost: 20, repeated: 10, late: 20 });
        network.run(5_000);
        network.split(&[0, 1]);
        network.run(20_000);
        network.heal();
        network.run(3_000);
        network.picture()
    };
    assert_eq!(trace(), trace());
}

#[test]
fn a_member_of_a_new_address_replaces_the_old() {
    let mut network = whole(3);
    let now_ms = network.now_ms;
    let before = network.members(1).local().incarnation;
    network.change_address(1, "elsewhere:6660", now_ms);
    network.run(1_000);
    for at in [0, 2] {
        let member = network.members(at).other(id(1)).expect("known").clone();
        assert_eq!((member.address.as_str(), member.state), ("elsewhere:6660", MemberState::Alive));
        assert!(member.incarnation > before);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Run(u64),
    Kill(usize),
    /// Starts what was killed with its note.
    Restart(usize),
    Hang(usize),
    Resume(usize),
    Leave(usize),
    Split(Vec<usize>),
    Heal,
    Forget(usize, usize),
    Weather(u64, u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..7usize;
    prop_oneof![
        4 => (0..8_000u64).prop_map(Step::Run),
        2 => node().prop_map(Step::Kill),
        3 => node().prop_map(Step::Restart),
        1 => node().prop_map(Step::Hang),
        2 => node().prop_map(Step::Resume),
        1 => node().prop_map(Step::Leave),
        1 => vec(node(), 1..4).prop_map(Step::Split),
        2 => Just(Step::Heal),
        1 => (node(), node()).prop_map(|(at, of)| Step::Forget(at, of)),
        1 => (0..40u64, 0..30u64, 0..40u64).prop_map(|(lost, repeated, late)| Step::Weather(lost, repeated, late)),
    ]
}

/// Notes and standstills of a cluster that steps are applied to.
struct World {
    network: Network,
    notes: Vec<Option<Vec<u8>>>,
    hung: Vec<bool>,
}

impl World {
    fn apply(&mut self, step: &Step) {
        let running = |network: &Network, index: usize| network.nodes.get(index).is_some_and(Option::is_some);
        match step {
            Step::Run(for_ms) => self.network.run(*for_ms),
            Step::Kill(index) if running(&self.network, *index) => {
                self.notes[*index] = Some(self.network.kill(*index));
                self.hung[*index] = false;
            }
            Step::Leave(index) if running(&self.network, *index) && !self.hung[*index] => {
                self.notes[*index] = Some(self.network.leave(*index, false));
            }
            Step::Restart(index) => self.restart(*index),
            Step::Hang(index) if running(&self.network, *index) => {
                self.network.hang(*index, true);
                self.hung[*index] = true;
            }
            Step::Resume(index) => self.resume(*index),
            Step::Split(group) => self.network.split(group),
            Step::Heal => self.network.heal(),
            Step::Forget(at, of) if running(&self.network, *at) && !self.hung[*at] => {
                // Refused for the alive, which is as good.
                let _refused = self.network.forget(*at, *of);
            }
            Step::Weather(lost, repeated, late) => {
                self.network.set_weather(Weather { lost: *lost, repeated: *repeated, late: *late });
            }
            Step::Kill(_) | Step::Leave(_) | Step::Hang(_) | Step::Forget(..) => (),
        }
    }

    fn restart(&mut self, index: usize) {
        if let Some(note) = self.notes.get_mut(index).and_then(Option::take) {
            self.network.start(index, None, Some(note));
        }
    }

    fn resume(&mut self, index: usize) {
        if self.hung.get(index) == Some(&true) {
            self.network.hang(index, false);
            self.hung[index] = false;
        }
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn whatever_happened_all_that_run_find_each_other(
        seed in any::<u64>(), count in 3..=7usize, steps in vec(step(), 0..16)
    ) {
        let mut network = Network::cluster(seed, count, FAIR);
        network.until(WHOLE_MS, "whole at first", Network::is_whole);
        let mut world = World { network, notes: vec![None; count], hung: vec![false; count] };
        for step in &steps {
            world.apply(step);
        }
        world.network.heal();
        world.network.set_weather(Weather { lost: 5, repeated: 5, late: 10 });
        for index in 0..count {
            world.resume(index);
            world.restart(index);
        }
        // A member that has left is dialed rarely, but one that returns dials by itself.
        world.network.until(40_000, "whole in the end", Network::is_whole);
        prop_assert_eq!(world.network.running().len(), count);
    }
}
