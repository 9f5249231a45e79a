//! One tree of the engine, and what damage does to it.
//!
//! sled reads a page when somebody wants a key of it, and then an error, or a panic, is all that it says of one that is
//! damaged. Here that ends nothing but the call: a panic is an error, a scan goes on behind the page, and what could not be read
//! is kept account of. sled also moves pages while it writes others; that it cannot read one of those fails a write that has
//! nothing to do with it, which is tried again.

use std::sync::Arc;

use super::{
    ITEM_BYTES_MAX, Slice,
    gaps::{self, Gap, Gaps},
    panics, translate,
};
use crate::error::{Error, Result};

/// How often a write is tried again that failed though the page of its key is sound. Each time sled gives up one page that it
/// was about to move, so a few are enough.
const MOVES_MAX: usize = 8;
/// How often a scan begins again at one place where it failed and reading works all the same.
const RETRIES_MAX: usize = 8;

/// One ordered map of bytes to bytes.
#[derive(Clone)]
pub struct Tree {
    tree: sled::Tree,
    /// Says whether the engine has failed. Not its handle, which would keep all trees open.
    config: sled::RunningConfig,
    gaps: Arc<Gaps>,
    #[cfg(test)]
    faults: Arc<tests::Faults>,
}

impl Tree {
    pub(super) fn new(tree: sled::Tree, db: &sled::Db, gaps: Arc<Gaps>) -> Self {
        Self {
            tree,
            config: (*db.context).clone(),
            gaps,
            #[cfg(test)]
            faults: Arc::default(),
        }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// `Corrupt` where the page of the key cannot be read; so for all that follows.
    pub fn get(&self, key: &[u8]) -> Result<Option<Slice>> {
        let mut value = self.call(|| self.tree.get(key));
        // A read finishes what writes have begun, and fails as they do.
        for _ in 0..MOVES_MAX {
            if !matches!(value, Err(Error::Corrupt(_))) {
                break;
            }
            value = self.call(|| self.tree.get(key));
        }
        value
    }

    /// Sets a key. Visible at once, durable by the next `Engine::sync`.
    pub fn insert(&self, key: &[u8], value: &[u8]) -> Result<()> {
        assert!(key.len() + value.len() <= ITEM_BYTES_MAX, "item of {} bytes", key.len() + value.len());
        let inserted = self.call(|| self.tree.insert(key, value).map(drop));
        self.retry(inserted, key, || self.set(key, value))
    }

    /// Removes a key.
    pub fn remove(&self, key: &[u8]) -> Result<()> {
        let remove = || self.call(|| self.tree.remove(key).map(drop));
        self.retry(remove(), key, remove)
    }

    /// Sets many keys, all or none of which survive a crash.
    pub fn insert_all<'a>(&self, items: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone) -> Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in items.clone() {
            assert!(key.len() + value.len() <= ITEM_BYTES_MAX, "item of {} bytes", key.len() + value.len());
            batch.insert(key, value);
        }
        match self.call(|| self.tree.apply_batch(batch)) {
            // Some are set, and one of those without the feed being told. What was looked at before can be read, so this is no
            // page of theirs: one by one they are set all the same.
            Err(Error::Corrupt(_)) => items.into_iter().try_for_each(|(key, value)| self.set(key, value)),
            other => other,
        }
    }

    /// The items from `from` up to, not including, `to`; in order, from both ends.
    pub fn range(&self, from: &[u8], to: Option<&[u8]>) -> Items {
        let to = to.map(<[u8]>::to_vec);
        let iter = Some(self.iter(from, to.as_deref()));
        Items {
            tree: self.clone(),
            iter,
            from: from.to_vec(),
            to,
            low: None,
            high: None,
            gap: None,
            retries: 0,
        }
    }

    /// Every change from now on, in order per key. Holds at most 1024 unread, then blocks writers: read it without waiting.
    pub fn subscribe(&self) -> Feed {
        Feed(self.tree.watch_prefix([]))
    }

    /// The ranges that could not be read, as far as scans have met them.
    pub fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    /// Sets a key, and has the feed tell of it even where it is set to that already.
    fn set(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let present = self.get(key)?;
        let set = || self.call(|| self.tree.compare_and_swap(key, present.as_deref(), Some(value)));
        match self.retry(set(), key, set)? {
            Ok(()) => Ok(()),
            Err(_) => Err(Error::Io("storage: two writers of one key".into())),
        }
    }

    /// Tries again what failed though the page of its key can be read.
    fn retry<T>(&self, mut result: Result<T>, key: &[u8], attempt: impl Fn() -> Result<T>) -> Result<T> {
        for _ in 0..MOVES_MAX {
            if !matches!(result, Err(Error::Corrupt(_))) || self.get(key).is_err() {
                break;
            }
            result = attempt();
        }
        result
    }

    fn iter(&self, from: &[u8], to: Option<&[u8]>) -> sled::Iter {
        match to {
            Some(to) => self.tree.range(from..to),
            None => self.tree.range(from..),
        }
    }

    /// Calls sled. A panic on damaged bytes is an error, and so is a disk that does not give what it was given, which is none of the
    /// errors that sled keeps for the life of its handle.
    fn call<T>(&self, call: impl FnOnce() -> sled::Result<T>) -> Result<T> {
        #[cfg(test)]
        self.faults.meet()?;
        match caught(call) {
            Err(sled::Error::Io(error)) if self.config.global_error().is_ok() => {
                Err(Error::Corrupt(format!("reading the disk failed: {error}")))
            }
            result => result.map_err(translate),
        }
    }

    /// What cannot be read from `from` on, where a scan up to `to` failed.
    fn gap_after(&self, from: &[u8], to: Option<&[u8]>) -> Option<Gap> {
        let reads = |at: &[u8]| {
            let read = || self.call(|| self.iter(at, to).next().transpose()).is_ok();
            // The second look is at the page itself: what failed the first may have been one that was to be moved.
            read() || read()
        };
        if reads(from) {
            return None;
        }
        let known = self.gaps.covering(from).filter(|known| match (&known.to, to) {
            (Some(end), Some(to)) => end.as_slice() >= to || reads(end),
            (Some(end), None) => reads(end),
            (None, _) => true,
        });
        let end = match known {
            Some(known) => known.to.filter(|end| to.is_none_or(|to| end.as_slice() < to)),
            None => gaps::end(from, to, reads),
        };
        let gap = Gap { from: from.to_vec(), to: end.or_else(|| to.map(<[u8]>::to_vec)) };
        self.gaps.add(gap.clone());
        Some(gap)
    }

    /// What cannot be read right below `to`, where a backward scan down to `from` failed.
    fn gap_before(&self, from: &[u8], to: Option<&[u8]>) -> Option<Gap> {
        // sled tells the end of a page, and not its beginning: so it is looked at from the front.
        let mut items = self.range(from, to);
        let mut last = None;
        while let Some(item) = items.next() {
            last = if item.is_err() { items.gap.take() } else { None };
        }
        last
    }
}

