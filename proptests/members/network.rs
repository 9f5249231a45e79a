//! A cluster in memory: members, the links between them, and a queue of what is on its way, all drawn from one seed.

mod links;

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use dynarust::{
    core::{clock::NodeId, protocol::message::Message},
    replication::{
        link::crossing::Initiated,
        membership::{Dialer, MemberState, Members, Options, SavedMembers, identity::Identity},
    },
};
use proptest::{
    prelude::Rng,
    test_runner::{RngAlgorithm, TestRng},
};

/// Time between two rounds, which are a link's sign of life.
const ROUND_MS: u64 = 1_000;

/// How the network treats what is on its way, in percent.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub lost: u64,
    pub repeated: u64,
    pub late: u64,
}

pub const FAIR: Weather = Weather { lost: 0, repeated: 0, late: 0 };

/// Small draws from proptest's generator.
trait Draw {
    fn below(&mut self, limit: u64) -> u64;
}

impl Draw for TestRng {
    fn below(&mut self, limit: u64) -> u64 {
        self.next_u64() % limit
    }
}

pub struct Node {
    pub members: Members,
    dialer: Dialer,
    links: BTreeMap<usize, Link>,
    note: Vec<u8>,
    round_due_ms: u64,
    hung: bool,
    /// What arrived while it hung.
    inbox: VecDeque<(usize, u64, Message)>,
    pub renewals: u64,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    id: u64,
    initiated: Initiated,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at_ms: std::cmp::Reverse<u64>,
    order: std::cmp::Reverse<u64>,
    index: usize,
}

enum Event {
    /// A message over a link; dropped if the link ended.
    Arrives { from: usize, to: usize, link: u64, message: Message },
    /// A dial comes to its end.
    Dialed { from: usize, address: String },
    /// A side learns that its link ended.
    Ended { at: usize, peer: usize, link: u64 },
}

pub struct Network {
    pub now_ms: u64,
    pub nodes: Vec<Option<Node>>,
    /// Pairs between which nothing passes.
    cut: BTreeSet<(usize, usize)>,
    weather: Weather,
    queue: BinaryHeap<Due>,
    events: Vec<Option<Event>>,
    pub links_made: u64,
    options: Options,
    rng: TestRng,
}

pub fn id(index: usize) -> NodeId {
    NodeId(index as u64 + 1)
}

pub fn address(index: usize) -> String {
    format!("node{index}:6660")
}

