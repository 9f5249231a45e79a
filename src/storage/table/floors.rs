//! The removal floors of this node: how far garbage was removed. What a floor has passed is garbage on every replica. The floors are
//! durable before the first row is removed, so that after a crash this node still knows that a row it lacks may have been deleted.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::due_index;
use crate::{
    core::{
        name::{Key, TableName},
        protocol::replica::Swept,
    },
    error::{Error, Result},
    storage::{
        META, Store,
        engine::{Engine, Tree, meta, notes},
        table::jobs::GcJob,
        table::{row::key_of, trees},
    },
};

/// Tombstones are removed in steps: each step costs a sync, and during it the nodes of a cluster cannot be compared.
const TOMBSTONES_STEP_MS: u64 = 10_000;

/// The floors of a store.
pub struct Floors {
    tombstones_ms: AtomicU64,
    expired_ms: AtomicU64,
    /// The latest instant up to which members announced that all have everything: floors may rise to there at any time.
    announced_ms: AtomicU64,
    /// For how long a tombstone stays after the floor has passed it.
    grace_ms: AtomicU64,
    /// How often something became due at once, and how often it had when the last complete sweep began.
    begun: AtomicU64,
    done: AtomicU64,
    /// What is durable. Used only by the worker.
    durable: Mutex<Swept>,
}

impl Floors {
    /// Floors as they were stored, and up to where this node may have announced that all have everything (Unix milliseconds).
    /// The last sweep may have been interrupted.
    pub fn new(swept: Swept, announced_ms: u64) -> Self {
        Self {
            tombstones_ms: AtomicU64::new(swept.tombstones_ms),
            expired_ms: AtomicU64::new(swept.expired_ms),
            announced_ms: AtomicU64::new(announced_ms),
            grace_ms: AtomicU64::new(0),
            begun: AtomicU64::new(1),
            done: AtomicU64::new(0),
            durable: Mutex::new(swept),
        }
    }

    /// The current floors; rows below them may still be there.
    pub fn swept(&self) -> Swept {
        Swept {
            tombstones_ms: self.tombstones_ms.load(Ordering::Acquire),
            expired_ms: self.expired_ms.load(Ordering::Acquire),
        }
    }

    /// Records that members announced that all have everything up to an instant (Unix milliseconds).
    pub fn announced(&self, at_ms: u64) {
        self.announced_ms.fetch_max(at_ms, Ordering::AcqRel);
    }

    /// The lowest floor that may remove a tombstone that is stored now and was written at an instant (Unix milliseconds): that
    /// instant, or, if the tombstone comes late, the first that nobody can have taken from earlier announcements.
    pub fn tombstone_due_ms(&self, written_ms: u64) -> u64 {
        let passed_ms = self.tombstones_below_ms(self.announced_ms.load(Ordering::Acquire));
        due_ms(written_ms, self.swept().tombstones_ms.max(passed_ms))
    }

    /// The same for a value that may otherwise be removed at a floor of expired values.
    pub fn expired_due_ms(&self, removal_floor_ms: u64) -> u64 {
        due_ms(removal_floor_ms, self.swept().expired_ms.max(self.announced_ms.load(Ordering::Acquire)))
    }

    /// Up to where tombstones are removed once every replica has everything up to `floor_ms`.
    fn tombstones_below_ms(&self, floor_ms: u64) -> u64 {
        let grace_ms = self.grace_ms.load(Ordering::Acquire);
        floor_ms.saturating_sub(grace_ms) / TOMBSTONES_STEP_MS * TOMBSTONES_STEP_MS
    }

    /// Records that something is due again.
    pub fn renew(&self) {
        self.begun.fetch_add(1, Ordering::AcqRel);
    }

