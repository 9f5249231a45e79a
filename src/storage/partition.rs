//! What is known of one partition of a table, under its lock: how many rows it has.

use super::record::Head;

/// Rows of a table, or a part of it, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows with a value, expired ones until they are swept included.
    pub live: u64,
    /// Tombstones.
    pub tombstones: u64,
}

impl Counts {
    /// Counts one more row.
    pub fn add(&mut self, head: &Head) {
        *self.of(head) += 1;
    }

    fn of(&mut self, head: &Head) -> &mut u64 {
        if head.live { &mut self.live } else { &mut self.tombstones }
    }
}

/// What is known of one partition, under its lock. `None` until somebody counted its rows.
#[derive(Default)]
pub struct Partition {
    /// Its rows.
    pub counts: Option<Counts>,
}

impl Partition {
    /// Keeps account of a row that took another's place.
    pub fn replace(&mut self, old: Option<&Head>, new: Option<&Head>) {
        let Some(counts) = &mut self.counts else { return };
        if let Some(old) = old {
            *counts.of(old) -= 1;
        }
        if let Some(new) = new {
            *counts.of(new) += 1;
        }
    }
}
