//! The permission of a stream: held as long as its token is valid and the same.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::{AccessControl, Known, Principal};

/// The longest sleep before the wall clock is read again: it may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// Why a stream must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEnd {
    /// The token was removed.
    Revoked,
    /// The token has expired.
    Expired,
    /// The token may do other things than when the stream began.
    Changed,
}

impl LeaseEnd {
    /// The reason for the client.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Revoked => "the token was revoked",
            Self::Expired => "the token has expired",
            Self::Changed => "the rights of the token have changed: connect again",
        }
    }
}

/// Completes when the stream must end.
pub type Lease = Pin<Box<dyn Future<Output = LeaseEnd> + Send + Sync>>;

impl AccessControl {
    /// The lease of a stream that `principal` began with this token. `None` if it never ends.
    pub fn lease(&self, principal: &Principal, secret: &str) -> Option<Lease> {
        matches!(principal, Principal::Token(_)).then(|| {
            let lease = Running {
                control: self.clone(),
                changes: self.0.known.subscribe(),
                principal: principal.clone(),
                secret: secret.into(),
            };
            Box::pin(lease.ended()) as Lease
        })
    }
}

struct Running {
    control: AccessControl,
    changes: watch::Receiver<Arc<Known>>,
    principal: Principal,
    secret: Box<str>,
}

impl Running {
    async fn ended(mut self) -> LeaseEnd {
        loop {
            // Looked at again after the subscription, so that no change in between is missed.
            if let Some(end) = self.look(self.control.now_ms()) {
                return end;
            }
            let left_ms = self.expires_at_ms().map(|at_ms| at_ms.saturating_sub(self.control.now_ms()));
            let left = left_ms.map(|left_ms| Duration::from_millis(left_ms.max(1)).min(SLEEP_MAX));
            tokio::select! {
                // The sender is ours, so it is there.
                _ = self.changes.changed() => {}
                () = sleep(left.unwrap_or_default()), if left.is_some() => {}
            }
        }
    }

    fn expires_at_ms(&self) -> Option<u64> {
        match &self.principal {
            Principal::Token(token) => token.expires_at_ms,
            Principal::Nobody | Principal::Anyone | Principal::Operator => None,
        }
    }

    /// Why it ends now, if it does. A later expiry of the same token is taken over.
    fn look(&mut self, now_ms: u64) -> Option<LeaseEnd> {
        match (self.control.identify(&self.secret, now_ms), &self.principal) {
            (Ok(Principal::Token(now)), Principal::Token(then)) if now.grants == then.grants => {
                self.principal = Principal::Token(now);
                None
            }
            (Ok(_), _) => Some(LeaseEnd::Changed),
            // Known, but for its expiry.
            (Err(_), _) if self.control.identify(&self.secret, 0).is_ok() => Some(LeaseEnd::Expired),
            (Err(_), _) => Some(LeaseEnd::Revoked),
        }
    }
}
