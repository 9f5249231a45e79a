//! The model of a subscriber's client: it does what notices say, and tests that they make sense.

use std::collections::{BTreeMap, BTreeSet};

use dynarust::{
    core::clock::Timestamp,
    storage::changes::{
        change::{Change, Effect, Gone, Topic},
        subscription::Notice,
    },
};
use proptest::prelude::*;

use super::{key, table};

/// What a client knows of the table: the value and version of each key.
pub type Known = BTreeMap<String, (String, Timestamp)>;

/// A client that does what notices say.
#[derive(Clone, Default)]
pub struct Client {
    pub known: Known,
    /// The last version told of each key, and whether that was its end; it outlives the value.
    pub versions: BTreeMap<String, (Timestamp, bool)>,
    /// The keys of the last snapshot.
    pub given: BTreeSet<String>,
    /// Whether a snapshot is on its way.
    pub resyncing: bool,
}

impl Client {
    /// Does what a notice says.
    pub fn hear(&mut self, notice: &Notice) -> Result<(), TestCaseError> {
        match notice {
            Notice::Change(change) => self.apply(change),
            Notice::Resync(_) => {
                *self = Self { resyncing: true, ..Self::default() };
                Ok(())
            }
            Notice::Position(_) => {
                prop_assert!(!self.resyncing, "a snapshot ends with a sync");
                Ok(())
            }
            Notice::Sync(_) => {
                prop_assert!(self.resyncing, "a snapshot ends that began");
                self.resyncing = false;
                Ok(())
            }
            Notice::Incomplete => Err(TestCaseError::fail("nothing is damaged")),
            Notice::Shutdown => Err(TestCaseError::fail("nobody is stopping")),
            Notice::Failed(error) => Err(TestCaseError::fail(format!("it broke off: {error}"))),
        }
    }

    /// Comes back with a cursor. A snapshot is younger than the cursor that ends it, so what it gave may come again.
    pub fn resume(&mut self) {
        let given = &self.given;
        self.versions.retain(|key, _| !given.contains(key));
    }

    fn apply(&mut self, change: &Change) -> Result<(), TestCaseError> {
        prop_assert_eq!(change.cursor.is_none(), self.resyncing, "a snapshot has no cursors, the stream has");
        let key = change.key.to_string();
        let expired = change.effect == Effect::Deleted(Gone::Expired);
        if let Some((version, over)) = self.versions.get(&key) {
            // The end of a value has the version of the value.
            let follows = change.timestamp > *version || expired && !over && change.timestamp == *version;
            prop_assert!(follows, "{key}: {} after {version}", change.timestamp);
        }
        self.versions.insert(key.clone(), (change.timestamp, expired));
        if self.resyncing {
            self.given.insert(key.clone());
        }
        match &change.effect {
            Effect::Updated { value, .. } => {
                self.known.insert(key, (value.as_str().to_owned(), change.timestamp))
            }
            Effect::Deleted(_) => self.known.remove(&key),
        };
        Ok(())
    }
}

/// What a client may follow.
pub fn topics() -> impl Strategy<Value = Vec<Topic>> {
    prop_oneof![
        Just(vec![Topic::Prefix(table(), String::new())]),
        Just(vec![
            Topic::Prefix(table(), "k1".into()),
            Topic::Key(table(), key(1)),
            Topic::Key(table(), key(3))
        ]),
        Just(vec![Topic::Key(table(), key(2)), Topic::Key(table(), key(4))]),
        Just(vec![Topic::All]),
    ]
}
