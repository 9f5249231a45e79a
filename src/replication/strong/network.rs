//! openraft's network over the links between nodes.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

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
    state_machine::{StateMachine, receiving::Purpose},
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
    storage::{
        Store,
        commit::{Incarnation, timestamps::Timestamps},
    },
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
    /// Tells whether the store holds all that was applied.
    pub machine: StateMachine,
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

/// Rows on their way to a member: of a snapshot or a repair.
struct Sending<'a> {
    connection: &'a Connection,
    /// The incarnation of the store that they are read from.
    incarnation: Incarnation,
    /// The later vote that the member has promised, if it has.
    outvoted: Mutex<Option<Vote>>,
}

impl Sending<'_> {
    /// Sends a step. Only while the rows here are whole: rows that are missing here would be removed there.
    async fn say(&self, body: Consensus) -> Result<ConsensusAnswer> {
        let Network { store, machine, .. } = &self.connection.network;
        if store.incarnation() != self.incarnation || !machine.is_intact() || machine.needs_repair() {
            return Err(Error::NotReady("the sender's own rows may not be whole any more".into()));
        }
        let said = self.connection.say(body, |_| SNAPSHOT_STEP_MAX).await;
        match said.map_err(|error| Error::Io(error.to_string()))? {
            ConsensusAnswer::Outvoted(vote) => {
                *self.outvoted.lock().unwrap_or_else(PoisonError::into_inner) = Some(vote);
                Err(Error::Conflict("the member has promised its vote to another leader".into()))
            }
            answer => Ok(answer),
        }
    }

    fn outvoted(&self) -> Option<Vote> {
        *self.outvoted.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Begins to send rows.
    async fn begin_sending(&self) -> Result<Sending<'_>> {
        let incarnation = self.network.machine.intact().await?;
        Ok(Sending { connection: self, incarnation, outvoted: Mutex::default() })
    }

    /// Repairs the member's rows, as the leader with this vote. `latest`: what was written by then is applied here.
    ///
    /// # Errors
    /// Those of `snapshot::send`, and of the member.
    pub async fn repair(&self, vote: Vote, latest: Timestamp) -> Result<Figures> {
        let store = &self.network.store;
        let (nonce, sending) = (store.environment().random()?, self.begin_sending().await?);
        let step = |step| sending.say(Consensus::Repair(vote, step));
        let figures = snapshot::send(store, Purpose::Repair, nonce, latest, step).await?;
        sending.say(Consensus::Repaired(vote)).await?;
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
        // What is committed is applied there. It has to stay committed if this node fails now.
        if let Some(committed) = rpc.leader_commit {
            let logged = self.network.machine.until_logged(committed).await;
            logged.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?;
        }
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
            let Network { store, timestamps, counters, .. } = &self.network;
            let nonce = store.environment().random()?;
            timestamps.before_writing().await?;
            let latest = timestamps.tick()?;
            let sending = self.begin_sending().await?;
            let step = |step| sending.say(Consensus::Snapshot(vote, step));
            let sent = match snapshot::send(store, Purpose::Snapshot, nonce, latest, step).await {
                Ok(figures) => {
                    counters.snapshots.increment();
                    counters.snapshot_rows.add(figures.rows);
                    info!(to = %self.target, rows = figures.rows, removed = figures.removed, "sent a snapshot of the strong tables");
                    sending.say(Consensus::Install(vote, snapshot.meta)).await
                }
                Err(error) => Err(error),
            };
            match (sent, sending.outvoted()) {
                // Otherwise openraft would never learn of it, and lead on.
                (Err(_), Some(vote)) => Ok(SnapshotResponse { vote }),
                (Ok(ConsensusAnswer::Installed(answer)), _) => Ok(answer),
                (Ok(_), _) => Err(Error::Corrupt("the answer to another request".into())),
                (Err(error), None) => Err(error),
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
