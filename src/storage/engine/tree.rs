//! One tree of the engine, and how it survives damage.
//!
//! sled reads a page only when a key of it is needed; if the page is damaged, an error or a panic is all it reports. Here that ends only
//! the call: a panic becomes an error, a scan continues behind the page, and the unreadable range is recorded. sled also moves pages while
//! it writes others; a page that it cannot move fails an unrelated write, which is retried.

use std::sync::Arc;

use super::{
    ITEM_BYTES_MAX, Slice,
    gaps::{self, Gap, Gaps},
    panics, translate,
};
use crate::error::{Error, Result};

/// How often a failed write is retried although the page of its key is sound. Each time sled skips one page that it wanted to move, so a
/// few retries are enough.
const MOVES_MAX: usize = 8;
/// How often a scan restarts at one place where it failed although reading works.
const RETRIES_MAX: usize = 8;

/// One ordered map from bytes to bytes.
#[derive(Clone)]
pub struct Tree {
    tree: sled::Tree,
    /// Tells whether the engine has failed. Not its handle, which would keep all trees open.
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
    /// `Corrupt` if the page of the key cannot be read; the same holds for the methods below.
    pub fn get(&self, key: &[u8]) -> Result<Option<Slice>> {
        let mut value = self.call(|| self.tree.get(key));
        // A read completes what writes have begun, and fails as they do.
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

    /// Sets many keys; after a crash all of them are there, or none. sled lets nothing else in meanwhile, and waits for a sync that is under way; from
    /// the first call on, all reads and writes take a lock for that.
    pub fn insert_all<'a>(&self, items: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone) -> Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in items.clone() {
            assert!(key.len() + value.len() <= ITEM_BYTES_MAX, "item of {} bytes", key.len() + value.len());
            batch.insert(key, value);
        }
        match self.call(|| self.tree.apply_batch(batch)) {
            // Some are set, one of them without an event in the feed. Their own pages were read before and are sound, so the failing page
            // is another: set them one by one.
            Err(Error::Corrupt(_)) => items.into_iter().try_for_each(|(key, value)| self.set(key, value)),
            other => other,
        }
    }

    /// The items from `from` up to, not including, `to`, in order; can be read from both ends.
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

    /// The feed of every change from now on, in order per key. It holds at most 1024 unread changes, then blocks writers: read it without
    /// waiting.
    pub fn subscribe(&self) -> Feed {
        Feed(self.tree.watch_prefix([]))
    }

    /// The unreadable ranges that scans have found so far.
    pub fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    /// Sets a key so that the feed reports it, even if it has that value already.
    fn set(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let present = self.get(key)?;
        let set = || self.call(|| self.tree.compare_and_swap(key, present.as_deref(), Some(value)));
        match self.retry(set(), key, set)? {
            Ok(()) => Ok(()),
            Err(_) => Err(Error::Io("storage: two threads wrote one key at the same time".into())),
        }
    }

    /// Retries a failed call if the page of its key can be read.
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

    /// Calls sled. A panic on damaged bytes becomes an error, and so does a failed read of the disk, which is not one of the errors that
    /// sled keeps for the life of its handle.
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

    /// The unreadable range from `from` on, after a scan up to `to` failed.
    fn gap_after(&self, from: &[u8], to: Option<&[u8]>) -> Option<Gap> {
        let reads = |at: &[u8]| {
            let read = || self.call(|| self.iter(at, to).next().transpose()).is_ok();
            // The second look reads the page itself: the first may have failed on a page that sled wanted to move.
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

    /// The unreadable range just below `to`, after a backward scan down to `from` failed.
    fn gap_before(&self, from: &[u8], to: Option<&[u8]>) -> Option<Gap> {
        // sled can find the end of a page, not its start: so scan from the front.
        let mut items = self.range(from, to);
        let mut last = None;
        while let Some(item) = items.next() {
            last = if item.is_err() { items.gap.take() } else { None };
        }
        last
    }
}

/// Items of a tree, in order. An unreadable page gives one `Corrupt` in place of its items, then the items behind it follow; any other
/// error is the last item.
pub struct Items {
    tree: Tree,
    iter: Option<sled::Iter>,
    /// The range asked for, without what lies before an unreadable page that was passed.
    from: Vec<u8>,
    to: Option<Vec<u8>>,
    /// The last keys returned, from the front and from the back.
    low: Option<Slice>,
    high: Option<Slice>,
    gap: Option<Gap>,
    retries: usize,
}

impl Items {
    /// The unreadable range, after a `Corrupt`.
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
                            // Not damage, which a scan continues behind: nobody knows what was not read.
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

    /// Continues behind what cannot be read.
    fn pass(&mut self, forward: bool) -> Passed {
        let to = self.to.as_deref();
        let gap =
            if forward { self.tree.gap_after(&self.from, to) } else { self.tree.gap_before(&self.from, to) };
        self.retries += 1;
        let Some(gap) = gap else {
            // The page was moved meanwhile.
            self.iter = (self.retries <= RETRIES_MAX).then(|| self.tree.iter(&self.from, to));
            return if self.iter.is_some() { Passed::Nothing } else { Passed::TooOften };
        };
        self.retries = 0;
        debug_assert!(gap.to.as_ref().is_none_or(|end| *end > gap.from), "a scan that goes back: {gap}");
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

/// What a failed scan skipped.
enum Passed {
    /// An unreadable range.
    Gap,
    /// Nothing: it can be read after all.
    Nothing,
    /// Nothing, too many times to retry again.
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

/// The change feed of one tree: its inserts as (key, value). Blocks for the next one, and ends when the engine is closed.
///
/// sled can also wait with a time limit, and be polled. Both can lose an event: a wait that times out leaves behind the event it had begun
/// to wait for, and a poll can miss the wakeup of an event that arrives meanwhile.
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

/// Calls sled and turns a panic into an error with its message.
pub(super) fn caught<T>(call: impl FnOnce() -> sled::Result<T>) -> sled::Result<T> {
    panics::caught(call)
        .unwrap_or_else(|said| Err(sled::Error::ReportableBug(format!("sled panicked: {said}"))))
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

    /// A scan failed again and again on pages that the engine was about to move, although each could be read after all. It then ended
    /// early, without an unreadable range: a copy of the table silently lost everything behind.
    #[test]
    fn a_scan_that_can_be_read_after_all_is_not_shorter() {
        let data = tempfile::tempdir().expect("a directory");
        let (engine, tree) = filled(&data);
        // The step fails, the check for an unreadable range succeeds, and so does the next step.
        tree.faults.set(&[true, false, false].repeat(usize::from(KEYS)));
        let keys: Vec<Slice> = tree.range(&[], None).map(|item| item.expect("can be read").0).collect();
        assert_eq!(keys.len(), usize::from(KEYS));
        drop((tree, engine));
    }

    /// As above. What is not known to be damage is not reported as damage, and nobody may continue as if everything had been read.
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
