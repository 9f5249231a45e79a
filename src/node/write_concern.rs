//! How many replicas must hold a write before it is acknowledged (`?w=`), and the wait for them.

use std::time::Duration;

use super::Node;
use crate::{
    core::clock::Timestamp,
    error::{Error, Result},
};

/// How many replicas must hold a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replicas {
    /// A number, counting this node.
    Count(usize),
    /// More than half of the members, including those that are down.
    Majority,
    /// Every member, including those that are down.
    All,
}

impl Replicas {
    fn of(self, members: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Majority => members / 2 + 1,
            Self::All => members,
        }
    }
}

/// What must be true of a write before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteConcern {
    /// How many replicas must hold it durably.
    pub replicas: Replicas,
    /// How long to wait for them.
    pub timeout: Duration,
}

impl Node {
    /// Returns when as many replicas as wanted hold everything this node wrote up to now, up to `written`, which is already durable here.
    ///
    /// # Errors
    /// `NotEnoughReplicas`, at once if there are not enough members. The write is kept.
    pub async fn replicated(&self, written: Timestamp, concern: WriteConcern) -> Result<()> {
        // Most writes want only this node's copy, and need no look at the cluster.
        if concern.replicas == Replicas::Count(1) {
            return Ok(());
        }
        let members = self.replication.replicas();
        let replicas = concern.replicas.of(members);
        let timeout = if replicas > members { Duration::ZERO } else { concern.timeout };
        let entry = self.replication.last_written();
        let others = self.replication.wait_for_replicas(entry, replicas.saturating_sub(1), timeout).await;
        if others + 1 < replicas {
            return Err(Error::NotEnoughReplicas {
                held: others + 1,
                wanted: replicas,
                version: written.to_string(),
                unix_ms: written.unix_ms(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_a_number_or_relative_to_the_members() {
        for (members, majority) in [(1, 1), (2, 2), (3, 2), (4, 3)] {
            assert_eq!(Replicas::Majority.of(members), majority);
            assert_eq!(Replicas::All.of(members), members);
        }
        assert_eq!(Replicas::Count(4).of(1), 4);
    }
}
