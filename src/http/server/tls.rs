//! TLS of the server: certificates of PEM files, which a running server reads again, and those that clients show.
//!
//! A connection uses the certificate that was current when its handshake began. Reading the files again changes nothing about open ones.

use std::{
    fmt, fs, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{certificate, socket::Socket};
use crate::{
    error::{Error, Result},
    http::{ClientCertificates, Tls, request::connection_state::ConnectionState},
};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The certificate of a server, as its files say now. Clones share it.
#[derive(Clone)]
pub struct Certificates(Arc<Shared>);

struct Shared {
    options: Tls,
    current: Mutex<Current>,
}

#[derive(Clone)]
struct Current {
    acceptor: TlsAcceptor,
    identity: Identity,
    authorities: Option<Authorities>,
}

/// The certificate of the server and its key.
#[derive(Clone)]
struct Identity {
    key: Arc<CertifiedKey>,
    /// The certificates as PEM, with their chain and without the key.
    pem: Arc<str>,
}

/// Whose signature the certificates of clients must have.
#[derive(Clone)]
struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificates").field(&self.0.options).finish()
    }
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// `Config` with the file and what is wrong with it.
    pub fn load(options: Tls) -> Result<Self> {
        let authorities = Authorities::read(&options).transpose()?;
        let current = Mutex::new(Current::new(Identity::read(&options)?, authorities)?);
        Ok(Self(Arc::new(Shared { options, current })))
    }

    /// Reads the files again, for the connections from now on. The certificate with its key, and the authorities of clients, are each taken
    /// over if they are right; what is wrong stays as it was.
    ///
    /// # Errors
    /// As `load`, with everything that is wrong.
    pub fn reload(&self) -> Result<()> {
        let Current { identity: old, authorities: old_authorities, .. } = self.current();
        let mut wrong = Vec::new();
        let mut kept = |error: Error| wrong.push(error.to_string());
        let identity = Identity::read(&self.0.options).map_err(&mut kept).unwrap_or_else(|()| old.clone());
        let authorities = Authorities::read(&self.0.options).transpose();
        let authorities = authorities.map_err(&mut kept).unwrap_or_else(|()| old_authorities.clone());
        let chosen = |of: &Option<Authorities>| of.as_ref().map(|of| of.certificates.clone());
        // The same certificate has the same key. What is the same keeps the sessions that clients resume.
        if identity.key.cert != old.key.cert || chosen(&authorities) != chosen(&old_authorities) {
            let current = Current::new(identity, authorities)?;
            *self.0.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
        }
        if wrong.is_empty() { Ok(()) } else { Err(Error::Config(wrong.join("; "))) }
    }

    /// Does the handshake of a new connection, and tells it whose certificate the client has shown.
    ///
    /// # Errors
    /// The client does not agree, or shows no certificate that it must show.
    pub async fn accept(
        &self,
        socket: Socket,
        connection: &ConnectionState,
    ) -> io::Result<TlsStream<Socket>> {
        let stream = self.current().acceptor.accept(socket).await?;
        if let Some(shown) = stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
            connection.show_certificate(certificate::name(shown));
        }
        Ok(stream)
    }

    /// The server's own certificate.
    pub fn own(&self) -> CertificateDer<'static> {
        self.current().identity.key.cert.first().cloned().expect("a chain without certificates is refused")
    }

    /// The certificates that it shows, as PEM.
    pub fn pem(&self) -> Arc<str> {
        self.current().identity.pem
    }

    fn current(&self) -> Current {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Current {
    fn new(identity: Identity, authorities: Option<Authorities>) -> Result<Self> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Config(format!("TLS: {error}")))?;
        let builder = match &authorities {
            Some(authorities) => builder.with_client_cert_verifier(Arc::clone(&authorities.verifier)),
            None => builder.with_no_client_auth(),
        };
        let resolver = SingleCertAndKey::from(Arc::clone(&identity.key));
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), identity, authorities })
    }
}

/// We name the provider, because another library may have changed the process's default or removed it.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Identity {
    fn read(tls: &Tls) -> Result<Self> {
        const WHAT: &str = "--tls-cert";
        // Read once: what is shown and what is told of it are the same.
        let text = fs::read(&tls.cert).map_err(|error| wrong_file(WHAT, &tls.cert, error))?;
        let chain = chain(WHAT, &tls.cert, CertificateDer::pem_slice_iter(&text))?;
        let key = PrivateKeyDer::from_pem_file(&tls.key)
            .map_err(|error| wrong_file("--tls-key", &tls.key, error))?;
        let key = CertifiedKey::from_der(chain, key, &provider())
            .map_err(|error| wrong_file("--tls-cert with its --tls-key", &tls.cert, error))?;
        Ok(Self { key: Arc::new(key), pem: without_key(&String::from_utf8_lossy(&text)).into() })
    }
}

/// The certificates of a PEM file, without a private key that it may contain as well.
fn without_key(pem: &str) -> String {
    let mut is_inside = false;
    let mut kept = String::new();
    for line in pem.lines() {
        is_inside |= line.trim() == BEGIN;
        if is_inside {
            kept.push_str(line);
            kept.push('\n');
        }
        is_inside &= line.trim() != END;
    }
    kept
}

