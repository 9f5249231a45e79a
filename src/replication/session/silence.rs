//! Finds out that a peer is silent: nothing came from it for a while, neither a message nor a part of one.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Result};

/// A peer that is silent for this long is dropped. It sends something every second.
const SILENCE_MAX: Duration = Duration::from_secs(4);
/// Time between two looks at what came.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// When a peer was last heard.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    heard: Instant,
    /// What had come from it at the last check, in bytes: parts of messages too.
    bytes: u64,
    check: Instant,
}

impl Silence {
    /// Begins with a peer that was heard just now, and from which so many bytes have come.
    pub fn begin(now: Instant, bytes: u64) -> Self {
        Self { heard: now, bytes, check: now + CHECK_EVERY }
    }

    /// A message is taken. It may have come a while ago: while it waited, nothing was read that came after it.
    pub fn hear(&mut self, now: Instant) {
        self.heard = now;
    }

    /// When to check next.
    pub fn due(self) -> Instant {
        self.check
    }

    /// Checks, now that so many bytes have come: a long message may be arriving.
    ///
    /// # Errors
    /// `Io` if the peer was silent for too long.
    pub fn check(&mut self, now: Instant, bytes: u64) -> Result<()> {
        // If the check is late, this node was busy or stood still, and has not read what came meanwhile.
        if bytes != self.bytes || now > self.check + CHECK_EVERY {
            *self = Self { heard: now, bytes, ..*self };
        }
        if now - self.heard >= SILENCE_MAX {
            return Err(Error::Io(format!("the peer was silent for {SILENCE_MAX:?}")));
        }
        self.check = now + CHECK_EVERY;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long after its last byte a peer is dropped, if it sends so many bytes at these times, each followed by a message or not.
    fn dropped_after(sent: &[(Duration, bool)]) -> Duration {
        let begun = Instant::now();
        let (mut silence, mut bytes, mut sent) = (Silence::begin(begun, 500), 500, sent.iter().peekable());
        let mut last = begun;
        loop {
            let due = silence.due();
            while let Some((at, is_message)) = sent.next_if(|(at, _)| begun + *at < due) {
                (bytes, last) = (bytes + 10, begun + *at);
                if *is_message {
                    silence.hear(last);
                }
            }
            if silence.check(due, bytes).is_err() {
                return due - last;
            }
        }
    }

    /// What had come when the session began counted as heard at the first look, and that at the one before at the next: twice as long.
    #[test]
    fn a_silent_peer_is_dropped_two_checks_after_its_time_at_the_latest() {
        let at = |ms, is_message| (Duration::from_millis(ms), is_message);
        let keeps_alive: Vec<_> = (0..20).map(|second| at(second * 1_000 + 300, second % 3 == 0)).collect();
        let takes_long: Vec<_> = (0..90).map(|step| at(step * 100, false)).collect();
        for sent in
            [&[][..], &[at(100, true)], &[at(3_900, false)], &[at(2_000, true)], &keeps_alive, &takes_long]
        {
            let after = dropped_after(sent);
            assert!(
                (SILENCE_MAX..=SILENCE_MAX + CHECK_EVERY * 2).contains(&after),
                "{after:?} after {sent:?}"
            );
        }
    }

    /// A session that is busy, or a node that is stopped, reads nothing meanwhile.
    #[test]
    fn a_peer_is_not_silent_because_nobody_read_what_it_sent() {
        let begun = Instant::now();
        let mut silence = Silence::begin(begun, 0);
        let mut now = begun + SILENCE_MAX * 3;
        silence.check(now, 0).expect("it may have sent something");
        for _ in 1..SILENCE_MAX.as_secs() {
            now += CHECK_EVERY;
            silence.check(now, 0).expect("it is not silent for long");
        }
        silence.check(now + CHECK_EVERY, 0).expect_err("it is silent");
    }
}