fn index_of(node: NodeId) -> usize {
    usize::try_from(node.0 - 1).expect("small")
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Network {
    pub fn new(seed: u64, weather: Weather, options: Options) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self {
            now_ms: 1_700_000_000_000,
            nodes: Vec::new(),
            cut: BTreeSet::new(),
            weather,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            links_made: 0,
            options,
            rng: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
        }
    }

    /// A cluster of `count` nodes; each joins through one drawn of those before it.
    pub fn cluster(seed: u64, count: usize, weather: Weather) -> Self {
        let mut network = Self::new(seed, weather, Options::default());
        for index in 0..count {
            let join = (index > 0).then(|| usize::try_from(network.rng.below(index as u64)).expect("small"));
            network.start(index, join, None);
        }
        network
    }

    /// Starts node `index`, anew or with the note of its last life.
    pub fn start(&mut self, index: usize, join: impl IntoIterator<Item = usize>, note: Option<Vec<u8>>) {
        while self.nodes.len() <= index {
            self.nodes.push(None);
        }
        let remembered =
            note.as_deref().map_or_else(SavedMembers::default, |note| Members::restore(note).expect("whole"));
        let local = Identity { node: id(index), incarnation: 0, address: address(index) };
        let seed = self.rng.below(u64::MAX);
        let members = Members::new(local, remembered, seed, self.options, self.now_ms);
        let dialer = Dialer::new(join.into_iter().map(address), seed);
        let mut node = Node {
            members,
            dialer,
            links: BTreeMap::new(),
            note: Vec::new(),
            round_due_ms: self.now_ms + self.rng.below(ROUND_MS),
            hung: false,
            inbox: VecDeque::new(),
            renewals: 0,
        };
        node.note = node.members.take_unsaved().expect("the first note");
        self.nodes[index] = Some(node);
    }

    /// Kills a node, and returns its note: the other ends of its links learn of it soon.
    pub fn kill(&mut self, index: usize) -> Vec<u8> {
        let node = self.nodes[index].take().expect("runs");
        for (peer, link) in node.links {
            self.later(1, Event::Ended { at: peer, peer: index, link: link.id });
        }
        node.note
    }

    /// A node announces that it leaves, and stops.
    pub fn leave(&mut self, index: usize, permanent: bool) -> Vec<u8> {
        let now_ms = self.now_ms;
        let actions = self.members(index).leave(permanent, now_ms);
        self.act(index, actions);
        self.run(50);
        self.kill(index)
    }

    /// Stops a process without ending its links (SIGSTOP), or lets it go on.
    pub fn hang(&mut self, index: usize, hung: bool) {
        let node = self.nodes[index].as_mut().expect("runs");
        node.hung = hung;
        if !hung {
            for (from, link, message) in std::mem::take(&mut node.inbox) {
                self.later(1, Event::Arrives { from, to: index, link, message });
            }
        }
    }

    /// Cuts the nodes into two groups that do not hear each other; links end on both sides.
    pub fn split(&mut self, group: &[usize]) {
        for a in 0..self.nodes.len() {
            for b in 0..a {
                if group.contains(&a) != group.contains(&b) {
                    self.cut.insert(pair(a, b));
                    self.end_link(a, b);
                }
            }
        }
    }

    /// Cuts one pair alone; others still hear both.
    pub fn estrange(&mut self, a: usize, b: usize) {
        self.cut.insert(pair(a, b));
        self.end_link(a, b);
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    pub fn members(&mut self, index: usize) -> &mut Members {
        &mut self.nodes[index].as_mut().expect("runs").members
    }

    pub fn state(&self, at: usize, of: usize) -> Option<MemberState> {
        let node = self.nodes[at].as_ref().expect("runs");
        node.members.other(id(of)).map(|member| member.state)
    }

    pub fn links(&self, at: usize) -> Vec<usize> {
        self.nodes[at].as_ref().expect("runs").links.keys().copied().collect()
    }

    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].is_some()).collect()
    }

    pub fn change_address(&mut self, at: usize, address: &str, now_ms: u64) {
        let actions = self.members(at).change_address(address, now_ms);
        self.act(at, actions);
    }

    pub fn forget(&mut self, at: usize, of: usize) -> dynarust::Result<()> {
        let now_ms = self.now_ms;
        let actions = self.members(at).forget(id(of), false, now_ms)?;
        self.act(at, actions);
        Ok(())
    }

    /// All that run see all that run, and nobody else, alive, and have one link with each.
    pub fn is_whole(&self) -> bool {
        let running = self.running();
        running.iter().all(|at| {
            let others: Vec<_> = running.iter().copied().filter(|of| of != at).collect();
            let mut addresses: Vec<_> = running.iter().copied().map(address).collect();
            addresses.sort();
            let node = self.nodes[*at].as_ref().expect("runs");
            others.iter().all(|of| self.state(*at, *of) == Some(MemberState::Alive))
                && self.links(*at) == others
                && node.members.addresses() == addresses
                && others.iter().all(|of| {
                    let peer = self.nodes[*of].as_ref().expect("runs");
                    peer.links.get(at).is_some_and(|theirs| theirs.id == node.links[of].id)
                        && node.members.other(id(*of)).map(|member| member.incarnation)
                            == Some(peer.members.local().incarnation)
                })
        })
    }

    /// Runs until `done`, and says for how long; panics after `limit_ms`.
    pub fn until(&mut self, limit_ms: u64, what: &str, done: impl Fn(&Self) -> bool) -> u64 {
        let start_ms = self.now_ms;
        while !done(self) {
            assert!(
                self.now_ms - start_ms <= limit_ms,
                "not within {limit_ms} ms: {what}\n{}",
                self.picture()
            );
            self.run(10);
        }
        self.now_ms - start_ms
    }

    pub fn run(&mut self, for_ms: u64) {
        let end_ms = self.now_ms + for_ms;
        loop {
            self.turn();
            if self.now_ms == end_ms {
                return;
            }
            self.now_ms = self.next_ms().clamp(self.now_ms + 1, end_ms);
        }
    }

    fn next_ms(&self) -> u64 {
        let arrives = self.queue.peek().map(|due| due.at_ms.0);
        let nodes = self.nodes.iter().flatten().filter(|node| !node.hung);
        let wakes = nodes.flat_map(|node| {
            [Some(node.members.next_timer_ms()), Some(node.round_due_ms), node.dialer.next_ms()]
        });
        wakes.chain([arrives]).flatten().min().unwrap_or(u64::MAX)
    }

    fn turn(&mut self) {
        while self.queue.peek().is_some_and(|due| due.at_ms.0 <= self.now_ms) {
            let due = self.queue.pop().expect("just seen");
            let event = self.events[due.index].take().expect("once");
            self.happen(event);
        }
        for index in self.running() {
            self.wake(index);
        }
    }

    fn wake(&mut self, index: usize) {
        let now_ms = self.now_ms;
        let node = self.nodes[index].as_mut().expect("runs");
        if node.hung {
            return;
        }
        if node.members.next_timer_ms() <= now_ms {
            let actions = node.members.tick(now_ms);
            self.act(index, actions);
        }
        let node = self.nodes[index].as_mut().expect("runs");
        if node.round_due_ms <= now_ms {
            node.round_due_ms = now_ms + ROUND_MS;
            // Any message is a sign of life; this is the smallest that means nothing else.
            let links: Vec<_> = node.links.iter().map(|(peer, link)| (*peer, link.id)).collect();
            for (peer, link) in links {
                self.send(index, peer, link, Message::Want(Vec::new()));
            }
        }
        let node = self.nodes[index].as_mut().expect("runs");
        let wanted = node.members.wanted(now_ms);
        for address in node.dialer.due(&wanted, node.links.is_empty(), now_ms) {
            let after_ms = 1 + self.rng.below(5);
            self.later(after_ms, Event::Dialed { from: index, address });
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrives { from, to, link, message } => self.arrive(from, to, link, message),
            Event::Dialed { from, address } => self.dialed(from, &address),
            Event::Ended { at, peer, link } => {
                let Some(node) = self.nodes[at].as_mut() else { return };
                if node.links.get(&peer).is_some_and(|existing| existing.id == link) {
                    node.links.remove(&peer);
                    let actions = node.members.unlinked(id(peer), self.now_ms);
                    self.act(at, actions);
                }
            }
        }
    }

    fn arrive(&mut self, from: usize, to: usize, link: u64, message: Message) {
        let now_ms = self.now_ms;
        let Some(node) = self.nodes[to].as_mut() else { return };
        if node.hung {
            node.inbox.push_back((from, link, message));
            return;
        }
        if node.links.get(&from).is_none_or(|existing| existing.id != link) {
            return;
        }
        node.members.heard(id(from), now_ms);
        let actions = match message {
            Message::Swim(packet) => node.members.packet(id(from), &packet, now_ms).expect("a packet"),
            Message::Forgotten(list) => {
                let lives = list.into_iter().map(|forgotten| (forgotten.node, forgotten.incarnation));
                node.members.forgotten(lives.collect(), now_ms)
            }
            Message::Leaving { permanent } => node.members.left(id(from), permanent, now_ms),
            _ => Vec::new(),
        };
        self.act(to, actions);
    }

    fn later(&mut self, after_ms: u64, event: Event) {
        let index = self.events.len();
        self.events.push(Some(event));
        let at_ms = std::cmp::Reverse(self.now_ms + after_ms);
        self.queue.push(Due { at_ms, order: std::cmp::Reverse(index as u64), index });
    }

    pub fn picture(&self) -> String {
        let line = |index: &usize| {
            let node = self.nodes[*index].as_ref().expect("runs");
            let others: Vec<_> = node
                .members
                .others()
                .map(|other| format!("{} #{} {:?}", other.node.0 - 1, other.incarnation, other.state))
                .collect();
            format!(
                "{index} #{} links {:?} knows {others:?}\n",
                node.members.local().incarnation,
                self.links(*index)
            )
        };
        self.running().iter().map(line).collect()
    }
}
