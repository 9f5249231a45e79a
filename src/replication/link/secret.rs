//! The cluster's secrets, as the keys derived from them. The texts are dropped as soon as they are read, so nothing can
//! print one later.
//!
//! There may be several secrets, so that they can be changed without an outage: the first is used to dial, all are
//! accepted. Without a secret, links use a publicly known key, and therefore only with nodes on the same machine.

use std::{fmt, net::IpAddr, sync::Arc};

use crate::error::{Error, Result};

/// Shortest secret, in characters. Whoever records a handshake can try secrets against it without limit.
pub const SECRET_CHARACTERS_MIN: usize = 16;

const LINK_CONTEXT: &str = "dynarust 2026 link";
const ADMIN_CONTEXT: &str = "dynarust 2026 admin challenge";

/// What to do about a missing secret.
pub const REMEDY: &str = "set CLUSTER_SECRET, the same on all nodes and at least 16 characters long";

/// The secrets of a node.
#[derive(Clone)]
pub enum Secrets {
    /// None: link only with nodes on this machine.
    Open,
    /// At least one. The first is used to dial.
    Shared(Arc<[Secret]>),
}

/// The keys of one secret.
pub struct Secret {
    link: [u8; 32],
    admin: [u8; 32],
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("Open"),
            Self::Shared(secrets) => write!(f, "Shared({})", secrets.len()),
        }
    }
}

impl Secrets {
    /// Makes the secrets with these texts. `Open` if there are none. The first is used to dial.
    ///
    /// # Errors
    /// `Config` if one is too short. The text does not quote it.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let secrets: Arc<[Secret]> = texts.into_iter().map(Secret::derive).collect::<Result<_>>()?;
        Ok(if secrets.is_empty() { Self::Open } else { Self::Shared(secrets) })
    }

    /// Whether there are none.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Open => true,
            Self::Shared(_) => false,
        }
    }

    /// Whether a node at this address may try to link.
    pub fn allow(&self, remote: IpAddr) -> bool {
        !self.is_open() || remote.to_canonical().is_loopback()
    }

    /// The link keys. The first is used to dial. Never empty.
    pub fn link_keys(&self) -> Vec<[u8; 32]> {
        match self {
            Self::Open => vec![blake3::derive_key(LINK_CONTEXT, b"")],
            Self::Shared(secrets) => secrets.iter().map(|secret| secret.link).collect(),
        }
    }

    /// The keys that prove admin rights, in the same order. Empty without secrets.
    pub fn admin_keys(&self) -> Vec<[u8; 32]> {
        match self {
            Self::Open => Vec::new(),
            Self::Shared(secrets) => secrets.iter().map(|secret| secret.admin).collect(),
        }
    }
}

impl Secret {
    fn derive(text: &str) -> Result<Self> {
        if text.chars().count() < SECRET_CHARACTERS_MIN {
            return Err(Error::Config(too_short()));
        }
        Ok(Self {
            link: blake3::derive_key(LINK_CONTEXT, text.as_bytes()),
            admin: blake3::derive_key(ADMIN_CONTEXT, text.as_bytes()),
        })
    }
}

/// The error text for a short secret.
pub fn too_short() -> String {
    format!(
        "a cluster secret needs at least {SECRET_CHARACTERS_MIN} characters, and this one is shorter: `openssl rand \
        -hex 16` makes a good one"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "the old secret of the cluster";
    const NEW: &str = "the new secret of the cluster";

    fn secrets(texts: &[&str]) -> Secrets {
        Secrets::new(texts.iter().copied()).expect("long enough")
    }

    #[test]
    fn a_short_secret_is_refused_with_the_rule_and_never_quoted() {
        for short in ["", "hunter2", "fifteen letters"] {
            let error = Secrets::new([NEW, short]).expect_err("too short").to_string();
            assert!(error.contains("at least 16 characters"), "{error}");
            assert!(short.is_empty() || !error.contains(short), "{error}");
        }
        assert!(Secrets::new(["sixteen letters!"]).is_ok());
    }

    #[test]
    fn debug_output_shows_no_secret_and_no_key() {
        let secrets = secrets(&[OLD, NEW]);
        assert_eq!(format!("{secrets:?}"), "Shared(2)");
        let Secrets::Shared(each) = secrets else { panic!("there are two") };
        assert_eq!(format!("{:?}", each[0]), "Secret");
    }

    #[test]
    fn without_a_secret_only_the_local_machine_is_allowed() {
        let allowed = |secrets: &Secrets, ip: &str| secrets.allow(ip.parse().expect("an address"));
        let open = secrets(&[]);
        assert!(open.is_open());
        for own in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert!(allowed(&open, own), "{own}");
        }
        for foreign in ["192.168.1.1", "8.8.8.8", "::", "0.0.0.0", "fe80::1", "::ffff:10.0.0.1"] {
            assert!(!allowed(&open, foreign), "{foreign}");
            assert!(allowed(&secrets(&[OLD]), foreign), "{foreign}");
        }
    }

    #[test]
    fn each_secret_has_an_admin_key_and_no_secret_has_none() {
        let keys = secrets(&[NEW, OLD]).admin_keys();
        assert_eq!(keys, [NEW, OLD].map(|text| blake3::derive_key(ADMIN_CONTEXT, text.as_bytes())));
        assert!(secrets(&[]).admin_keys().is_empty());
    }

    #[test]
    fn each_secret_and_each_purpose_has_its_own_key() {
        let keys = secrets(&[OLD, NEW]).link_keys();
        assert_eq!(keys.len(), 2);
        assert_ne!(keys[0], keys[1]);
        assert!(!secrets(&[OLD, NEW]).admin_keys().contains(&keys[0]));
        assert_ne!(secrets(&[]).link_keys()[0], keys[0]);
    }
}
