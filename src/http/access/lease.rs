//! The permission of a stream: held as long as its token is valid and the same.

use std::{
    future::{self, Future, ready},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{sync::watch, time::sleep};

use super::{AccessControl, Known, Principal, invalid};
use crate::error::{Error, Result};

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
    /// As the end of a request.
    fn error(self) -> Error {
        invalid(self.reason())
    }

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

/// The lease of a request that takes long, which looks at it from piece to piece.
#[derive(Default)]
pub struct HeldLease(Option<Lease>);

impl HeldLease {
    /// `None` never ends.
    pub fn new(lease: Option<Lease>) -> Self {
        Self(lease)
    }

    /// Whether the request may go on.
    ///
    /// # Errors
    /// `Unauthenticated` once the lease has ended.
    pub fn check(&mut self) -> Result<()> {
        self.ended().now_or_never().map_or(Ok(()), Err)
    }

    /// Completes with the error when the lease ends.
    pub async fn ended(&mut self) -> Error {
        let Some(lease) = &mut self.0 else { return future::pending().await };
        let end = lease.as_mut().await;
        // A future is not polled again after its end, and this is asked again.
        *lease = Box::pin(ready(end));
        end.error()
    }
}

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
            (Err(_), _) if self.is_known_but_for_its_expiry(now_ms) => Some(LeaseEnd::Expired),
            (Err(_), _) => Some(LeaseEnd::Revoked),
        }
    }

    /// A token of the file may have got an expiry that has passed already, and a JWT may be valid only from some instant on.
    fn is_known_but_for_its_expiry(&self, now_ms: u64) -> bool {
        let last_ms = self.expires_at_ms().map_or(now_ms, |at_ms| now_ms.min(at_ms.saturating_sub(1)));
        [0, last_ms].into_iter().any(|at_ms| self.control.identify(&self.secret, at_ms).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ring::{
        rand::SystemRandom,
        signature::{Ed25519KeyPair, KeyPair},
    };

    use super::*;
    use crate::http::access::AccessOptions;

    /// Base64 for URLs, without padding, as JWTs have it.
    fn base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let digits = |three: &[u8]| {
            let bits =
                (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(three.get(at).copied().unwrap_or(0)));
            let digit = move |place: usize| char::from(DIGITS[(bits >> (18 - 6 * place)) as usize & 63]);
            (0..=three.len()).map(digit).collect::<String>()
        };
        bytes.chunks(3).map(digits).collect()
    }

    /// A JWT with `nbf` that had expired was reported as revoked if its signature had to be checked anew, as after a change of the keys.
    #[test]
    fn a_jwt_that_has_expired_is_not_reported_as_revoked() {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("a key");
        let folder = tempfile::tempdir().expect("a folder");
        let jwks = folder.path().join("jwks.json");
        let x = base64(pair.public_key().as_ref());
        let set = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}]}}"#);
        fs::write(&jwks, &set).expect("written");
        let options = AccessOptions { jwks: Some(jwks.clone()), ..Default::default() };
        let control = AccessControl::load(options).expect("valid");
        let claims = r#"{"exp":2000000000,"nbf":1900000000,"dynarust":{"rights":["read"]}}"#;
        let signed = format!("{}.{}", base64(br#"{"alg":"EdDSA"}"#), base64(claims.as_bytes()));
        let secret = format!("{signed}.{}", base64(pair.sign(signed.as_bytes()).as_ref()));
        let principal = control.identify(&secret, 1_950_000_000_000).expect("valid then");
        let mut running = Running {
            changes: control.0.known.subscribe(),
            control: control.clone(),
            principal,
            secret: secret.into(),
        };
        assert_eq!(running.look(1_999_999_999_999), None);
        // The same keys in another text, so that they are read anew.
        fs::write(&jwks, set + "\n").expect("written");
        control.reload().expect("the same keys");
        assert_eq!(running.look(2_000_000_000_000), Some(LeaseEnd::Expired));
        running.secret = running.secret.replace(&signed[..4], "AAAA").into();
        assert_eq!(running.look(1_950_000_000_000), Some(LeaseEnd::Revoked));
    }
}
