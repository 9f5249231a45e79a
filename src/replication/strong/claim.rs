//! Claims: before there is a group, each node promises durably to belong to one, and to no other.
//!
//! A claim names the group's *first voters*, as the node chose them that asked first. Whoever goes on with a start that did not come about
//! starts the group with these, and no others: two that start one group by two majorities of the cluster, with voters of their own, could
//! elect two leaders in it, as one's majority need not have anybody in common with the other's.

use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

use super::{
    group::{Inner, REQUEST_MAX},
    roster,
    rpc::{self, Call, CallAnswer, GroupId},
};
use crate::{
    core::clock::NodeId,
    error::{Error, Result},
};

/// The note of the group that this node belongs to.
const NOTE: &str = "strong/group";
/// The note of the claim, with the first voters of the group.
const CLAIM_NOTE: &str = "strong/claim";

/// A claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The group.
    pub group: GroupId,
    /// Its first voters. Empty if this node is not to start it: it was started elsewhere.
    pub voters: Vec<NodeId>,
}

impl Inner {
    /// The group that this node has claimed.
    pub(super) fn claimed(&self) -> Result<Option<GroupId>> {
        let note = self.parts.store.note(NOTE)?;
        note.map(|note| rpc::decode(&note)).transpose()
    }

    /// What this node has claimed.
    pub(super) fn own_claim(&self) -> Result<Option<Claim>> {
        let Some(group) = self.claimed()? else { return Ok(None) };
        let note = self.parts.store.note(CLAIM_NOTE)?;
        let claim: Option<Claim> = note.map(|note| rpc::decode(&note)).transpose()?;
        let claim = claim.filter(|claim| claim.group == group);
        Ok(Some(claim.unwrap_or(Claim { group, voters: Vec::new() })))
    }

    /// Claims a group durably, if none is claimed. Returns what is claimed.
    ///
    /// # Errors
    /// Those of the storage.
    pub(super) async fn claim(&self, claim: Claim) -> Result<Claim> {
        let incarnation = self.parts.store.incarnation();
        let claimed = {
            // Two that ask at the same time must not both be promised.
            let _one = self.claiming.lock().unwrap_or_else(PoisonError::into_inner);
            match self.own_claim()? {
                Some(claimed) => claimed,
                None => self.note_claim(claim)?,
            }
        };
        // What another call claims just now, too.
        self.parts.store.durable(incarnation).await?;
        Ok(claimed)
    }

    /// Claims a group durably, whatever was claimed.
    ///
    /// # Errors
    /// Those of the storage.
    pub(super) async fn set_claim(&self, claim: Claim) -> Result<()> {
        let incarnation = self.parts.store.incarnation();
        {
            let _one = self.claiming.lock().unwrap_or_else(PoisonError::into_inner);
            self.note_claim(claim)?;
        }
        self.parts.store.durable(incarnation).await
    }

    fn note_claim(&self, claim: Claim) -> Result<Claim> {
        let store = &self.parts.store;
        store.set_note(CLAIM_NOTE, &rpc::encode(&claim))?;
        store.set_note(NOTE, &rpc::encode(&claim.group))?;
        Ok(claim)
    }

    /// The claim to start a group by: one that was made before and did not come about, or a new one. Asks the nodes that this one has links
    /// with.
    ///
    /// # Errors
    /// `NoQuorum` without a majority; those of the storage; what a node says that keeps its strong tables by another backend.
    pub(super) async fn choose_claim(&self, linked: &[NodeId]) -> Result<Claim> {
        if let Some(claim) = self.own_claim()? {
            return Ok(claim);
        }
        let mut present = vec![self.parts.store.node()];
        for node in linked {
            match self.call(*node, Call::Claimed, REQUEST_MAX).await {
                Ok(CallAnswer::Claim(Some(claim))) => return Ok(claim),
                Ok(CallAnswer::Claim(None)) => present.push(*node),
                Ok(CallAnswer::NotStarted(why)) => return Err(why.into()),
                Ok(_) | Err(_) => {}
            }
        }
        // No claim is made that cannot come about: it would bind this node.
        self.check_majority(present.len())?;
        present.truncate(roster::voters_wanted(present.len()));
        Ok(Claim { group: GroupId(self.parts.store.environment().random()?), voters: present })
    }

    /// Has one of the first voters start the group, where this node is none of them.
    ///
    /// # Errors
    /// `NoQuorum` if none can.
    pub(super) async fn have_started(&self, claim: &Claim, linked: &[NodeId]) -> Result<()> {
        for node in linked.iter().filter(|node| claim.voters.contains(node)) {
            let asked = self.call(*node, Call::Start, REQUEST_MAX).await;
            if matches!(asked, Ok(CallAnswer::Claimed(group)) if group == claim.group) {
                return Ok(());
            }
        }
        let voters: Vec<_> = claim.voters.iter().map(ToString::to_string).collect();
        let voters = if voters.is_empty() { "others".into() } else { voters.join(", ") };
        Err(Error::NoQuorum(format!(
            "another node began to start the group of the strong tables with {voters} as its first voters, and none of them can be \
             reached: start one of them and try again; nothing was made"
        )))
    }
}
