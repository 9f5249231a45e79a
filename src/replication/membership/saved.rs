//! The members as a node saves them for a restart, and their encoding.

use foca::State;
use serde::{Deserialize, Serialize};

use super::{Member, MemberState, Members, member::Record};
use crate::error::{Error, Result};

/// The version that is written.
const VERSION: u8 = 2;
/// The former version, which had no address at its end. Others are not read.
const VERSION_1: u8 = 1;

/// The saved members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedMembers {
    /// This node's last incarnation; 0 before its first.
    pub incarnation: u64,
    /// The other members.
    pub members: Vec<Member>,
    /// This node's address, if it learned it from peers.
    pub address: Option<String>,
}

/// The content of version 1.
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
        postcard::to_extend(self, vec![VERSION]).expect("a vector has room, and these types always encode")
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let broken = |why: String| {
            Error::Corrupt(format!("the saved members of the cluster (record \"members\"): {why}"))
        };
        let read = match bytes.split_first() {
            None => return Err(broken("it is empty".into())),
            Some((&VERSION, rest)) => postcard::take_from_bytes(rest),
            Some((&VERSION_1, rest)) => {
                postcard::take_from_bytes(rest).map(|(note, rest)| (SavedMembersV1::into(note), rest))
            }
            Some((version, _)) => {
                return Err(broken(format!(
                    "it has version {version}, and this program reads up to version {VERSION}"
                )));
            }
        };
        match read {
            Ok((remembered, [])) => Ok(remembered),
            Ok((_, rest)) => Err(broken(format!("{} extra bytes follow", rest.len()))),
            Err(error) => Err(broken(error.to_string())),
        }
    }
}

impl Members {
    /// Reads a saved record.
    ///
    /// # Errors
    /// `Corrupt` if this program did not write it.
    pub fn restore(note: &[u8]) -> Result<SavedMembers> {
        SavedMembers::decode(note)
    }

    /// Whether a record names other members that may hold this node's rows.
    pub fn are_saved_in(note: &[u8]) -> bool {
        SavedMembers::decode(note).is_ok_and(|remembered| {
            remembered.members.iter().any(|member| match member.state {
                MemberState::Alive | MemberState::Suspect { .. } | MemberState::Down { .. } => true,
                MemberState::Left { .. } | MemberState::Forgotten { .. } => false,
            })
        })
    }

    /// The record to make durable, if it changed since the last call.
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

/// The member as it is saved: without suspicions, which are temporary.
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

    /// The exact encoding. If this fails, existing records can no longer be read: raise the version.
    #[test]
    fn the_encoding_is_stable() {
        let mut golden = golden(2);
        golden.extend(b"\x01\x07me:6660");
        assert_eq!(remembered().encode(), golden);
        assert_eq!(SavedMembers::decode(&golden), Ok(remembered()));
    }

    #[test]
    fn three_hundred_members_with_long_addresses_fit_a_record() {
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

    /// The exact encoding of version 1, which had no address.
    #[test]
    fn a_record_of_version_1_is_read() {
        let before = SavedMembers { address: None, ..remembered() };
        assert_eq!(SavedMembers::decode(&golden(1)), Ok(before));
        let mut long = golden(1);
        long.push(0);
        assert!(SavedMembers::decode(&long).is_err(), "version 1 ends here");
    }

    #[test]
    fn an_invalid_record_is_named_in_the_error() {
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
    fn a_suspicion_is_not_saved() {
        let member = Member {
            node: NodeId(1),
            address: String::new(),
            incarnation: 1,
            state: MemberState::Suspect { since_ms: 3 },
        };
        assert_eq!(saved_form(&member).state, MemberState::Alive);
    }
}
