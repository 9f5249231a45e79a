//! The file in the data directory that says where its node answers, while one runs: so that the health check of a container finds
//! it, whatever port and certificate it was given. Its first line is a URL; where that is `https://`, the node's certificates follow, so
//! that the check trusts those the node was started with, also once their files are renewed.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tracing::warn;

use super::listener::reachable_here;
use crate::{
    client::Endpoint,
    config::Config,
    error::{Error, Result},
    http::server::tls,
};

/// Its name, in the data directory.
pub const ADDRESS_FILE: &str = "dynarust.address";
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The file of a node that runs.
pub struct AddressFile(PathBuf);

impl AddressFile {
    /// Writes where the node with this configuration answers, listening at `local`. A node runs without the file as well; where it cannot be
    /// written, the log says so.
    pub fn write(config: &Config, local: SocketAddr) -> Self {
        let path = config.data.join(ADDRESS_FILE);
        if let Err(error) = write(&path, local, config.tls_cert.as_deref()) {
            warn!(file = %path.display(), %error, "cannot write the node's address: DynaRust health will not find it");
        }
        Self(path)
    }

    /// Removes it. To be called while the node still has its directory: the next one writes its own.
    pub fn remove(self) {
        // One that stays names a port where nobody answers, as after kill -9.
        let _ = fs::remove_file(self.0);
    }
}

fn write(path: &Path, local: SocketAddr, certificate: Option<&Path>) -> io::Result<()> {
    let here = reachable_here(local);
    let text = match certificate {
        None => format!("http://{here}\n"),
        Some(file) => format!("https://{here}\n{}", certificates(&fs::read_to_string(file)?)),
    };
    // Whole or not at all.
    let new = path.with_extension("address.new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}

/// The certificates of a PEM file, without a private key that may be there too.
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

/// Where the node answers that runs on this data directory; `None` where the file is not there.
///
/// # Errors
/// `Io` for a file that cannot be read, `Config` for one that is damaged.
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
    Endpoint::https(address, &number.ip().to_string(), Some(tls::certificates(&path)?)).map(Some)
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
