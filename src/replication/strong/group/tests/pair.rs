//! A leader and one more voter, which the test plays.

use std::time::Duration;

use openraft::{
    CommittedLeaderId, ServerState, SnapshotMeta,
    raft::{AppendEntriesRequest, AppendEntriesResponse, VoteResponse},
};
use tokio::sync::watch;

use super::*;
use crate::replication::strong::{types::Group, watch::failure};

/// How long what must not happen is waited for.
const NOTHING_HAPPENS: Duration = Duration::from_millis(200);

/// The other voter of two: a node that votes for whoever asks, and confirms entries while it is told to.
pub struct Voter {
    confirms: AtomicBool,
    /// The index after the last entry that it has confirmed, and after the last one that it was told is committed.
    seen: watch::Sender<(u64, u64)>,
}

impl Voter {
    /// Whether it confirms entries from now on.
    pub fn confirm(&self, confirms: bool) {
        self.confirms.store(confirms, Ordering::SeqCst);
    }

    fn take(&self, asked: &AppendEntriesRequest<Group>) {
        let next = |id: Option<LogId>| id.map_or(0, |id| id.index + 1);
        let confirmed = next(asked.entries.last().map(|entry| entry.log_id));
        let committed = next(asked.leader_commit);
        self.seen.send_modify(|seen| *seen = (seen.0.max(confirmed), seen.1.max(committed)));
    }
}

impl RequestService for Voter {
    fn call(
        &self,
        _: NodeId,
        kind: RequestKind,
        body: Vec<u8>,
    ) -> BoxFuture<'static, std::result::Result<Vec<u8>, String>> {
        let confirms = self.confirms.load(Ordering::SeqCst);
        let asked = matches!(kind, RequestKind::Consensus)
            .then(|| rpc::decode::<Envelope<Consensus>>(&body).expect("a step").body);
        if let Some(Consensus::Append(asked)) = &asked
            && confirms
        {
            self.take(asked);
        }
        async move {
            match asked.ok_or("it is no member")? {
                Consensus::Vote(asked) => Ok(rpc::encode(&ConsensusAnswer::Vote(VoteResponse {
                    vote: asked.vote,
                    vote_granted: true,
                    last_log_id: asked.last_log_id,
                }))),
                Consensus::Append(_) if confirms => {
                    Ok(rpc::encode(&ConsensusAnswer::Append(AppendEntriesResponse::Success)))
                }
                _ => Err("it confirms nothing for now".to_owned()),
            }
        }
        .boxed()
    }
}

/// The leader of a group of two voters, and the other one.
pub struct Pair {
    pub leader: Arc<Member>,
    pub voter: Arc<Voter>,
    pub other: TestNode,
    pub node: Alone,
}

impl Pair {
    pub async fn start() -> Self {
        let other = nodes::start(0, None).await;
        let voter = Arc::new(Voter { confirms: AtomicBool::new(true), seen: watch::Sender::default() });
        other.replication.serve(voter.clone());
        let node = Alone::of(nodes::start(0, Some(other.address)).await).await;
        nodes::linked(&node.node, &other).await;
        let directory = node.node.directory.path().join("pair");
        let leader = Member::open(GroupId(1), &directory, node.parts.clone()).await.expect("opens");
        let voters = [node.parts.store.node(), other.store.node()];
        leader.initialize(voters).await.expect("starts");
        let pair = Self { leader: Arc::new(leader), voter, other, node };
        pair.elect().await;
        pair
    }

    /// Has the leader be elected, and confirmed in its new term.
    pub async fn elect(&self) {
        self.voter.confirm(true);
        self.leader.raft.trigger().elect().await.expect("openraft runs");
        let leads = |metrics: &Metrics| {
            let applied = metrics.last_applied.map(|applied| applied.leader_id.term);
            metrics.state == ServerState::Leader && applied == Some(metrics.current_term)
        };
        let mut metrics = self.leader.metrics();
        timeout(REQUEST_MAX, metrics.wait_for(leads))
            .await
            .expect("it leads in time")
            .expect("openraft runs");
    }

    /// The first and the last step of a snapshot up to entry 100, from the other voter as the leader of the next term.
    pub fn snapshot(&self) -> [Consensus; 2] {
        let metrics = self.leader.metrics().borrow().clone();
        let (term, from) = (metrics.current_term + 1, self.other.store.node());
        let meta = SnapshotMeta {
            last_log_id: Some(LogId::new(CommittedLeaderId::new(term, from), 100)),
            last_membership: (*metrics.membership_config).clone(),
            snapshot_id: "a test".into(),
        };
        let vote = Vote::new_committed(term, from);
        [Consensus::Snapshot(vote, SnapshotStep::Tables(Vec::new())), Consensus::Install(vote, meta)]
    }

    pub async fn stop(self) {
        self.leader.stop().await;
        self.other.replication.stop().await;
        self.node.stop().await;
    }
}

/// The leader's sync and the follower's go on at once, and what openraft counts for a majority meanwhile is none yet: the leader that fails
/// then comes back without the entry, and may elect one that never had it.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_that_an_entry_is_committed_before_it_is_durable_on_the_leader() {
    let pair = Pair::start().await;
    let last = pair.leader.machine.last_entry().expect("the entry of its term").index;
    let gate = pair.leader.machine.log().hold_sync();
    let proposing = pair.leader.clone();
    let mut proposed = tokio::spawn(async move { proposing.propose(Request::Create(name())).await });
    let entry = last + 1;
    let mut seen = pair.voter.seen.subscribe();
    timeout(REQUEST_MAX, seen.wait_for(|(confirmed, _)| *confirmed > entry))
        .await
        .expect("it is sent before it is durable here")
        .expect("the voter is there");
    let log = pair.leader.machine.log();
    let is_counted = || log.committed().is_some_and(|committed| committed.index >= entry);
    until("openraft counts a majority", is_counted).await;
    assert!(timeout(NOTHING_HAPPENS, &mut proposed).await.is_err(), "it was answered");
    assert_eq!(seen.borrow().1, entry, "the other was told that it is committed");
    assert_eq!(pair.leader.machine.applied().borrow().as_ref(), Some(&last));
    drop(gate);
    let answered = timeout(REQUEST_MAX, proposed).await.expect("in time").expect("no panic");
    assert!(matches!(answered, Proposed::Decided(Ok(Outcome::Created(true)))), "{answered:?}");
    timeout(REQUEST_MAX, seen.wait_for(|(_, committed)| *committed > entry))
        .await
        .expect("it is told")
        .expect("the voter is there");
    pair.stop().await;
}

/// openraft takes an entry of the leader for durable when it is not yet. If it cannot be written, and nobody confirms it, openraft does nothing
/// that would fail.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_noticed_that_a_leader_cannot_write_an_entry_which_nobody_has_confirmed() {
    let pair = Pair::start().await;
    pair.voter.confirm(false);
    pair.leader.machine.log().has_room(0);
    let watched = Arc::downgrade(&pair.leader);
    let watching = tokio::spawn(async move { failure(&watched).await });
    let proposing = pair.leader.clone();
    let proposed = tokio::spawn(async move { proposing.propose(Request::Create(name())).await });
    let why = timeout(REQUEST_MAX, watching).await.expect("it is noticed").expect("no panic");
    assert!(why.is_some_and(|why| why.contains("no storage space")));
    pair.stop().await;
    let proposed = timeout(REQUEST_MAX, proposed).await.expect("in time").expect("no panic");
    assert!(matches!(proposed, Proposed::Decided(Err(Refusal::OutcomeUnknown(_)))), "{proposed:?}");
}
