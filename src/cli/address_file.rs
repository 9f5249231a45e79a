//! The file in the data directory with the URL of the running node, so that the health check of a container finds it, whatever its port.
//! The first line is the URL. With `https://`, the node's certificates follow, and the health check trusts them. The node writes the file
//! again when it takes over a new certificate: the file always has the one that the node presents.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dynarust_client::Endpoint;
use tracing::warn;

use super::listener::reachable_here;
use crate::{
    config::Config,
    error::{Error, Result},
    http::{Certificates, server::tls},
};

/// Its name in the data directory.
pub const ADDRESS_FILE: &str = "dynarust.address";

/// The address file of the running node. Clones share it.
#[derive(Clone, Debug)]
pub struct AddressFile(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    local: SocketAddr,
    certificates: Option<Certificates>,
    /// What it says; `None` while it is not there.
    written: Mutex<Option<String>>,
}

impl AddressFile {
    /// The file of a node that listens at `local` and presents these certificates. Writes nothing yet.
    pub fn new(config: &Config, local: SocketAddr, certificates: Option<&Certificates>) -> Self {
        Self::at(config.data.join(ADDRESS_FILE), local, certificates)
    }

    fn at(path: PathBuf, local: SocketAddr, certificates: Option<&Certificates>) -> Self {
        let certificates = certificates.cloned();
        Self(Arc::new(Shared { path, local, certificates, written: Mutex::default() }))
    }

    /// Writes the file. The node also runs without it: if it cannot be written, that is logged.
    pub fn write(&self) {
        self.0.write(&mut self.written());
    }

    /// Writes the file again if the certificates have changed. Does nothing before `write` and after `remove`.
    pub fn update(&self) {
        let mut written = self.written();
        if written.as_ref().is_some_and(|written| *written != self.0.text()) {
            self.0.write(&mut written);
        }
    }

    /// Removes the file. Call this while the node still holds the lock on its directory, as the next node writes its own file.
    pub fn remove(&self) {
        *self.written() = None;
        // A file that is left behind, as after kill -9, names a port where nobody answers. That is harmless.
        let _ = fs::remove_file(&self.0.path);
    }

    fn written(&self) -> MutexGuard<'_, Option<String>> {
        self.0.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn write(&self, written: &mut Option<String>) {
        let text = self.text();
        if let Err(error) = replace(&self.path, &text) {
            warn!(file = %self.path.display(), %error, "cannot write the node's address: DynaRust health will not find it");
        }
        *written = Some(text);
    }

    fn text(&self) -> String {
        let here = reachable_here(self.local);
        match &self.certificates {
            None => format!("http://{here}\n"),
            Some(certificates) => format!("https://{here}\n{}", certificates.pem()),
        }
    }
}

/// Renaming is atomic: readers see the whole file or none.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("address.new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}

/// How to connect to the node that runs on this data directory; `None` if there is no file.
///
/// # Errors
/// `Io` if the file cannot be read, `Config` if it is damaged.
pub fn read(data: &Path) -> Result<Option<Endpoint>> {
    let path = data.join(ADDRESS_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format_args!("reading {}", path.display()), &error)),
    };
    let url = text.lines().next().unwrap_or_default();
    if let Some(address) = url.strip_prefix("http://") {
        return Ok(Some(Endpoint::http(address)));
    }
    let address =
        url.strip_prefix("https://").and_then(|address| Some((address, address.parse::<SocketAddr>().ok()?)));
    let Some((address, number)) = address else {
        return Err(Error::Config(format!("{} is not the address of a node: {url:?}", path.display())));
    };
    let trusted = Some(tls::certificates(&path)?);
    let endpoint = Endpoint::https(address, &number.ip().to_string(), trusted);
    endpoint.map(Some).map_err(|error| Error::Config(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{ClientCertificates, Tls};

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
    }

    fn certificates(cert: PathBuf, key: PathBuf) -> Certificates {
        let tls = Tls { cert, key, client_ca: None, clients: ClientCertificates::Required };
        Certificates::load(tls).expect("valid")
    }

    #[test]
    fn what_is_written_is_read_with_its_certificates() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(read(folder.path()).expect("nothing is no error").is_none());
        let path = folder.path().join(ADDRESS_FILE);
        let tls = certificates(fixture("signed.pem"), fixture("signed-key.pem"));
        for (local, certificates, shown) in [
            ("0.0.0.0:7000", None, "127.0.0.1:7000"),
            ("[::]:7000", None, "[::1]:7000"),
            ("127.0.0.1:1", Some(&tls), "https://127.0.0.1:1"),
        ] {
            AddressFile::at(path.clone(), local.parse().expect("an address"), certificates).write();
            let endpoint = read(folder.path()).expect("readable").expect("there");
            assert_eq!(endpoint.to_string(), shown);
        }
        fs::write(&path, "https://nonsense\n").expect("written");
        assert!(read(folder.path()).is_err());
    }

    /// The file kept the certificate that the node was started with. The health check of a container failed after its first renewal.
    #[test]
    fn a_new_certificate_is_written_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let put = |name: &str, to: &Path| fs::copy(fixture(name), to).expect("copied");
        put("signed.pem", &cert);
        put("signed-key.pem", &key);
        let tls = certificates(cert.clone(), key.clone());
        let path = folder.path().join(ADDRESS_FILE);
        let file = AddressFile::at(path.clone(), "127.0.0.1:1".parse().expect("an address"), Some(&tls));
        file.update();
        assert!(!path.exists(), "not before it is written");
        file.write();
        let has = || tls::certificates(&path).expect("certificates");
        assert_eq!(has()[0], tls.own());
        let before = has();
        put("named.pem", &cert);
        assert!(tls.reload().is_err(), "its key is not there yet");
        file.update();
        assert_eq!(has(), before);
        put("named-key.pem", &key);
        tls.reload().expect("valid");
        file.update();
        assert!(has()[0] == tls.own() && has() != before);
        file.remove();
        file.update();
        assert!(!path.exists(), "not after the end");
    }
}