    /// How often something became due: pass it to `finish`.
    pub(in crate::storage) fn begin(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// Records that everything due at `begin` is removed.
    pub(in crate::storage) fn finish(&self, begun: u64) {
        self.done.store(begun, Ordering::Release);
    }

    /// Whether garbage below the floors may still be here.
    fn is_sweeping(&self) -> bool {
        self.done.load(Ordering::Acquire) != self.begun.load(Ordering::Acquire)
    }

    /// Raises the floors to these, if they are lower. Returns whether one was.
    fn raise(&self, swept: Swept) -> bool {
        let tombstones_ms = self.tombstones_ms.fetch_max(swept.tombstones_ms, Ordering::AcqRel);
        let expired_ms = self.expired_ms.fetch_max(swept.expired_ms, Ordering::AcqRel);
        let raised = tombstones_ms < swept.tombstones_ms || expired_ms < swept.expired_ms;
        if raised {
            self.renew();
        }
        raised
    }
}

/// The lowest floor that may remove something: its own instant, or the first that is above all that was passed when it came.
fn due_ms(own_ms: u64, passed_ms: u64) -> u64 {
    if own_ms > passed_ms { own_ms } else { passed_ms.saturating_add(1) }
}

/// Reads the floors from a store's `meta` tree.
///
/// # Errors
/// `StorageDamaged`.
pub fn read_swept(meta: &Tree) -> Result<Swept> {
    let Some(kept) = meta.get(meta::SWEPT)? else { return Ok(Swept::default()) };
    let floors = notes::unseal(&kept).and_then(|bytes| {
        let (tombstones_ms, expired_ms) = bytes.split_first_chunk()?;
        Some(Swept {
            tombstones_ms: u64::from_be_bytes(*tombstones_ms),
            expired_ms: u64::from_be_bytes(expired_ms.try_into().ok()?),
        })
    });
    floors.ok_or_else(|| {
        Error::StorageDamaged("the record of how far garbage was removed cannot be read".into())
    })
}

impl Store {
    /// The floors: garbage below them is removed, or is being removed.
    pub fn swept(&self) -> Swept {
        self.0.context.floors.swept()
    }

    /// Whether garbage below the floors may still be here. Digests of nodes cannot be compared meanwhile.
    pub fn is_sweeping(&self) -> bool {
        self.0.context.floors.is_sweeping()
    }

    /// Raises the floors to these, if they are lower, and wakes the worker to remove the garbage below them.
    pub fn sweep_to(&self, swept: Swept) {
        if self.0.context.floors.raise(swept) {
            self.wake_worker();
        }
    }

    /// Sets for how long a tombstone stays after the floor has passed it (milliseconds; 0 at first). It should be the same on all nodes.
    pub fn set_tombstone_grace(&self, grace_ms: u64) {
        self.0.context.floors.grace_ms.store(grace_ms, Ordering::Release);
    }

    /// Raises the floors as far as that removes something, given that every replica has everything up to `floor_ms`: expired values up to
    /// there, tombstones up to the grace period before. Writes nothing if nothing is due.
    ///
    /// # Errors
    /// `NotReady` while the storage is being reopened.
    pub fn advance_floors(&self, floor_ms: u64) -> Result<()> {
        let tombstones_ms = self.0.context.floors.tombstones_below_ms(floor_ms);
        let mut swept = self.swept();
        let has_any = |tree: &str, swept_ms: u64, to_ms: u64| -> Result<bool> {
            if to_ms <= swept_ms {
                return Ok(false);
            }
            let tree = self.with_engine(|engine| engine.tree(tree))?;
            Ok(tree.range(&[], Some(&above(to_ms))).next().transpose()?.is_some())
        };
        if has_any(trees::TOMBSTONES, swept.tombstones_ms, tombstones_ms)? {
            swept.tombstones_ms = tombstones_ms;
        }
        if has_any(trees::EXPIRED, swept.expired_ms, floor_ms)? {
            swept.expired_ms = floor_ms;
        }
        self.sweep_to(swept);
        Ok(())
    }

    /// The lowest floor at which something that is here now becomes due; `None` if there is no garbage.
    ///
    /// # Errors
    /// `NotReady` while the storage is being reopened.
    pub fn next_sweep_ms(&self) -> Result<Option<u64>> {
        let grace_ms = self.0.context.floors.grace_ms.load(Ordering::Acquire);
        let swept = self.swept();
        let first = |tree: &str, swept_ms: u64| -> Result<Option<u64>> {
            let tree = self.with_engine(|engine| engine.tree(tree))?;
            let Some(item) = tree.range(&[], None).next() else { return Ok(None) };
            // What the floors have passed is being removed.
            Ok(due_index::parse(&item?.0).map(|(at_ms, ..)| at_ms.max(swept_ms.saturating_add(1))))
        };
        let tombstone = first(trees::TOMBSTONES, swept.tombstones_ms)?;
        let tombstone = tombstone.map(|at_ms| at_ms.next_multiple_of(TOMBSTONES_STEP_MS) + grace_ms);
        let expired = first(trees::EXPIRED, swept.expired_ms)?;
        Ok(tombstone.into_iter().chain(expired).min())
    }

