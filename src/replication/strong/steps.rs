//! Entries are applied in steps, and a read of several keys sees no step by half.
//!
//! An entry's rows are merged one after the other. A read of several keys takes a *turn*, shared with other reads, while
//! none is being merged; the state machine takes a turn of its own for each entry. Turns are given in the order in which
//! they were asked for, so neither side starves the other.
//!
//! A slow reader must not hold up the log: every write on the leader waits for it. So an entry waits for readers for
//! [`READERS_MAX`] at most and is applied then, and no later entry waits for the same readers: new turns are given from there on. Each step
//! is counted, at its begin and at its end, and a reader in whose turn the count has changed reads again. So a read should be short: a page,
//! not a whole table.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedRwLockWriteGuard, RwLock},
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::error::Result;

/// How long an entry waits for readers: many times what reading a page takes.
const READERS_MAX: Duration = Duration::from_millis(100);
/// How long a read may wait and be repeated, as long as one waits for an entry.
const READ_MAX: Duration = Duration::from_secs(5);
/// The pause before a read is repeated while an entry is being applied that did not wait for it.
const RETRY: Duration = Duration::from_millis(5);

/// The steps of a state machine.
#[derive(Debug, Default)]
pub struct Steps {
    /// What gives the turns. Another one once a step went on without waiting for readers.
    turns: Mutex<Arc<RwLock<()>>>,
    /// Odd while an entry is being applied.
    count: AtomicU64,
}

/// A step that is being made. It ends when this is dropped.
pub struct Step<'a> {
    steps: &'a Steps,
    _turn: OwnedRwLockWriteGuard<()>,
}

impl Steps {
    /// Begins a step. There is one at a time.
    pub async fn begin(&self) -> Step<'_> {
        let turn = match timeout(READERS_MAX, self.turns().write_owned()).await {
            Ok(turn) => turn,
            Err(_) => self.overtake(),
        };
        self.count.fetch_add(1, Ordering::SeqCst);
        Step { steps: self, _turn: turn }
    }

    fn turns(&self) -> Arc<RwLock<()>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A turn that waits for no reader: those that are reading will read again, in turns that are given from now on.
    fn overtake(&self) -> OwnedRwLockWriteGuard<()> {
        let turns = Arc::<RwLock<()>>::default();
        let turn = turns.clone().try_write_owned().expect("nobody else has it yet");
        *self.turns.lock().unwrap_or_else(PoisonError::into_inner) = turns;
        turn
    }

    /// The result of a read that no step fell into. `None` if there was none for too long.
    ///
    /// # Errors
    /// Those of the read.
    pub async fn read<T, F>(&self, mut read: impl FnMut() -> F) -> Result<Option<T>>
    where
        F: Future<Output = Result<T>>,
    {
        let until = Instant::now() + READ_MAX;
        while let Ok(turn) = timeout_at(until, self.turns().read_owned()).await {
            let before = self.count.load(Ordering::SeqCst);
            if before.is_multiple_of(2) {
                let result = read().await;
                // What a step fell into is repeated, whatever it gave.
                if self.count.load(Ordering::SeqCst) == before {
                    return result.map(Some);
                }
            }
            if Instant::now() >= until {
                break;
            }
            drop(turn);
            sleep(RETRY).await;
        }
        Ok(None)
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.steps.count.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::FutureExt;

    use super::*;
    use crate::error::Error;

    #[tokio::test(start_paused = true)]
    async fn a_read_waits_for_a_step_and_a_step_for_a_read() {
        let steps = Steps::default();
        let step = steps.begin().await;
        assert!(steps.read(|| async { Ok(()) }).now_or_never().is_none());
        drop(step);
        let read = steps.read(|| async {
            assert!(steps.begin().now_or_never().is_none());
            Ok(1)
        });
        assert_eq!(read.await, Ok(Some(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_does_not_wait_for_a_slow_read_which_is_repeated() {
        let (steps, reads) = (Steps::default(), Cell::new(0));
        let slow_once = || {
            reads.set(reads.get() + 1);
            let slow = if reads.get() == 1 { 10 * READERS_MAX } else { Duration::ZERO };
            async move {
                sleep(slow).await;
                Ok(())
            }
        };
        let stepping = async {
            let begun = Instant::now();
            drop(steps.begin().await);
            begun.elapsed()
        };
        let (read, took) = tokio::join!(steps.read(slow_once), stepping);
        assert_eq!((read, reads.get()), (Ok(Some(())), 2));
        assert!(took <= 2 * READERS_MAX, "{took:?}");
    }

    /// What a read found while rows were being merged was its answer, if that was an error.
    #[tokio::test(start_paused = true)]
    async fn a_read_that_failed_in_a_step_is_repeated() {
        let (steps, reads) = (Steps::default(), Cell::new(0));
        let read = steps.read(|| async {
            reads.set(reads.get() + 1);
            match reads.get() {
                1 => {
                    drop(steps.begin().await);
                    Err(Error::Conflict("there is no head".into()))
                }
                reads => Ok(reads),
            }
        });
        assert_eq!(read.await, Ok(Some(2)));
        let failed = steps.read(|| async { Err::<(), _>(Error::Conflict("it is damaged".into())) });
        assert_eq!(failed.await, Err(Error::Conflict("it is damaged".into())));
    }

    /// Each step waited for the same slow reader again: while one read for 10 s, ten entries a second were applied.
    #[tokio::test(start_paused = true)]
    async fn a_slow_read_holds_up_one_step_and_not_those_that_follow() {
        let steps = Steps::default();
        let slow = steps.turns().read_owned().await;
        let begun = Instant::now();
        for _ in 0..50 {
            drop(steps.begin().await);
        }
        assert!(begun.elapsed() <= 2 * READERS_MAX, "{:?}", begun.elapsed());
        // Others read in between, and steps wait for them.
        let read = steps.read(|| async {
            assert!(steps.begin().now_or_never().is_none());
            Ok(1)
        });
        assert_eq!(read.await, Ok(Some(1)));
        drop(slow);
    }

    /// A step that did not wait for a slow reader lets no other reader in.
    #[tokio::test(start_paused = true)]
    async fn no_read_begins_in_a_step() {
        let steps = Steps::default();
        let slow = steps.turns().read_owned().await;
        let step = steps.begin().await;
        let in_step = Cell::new(true);
        let reading = steps.read(|| async {
            assert!(!in_step.get());
            Ok(())
        });
        let ending = async {
            sleep(Duration::from_millis(500)).await;
            in_step.set(false);
            drop((step, slow));
        };
        assert_eq!(tokio::join!(reading, ending).0, Ok(Some(())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_is_disturbed_all_the_time_gives_up() {
        let steps = Steps::default();
        let begun = Instant::now();
        let read = steps.read(|| async {
            drop(steps.begin().await);
            Ok(())
        });
        assert_eq!(read.await, Ok(None));
        assert!(begun.elapsed() <= 2 * READ_MAX);
    }
}
