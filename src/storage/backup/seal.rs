//! Encrypted backups. A random *data key* encrypts every chunk file, and what the manifest says of the node. The data key is in the manifest,
//! encrypted with a key that comes from a passphrase (Argon2id) or a key file, or for a [recipient](super::recipient). So a passphrase is
//! stretched once, not for each file.
//!
//! The cipher is XChaCha20-Poly1305. Each file has a random nonce in front, and its name is authenticated with it: files cannot be swapped. A
//! backup with an encrypted base has its base's data key.
//!
//! Left out: hiding the number and the sizes of the files, when the backup was made and of which node.

use std::{fmt, path::Path};

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit, Payload},
};
use serde::{Deserialize, Serialize};

use super::recipient::{PrivateKey, Recipient};
use crate::{
    core::hex::{from_hex, to_hex},
    error::{Error, Result},
    storage::environment::random_bytes,
};

/// Memory that a passphrase takes to stretch, in KiB, and the passes over it: about a fifth of a second.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
/// The most that a manifest may ask for: it is read before anything in it is proved.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSES_MAX: u32 = 100;
/// Shortest passphrase, in characters, and shortest key file, in bytes: 256 bits in hexadecimal digits are 64.
const PASSPHRASE_CHARS_MIN: usize = 8;
const KEY_FILE_BYTES_MIN: usize = 32;
/// Longest passphrase or key file, in bytes.
const SECRET_BYTES_MAX: usize = 64 * 1024;
const NONCE_BYTES: usize = 24;
const SALT_BYTES: usize = 16;
/// What the data key is sealed as.
const DATA_KEY: &str = "data key";

/// What opens an encrypted backup.
#[derive(Clone)]
pub enum Secret {
    /// A passphrase.
    Passphrase(String),
    /// The content of a key file: at least 32 random bytes, in whatever form.
    KeyFile(Vec<u8>),
    /// The private key of a recipient.
    PrivateKey(PrivateKey),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind().name())
    }
}

/// Where the key comes from that the data key is encrypted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// From a passphrase.
    Passphrase,
    /// From a key file.
    KeyFile,
    /// From the private key of a recipient.
    Recipient,
}

impl Kind {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passphrase => "a passphrase",
            Self::KeyFile => "a key file",
            Self::Recipient => "the key of a recipient",
        }
    }
}

/// The data key as the manifest has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// What it takes to open it.
    pub kind: Kind,
    /// For whom it is, if it is for a recipient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recipient: Option<String>,
    /// Random, in hexadecimal; empty if it is for a recipient.
    salt: String,
    /// For a passphrase: memory in KiB, and passes.
    memory_kib: u32,
    passes: u32,
    /// The sealed data key, in hexadecimal.
    key: String,
}

/// The key of all files of a backup.
#[derive(Clone)]
pub struct DataKey([u8; 32]);

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the data key")
    }
}

impl Secret {
    /// A passphrase.
    ///
    /// # Errors
    /// `Config` if it is too short or too long.
    pub fn passphrase(text: &str) -> Result<Self> {
        if text.chars().count() < PASSPHRASE_CHARS_MIN || text.len() > SECRET_BYTES_MAX {
            return Err(Error::Config(format!(
                "the passphrase must have at least {PASSPHRASE_CHARS_MIN} characters: six random words are better"
            )));
        }
        Ok(Self::Passphrase(text.to_owned()))
    }

    /// Reads a passphrase: the first line of a file.
    ///
    /// # Errors
    /// `Io`, and as `passphrase`.
    pub fn passphrase_file(path: &Path) -> Result<Self> {
        let text = String::from_utf8(read(path)?)
            .map_err(|_| Error::Config(format!("{} is not text", path.display())))?;
        Self::passphrase(text.lines().next().unwrap_or_default())
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// `Io`; `Config` if it is too short or too long.
    pub fn key_file(path: &Path) -> Result<Self> {
        let key = read(path)?.trim_ascii().to_vec();
        let private = std::str::from_utf8(&key).map_or(Ok(None), PrivateKey::of_file);
        let private =
            private.map_err(|error| Error::Config(format!("the key file {}: {error}", path.display())))?;
        if let Some(private) = private {
            return Ok(Self::PrivateKey(private));
        }
        if !(KEY_FILE_BYTES_MIN..=SECRET_BYTES_MAX).contains(&key.len()) {
            return Err(Error::Config(format!(
                "the key file {} must have {KEY_FILE_BYTES_MIN} bytes at least, all random: `openssl rand -hex 32` makes one",
                path.display()
            )));
        }
        Ok(Self::KeyFile(key))
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Passphrase(_) => Kind::Passphrase,
            Self::KeyFile(_) => Kind::KeyFile,
            Self::PrivateKey(_) => Kind::Recipient,
        }
    }

    /// The key that the data key is encrypted with; `None` where it is for a recipient.
    fn stretch(&self, salt: &[u8], memory_kib: u32, passes: u32) -> Result<Option<DataKey>> {
        let mut key = [0; 32];
        match self {
            Self::PrivateKey(_) => return Ok(None),
            Self::KeyFile(bytes) => {
                let mut hasher = blake3::Hasher::new_derive_key("DynaRust 2026 key file of a backup");
                key = *hasher.update(salt).update(bytes).finalize().as_bytes();
            }
            Self::Passphrase(text) => {
                let failed = |error: argon2::Error| Error::Io(format!("stretching the passphrase: {error}"));
                let parameters = Params::new(memory_kib, passes, 1, Some(key.len())).map_err(failed)?;
                let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters);
                argon.hash_password_into(text.as_bytes(), salt, &mut key).map_err(failed)?;
            }
        }
        Ok(Some(DataKey(key)))
    }
}