    /// The garbage below these floors, ordered by time.
    ///
    /// # Errors
    /// `NotReady` while the storage is being reopened.
    pub fn garbage(&self, swept: Swept) -> Result<Vec<(TableName, Vec<Key>)>> {
        let mut garbage: Vec<(TableName, Vec<Key>)> = Vec::new();
        let swept_ms = swept.expired_ms;
        let floors = [
            (trees::TOMBSTONES, swept.tombstones_ms),
            (trees::EXPIRED, swept.expired_ms),
            // The expiry of some was not announced here yet, or a clock elsewhere is ahead.
            (trees::EXPIRY, swept.expired_ms),
        ];
        for (tree_name, to_ms) in floors {
            let tree = self.with_engine(|engine| engine.tree(tree_name))?;
            for item in tree.range(&[], Some(&above(to_ms))) {
                let (entry, value) = item?;
                let Some((_, name, row)) = due_index::parse(&entry) else { continue };
                if tree_name == trees::EXPIRY && due_index::instant(&value).is_some_and(|due| due > swept_ms)
                {
                    // It came late, and stays.
                    continue;
                }
                // A row whose name is no key belongs to nobody and is removed like all others.
                let Ok(key) = key_of(row) else { continue };
                match garbage.last_mut() {
                    Some((last, keys)) if *last == name => keys.push(key),
                    Some(_) | None => garbage.push((name, vec![key])),
                }
            }
        }
        Ok(garbage)
    }

    /// Replaces the floors, even by lower ones: by those of a cluster that this node joins or returns to.
    ///
    /// # Errors
    /// Those of the storage. Durable on return.
    pub fn reset_swept(&self, swept: Swept) -> Result<()> {
        let floors = &self.0.context.floors;
        let mut durable = floors.durable.lock().unwrap_or_else(PoisonError::into_inner);
        self.persist_floors(swept)?;
        floors.tombstones_ms.store(swept.tombstones_ms, Ordering::Release);
        floors.expired_ms.store(swept.expired_ms, Ordering::Release);
        *durable = swept;
        drop(durable);
        self.sweep_again();
        Ok(())
    }

    /// Sweeps again after the storage was reopened, which may have undone removals.
    pub(in crate::storage) fn sweep_again(&self) {
        self.0.context.floors.renew();
        self.wake_worker();
    }

    /// The floors, made durable: rows below them may be removed.
    pub(in crate::storage) fn durable_floors(&self) -> Result<Swept> {
        let floors = &self.0.context.floors;
        // Both numbers only grow: valid even if a holder panicked.
        let mut durable = floors.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let swept = floors.swept();
        if swept != *durable {
            self.persist_floors(swept)?;
            *durable = swept;
        }
        Ok(swept)
    }

    fn persist_floors(&self, swept: Swept) -> Result<()> {
        self.0.context.committer.noticed(self.with_engine(|engine| write_floors(engine, swept)))
    }

    fn wake_worker(&self) {
        // The worker may be gone while the store closes.
        let _ = self.0.context.jobs.send(GcJob::Wake);
    }
}

/// Stores the floors. Durable on return.
///
/// # Errors
/// Those of the engine.
pub fn write_floors(engine: &Engine, swept: Swept) -> Result<()> {
    let floors = [swept.tombstones_ms.to_be_bytes(), swept.expired_ms.to_be_bytes()].concat();
    engine.tree(META)?.insert(meta::SWEPT, &notes::seal(&floors))?;
    engine.sync()
}

/// The least entry above all entries of an instant.
pub(in crate::storage) fn above(at_ms: u64) -> [u8; 8] {
    at_ms.saturating_add(1).to_be_bytes()
}
