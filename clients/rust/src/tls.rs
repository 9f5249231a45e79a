//! Which certificates a client trusts: the ones it was given, byte for byte, and any for the requested host that one of those signed.
//! The first kind lets a self-signed certificate work: a command inside the node's container asks 127.0.0.1, whatever name the certificate
//! was made for.
//! If it was given none, the system's root certificates decide.

use std::{io, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_platform_verifier::Verifier;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::error::{Error, Reason, Result};

/// The TLS settings for one node.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    is_pinned: bool,
}

impl Tls {
    /// TLS to the node at `host`, trusting these certificates, or if there are none the system's roots.
    ///
    /// # Errors
    /// `Invalid` if `host` is neither a name nor an address, or no certificates are given and the system has no roots.
    pub fn new(host: &str, trusted: Option<Vec<CertificateDer<'static>>>) -> Result<Self> {
        let wrong = |why: &dyn std::fmt::Display| Error::Invalid(format!("no TLS with {host}: {why}"));
        let name = ServerName::try_from(host.to_owned()).map_err(|error| wrong(&error))?;
        // We name the provider, because another library may have changed the process's default or removed it.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let is_pinned = trusted.is_some();
        let verifier: Arc<dyn ServerCertVerifier> = match trusted {
            Some(pinned) => Arc::new(CertificateVerifier::new(pinned, Arc::clone(&provider))),
            None => Arc::new(
                Verifier::new(Arc::clone(&provider))
                    .map_err(|error| wrong(&format_args!("{error}: name the certificates to trust")))?,
            ),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(&error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), name, is_pinned })
    }

    /// The same, with a certificate to show to a node that asks for one.
    ///
    /// # Errors
    /// `Invalid` if the key is not that of the certificate.
    pub fn identify(self, chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self> {
        let provider = rustls::crypto::ring::default_provider();
        let own = CertifiedKey::from_der(chain, key, &provider)
            .map_err(|error| Error::Invalid(format!("the client certificate or its key: {error}")))?;
        let mut config = ClientConfig::clone(&self.config);
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(own));
        Ok(Self { config: Arc::new(config), ..self })
    }

    /// Does the TLS handshake over `stream`. An error says why it failed, in words and as a [`Reason`].
    pub async fn handshake(
        &self,
        stream: TcpStream,
    ) -> std::result::Result<TlsStream<TcpStream>, (Reason, String)> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        connector.connect(self.name.clone(), stream).await.map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &io::Error) -> (Reason, String) {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidMessage(_)) => {
                (Reason::NoTls, "it does not speak TLS: use http://".into())
            }
            Some(rustls::Error::InvalidCertificate(why)) if self.is_pinned => (
                Reason::OtherCertificate,
                format!(
                    "its certificate is neither the one that is to be trusted, nor one for this host that it signed ({why}). A node \
                     that takes over a renewed certificate presents that one: trust its authority, or the renewed certificate"
                ),
            ),
            Some(rustls::Error::InvalidCertificate(why)) => (
                Reason::UntrustedCertificate,
                format!("this system does not trust its certificate for this host ({why})"),
            ),
            Some(_) | None => (Reason::NoConnection, error.to_string()),
        }
    }
}

/// Accepts pinned certificates, and those that they signed.
#[derive(Debug)]
struct CertificateVerifier {
    pinned: Vec<CertificateDer<'static>>,
    /// The same certificates as authorities; `None` if none of them can be one.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl CertificateVerifier {
    fn new(pinned: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(pinned.iter().cloned());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        Self { pinned, authorities: verifier.build().ok(), provider }
    }
}

impl ServerCertVerifier for CertificateVerifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        // The signature check below proves that the node holds the key.
        if self.pinned.iter().any(|pinned| pinned == shown) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.authorities {
            Some(authorities) => authorities.verify_server_cert(shown, between, name, ocsp_response, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, shown, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, shown, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
