//! TLS of the server: reads certificates from PEM files and builds the acceptor.

use std::{path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    error::{Error, Result},
    http::Tls,
};

/// Reads the certificate and its key.
///
/// # Errors
/// `Config` with the file and what is wrong with it.
pub fn acceptor(tls: &Tls) -> Result<TlsAcceptor> {
    let chain = certificates(&tls.cert)?;
    let key =
        PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| wrong_file("--tls-key", &tls.key, error))?;
    // We name the provider, because another library may have changed the process's default or removed it.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| wrong_file("--tls-cert with its --tls-key", &tls.cert, error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Reads the certificates in a PEM file, for a node to serve with or a command to trust.
///
/// # Errors
/// `Config` with the file and what is wrong with it.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let chain = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|error| wrong_file("--tls-cert", file, error))?;
    if chain.is_empty() {
        return Err(wrong_file("--tls-cert", file, "it has no CERTIFICATE section"));
    }
    Ok(chain)
}

fn wrong_file(what: &str, file: &Path, why: impl std::fmt::Display) -> Error {
    Error::Config(format!("{what} {}: {why}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_invalid_certificate_file_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("cert.pem");
        let tls = Tls { cert: file.clone(), key: file.clone() };
        let why = |tls: &Tls| acceptor(tls).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(why(&tls).contains("cert.pem"), "{}", why(&tls));
        std::fs::write(&file, "no certificate").expect("written");
        assert!(why(&tls).contains("no CERTIFICATE section"), "{}", why(&tls));
    }
}