impl Authorities {
    /// Those of `--tls-client-ca`, if it is set.
    fn read(tls: &Tls) -> Option<Result<Self>> {
        tls.client_ca.as_deref().map(|file| Self::read_file(file, tls.clients))
    }

    fn read_file(file: &Path, clients: ClientCertificates) -> Result<Self> {
        const WHAT: &str = "--tls-client-ca";
        let certificates = certificates_of(WHAT, file)?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates.iter().cloned() {
            roots.add(certificate).map_err(|error| wrong_file(WHAT, file, error))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let builder = match clients {
            ClientCertificates::Required => builder,
            ClientCertificates::Optional => builder.allow_unauthenticated(),
        };
        let verifier = builder.build().map_err(|error| wrong_file(WHAT, file, error))?;
        Ok(Self { certificates, verifier })
    }
}

/// Reads the certificates in a PEM file, for a node to serve with or a command to trust.
///
/// # Errors
/// `Config` with the file and what is wrong with it.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    certificates_of("--tls-cert", file)
}

/// Reads the certificate of a client, and its key.
///
/// # Errors
/// As `certificates`.
pub fn identity(
    certificate: &Path,
    key: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = certificates_of("--tls-client-cert", certificate)?;
    let key =
        PrivateKeyDer::from_pem_file(key).map_err(|error| wrong_file("--tls-client-key", key, error))?;
    Ok((chain, key))
}

fn certificates_of(what: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let sections = CertificateDer::pem_file_iter(file).map_err(|error| wrong_file(what, file, error))?;
    chain(what, file, sections)
}

/// The certificates of a file that has these sections.
fn chain(
    what: &str,
    file: &Path,
    sections: impl Iterator<Item = std::result::Result<CertificateDer<'static>, pem::Error>>,
) -> Result<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> =
        sections.collect::<std::result::Result<_, _>>().map_err(|error| wrong_file(what, file, error))?;
    if chain.is_empty() {
        return Err(wrong_file(what, file, "it has no CERTIFICATE section"));
    }
    Ok(chain)
}

fn wrong_file(what: &str, file: &Path, why: impl std::fmt::Display) -> Error {
    Error::Config(format!("{what} {}: {why}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Tls {
        Tls {
            cert: cert.into(),
            key: key.into(),
            client_ca: client_ca.map(Into::into),
            clients: ClientCertificates::Required,
        }
    }

    fn why(tls: Tls) -> String {
        Certificates::load(tls).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_missing_or_invalid_certificate_file_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("cert.pem");
        let broken = || why(tls(&file, &file, None));
        assert!(broken().contains("cert.pem"), "{}", broken());
        fs::write(&file, "no certificate").expect("written");
        assert!(broken().contains("no CERTIFICATE section"), "{}", broken());
        let fixture = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let (cert, key) = (fixture("signed.pem"), fixture("signed-key.pem"));
        let ca = why(tls(&cert, &key, Some(&file)));
        assert!(ca.contains("--tls-client-ca") && ca.contains("no CERTIFICATE section"), "{ca}");
        assert!(why(tls(&cert, &fixture("key.pem"), None)).contains("--tls-key"));
    }

    #[test]
    fn a_private_key_beside_the_certificate_is_not_copied() {
        let key = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n";
        let chain = format!("{BEGIN}\none\n{END}\n{BEGIN}\ntwo\n{END}\n");
        assert_eq!(without_key(&format!("a comment\n{key}{chain}{key}")), chain);
    }

    /// A client authority that was broken kept a renewed certificate from being used.
    #[test]
    fn a_broken_authority_of_clients_does_not_hold_back_a_new_certificate() {
        let folder = tempfile::tempdir().expect("a folder");
        let [cert, key, ca] = ["cert.pem", "key.pem", "ca.pem"].map(|name| folder.path().join(name));
        let put = |name: &str, to: &Path| {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
            fs::copy(from, to).expect("copied");
        };
        put("signed.pem", &cert);
        put("signed-key.pem", &key);
        put("authority.pem", &ca);
        let certificates = Certificates::load(tls(&cert, &key, Some(&ca))).expect("valid");
        let first = certificates.own();
        let asks_clients = |of: &Certificates| of.current().authorities.is_some();
        put("named.pem", &cert);
        put("named-key.pem", &key);
        fs::write(&ca, "nothing").expect("written");
        let why = certificates.reload().expect_err("the authority is broken").to_string();
        assert!(why.contains("--tls-client-ca") && !why.contains("--tls-cert "), "{why}");
        assert!(certificates.own() != first && asks_clients(&certificates));
        assert!(certificates.pem().contains(BEGIN) && !certificates.pem().contains("PRIVATE KEY"));
        put("authority.pem", &ca);
        assert_eq!(certificates.reload(), Ok(()));
    }

    #[test]
    fn files_that_became_invalid_change_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let put = |name: &str, to: &Path| {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
            fs::copy(from, to).expect("copied");
        };
        put("signed.pem", &cert);
        put("signed-key.pem", &key);
        let certificates = Certificates::load(tls(&cert, &key, None)).expect("valid");
        let first = certificates.own();
        // Its key is not there yet.
        put("named.pem", &cert);
        assert!(matches!(certificates.reload(), Err(Error::Config(_))));
        assert_eq!(certificates.own(), first);
        put("named-key.pem", &key);
        certificates.reload().expect("valid again");
        assert_ne!(certificates.own(), first);
    }
}
