//! One node of a simulated cluster: a replica, what its peers share, and a peer for each link.

use std::collections::{BTreeMap, VecDeque};

use dynarust::core::{
    clock::NodeId,
    digest::DigestKey,
    protocol::{
        agreement::Agreement,
        journal::Journal,
        message::Message,
        peer::{Context, Figures, Options, Peer},
        progress::Shared,
        replica::Replica,
    },
};

use crate::replica::{DRIFT_MAX_MS, MemoryReplica};

/// As the node has it.
pub const SETTLE_MS: u64 = 2_000;
/// A tombstone stays so long after the floor has passed it.
pub const GRACE_MS: u64 = 5_000;
const OPTIONS: Options = Options { settle_ms: SETTLE_MS, clock_drift_max_ms: DRIFT_MAX_MS };
/// What the wall clocks show at the beginning.
const START_MS: u64 = 1_700_000_000_000;
const DIGEST_KEY: DigestKey = DigestKey([5; 32]);

/// A node.
pub struct Node {
    pub id: NodeId,
    pub replica: MemoryReplica,
    pub shared: Shared,
    pub ends: BTreeMap<usize, End>,
    pub is_up: bool,
    /// Whether it never comes back.
    pub is_gone: bool,
    /// Whether the others have not forgotten it.
    pub is_member: bool,
    /// Those that have forgotten it take it in a later one.
    pub incarnation: u64,
    /// The last one of which it was told that it was forgotten.
    pub told: Option<u64>,
    /// Whom it has forgotten, and as which incarnation.
    pub forgotten: BTreeMap<usize, u64>,
    /// How often it was started. What is left of an earlier life is nobody's.
    pub life: u64,
    /// Until then it does nothing.
    pub hung_until_ms: u64,
    /// When the sync before ends.
    pub synced_ms: u64,
    pub sync_ms: u64,
    pub latency_ms: u64,
    skew_ms: i64,
    journal_keys_max: usize,
    kept: Kept,
    /// Of links that ended.
    figures: Vec<Figures>,
}

/// One end of a link.
pub struct End {
    pub link: u64,
    pub peer: Peer,
    pub heard_ms: u64,
    /// Whether the first round was sent. It tells the peer how to treat the rows, which wait for it.
    pub sent_first_round: bool,
    /// When what was sent last arrives.
    pub arrives_ms: u64,
    /// What waits for a cut to heal.
    pub held: VecDeque<Message>,
}

/// What a restart must know.
#[derive(Clone)]
struct Kept {
    agreement: Agreement,
    /// Whether its disk has all that was durable.
    intact: bool,
    /// Whether it was forgotten and not whole since.
    returning: bool,
}

impl Node {
    pub fn new(number: usize, complete: bool, journal_keys_max: usize) -> Self {
        let id = NodeId(number as u64 + 1);
        let mut node = Self {
            id,
            replica: MemoryReplica::new(id, DIGEST_KEY, START_MS).with_grace_ms(GRACE_MS),
            shared: Shared::default(),
            ends: BTreeMap::new(),
            is_up: true,
            is_gone: false,
            is_member: true,
            incarnation: 0,
            told: None,
            forgotten: BTreeMap::new(),
            life: 0,
            hung_until_ms: 0,
            synced_ms: 0,
            sync_ms: 5,
            latency_ms: 0,
            skew_ms: 0,
            journal_keys_max,
            kept: Kept { agreement: Agreement::default(), intact: true, returning: false },
            figures: Vec::new(),
        };
        node.restore(0);
        if complete {
            node.shared.progress().become_complete(0);
        }
        node
    }

    /// What its wall clock shows.
    pub fn wall_ms(&self, now_ms: u64) -> u64 {
        (START_MS + now_ms).saturating_add_signed(self.skew_ms)
    }

    pub fn set_skew(&mut self, skew_ms: i64) {
        self.skew_ms = skew_ms;
    }