/// Items of a tree, in order. Where a page cannot be read there is one `Corrupt` in place of its items, and then those behind it;
/// any other error is the last item.
pub struct Items {
    tree: Tree,
    iter: Option<sled::Iter>,
    /// What was asked for, less what lies behind an unreadable page that was passed.
    from: Vec<u8>,
    to: Option<Vec<u8>>,
    /// The last keys that were given, from the front and from the back.
    low: Option<Slice>,
    high: Option<Slice>,
    gap: Option<Gap>,
    retries: usize,
}

impl Items {
    /// The range that could not be read, after a `Corrupt`.
    pub fn gap(&mut self) -> Option<Gap> {
        self.gap.take()
    }

    fn step(&mut self, forward: bool) -> Option<Result<(Slice, Slice)>> {
        loop {
            let iter = self.iter.as_mut()?;
            let mut next = || if forward { iter.next() } else { iter.next_back() };
            match self.tree.call(|| next().transpose()).transpose()? {
                Ok(item) => {
                    let last = if forward { &mut self.low } else { &mut self.high };
                    *last = Some(item.0.clone());
                    self.retries = 0;
                    return Some(Ok(item));
                }
                Err(error @ Error::Corrupt(_)) => {
                    let from = self.low.take().map_or_else(|| self.from.clone(), |low| gaps::successor(&low));
                    let to = self.high.take().map(|high| high.to_vec()).or_else(|| self.to.clone());
                    (self.from, self.to) = (from, to);
                    match self.pass(forward) {
                        Passed::Gap => return Some(Err(error)),
                        Passed::Nothing => {}
                        Passed::TooOften => {
                            // Not damage, behind which one goes on: nobody knows what was not read.
                            return Some(Err(Error::Io(format!("storage: a scan gets no further: {error}"))));
                        }
                    }
                }
                Err(error) => {
                    self.iter = None;
                    return Some(Err(error));
                }
            }
        }
    }

