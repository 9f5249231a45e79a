//! What is followed, for whoever watches the node.

use std::collections::HashMap;

use super::{change::Topic, hub::Hub};

/// Most topics that are listed: what somebody can read.
const LISTED_MAX: usize = 100;

impl Hub {
    /// The topics that most subscriptions have, at most `LISTED_MAX`, with how many have each.
    pub fn topics(&self) -> Vec<(Topic, u64)> {
        let state = self.lock();
        let mut counts: HashMap<Topic, u64> = HashMap::new();
        if !state.all.is_empty() {
            counts.insert(Topic::All, state.all.len() as u64);
        }
        for (table, keys) in &state.keys {
            for (key, subscribers) in keys {
                counts.insert(Topic::Key(table.clone(), key.clone()), subscribers.len() as u64);
            }
        }
        for (table, prefixes) in &state.prefixes {
            for (prefix, subscribers) in prefixes.iter() {
                counts.insert(Topic::Prefix(table.clone(), prefix.to_owned()), subscribers.len() as u64);
            }
        }
        drop(state);
        let mut topics: Vec<_> = counts.into_iter().collect();
        topics.sort_by(|one, two| two.1.cmp(&one.1).then_with(|| one.0.cmp(&two.0)));
        topics.truncate(LISTED_MAX);
        topics
    }
}
