//! TLS of the server: certificates of PEM files, which a running server reads again, and those that clients show.
//!
//! A connection uses the certificate that was current when its handshake began. Reading the files again changes nothing about open ones.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{certificate, socket::Socket};
use crate::{
    error::{Error, Result},
    http::{ClientCertificates, Tls, request::connection_state::ConnectionState},
};

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
    /// The server's own, without its chain.
    own: CertificateDer<'static>,
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
        let current = Mutex::new(Current::read(&options)?);
        Ok(Self(Arc::new(Shared { options, current })))
    }

    /// Reads the files again, for the connections from now on. On an error everything stays as it was.
    ///
    /// # Errors
    /// As `load`.
    pub fn reload(&self) -> Result<()> {
        let current = Current::read(&self.0.options)?;
        *self.0.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(())
    }

    /// The files that they are read from.
    pub fn files(&self) -> Vec<PathBuf> {
        let Tls { cert, key, client_ca, .. } = &self.0.options;
        [Some(cert), Some(key), client_ca.as_ref()].into_iter().flatten().cloned().collect()
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
        self.current().own
    }

    fn current(&self) -> Current {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Current {
    fn read(tls: &Tls) -> Result<Self> {
        let chain = certificates(&tls.cert)?;
        let own = chain.first().cloned().expect("a chain without certificates is refused");
        let key = PrivateKeyDer::from_pem_file(&tls.key)
            .map_err(|error| wrong_file("--tls-key", &tls.key, error))?;
        // We name the provider, because another library may have changed the process's default or removed it.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Config(format!("TLS: {error}")))?;
        let builder = match &tls.client_ca {
            Some(file) => builder.with_client_cert_verifier(verifier(file, tls.clients, provider)?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| wrong_file("--tls-cert with its --tls-key", &tls.cert, error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), own })
    }
}

/// What checks the certificates of clients: an authority in `file` must have signed them.
fn verifier(
    file: &Path,
    clients: ClientCertificates,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>> {
    const WHAT: &str = "--tls-client-ca";
    let mut roots = RootCertStore::empty();
    for certificate in certificates_of(WHAT, file)? {
        roots.add(certificate).map_err(|error| wrong_file(WHAT, file, error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match clients {
        ClientCertificates::Required => builder,
        ClientCertificates::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| wrong_file(WHAT, file, error))
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
    let chain = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|error| wrong_file(what, file, error))?;
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
    use std::fs;

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