    /// Goes on behind what cannot be read.
    fn pass(&mut self, forward: bool) -> Passed {
        let to = self.to.as_deref();
        let gap =
            if forward { self.tree.gap_after(&self.from, to) } else { self.tree.gap_before(&self.from, to) };
        self.retries += 1;
        let Some(gap) = gap else {
            // Somebody moved the page meanwhile.
            self.iter = (self.retries <= RETRIES_MAX).then(|| self.tree.iter(&self.from, to));
            return if self.iter.is_some() { Passed::Nothing } else { Passed::TooOften };
        };
        self.retries = 0;
        let more = match (forward, &gap.to) {
            (true, Some(end)) => {
                self.from.clone_from(end);
                self.to.as_ref().is_none_or(|to| end < to)
            }
            (true, None) => false,
            (false, _) => {
                self.to = Some(gap.from.clone());
                self.from < gap.from
            }
        };
        self.iter = more.then(|| self.tree.iter(&self.from, self.to.as_deref()));
        self.gap = Some(gap);
        Passed::Gap
    }
}

/// What a scan that failed has gone around.
enum Passed {
    /// A range that cannot be read.
    Gap,
    /// Nothing: it can be read after all.
    Nothing,
    /// Nothing, too often to be tried again.
    TooOften,
}

impl Iterator for Items {
    type Item = Result<(Slice, Slice)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(true)
    }
}

impl DoubleEndedIterator for Items {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(false)
    }
}

/// The change feed of one tree: its inserts as (key, value), waiting for the next one. Ends when its engine is closed.
///
/// sled can also wait with a time limit, and be polled. Both can lose an event: a wait that ends keeps the event it had begun to
/// wait for where the iterator does not look, and a poll can miss the wake-up of one that comes meanwhile.
pub struct Feed(sled::Subscriber);

impl Iterator for Feed {
    type Item = (Slice, Slice);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.find_map(|event| match event {
            sled::Event::Insert { key, value } => Some((key, value)),
            sled::Event::Remove { .. } => None,
        })
    }
}

/// Calls sled; where that panics, it is an error that says of what.
pub(super) fn caught<T>(call: impl FnOnce() -> sled::Result<T>) -> sled::Result<T> {
    panics::caught(call)
        .unwrap_or_else(|said| Err(sled::Error::ReportableBug(format!("sled panicked on it: {said}"))))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Mutex, PoisonError},
    };

    use super::*;
    use crate::storage::engine::Engine;

    const KEYS: u8 = 30;

    /// Which of the next calls of the engine fail.
    #[derive(Default)]
    pub struct Faults(Mutex<VecDeque<bool>>);

    impl Faults {
        pub fn meet(&self) -> Result<()> {
            match self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                Some(true) => Err(Error::Corrupt("a page that was to be moved".into())),
                Some(false) | None => Ok(()),
            }
        }

        fn set(&self, faults: &[bool]) {
            *self.0.lock().expect("nobody panicked") = faults.iter().copied().collect();
        }
    }

    fn filled(data: &tempfile::TempDir) -> (Engine, Tree) {
        let engine = Engine::open(&data.path().join("storage.db"), 1024 * 1024).expect("opens");
        let tree = engine.tree("t").expect("a tree");
        (0..KEYS).for_each(|key| tree.insert(&[key], b"value").expect("inserts"));
        (engine, tree)
    }

    /// Where a scan failed again and again because of pages that the engine was about to move, and each time could be read after all, it
    /// ended early without a range that was not read: a copy of the table lost all that came behind, without a word.
    #[test]
    fn a_scan_that_can_be_read_after_all_is_not_shorter() {
        let data = tempfile::tempdir().expect("a directory");
        let (engine, tree) = filled(&data);
        // The step fails, the look at what cannot be read works, and so does the next step.
        tree.faults.set(&[true, false, false].repeat(usize::from(KEYS)));
        let keys: Vec<Slice> = tree.range(&[], None).map(|item| item.expect("can be read").0).collect();
        assert_eq!(keys.len(), usize::from(KEYS));
        drop((tree, engine));
    }

    /// As above; what then is not known to be damage is none, and nobody may go on as if all had been read.
    #[test]
    fn a_scan_that_gets_no_further_says_so() {
        let data = tempfile::tempdir().expect("a directory");
        let (engine, tree) = filled(&data);
        tree.faults.set(&[true, false].repeat(2 * RETRIES_MAX));
        let mut items = tree.range(&[], None);
        let first = items.next().expect("an item or an error");
        assert!(matches!(first, Err(Error::Io(_))), "{first:?}");
        assert!(items.next().is_none() && tree.gaps().is_empty());
        drop((items, tree, engine));
    }
}