impl Envelope {
    /// Puts a data key into an envelope for a recipient.
    ///
    /// # Errors
    /// As `Recipient::seal`.
    pub fn for_recipient(key: &DataKey, recipient: &Recipient) -> Result<Self> {
        Ok(Self {
            kind: Kind::Recipient,
            recipient: Some(recipient.to_string()),
            salt: String::new(),
            memory_kib: 0,
            passes: 0,
            key: to_hex(&recipient.seal(&key.0)?),
        })
    }

    /// Puts a data key into an envelope that a secret opens.
    ///
    /// # Errors
    /// `Io` if the system gives no randomness.
    pub fn seal(key: &DataKey, secret: &Secret) -> Result<Self> {
        if let Secret::PrivateKey(private) = secret {
            return Self::for_recipient(key, &private.recipient());
        }
        let salt: [u8; SALT_BYTES] = random_bytes()?;
        let outer = secret.stretch(&salt, MEMORY_KIB, PASSES)?.expect("it is no private key");
        Ok(Self {
            kind: secret.kind(),
            recipient: None,
            salt: to_hex(&salt),
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            key: to_hex(&outer.seal(DATA_KEY, &key.0)?),
        })
    }

    /// The data key.
    ///
    /// # Errors
    /// `Forbidden` if the secret is not the right one.
    pub fn open(&self, secret: &Secret) -> Result<DataKey> {
        if secret.kind() != self.kind {
            return Err(Error::Forbidden(format!(
                "the backup is encrypted with {}, not with {}",
                self.kind.name(),
                secret.kind().name()
            )));
        }
        let damaged = || Error::StorageDamaged("the manifest of the backup has no valid key".into());
        if self.memory_kib > MEMORY_KIB_MAX || self.passes > PASSES_MAX {
            return Err(damaged());
        }
        let salt = from_hex(&self.salt).ok_or_else(damaged)?;
        let sealed = from_hex(&self.key).ok_or_else(damaged)?;
        let key = match secret {
            Secret::PrivateKey(private) => private.open(&sealed),
            Secret::Passphrase(_) | Secret::KeyFile(_) => {
                let outer = secret.stretch(&salt, self.memory_kib, self.passes)?;
                outer.and_then(|outer| outer.open(DATA_KEY, &sealed))
            }
        };
        let key = key.and_then(|key| key.try_into().ok());
        key.map(DataKey).ok_or_else(|| {
            let wrong = match (self.kind, &self.recipient) {
                (Kind::Passphrase, _) => "the passphrase is not the right one".to_owned(),
                (Kind::Recipient, Some(recipient)) => {
                    format!("it is for {recipient}, and this is another private key")
                }
                (Kind::KeyFile | Kind::Recipient, _) => "the key file is not the right one".into(),
            };
            Error::Forbidden(format!("the backup does not open: {wrong}"))
        })
    }
}

impl DataKey {
    /// A new one.
    ///
    /// # Errors
    /// `Io` if the system gives no randomness.
    pub fn random() -> Result<Self> {
        random_bytes().map(Self)
    }

    /// Encrypts the content of a file of this name.
    ///
    /// # Errors
    /// `Io` if the system gives no randomness.
    pub fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>> {
        let nonce: [u8; NONCE_BYTES] = random_bytes()?;
        let payload = Payload { msg: plain, aad: name.as_bytes() };
        let sealed = self.cipher().encrypt(XNonce::from_slice(&nonce), payload);
        let sealed = sealed.map_err(|_| Error::Io(format!("{name} is too long to be encrypted")))?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// The content of a file of this name; `None` if it is not what `seal` made with this key.
    pub fn open(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
        let payload = Payload { msg: sealed, aad: name.as_bytes() };
        self.cipher().decrypt(XNonce::from_slice(nonce), payload).ok()
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&self.0).into())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io(format_args!("reading {}", path.display()), &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> [Secret; 3] {
        let passphrase = Secret::passphrase("correct horse").expect("long enough");
        [passphrase, Secret::KeyFile(vec![7; 32]), Secret::PrivateKey(PrivateKey::generate())]
    }

    #[test]
    fn the_right_secret_opens_an_envelope_and_no_other() {
        let key = DataKey::random().expect("there is randomness");
        for secret in secrets() {
            let envelope = Envelope::seal(&key, &secret).expect("seals");
            assert_eq!(envelope.open(&secret).expect("opens").0, key.0);
            let wrong = match &secret {
                Secret::Passphrase(_) => Secret::passphrase("correct house").expect("long enough"),
                Secret::KeyFile(_) => Secret::KeyFile(vec![8; 32]),
                Secret::PrivateKey(_) => Secret::PrivateKey(PrivateKey::generate()),
            };
            let other =
                secrets().into_iter().find(|other| other.kind() != secret.kind()).expect("one of three");
            for wrong in [wrong, other] {
                assert!(matches!(envelope.open(&wrong), Err(Error::Forbidden(_))));
            }
            let greedy = Envelope { memory_kib: MEMORY_KIB_MAX + 1, ..envelope };
            assert!(matches!(greedy.open(&secret), Err(Error::StorageDamaged(_))));
        }
        assert!(Secret::passphrase("short").is_err());
    }

    #[test]
    fn a_file_opens_under_its_own_name_and_unaltered_only() {
        let key = DataKey::random().expect("there is randomness");
        let sealed = key.seal("a", b"content").expect("seals");
        assert_eq!(key.open("a", &sealed), Some(b"content".to_vec()));
        assert_eq!(key.open("b", &sealed), None);
        assert_ne!(sealed, key.seal("a", b"content").expect("seals"), "each has a nonce of its own");
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(key.open("a", &altered), None, "{at}");
            assert_eq!(key.open("a", &sealed[..at]), None, "{at}");
        }
    }
}
