//! What a node remembers of its cluster over a restart, as bytes.

use foca::State;
use serde::{Deserialize, Serialize};

use super::{Member, MemberState, Members, member::Record};
use crate::error::{Error, Result};

/// The version of the bytes that are written.
const VERSION: u8 = 2;
/// The one before, which had no address at its end. A note of yet another is not read.
const VERSION_1: u8 = 1;

/// What a node remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedMembers {
    /// The last incarnation of the node itself; 0 before its first.
    pub incarnation: u64,
    /// The others.
    pub members: Vec<Member>,
    /// The address that the node learned to be its own, if it had to.
    pub address: Option<String>,
}

/// What a note of version 1 says.
#[derive(Deserialize)]
struct SavedMembersV1 {
    incarnation: u64,
    members: Vec<Member>,
}

impl From<SavedMembersV1> for SavedMembers {
    fn from(note: SavedMembersV1) -> Self {
        let SavedMembersV1 { incarnation, members } = note;
        Self { incarnation, members, address: None }
    }
}

impl SavedMembers {
    fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("a vector takes all bytes, and the types are plain")
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let broken =
            |why: String| Error::Corrupt(format!("the note of the cluster's members (\"members\"): {why}"));
        let read = match bytes.split_first() {
            None => return Err(broken("it is empty".into())),
            Some((&VERSION, rest)) => postcard::take_from_bytes(rest),
            Some((&VERSION_1, rest)) => {
                postcard::take_from_bytes(rest).map(|(note, rest)| (SavedMembersV1::into(note), rest))
            }
            Some((version, _)) => {
                return Err(broken(format!(
                    "it has version {version}, and this program reads up to {VERSION}"
                )));
            }
        };
        match read {
            Ok((remembered, [])) => Ok(remembered),
            Ok((_, rest)) => Err(broken(format!("{} bytes follow its end", rest.len()))),
            Err(error) => Err(broken(error.to_string())),
        }
    }
}

impl Members {
    /// What a node remembers by its note.
    ///
    /// # Errors
    /// `Corrupt`: the note is not one that this program wrote.
    pub fn restore(note: &[u8]) -> Result<SavedMembers> {
        SavedMembers::decode(note)
    }

    /// Whether a note names others that may hold what this node holds.
    pub fn are_saved_in(note: &[u8]) -> bool {
        SavedMembers::decode(note).is_ok_and(|remembered| {
            remembered.members.iter().any(|member| match member.state {
                MemberState::Alive | MemberState::Suspect { .. } | MemberState::Down { .. } => true,
                MemberState::Left { .. } | MemberState::Forgotten { .. } => false,
            })
        })
    }

    /// The note to be made durable, if what must survive a restart has changed since the last.
    pub fn take_unsaved(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.unsaved).then(|| {
            let members = self.records.values().map(|record| saved_form(&record.member)).collect();
            let (incarnation, address) = (self.local().incarnation, self.learned_address.clone());
            SavedMembers { incarnation, members, address }.encode()
        })
    }

    pub(in crate::replication::membership) fn restore_member(&mut self, member: Member, now_ms: u64) {
        let node = member.node;
        let mut record = Record::new(member, self.clock.steady_ms());
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
            record.suspected_ms = Some(self.clock.steady_ms());
        }
        self.records.insert(node, record);
    }
}

/// The state as it is remembered: suspicions come and go, and are not.
pub(in crate::replication::membership) fn saved_form(member: &Member) -> Member {
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
    use crate::{core::clock::NodeId, storage::engine::notes::NOTE_BYTES_MAX};

    fn remembered() -> SavedMembers {
        let member = |node, state| Member {
            node: NodeId(node),
            address: format!("node{node}:6660"),
            incarnation: 7,
            state,
        };
        let since_ms = 300;
        SavedMembers {
            incarnation: 5,
            members: vec![
                member(1, MemberState::Alive),
                member(2, MemberState::Down { since_ms }),
                member(3, MemberState::Left { since_ms }),
                member(4, MemberState::Forgotten { since_ms }),
            ],
            address: Some("me:6660".into()),
        }
    }

    fn golden(version: u8) -> Vec<u8> {
        let mut golden = vec![version, 5, 4];
        for (node, state) in [(1u8, &[0u8][..]), (2, &[2, 172, 2]), (3, &[3, 172, 2]), (4, &[4, 172, 2])] {
            golden.extend([node, 10]);
            golden.extend(format!("node{node}:6660").as_bytes());
            golden.push(7);
            golden.extend(state);
        }
        golden
    }

    /// The bytes as they are written. If this fails, notes on disk are not read any more: raise the version.
    #[test]
    fn the_bytes_are_what_they_were() {
        let mut golden = golden(2);
        golden.extend(b"\x01\x07me:6660");
        assert_eq!(remembered().encode(), golden);
        assert_eq!(SavedMembers::decode(&golden), Ok(remembered()));
    }

    #[test]
    fn three_hundred_members_of_long_addresses_are_remembered() {
        let members = (0..300).map(|node| Member {
            node: NodeId(u64::MAX - node),
            address: format!("{}{node:03}:65535", "a".repeat(250)),
            incarnation: u64::MAX,
            state: MemberState::Forgotten { since_ms: u64::MAX },
        });
        let remembered = SavedMembers { members: members.collect(), ..remembered() };
        let note = remembered.encode();
        assert!(note.len() < NOTE_BYTES_MAX, "{} bytes", note.len());
        assert_eq!(SavedMembers::decode(&note), Ok(remembered));
    }

    /// The bytes as they were first written, before there was an address in them.
    #[test]
    fn a_note_of_before_is_read() {
        let before = SavedMembers { address: None, ..remembered() };
        assert_eq!(SavedMembers::decode(&golden(1)), Ok(before));
        let mut long = golden(1);
        long.push(0);
        assert!(SavedMembers::decode(&long).is_err(), "it ends where it did");
    }

    #[test]
    fn a_broken_note_is_named() {
        let complete = remembered().encode();
        let mut long = complete.clone();
        long.push(0);
        let mut newer = complete.clone();
        newer[0] = 3;
        for bytes in [&[][..], &complete[..complete.len() - 1], &long, &newer] {
            let error = SavedMembers::decode(bytes).expect_err("broken").to_string();
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
        assert_eq!(saved_form(&member).state, MemberState::Alive);
    }
}
