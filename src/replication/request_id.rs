//! The id of the client's request that a task serves. What this node asks of another for it carries the id, so that the logs of both
//! have it.

use std::{future::Future, sync::Arc};

tokio::task_local! {
    static REQUEST_ID: Arc<str>;
}

/// Longest id that another node may send along.
const ID_BYTES_MAX: usize = 128;

/// Runs `future` for the request with this id.
pub async fn with_request_id<F: Future>(id: &str, future: F) -> F::Output {
    REQUEST_ID.scope(id.into(), future).await
}

/// The id of the request that the current task serves, if it serves one.
pub(in crate::replication) fn current() -> Option<Arc<str>> {
    REQUEST_ID.try_with(Clone::clone).ok()
}

/// The id from what follows the body of a call; `None` if there is none that can be logged.
pub(in crate::replication) fn read(rest: &[u8]) -> Option<&str> {
    let is_id = (1..=ID_BYTES_MAX).contains(&rest.len()) && rest.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(rest).ok().filter(|_| is_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_has_the_id_of_the_request_that_it_serves() {
        assert_eq!(current(), None);
        let seen = with_request_id("id-1", async { current() }).await;
        assert_eq!(seen.as_deref(), Some("id-1"));
        assert_eq!(current(), None);
    }

    #[test]
    fn only_short_visible_text_is_an_id() {
        assert_eq!(read(b"id-1"), Some("id-1"));
        for other in [&b""[..], b"two words", b"\n", &[0xff], &[b'x'; ID_BYTES_MAX + 1]] {
            assert_eq!(read(other), None);
        }
    }
}
