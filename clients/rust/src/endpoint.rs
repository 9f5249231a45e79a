//! Where a node answers, and whether it speaks TLS.

use std::{fmt, net::IpAddr};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::{
    error::{Error, Result},
    tls::Tls,
};

/// The port of a node if an endpoint names none.
pub const DEFAULT_PORT: u16 = 6660;

/// Where a node answers. Displayed as `host:port`, with `https://` in front for TLS.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub(crate) address: String,
    pub(crate) tls: Option<Tls>,
}

impl Endpoint {
    /// The node at `address` (`host:port`), without TLS.
    pub fn http(address: impl Into<String>) -> Self {
        Self { address: address.into(), tls: None }
    }

    /// The node at `address` (`host:port`), with TLS. It must present one of the `trusted` certificates, whatever name is in it, or a
    /// certificate for `host` that one of them signed; if none are given, a certificate for `host` that the system trusts.
    ///
    /// # Errors
    /// `Invalid` if `host` is neither a name nor an address, or no certificates are given and the system has no roots.
    pub fn https(
        address: impl Into<String>,
        host: &str,
        trusted: Option<Vec<CertificateDer<'static>>>,
    ) -> Result<Self> {
        Ok(Self { address: address.into(), tls: Some(Tls::new(host, trusted)?) })
    }

    /// The node at `host`, `host:port`, `http://host:port` or `https://host:port`. Without a port it is 6660. `trusted` are the certificates for
    /// HTTPS, as in [`Endpoint::https`].
    ///
    /// # Errors
    /// `Invalid` for anything else, and as [`Endpoint::https`].
    pub fn parse(text: &str, trusted: Option<&[CertificateDer<'static>]>) -> Result<Self> {
        let (is_encrypted, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => (false, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = host_and_port(rest).ok_or_else(|| {
            Error::Invalid(format!("{text:?} is not an endpoint: use host:port or https://host:port"))
        })?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address = match bare.parse::<IpAddr>() {
            Ok(IpAddr::V6(_)) => format!("[{bare}]:{port}"),
            Ok(IpAddr::V4(_)) | Err(_) => format!("{host}:{port}"),
        };
        match is_encrypted {
            true => Self::https(address, bare, trusted.map(<[_]>::to_vec)),
            false => Ok(Self::http(address)),
        }
    }

    /// Shows this certificate, with its chain, to a node that asks its clients for one. It changes nothing without TLS.
    ///
    /// # Errors
    /// `Invalid` if the key is not that of the certificate.
    pub fn identify(
        mut self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self> {
        self.tls = self.tls.map(|tls| tls.identify(chain, key)).transpose()?;
        Ok(self)
    }

    /// Whether the connection uses TLS.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_encrypted() { "https://" } else { "" };
        write!(f, "{scheme}{}", self.address)
    }
}

/// The host and port of `host`, `host:port`, `[v6]:port` or a bare IPv6 address.
fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let is_host = |host: &str| !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']);
    if let Some(inside) = text.strip_prefix('[') {
        let (host, rest) = inside.split_once(']')?;
        let port = match rest.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None if rest.is_empty() => DEFAULT_PORT,
            None => return None,
        };
        return is_host(host).then_some((host, port));
    }
    match text.rsplit_once(':') {
        Some((host, _)) if host.contains(':') => is_host(text).then_some((text, DEFAULT_PORT)),
        Some((host, port)) => is_host(host).then_some((host, port.parse().ok()?)),
        None => is_host(text).then_some((text, DEFAULT_PORT)),
    }
}

/// The certificates of a PEM file, for [`crate::Builder::trust`].
///
/// # Errors
/// `Invalid` if the file cannot be read or has no certificate.
pub fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = |why: &dyn fmt::Display| Error::Invalid(format!("{}: {why}", path.display()));
    let found = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
    let found: std::result::Result<Vec<_>, _> = found.collect();
    let found = found.map_err(|error| wrong(&error))?;
    if found.is_empty() { Err(wrong(&"there is no certificate in this file")) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_may_have_a_scheme_and_no_port() {
        for (text, shown) in [
            ("127.0.0.1:7000", "127.0.0.1:7000"),
            ("node1", "node1:6660"),
            ("http://node1:7000/", "node1:7000"),
            ("https://127.0.0.1:7000", "https://127.0.0.1:7000"),
            ("[::1]:7000", "[::1]:7000"),
            ("::1", "[::1]:6660"),
            ("https://[::1]", "https://[::1]:6660"),
        ] {
            let trusted: &[CertificateDer<'static>] = &[];
            assert_eq!(Endpoint::parse(text, Some(trusted)).expect(text).to_string(), shown);
        }
        for text in ["", "ftp://a:1", "a:1/path", "a:port", "a:70000", "[::1", "user@host:1"] {
            assert!(Endpoint::parse(text, None).is_err(), "{text}");
        }
    }
}