    /// Does something with what peers work on.
    pub fn with<T>(
        &mut self,
        now_ms: u64,
        act: impl FnOnce(&mut BTreeMap<usize, End>, &Context<'_, MemoryReplica>) -> T,
    ) -> T {
        let wall_ms = self.wall_ms(now_ms);
        self.replica.set_now(wall_ms);
        let context = Context { replica: &self.replica, shared: &self.shared, now_ms: wall_ms };
        let done = act(&mut self.ends, &context);
        if let Some(to_ms) = self.replica.take_lowered_ms() {
            self.kept.agreement.lower(to_ms);
        }
        done
    }

    /// A link comes up.
    pub fn link(&mut self, now_ms: u64, to: (usize, NodeId), link: u64, seed: u64) {
        self.unlink(to.0);
        let id = self.id;
        let peer = self.with(now_ms, |_, context| Peer::new(context, (id, to.1), OPTIONS, seed));
        let end = End {
            link,
            peer,
            heard_ms: now_ms,
            sent_first_round: false,
            arrives_ms: now_ms,
            held: VecDeque::new(),
        };
        self.ends.insert(to.0, end);
    }

    /// A link ends.
    pub fn unlink(&mut self, to: usize) {
        self.figures.extend(self.ends.remove(&to).map(|end| end.peer.figures()));
    }

    /// The figures of all links there were.
    pub fn figures(&self) -> impl Iterator<Item = Figures> {
        self.figures.iter().copied().chain(self.ends.values().map(|end| end.peer.figures()))
    }

    /// Stops in order: everything is durable, and known to be.
    pub fn close(&mut self) {
        self.replica.sync_to(self.replica.place());
        self.kept.agreement = self.shared.progress().agreement.clone();
        self.crash();
    }

    /// Stops at once.
    pub fn crash(&mut self) {
        let linked: Vec<usize> = self.ends.keys().copied().collect();
        linked.into_iter().for_each(|to| self.unlink(to));
        self.is_up = false;
        self.life += 1;
        self.hung_until_ms = 0;
    }

    /// Starts again with what is durable.
    pub fn restart(&mut self, now_ms: u64) {
        let wall_ms = self.wall_ms(now_ms);
        self.hung_until_ms = now_ms + self.replica.ready_ms().saturating_sub(wall_ms);
        self.replica.crash();
        self.is_up = true;
        self.synced_ms = now_ms;
        self.restore(now_ms);
    }

    /// Who else is a member, as this node has it.
    pub fn set_members(&mut self, members: &[NodeId]) {
        let own = self.id;
        let others: Vec<_> = members.iter().copied().filter(|member| *member != own).collect();
        self.shared.progress().set_members(&others);
    }

    /// Learns that it was forgotten: it takes what the cluster has.
    pub fn begin_returning(&mut self, now_ms: u64) {
        let wall_ms = self.wall_ms(now_ms);
        self.kept.returning = true;
        self.shared.progress().begin_returning(wall_ms);
    }

    /// Hears that another went on without it.
    pub fn hear_went_on(&mut self, from: NodeId) {
        self.shared.progress().hear_went_on(from);
    }

    /// Up to when it held the same rows as another, as it says.
    pub fn agreed_ms(&self, with: NodeId) -> u64 {
        self.shared.progress().agreement.with_ms(with)
    }

    /// Hears that another was forgotten, from one that says up to when both held the same.
    pub fn hear_of_forgotten(&mut self, forgotten: (usize, NodeId), incarnation: u64, agreed_ms: u64) {
        self.forgotten.insert(forgotten.0, incarnation);
        self.unlink(forgotten.0);
        let mut progress = self.shared.progress();
        if !progress.complete && !progress.intact {
            progress.agreement.detach(forgotten.1, agreed_ms);
        }
    }

    /// Its disk lost something: what it knew of the agreement as well, if that is to go.
    pub fn damage(&mut self, loses_agreement: bool) {
        self.kept.intact = false;
        if loses_agreement {
            self.kept.agreement = Agreement::default();
        }
    }

    /// What is done each round beside links. As the node does it.
    pub fn keep_up(&mut self, now_ms: u64) {
        let settled_ms = self.wall_ms(now_ms) - SETTLE_MS;
        let is_complete = self.with(now_ms, |ends, context| {
            let linked: Vec<_> = ends.values().map(|end| end.peer.remote()).collect();
            let mut progress = context.shared.progress();
            progress.agree(context.now_ms, linked);
            progress.raise_agreement(settled_ms).is_some()
        });
        let mut progress = self.shared.progress();
        self.kept = Kept {
            agreement: progress.agreement.clone(),
            intact: progress.intact,
            returning: progress.is_returning(),
        };
        let withdrawals = progress.withdrawals();
        progress.agreement_saved(self.kept.agreement.with_all_ms(), withdrawals);
        if is_complete {
            let floor_ms = progress.raise_floor(settled_ms);
            self.replica.pass_floor(floor_ms);
        }
    }

    pub fn is_complete(&self) -> bool {
        self.shared.progress().complete
    }

    /// The root of what it holds now.
    pub fn root(&self, now_ms: u64) -> Option<dynarust::core::digest::RootDigest> {
        self.replica.root(self.wall_ms(now_ms) + 60_000).expect("it lies in memory")
    }

    fn restore(&mut self, now_ms: u64) {
        let wall_ms = self.wall_ms(now_ms);
        // Members that it knows of are nothing new: what was agreed with them is what it kept.
        let members: Vec<_> = self.shared.progress().floor.members().collect();
        self.shared = Shared::new(Journal::new(self.journal_keys_max));
        let mut progress = self.shared.progress();
        match self.kept.returning {
            true => progress.begin_returning(wall_ms),
            false => progress.begin_syncing(wall_ms),
        }
        progress.floor.set_members(members);
        progress.agreement = self.kept.agreement.clone();
        let withdrawals = progress.withdrawals();
        progress.agreement_saved(self.kept.agreement.with_all_ms(), withdrawals);
        progress.intact = self.kept.intact;
    }
}
