//! The runtime of openraft: tokio, with our limit of how long a member may take to answer.
//!
//! openraft (0.9) gives a follower one heartbeat's interval to answer an append or to confirm who leads, here 50 ms, and sends again after
//! that. Over a link with a longer round trip no answer would ever count: no entry would be committed, and no read confirmed. A longer
//! interval would be no remedy, because elections are timed by it.
//!
//! The links deliver in order and once, and a request fails as soon as its link ends. So asking again early gains nothing.

use std::time::Duration;

use openraft::{AsyncRuntime, OptionalSend, TokioInstant, TokioRuntime};
use tokio::{
    task::{JoinError, JoinHandle},
    time::{Sleep, Timeout, error::Elapsed},
};

use crate::replication::requests::REQUEST_BYTES_MAX;

/// How long a member may take to answer an append or a vote, beside the time that its bytes take: several round trips around the earth, and the
/// sync of a slow disk. Longer, and a member that hangs would be sent nothing for too long once it goes on.
pub const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Bytes a second that a link between members has at least. On a slower one an append would be given up and sent again from its first byte, for ever,
/// if it were longer than what fits [`ANSWER_MAX`].
const LINK_BYTES_PER_S_MIN: usize = 256 * 1024;
/// How long openraft waits for the answer to an append or a vote. The network gives up earlier, by [`answer_max`]: only it knows how long one is.
const CALL_MAX: Duration = answer_max(REQUEST_BYTES_MAX).saturating_add(ANSWER_MAX);

/// How long a member may take to answer a request of so many bytes.
pub const fn answer_max(bytes: usize) -> Duration {
    ANSWER_MAX.saturating_add(Duration::from_millis((bytes * 1_000 / LINK_BYTES_PER_S_MIN) as u64))
}

/// Tokio. What openraft times by [`AsyncRuntime::timeout`] are the answers of other members.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Runtime;

impl AsyncRuntime for Runtime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = TokioInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type OneshotSender<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiver<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotReceiver<T>;
    type OneshotReceiverError = <TokioRuntime as AsyncRuntime>::OneshotReceiverError;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration.max(CALL_MAX), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn oneshot<T: OptionalSend>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>) {
        TokioRuntime::oneshot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::strong::evaluate::WRITTEN_BYTES_MAX;

    /// An append was given up after 2 s, however long it was. One that its link cannot carry in that time was sent again from its first byte for ever,
    /// and its member got nothing that follows.
    #[tokio::test(start_paused = true)]
    async fn a_long_append_has_the_time_that_its_bytes_take() {
        assert!(answer_max(100) < ANSWER_MAX + Duration::from_millis(2));
        let long = answer_max(WRITTEN_BYTES_MAX);
        assert!(long > Duration::from_secs(60), "{long:?}");
        // As long as a heartbeat's interval, openraft says.
        let answered = Runtime::timeout(Duration::from_millis(50), tokio::time::sleep(long)).await;
        assert!(answered.is_ok());
    }
}
