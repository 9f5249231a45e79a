//! How far the dead are gone here. What the floors have passed is dead on every replica; the floors are durable before the
//! first row goes, so that no crash makes this node forget that a row it has not may have been deleted.

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

/// Tombstones go in steps: each step is a sync, and for a moment the nodes of a cluster cannot be compared.
const TOMBSTONES_STEP_MS: u64 = 10_000;

/// The floors of a store.
pub struct Floors {
    tombstones_ms: AtomicU64,
    expired_ms: AtomicU64,
    /// How often something became due at once, and how often that was when the last sweep began that left nothing.
    begun: AtomicU64,
    done: AtomicU64,
    /// What is durable. Only the thread that sweeps asks.
    durable: Mutex<Swept>,
}

impl Floors {
    /// Floors as they were kept. A sweep before may have been cut short.
    pub fn new(swept: Swept) -> Self {
        Self {
            tombstones_ms: AtomicU64::new(swept.tombstones_ms),
            expired_ms: AtomicU64::new(swept.expired_ms),
            begun: AtomicU64::new(1),
            done: AtomicU64::new(0),
            durable: Mutex::new(swept),
        }
    }

    /// The floors as they are; rows may still be going because of them.
    pub fn swept(&self) -> Swept {
        Swept {
            tombstones_ms: self.tombstones_ms.load(Ordering::Acquire),
            expired_ms: self.expired_ms.load(Ordering::Acquire),
        }
    }

    /// Says that something is due again.
    pub fn renew(&self) {
        self.begun.fetch_add(1, Ordering::AcqRel);
    }

    /// How often something became due: for `finish`.
    pub(in crate::storage) fn begin(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// Says that nothing is left of what was due at `begin`.
    pub(in crate::storage) fn finish(&self, begun: u64) {
        self.done.store(begun, Ordering::Release);
    }

    /// Whether dead rows may be here that the floors have passed.
    fn is_sweeping(&self) -> bool {
        self.done.load(Ordering::Acquire) != self.begun.load(Ordering::Acquire)
    }

    /// Raises the floors to these, where they are lower; whether any was.
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

/// The floors as a store's `meta` has them.
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
    floors.ok_or_else(|| Error::StorageDamaged("how far dead rows were removed is not readable".into()))
}

impl Store {
    /// How far dead rows have been removed here, or are just being.
    pub fn swept(&self) -> Swept {
        self.0.context.floors.swept()
    }

    /// Whether rows may still be here that `swept` has passed. Digests of nodes do not compare meanwhile.
    pub fn is_sweeping(&self) -> bool {
        self.0.context.floors.is_sweeping()
    }

    /// Raises the floors to these, where they are lower, and has what they pass removed soon.
    pub fn sweep_to(&self, swept: Swept) {
        if self.0.context.floors.raise(swept) {
            self.wake_worker();
        }
    }

