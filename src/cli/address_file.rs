//! The file in the data directory with the URL of the running node, so that the health check of a container finds it, whatever its port.
//! The first line is the URL. With `https://`, the node's certificates follow: the health check trusts those that the node was started
//! with, even if their files have been renewed since.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use dynarust_client::Endpoint;
use tracing::warn;

use super::listener::reachable_here;
use crate::{
    config::Config,
    error::{Error, Result},
    http::server::tls,
};

/// Its name in the data directory.
pub const ADDRESS_FILE: &str = "dynarust.address";
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The address file of the running node.
pub struct AddressFile(PathBuf);

impl AddressFile {
    /// Writes the file for a node that listens at `local`. The node also runs without it: if it cannot be written, that is logged.
    pub fn write(config: &Config, local: SocketAddr) -> Self {
        let path = config.data.join(ADDRESS_FILE);
        if let Err(error) = write(&path, local, config.tls_cert.as_deref()) {
            warn!(file = %path.display(), %error, "cannot write the node's address: DynaRust health will not find it");
        }
        Self(path)
    }

    /// Removes the file. Call this while the node still holds the lock on its directory, as the next node writes its own file.
    pub fn remove(self) {
        // A file that is left behind, as after kill -9, names a port where nobody answers. That is harmless.
        let _ = fs::remove_file(self.0);
    }
}

fn write(path: &Path, local: SocketAddr, certificate: Option<&Path>) -> io::Result<()> {
    let here = reachable_here(local);
    let text = match certificate {
        None => format!("http://{here}\n"),
        Some(file) => format!("https://{here}\n{}", certificates(&fs::read_to_string(file)?)),
    };
    // Renaming is atomic: readers see the whole file or none.
    let new = path.with_extension("address.new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}

/// The certificates of a PEM file, without a private key that it may contain as well.
fn certificates(pem: &str) -> String {
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

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
    }

    #[test]
    fn what_is_written_is_read_with_its_certificates() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(read(folder.path()).expect("nothing is no error").is_none());
        let path = folder.path().join(ADDRESS_FILE);
        for (local, certificate, shown) in [
            ("0.0.0.0:7000", None, "127.0.0.1:7000"),
            ("[::]:7000", None, "[::1]:7000"),
            ("127.0.0.1:1", Some(fixture("certificate.pem")), "https://127.0.0.1:1"),
        ] {
            write(&path, local.parse().expect("an address"), certificate.as_deref()).expect("written");
            let endpoint = read(folder.path()).expect("readable").expect("there");
            assert_eq!(endpoint.to_string(), shown);
        }
        fs::write(&path, "https://nonsense\n").expect("written");
        assert!(read(folder.path()).is_err());
    }

    #[test]
    fn a_private_key_beside_the_certificate_is_not_copied() {
        let key = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n";
        let chain = format!("{BEGIN}\none\n{END}\n{BEGIN}\ntwo\n{END}\n");
        assert_eq!(certificates(&format!("a comment\n{key}{chain}{key}")), chain);
    }
}
