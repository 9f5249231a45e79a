//! Linearizable reads: before a node reads its own rows, it learns from the leader the index that it must have applied
//! (the *read index*, Ongaro's thesis, 6.4), and waits until it has. Readers that come while one question is on its way
//! share the next.

use std::{future::Future, sync::Weak, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, timeout_at},
};

use super::{
    group::{Inner, REQUEST_MAX, RETRY, no_quorum},
    rpc::{Call, CallAnswer},
};
use crate::{
    core::strong::request::Refusal,
    error::{Error, Result},
};

/// Readers that wait for the next question. More are refused.
const WAITING_MAX: usize = 16_384;
/// How long to wait until an index is applied that the leader has committed.
const APPLY_MAX: Duration = Duration::from_secs(5);

/// Questions that are answered and whose index is not applied yet. More are not asked meanwhile.
const ANSWERED_MAX: usize = 1_024;

type Reader = oneshot::Sender<Result<()>>;

/// Readers that wait until an index is applied.
struct Batch {
    readers: Vec<Reader>,
    index: u64,
    until: Instant,
}

/// Asks for read indexes.
#[derive(Clone)]
pub struct Reads(mpsc::Sender<Reader>);

impl Reads {
    /// Starts asking with `ask`, which returns the read index of this moment. `applied`: how far this node has applied; `is_intact`: whether
    /// its store still holds that.
    pub fn start<F>(
        applied: watch::Receiver<Option<u64>>,
        is_intact: impl Fn() -> bool + Send + 'static,
        ask: impl Fn() -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<u64>> + Send,
    {
        let (sender, mut waiting) = mpsc::channel::<Reader>(WAITING_MAX);
        let (asked, batches) = mpsc::channel(ANSWERED_MAX);
        tokio::spawn(release(batches, applied, is_intact));
        tokio::spawn(async move {
            let mut readers = Vec::new();
            while waiting.recv_many(&mut readers, WAITING_MAX).await > 0 {
                let readers = std::mem::take(&mut readers);
                match ask().await {
                    Ok(index) => {
                        let batch = Batch { readers, index, until: Instant::now() + APPLY_MAX };
                        // The other task ends after this one.
                        let _ = asked.send(batch).await;
                    }
                    Err(error) => answer(readers, &Err(error)),
                }
            }
        });
        Self(sender)
    }

    /// Returns when everything that was answered before this call can be read here: what `applied` tells has reached the read
    /// index, and the store holds it (`is_intact`).
    ///
    /// # Errors
    /// Those of the question; `Overloaded` if too many wait; `NotReady` if this node does not apply what is committed.
    pub async fn barrier(&self) -> Result<()> {
        let (reader, released) = oneshot::channel();
        self.0.try_send(reader).map_err(|_| {
            Error::Overloaded(format!("{WAITING_MAX} reads of strong tables wait already; try again"))
        })?;
        released.await.unwrap_or(Err(Error::Draining))
    }
}

/// Releases readers when their index is applied. Read indexes never fall, so one batch after another.
async fn release(
    mut batches: mpsc::Receiver<Batch>,
    mut applied: watch::Receiver<Option<u64>>,
    is_intact: impl Fn() -> bool,
) {
    while let Some(Batch { readers, index, until }) = batches.recv().await {
        let has_applied = |applied: &Option<u64>| applied.is_some_and(|applied| applied >= index);
        let caught_up = applied.wait_for(has_applied);
        // What it shows is let go before anything else is asked, which may wait for who changes it.
        let caught_up = timeout_at(until, caught_up).await.map(|caught_up| caught_up.is_ok());
        let released = match caught_up {
            // Again: a store that was reopened goes back first, and is intact then.
            Ok(true) if is_intact() && has_applied(&applied.borrow()) => Ok(()),
            Ok(false) => Err(Error::Draining),
            Ok(true) | Err(_) => Err(Error::NotReady(
                "this node has not applied everything that is committed to the strong tables; try again, or add ?read=stale \
                 for what is here"
                    .into(),
            )),
        };
        answer(readers, &released);
    }
}

fn answer(readers: Vec<Reader>, released: &Result<()>) {
    for reader in readers {
        // Whoever no longer waits needs no answer.
        let _ = reader.send(released.clone());
    }
}

/// Asks the leader, which may be this node, for the read index.
pub(super) async fn ask(inner: Weak<Inner>) -> Result<u64> {
    let until = Instant::now() + REQUEST_MAX;
    loop {
        let Some(inner) = inner.upgrade() else { return Err(Error::Draining) };
        let Some((member, _)) = inner.member() else { return Err(Error::Draining) };
        let leader = member.metrics().borrow().current_leader;
        let left = until.saturating_duration_since(Instant::now());
        let index = match leader {
            Some(leader) if leader == inner.parts.store.node() => member.read_index().await,
            Some(leader) => match inner.call(leader, Call::ReadIndex, left).await {
                Ok(CallAnswer::OtherGroup(refusal)) => Some(Err(refusal.into())),
                Ok(CallAnswer::Index(index)) => Some(index.map_err(|refusal: Refusal| refusal.into())),
                Ok(_) | Err(_) => None,
            },
            None => None,
        };
        if let Some(index) = index {
            inner.parts.counters.read_indexes.increment();
            return index;
        }
        if Instant::now() + RETRY >= until {
            return Err(Error::NoQuorum(no_quorum()));
        }
        drop((inner, member));
        sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{mem, sync::Arc};

    use super::*;

    /// Readers looked at what is applied while they asked whether the store is intact, and a store that was reopened changed what is applied while
    /// it kept everybody from asking: both waited for ever. If it has gone back, what they wait for is not applied any more.
    #[test]
    fn what_is_applied_changes_while_readers_are_released() {
        for (next, is_released) in [(2, true), (0, false)] {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.expect("a runtime");
            let (applied, watched) = watch::channel(Some(1));
            let changed = Arc::new(applied);
            let changing = changed.clone();
            let is_intact = move || changing.send_replace(Some(next)).is_some();
            let released = runtime.block_on(async {
                let reads = Reads::start(watched, is_intact, || async { Ok(1) });
                timeout_at(Instant::now() + APPLY_MAX * 2, reads.barrier()).await
            });
            if released.is_err() {
                // Its thread never ends.
                mem::forget(runtime);
            }
            assert_eq!(released.expect("it is answered").is_ok(), is_released);
        }
    }
}