    /// Raises the floors as far as something is to be removed by that, every replica having everything up to `floor_ms`:
    /// expired values up to there, tombstones up to `grace_ms` before. Writes nothing where nothing is due.
    ///
    /// # Errors
    /// `NotReady` while the storage is being opened again.
    pub fn advance_floors(&self, floor_ms: u64, grace_ms: u64) -> Result<()> {
        let tombstones_ms = floor_ms.saturating_sub(grace_ms) / TOMBSTONES_STEP_MS * TOMBSTONES_STEP_MS;
        let mut swept = self.swept();
        let has_any = |tree: &str, after_ms: u64, to_ms: u64| -> Result<bool> {
            if to_ms <= after_ms {
                return Ok(false);
            }
            let tree = self.with_engine(|engine| engine.tree(tree))?;
            Ok(tree.range(&above(after_ms), Some(&above(to_ms))).next().transpose()?.is_some())
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

    /// The least floor at which something is to be removed that is here now; `None` where nothing is dead.
    ///
    /// # Errors
    /// `NotReady` while the storage is being opened again.
    pub fn next_sweep_ms(&self, grace_ms: u64) -> Result<Option<u64>> {
        let swept = self.swept();
        let first = |tree: &str, after_ms: u64| -> Result<Option<u64>> {
            let tree = self.with_engine(|engine| engine.tree(tree))?;
            let Some(item) = tree.range(&above(after_ms), None).next() else { return Ok(None) };
            Ok(due_index::parse(&item?.0).map(|(at_ms, ..)| at_ms))
        };
        let tombstone = first(trees::TOMBSTONES, swept.tombstones_ms)?;
        let tombstone = tombstone.map(|at_ms| at_ms.next_multiple_of(TOMBSTONES_STEP_MS) + grace_ms);
        let expired = first(trees::EXPIRED, swept.expired_ms)?;
        Ok(tombstone.into_iter().chain(expired).min())
    }

    /// The rows that are dead and that these floors let go of, in order of time.
    ///
    /// # Errors
    /// `NotReady` while the storage is being opened again.
    pub fn garbage(&self, swept: Swept) -> Result<Vec<(TableName, Vec<Key>)>> {
        let mut garbage: Vec<(TableName, Vec<Key>)> = Vec::new();
        let floors = [
            (trees::TOMBSTONES, swept.tombstones_ms),
            (trees::EXPIRED, swept.expired_ms),
            // Nobody here was told yet of the end of some, or a clock elsewhere is ahead.
            (trees::EXPIRY, swept.expired_ms),
        ];
        for (tree, to_ms) in floors {
            let tree = self.with_engine(|engine| engine.tree(tree))?;
            for item in tree.range(&[], Some(&above(to_ms))) {
                let (entry, _) = item?;
                let Some((_, name, row)) = due_index::parse(&entry) else { continue };
                // A row without a key for a name is nobody's, and is removed as all others are.
                let Ok(key) = key_of(row) else { continue };
                match garbage.last_mut() {
                    Some((last, keys)) if *last == name => keys.push(key),
                    Some(_) | None => garbage.push((name, vec![key])),
                }
            }
        }
        Ok(garbage)
    }

    /// Sets the floors anew, also lower: to those of a cluster that this node goes over to, or comes back to.
    ///
    /// # Errors
    /// As the storage's. Durable on return.
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

    /// Sweeps again, as the storage was opened again and has lost some of what was done.
    pub(in crate::storage) fn sweep_again(&self) {
        self.0.context.floors.renew();
        self.wake_worker();
    }

    /// The floors, durable: rows may be removed because of these.
    pub(in crate::storage) fn durable_floors(&self) -> Result<Swept> {
        let floors = &self.0.context.floors;
        // Both numbers only grow: whatever panicked, they were true.
        let mut durable = floors.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let swept = floors.swept();
        if swept != *durable {
            self.persist_floors(swept)?;
            *durable = swept;
        }
        Ok(swept)
    }

    fn persist_floors(&self, swept: Swept) -> Result<()> {
        self.with_engine(|engine| write_floors(engine, swept)).inspect_err(|error| {
            if let Error::StorageFull(reason) = error {
                self.0.context.committer.fail(reason);
            }
        })
    }

    fn wake_worker(&self) {
        // The thread may be gone already, at the end.
        let _ = self.0.context.jobs.send(GcJob::Wake);
    }
}

/// Writes the floors down. Durable on return.
///
/// # Errors
/// As the engine's.
pub fn write_floors(engine: &Engine, swept: Swept) -> Result<()> {
    let floors = [swept.tombstones_ms.to_be_bytes(), swept.expired_ms.to_be_bytes()].concat();
    engine.tree(META)?.insert(meta::SWEPT, &notes::seal(&floors))?;
    engine.sync()
}

/// The least entry above all of an instant.
pub(in crate::storage) fn above(at_ms: u64) -> [u8; 8] {
    at_ms.saturating_add(1).to_be_bytes()
}
