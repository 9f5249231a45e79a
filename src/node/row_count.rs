//! The count of all rows, which follows each start: the storage knows how many there are only once it has read them. That takes 5 s for a million
//! rows, and minutes for many of them on a slow disk. Whoever asks for figures of tables waits for it a little, and then gets those of what is
//! counted, marked as such.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tracing::warn;

use super::Node;

/// For how long after its beginning a count is waited for: less than clients of the project wait for an answer.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The count that is under way, or was last.
#[derive(Default)]
pub struct RowCount(Mutex<Option<Count>>);

#[derive(Clone)]
struct Count {
    begun: Instant,
    /// Closed once it has ended.
    ended: watch::Receiver<()>,
}

impl RowCount {
    /// The count that is under way. If there is none, `begin` begins one, which ends when what it is given is dropped.
    fn running(&self, begin: impl FnOnce(watch::Sender<()>)) -> Count {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(count) if count.ended.has_changed().is_ok() => count.clone(),
            _ => {
                let (running, ended) = watch::channel(());
                let count = Count { begun: Instant::now(), ended };
                *last = Some(count.clone());
                begin(running);
                count
            }
        }
    }
}

impl Count {
    async fn wait(mut self) {
        // It is an error that ends it.
        let _ = timeout_at(self.begun + WAIT_MAX, self.ended.changed()).await;
    }
}

impl Node {
    /// Counts the rows of all tables in the background, as after a start.
    pub(super) fn count_rows(&self) {
        self.running_count();
    }

    /// Waits a little for the count of rows. Returns whether all are counted: they may not be yet, or the disk fails and they cannot be.
    pub async fn rows_counted(&self) -> bool {
        if !self.store.is_counted() {
            self.running_count().wait().await;
        }
        self.store.is_counted()
    }

    fn running_count(&self) -> Count {
        self.row_count.running(|running| {
            let store = self.store.clone();
            tokio::spawn(async move {
                let counted = store.clone();
                if let Err(error) = store.environment().run(move || counted.count_rows()).await {
                    warn!(%error, "could not count all rows");
                }
                drop(running);
            });
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each request for figures began a count of its own, on a thread of its own, and waited for its end: ten minutes with ten million rows.
    #[tokio::test(start_paused = true)]
    async fn one_count_runs_at_a_time_and_is_waited_for_a_little() {
        let (counts, mut begun) = (RowCount::default(), Vec::new());
        let start = Instant::now();
        counts.running(|running| begun.push(running)).wait().await;
        assert_eq!(start.elapsed(), WAIT_MAX);
        counts.running(|running| begun.push(running)).wait().await;
        assert_eq!((start.elapsed(), begun.len()), (WAIT_MAX, 1), "the time for it is over");
        drop(begun.pop());
        let next = counts.running(|running| begun.push(running));
        assert_eq!(begun.len(), 1, "the first has ended");
        let ended = tokio::spawn(next.wait());
        drop(begun.pop());
        ended.await.expect("it ends");
        assert_eq!(start.elapsed(), WAIT_MAX);
    }
}
