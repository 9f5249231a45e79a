//! What the members of the group say to each other, as bodies of requests on the links (`replication::requests`).

use std::fmt;

use openraft::{
    SnapshotMeta,
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    catalogue::Catalogue,
    claim::Claim,
    leases::{LeaseCall, LeaseTime},
    types::{Group, LogId, Node, Vote},
};
use crate::{
    core::{
        clock::NodeId,
        digest::RootDigest,
        name::{Key, TableName},
        protocol::message::{Message, Row},
        register::Marker,
        strong::request::{Outcome, Refusal, Request},
    },
    error::{Error, Result},
};

/// A group's id: random, made by the node that starts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupId(pub u64);

/// What is said within a group.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// The group. Members of another refuse it.
    pub group: GroupId,
    /// What is said.
    pub body: T,
}

/// A step of consensus.
#[derive(Debug, Serialize, Deserialize)]
pub enum Consensus {
    /// Entries of the log, or a heartbeat.
    Append(AppendEntriesRequest<Group>),
    /// An election.
    Vote(VoteRequest<NodeId>),
    /// A step of a snapshot of the leader with this vote.
    Snapshot(Vote, SnapshotStep),
    /// Everything of the snapshot was sent.
    Install(Vote, SnapshotMeta<NodeId, Node>),
    /// A step of a repair by the leader with this vote.
    Repair(Vote, SnapshotStep),
    /// The repair is over: the rows that it began with are equal to the leader's.
    Repaired(Vote),
}

/// A step of sending a snapshot, or of a repair.
#[derive(Debug, Serialize, Deserialize)]
pub enum SnapshotStep {
    /// It begins. Its tables.
    Tables(Vec<TableName>),
    /// A step of the comparison of the snapshot with what the receiver has.
    Compare(Message),
    /// Rows of the snapshot.
    Rows(Vec<(TableName, Row)>),
    /// Rows that the snapshot does not have.
    Remove(Vec<Name>),
}

/// A row by name and version.
pub type Name = (TableName, Key, Marker);

/// The answer to a step of consensus.
#[derive(Debug, Serialize, Deserialize)]
pub enum ConsensusAnswer {
    /// To `Append`.
    Append(AppendEntriesResponse<NodeId>),
    /// To `Vote`.
    Vote(VoteResponse<NodeId>),
    /// To the other steps of a snapshot.
    Done,
    /// To `SnapshotStep::Compare`: the next steps, and rows that the receiver has otherwise or alone; and whether there are more of those.
    Compared(Vec<Message>, Vec<Name>, bool),
    /// To `Install`.
    Installed(SnapshotResponse<NodeId>),
    /// To all steps of a snapshot: the receiver has promised this vote, so the sender leads no more.
    Outvoted(Vote),
}

/// What a node asks on behalf of a client, or to start the group.
#[derive(Debug, Serialize, Deserialize)]
pub enum Call {
    /// Have the leader evaluate and commit a request.
    Propose(Request),
    /// The index up to which a linearizable read must have applied.
    ReadIndex,
    /// Promise to belong to this group and no other, and to start it with these first voters.
    Claim(Vec<NodeId>),
    /// Start the group, if there is none.
    Start,
    /// The group that the node takes part in.
    Group,
    /// The digest of the strong tables, and the index that it is of.
    Digest,
    /// The caller leaves the cluster: whoever leads is not to take it into the group again. Or, if this is false, it stays after all.
    Leaving(bool),
    /// Have the leader take the caller out of the group, as it leaves the cluster.
    Retire,
    /// This table is strong: answer when you know that too, durably, and have told the nodes that you have links with. The flag: the caller
    /// was told itself, so that whoever knew before need tell nobody.
    Made(TableName, bool),
    /// The tables that you know to be strong.
    Tables,
    /// Have the leader change the role of a member, as an operator asks.
    ChangeRole(RoleChange, NodeId),
    /// Stand for election: the leader steps aside for you.
    Elect,
    /// How you stand in your group.
    Standing,
    /// Claim this group instead of one that never started, as an operator asks.
    Reclaim,
    /// Drop your log of the first group, and take part in the second, which an operator has started in its place.
    Replace(GroupId, GroupId),
    /// What you have claimed.
    Claimed,
    /// Have the leader take the caller out of the group, as it was restored from a backup and has no log. The group that it took part in before,
    /// if it did.
    Restored(Option<GroupId>),
    /// Have the leader compare the caller's rows with its own, and send those that differ: the caller may have lost some.
    Repair,
    /// Have the leader keep a lease of the etcd API alive, or say until when it lasts.
    Lease(LeaseCall),
    /// The URL at which clients reach the etcd API on the node.
    EtcdUrl,
}

