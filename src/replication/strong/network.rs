//! openraft's network over the links between nodes.

use std::{future::Future, sync::Arc, time::Duration};

use openraft::{
    OptionalSend, RaftNetwork, RaftNetworkFactory, Snapshot,
    error::{
        Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Timeout, Unreachable,
    },
    network::{Backoff, RPCOption, RPCTypes},
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
};
use tokio::time::sleep;
use tracing::info;

use super::{
    rpc::{self, Consensus, ConsensusAnswer, Envelope, GroupId},
    runtime::answer_max,
    snapshot::{self, Figures},
    state_machine::receiving::Purpose,
    types::{Group, Node, Vote},
    view::Counters,
};
use crate::{
    core::{
        clock::{NodeId, Timestamp},
        protocol::message::RequestKind,
    },
    error::{Error, Result},
    replication::{Replication, requests::RequestError},
    storage::{Store, commit::timestamps::Timestamps},
};

/// How long one step of a snapshot may take.
const SNAPSHOT_STEP_MAX: Duration = Duration::from_secs(30);
/// The pause before a member that could not be reached is tried again. A link that comes back should not wait.
const BACKOFF: Duration = Duration::from_millis(100);

/// Makes connections to the other members.
#[derive(Clone)]
pub struct Network {
    /// The group.
    pub group: GroupId,
    /// The links.
    pub replication: Replication,
    /// What snapshots are read from.
    pub store: Store,
    /// The clock that stamps what is written.
    pub timestamps: Arc<Timestamps>,
    /// Counts the snapshots.
    pub counters: Arc<Counters>,
}

/// The connection to one member.
pub struct Connection {
    network: Network,
    target: NodeId,
}

impl RaftNetworkFactory<Group> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: NodeId, _node: &Node) -> Connection {
        self.connection(target)
    }
}

impl Network {
    /// A connection to a member.
    pub fn connection(&self, target: NodeId) -> Connection {
        Connection { network: self.clone(), target }
    }
}

type RpcResult<T> = std::result::Result<T, RPCError<NodeId, Node, RaftError<NodeId>>>;

impl Connection {
    /// Sends a step of consensus, and waits for its answer: as long as `deadline` says for so many bytes.
    async fn say(
        &self,
        body: Consensus,
        deadline: impl FnOnce(usize) -> Duration,
    ) -> std::result::Result<ConsensusAnswer, RequestError> {
        let body = rpc::encode(&Envelope { group: self.network.group, body });
        let deadline = deadline(body.len());
        let answer =
            self.network.replication.request(self.target, RequestKind::Consensus, body, deadline).await?;
        rpc::decode(&answer).map_err(|error| RequestError::Failed(error.to_string()))
    }

    /// Sends a step of a snapshot or a repair.
    async fn say_step(&self, body: Consensus) -> Result<ConsensusAnswer> {
        let said = self.say(body, |_| SNAPSHOT_STEP_MAX).await;
        said.map_err(|error| Error::Io(error.to_string()))
    }

    /// Repairs the member's rows, as the leader with this vote. `latest`: what was written by then is applied here.
    ///
    /// # Errors
    /// Those of `snapshot::send`, and of the member.
    pub async fn repair(&self, vote: Vote, latest: Timestamp) -> Result<Figures> {
        let store = &self.network.store;
        let nonce = store.environment().random()?;
        let step = |step| self.say_step(Consensus::Repair(vote, step));
        let figures = snapshot::send(store, Purpose::Repair, nonce, latest, step).await?;
        self.say_step(Consensus::Repaired(vote)).await?;
        Ok(figures)
    }

    fn failed(&self, action: RPCTypes, error: RequestError) -> RPCError<NodeId, Node, RaftError<NodeId>> {
        match error {
            RequestError::TimedOut(timeout) => RPCError::Timeout(Timeout {
                action,
                id: self.network.store.node(),
                target: self.target,
                timeout,
            }),
            RequestError::NoLink(_) | RequestError::NotServed => {
                RPCError::Unreachable(Unreachable::new(&Error::Io(error.to_string())))
            }
            other => RPCError::Network(NetworkError::new(&Error::Io(other.to_string()))),
        }
    }

    fn unexpected(&self) -> RPCError<NodeId, Node, RaftError<NodeId>> {
        RPCError::Network(NetworkError::new(&Error::Corrupt("the answer to another request".into())))
    }
}

impl RaftNetwork<Group> for Connection {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Group>,
        _option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<NodeId>> {
        let answer = self.say(Consensus::Append(rpc), answer_max).await;
        match answer.map_err(|error| self.failed(RPCTypes::AppendEntries, error))? {
            ConsensusAnswer::Append(answer) => Ok(answer),
            _ => Err(self.unexpected()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        _option: RPCOption,
    ) -> RpcResult<VoteResponse<NodeId>> {
        let answer = self.say(Consensus::Vote(rpc), answer_max).await;
        match answer.map_err(|error| self.failed(RPCTypes::Vote, error))? {
            ConsensusAnswer::Vote(answer) => Ok(answer),
            _ => Err(self.unexpected()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Group>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> std::result::Result<SnapshotResponse<NodeId>, StreamingError<Group, Fatal<NodeId>>> {
        let sending = async {
            let nonce = self.network.store.environment().random()?;
            self.network.timestamps.before_writing().await?;
            let latest = self.network.timestamps.tick()?;
            let step = |step| self.say_step(Consensus::Snapshot(vote, step));
            let figures = snapshot::send(&self.network.store, Purpose::Snapshot, nonce, latest, step).await?;
            self.network.counters.snapshots.increment();
            self.network.counters.snapshot_rows.add(figures.rows);
            info!(to = %self.target, rows = figures.rows, removed = figures.removed, "sent a snapshot of the strong tables");
            match self.say_step(Consensus::Install(vote, snapshot.meta)).await? {
                ConsensusAnswer::Installed(answer) => Ok(answer),
                _ => Err(Error::Corrupt("the answer to another request".into())),
            }
        };
        tokio::select! {
            biased;
            sent = sending => match sent {
                Ok(sent) => Ok(sent),
                Err(error) => {
                    let error: Error = error;
                    // It is tried again at once.
                    sleep(BACKOFF).await;
                    Err(StreamingError::Network(NetworkError::new(&error)))
                }
            },
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}

/// Checks that a request came to the right group.
///
/// # Errors
/// `Forbidden`.
pub fn check_group(own: GroupId, theirs: GroupId) -> Result<()> {
    if own == theirs {
        return Ok(());
    }
    Err(Error::Forbidden(
        "this node belongs to another group of strong tables: two clusters that both have strong tables cannot be merged. \
         Export the tables of one, start its nodes anew, and import there"
            .into(),
    ))
}
