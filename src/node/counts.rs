//! Counts of keys. A count reads all rows of its range, which takes long where there are many. So it goes on part by part, and ends with the
//! part in which its client leaves. Only as many parts are read at a time as there are processors. The others wait for their turn; a client
//! that leaves waits no more.

use std::{num::NonZero, sync::Arc, thread};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    error::Result,
    storage::{
        environment::{Environment, Threads},
        table::scan::{Counted, Counting},
    },
};

/// The counts of a node.
pub struct Counts(Arc<Semaphore>);

/// Leave to read the rows of a part.
#[derive(Clone)]
pub struct Turn(#[expect(dead_code, reason = "it is there to be dropped")] Arc<OwnedSemaphorePermit>);

impl Counts {
    /// None yet.
    pub fn new(environment: &Environment) -> Self {
        let parts_max = match environment.threads() {
            Threads::Many => thread::available_parallelism().map_or(1, NonZero::get),
            Threads::One => 1,
        };
        Self::with_parts_max(parts_max)
    }

    fn with_parts_max(parts_max: usize) -> Self {
        Self(Arc::new(Semaphore::new(parts_max)))
    }

    /// The next turn.
    pub async fn turn(&self) -> Turn {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        Turn(Arc::new(permit.expect("nobody closes it")))
    }

    /// Counts part by part, in this one turn for all. Without one it waits for a turn for each part: so a long count keeps no other waiting
    /// until its end.
    ///
    /// # Errors
    /// Those of `count_part`.
    pub async fn count(
        &self,
        environment: &Environment,
        turn: Option<&Turn>,
        count_part: impl Fn(&Counting) -> Result<Counting> + Clone + Send + 'static,
    ) -> Result<Counted> {
        let mut counting = Counting::default();
        while !counting.is_done() {
            let turn = match turn {
                Some(turn) => turn.clone(),
                None => self.turn().await,
            };
            let count_part = count_part.clone();
            let part = move || {
                // Up to the end of the part, also if nobody waits for it any more.
                let _turn = turn;
                count_part(&counting)
            };
            counting = environment.run(part).await?;
        }
        Ok(counting.counted)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        sync::{Mutex, PoisonError, mpsc::channel},
        time::Duration,
    };

    use futures_util::FutureExt;
    use tokio::{
        sync::mpsc::{UnboundedReceiver, unbounded_channel},
        task::JoinHandle,
        time::timeout,
    };

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    async fn in_time<T>(future: impl Future<Output = T>) -> T {
        timeout(DEADLINE, future).await.expect("in time")
    }

    type CountPart = Box<dyn Fn(&Counting) -> Result<Counting> + Send + Sync>;

    /// Begins to count by `count_part`.
    fn begin(counts: &Arc<Counts>, count_part: CountPart) -> JoinHandle<Result<Counted>> {
        let (counts, count_part) = (Arc::clone(counts), Arc::new(count_part));
        tokio::spawn(async move {
            let environment = Environment::new(Arc::new(|| 0));
            counts.count(&environment, None, move |counting| count_part(counting)).await
        })
    }

    /// Begins to count without an end. Each part is told, and the channel is closed when no more can follow.
    fn begin_endless(counts: &Arc<Counts>) -> (JoinHandle<Result<Counted>>, UnboundedReceiver<()>) {
        let (part_begins, parts) = unbounded_channel();
        let count_part = move |counting: &Counting| {
            let _ = part_begins.send(());
            Ok(counting.clone())
        };
        (begin(counts, Box::new(count_part)), parts)
    }

    /// Whoever asked and left, again and again, had as many threads read whole tables, and nothing could stop them.
    #[tokio::test]
    async fn a_count_ends_with_the_part_in_which_its_client_leaves() {
        let counts = Arc::new(Counts::with_parts_max(1));
        let (count, mut parts) = begin_endless(&counts);
        for _ in 0..3 {
            in_time(parts.recv()).await.expect("it goes on");
        }
        count.abort();
        while in_time(parts.recv()).await.is_some() {}
    }

    #[tokio::test]
    async fn a_long_count_keeps_no_other_waiting_until_its_end() {
        let counts = Arc::new(Counts::with_parts_max(1));
        let (long, mut parts) = begin_endless(&counts);
        in_time(parts.recv()).await.expect("it begins");
        let counted = in_time(begin(&counts, Box::new(|counting| Ok(counting.done())))).await;
        assert_eq!(counted.expect("nobody stops it"), Ok(Counted::default()));
        long.abort();
    }

    #[tokio::test]
    async fn few_parts_are_read_at_a_time_also_if_nobody_waits_for_them() {
        let counts = Arc::new(Counts::with_parts_max(2));
        let (closed, gate) = channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let (part_begins, mut parts) = unbounded_channel();
        let counting: Vec<_> = (0..10)
            .map(|_| {
                let (part_begins, gate) = (part_begins.clone(), Arc::clone(&gate));
                let count_part = move |counting: &Counting| {
                    let _ = part_begins.send(());
                    // Up to the end of the channel.
                    let _ = gate.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    Ok(counting.done())
                };
                begin(&counts, Box::new(count_part))
            })
            .collect();
        drop(part_begins);
        for _ in 0..2 {
            in_time(parts.recv()).await.expect("it begins");
        }
        for count in counting {
            count.abort();
            assert!(in_time(count).await.expect_err("its client has left").is_cancelled());
        }
        assert!(counts.turn().now_or_never().is_none(), "two are still read");
        drop(closed);
        in_time(counts.turn()).await;
        assert_eq!(in_time(parts.recv()).await, None, "the others have not begun");
    }
}
