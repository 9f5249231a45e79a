//! What a node remembers of its cluster over a restart, as bytes.

use foca::State;
use serde::{Deserialize, Serialize};

use super::{Member, MemberState, Members, member::Record};
use crate::error::{Error, Result};

/// The version of the bytes. A note of another is not read.
const NOTE_VERSION: u8 = 1;

/// What a node remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The last incarnation of the node itself; 0 before its first.
    pub incarnation: u64,
    /// The others.
    pub members: Vec<Member>,
}

impl Remembered {
    fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![NOTE_VERSION])
            .expect("a vector takes all bytes, and the types are plain")
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let broken =
            |why: String| Error::Corrupt(format!("the note of the cluster's members (\"members\"): {why}"));
        match bytes.split_first() {
            None => Err(broken("it is empty".into())),
            Some((&NOTE_VERSION, rest)) => match postcard::take_from_bytes(rest) {
                Ok((remembered, [])) => Ok(remembered),
                Ok((_, rest)) => Err(broken(format!("{} bytes follow its end", rest.len()))),
                Err(error) => Err(broken(error.to_string())),
            },
            Some((version, _)) => {
                Err(broken(format!("it has version {version}, and this program reads {NOTE_VERSION}")))
            }
        }
    }
}

impl Members {
    /// What a node remembers by its note.
    ///
    /// # Errors
    /// `Corrupt`: the note is not one that this program wrote.
    pub fn restore(note: &[u8]) -> Result<Remembered> {
        Remembered::decode(note)
    }

    /// The note to be made durable, if what must survive a restart has changed since the last.
    pub fn take_note(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.unnoted).then(|| {
            let members = self.records.values().map(|record| lasting(&record.member)).collect();
            Remembered { incarnation: self.local().incarnation, members }.encode()
        })
    }

    pub(super) fn remember(&mut self, member: Member, now_ms: u64) {
        let node = member.node;
        let mut record = Record::new(member, self.pace.own_ms());
        if record.member.state.is_forgotten() {
            // So that nobody who has not heard of it brings it back.
            let down = foca::Member::new(record.identity(), 0, State::Down);
            self.records.insert(node, record);
            let applied = self.foca.apply_many([down].into_iter(), false, &mut self.effects);
            self.count(applied);
            return;
        }
        if record.member.state == MemberState::Alive {
            record.member.state = MemberState::Suspect { since_ms: now_ms };
            record.suspected_ms = Some(self.pace.own_ms());
        }
        self.records.insert(node, record);
    }
}

/// The state as it is remembered: suspicions come and go, and are not.
pub(super) fn lasting(member: &Member) -> Member {
    let state = match member.state {
        MemberState::Alive | MemberState::Suspect { .. } => MemberState::Alive,
        state @ (MemberState::Down { .. } | MemberState::Left { .. } | MemberState::Forgotten { .. }) => {
            state
        }
    };
    Member { state, ..member.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::clock::NodeId;

    fn remembered() -> Remembered {
        let member = |node, state| Member {
            node: NodeId(node),
            address: format!("node{node}:6660"),
            incarnation: 7,
            state,
        };
        let since_ms = 300;
        Remembered {
            incarnation: 5,
            members: vec![
                member(1, MemberState::Alive),
                member(2, MemberState::Down { since_ms }),
                member(3, MemberState::Left { since_ms }),
                member(4, MemberState::Forgotten { since_ms }),
            ],
        }
    }

    /// The bytes as they were first written. If this fails, notes on disk are not read any more: raise the version.
    #[test]
    fn the_bytes_are_what_they_were() {
        let mut golden = vec![1, 5, 4];
        for (node, state) in [(1u8, &[0u8][..]), (2, &[2, 172, 2]), (3, &[3, 172, 2]), (4, &[4, 172, 2])] {
            golden.extend([node, 10]);
            golden.extend(format!("node{node}:6660").as_bytes());
            golden.push(7);
            golden.extend(state);
        }
        assert_eq!(remembered().encode(), golden);
        assert_eq!(Remembered::decode(&golden), Ok(remembered()));
    }

    #[test]
    fn a_broken_note_is_named() {
        let whole = remembered().encode();
        let mut long = whole.clone();
        long.push(0);
        let mut newer = whole.clone();
        newer[0] = 2;
        for bytes in [&[][..], &whole[..whole.len() - 1], &long, &newer] {
            let error = Remembered::decode(bytes).expect_err("broken").to_string();
            assert!(error.contains("\"members\""), "{error}");
        }
    }

    #[test]
    fn a_suspicion_is_not_remembered() {
        let member = Member {
            node: NodeId(1),
            address: String::new(),
            incarnation: 1,
            state: MemberState::Suspect { since_ms: 3 },
        };
        assert_eq!(lasting(&member).state, MemberState::Alive);
    }
}