/// What an operator may ask of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoleChange {
    /// Make a learner a voter.
    Promote,
    /// Make a voter a learner, until it is promoted.
    Demote,
    /// Make a voter the leader.
    Lead,
}

impl fmt::Display for RoleChange {
    /// What the node is afterwards.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Promote => "votes",
            Self::Demote => "is a learner",
            Self::Lead => "leads",
        })
    }
}

/// How a node stands in the group that it takes part in, or did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The group.
    pub group: GroupId,
    /// Whether it has its log: not if that is damaged or gone.
    pub has_log: bool,
    /// The last entry of its log, committed or not.
    pub last: Option<LogId>,
    /// Whether it leads and decides requests, and a majority has confirmed that just now.
    pub leads: bool,
    /// Whether its rows are whole: not if damage may have taken some, until they are repaired.
    pub has_rows: bool,
}

/// The answer to a call.
#[derive(Debug, Serialize, Deserialize)]
pub enum CallAnswer {
    /// To `Propose`.
    Proposed(std::result::Result<Outcome, Refusal>),
    /// To `ReadIndex`.
    Index(std::result::Result<u64, Refusal>),
    /// To `Claim`, `Reclaim`, `Replace` and `Start`: the group that the node belongs to.
    Claimed(GroupId),
    /// To `Digest`.
    Digest(Option<(u64, RootDigest)>),
    /// To `Leaving`, `Made`, `Elect` and `Repair`.
    Noted,
    /// To `Group`: the group that the node has claimed, and whether it takes part.
    Group(Option<(GroupId, bool)>),
    /// To `Retire`.
    Retired(std::result::Result<(), Refusal>),
    /// The group could not be started or replaced, or the node does not stand for election, for this reason.
    NotStarted(Refusal),
    /// The node does not lead, and had nothing done. Who does, as far as it knows.
    NotLeader(Option<NodeId>),
    /// To `Tables`.
    Tables(Catalogue),
    /// The node belongs to another group, and had nothing done.
    OtherGroup(Refusal),
    /// To `ChangeRole`: whether anything had to be changed.
    RoleChanged(std::result::Result<bool, Refusal>),
    /// To `Standing`: `None` if the node has never taken part in a group.
    Standing(Option<Standing>),
    /// To `Claimed`, and to `Restored` by a node that takes no part.
    Claim(Option<Claim>),
    /// To `Restored`: the group without the caller is committed, and the caller may join this group as a new member.
    Readmitted(std::result::Result<GroupId, Refusal>),
    /// To `Lease`: `None` if there is no such lease.
    Lease(std::result::Result<Option<LeaseTime>, Refusal>),
    /// To `EtcdUrl`: `None` if it does not answer that API.
    EtcdUrl(Option<String>),
}

/// The bytes of a body.
pub fn encode(body: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(body).expect("all that is said can be encoded")
}

/// A body from its bytes.
///
/// # Errors
/// `Corrupt` if they are not one.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    Ok(decode_part(bytes)?.0)
}

/// A body from the beginning of `bytes`, and what follows it.
///
/// # Errors
/// As `decode`.
pub fn decode_part<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8])> {
    postcard::take_from_bytes(bytes)
        .map_err(|_| Error::Corrupt("a request between nodes of a group of strong tables".into()))
}
