//! Public keys for backups. Whoever makes a backup for a *recipient* has a public key only: the data key goes into a sealed box, as libsodium's
//! `crypto_box_seal` makes them (X25519, XSalsa20-Poly1305), which the private key opens. So a node that makes backups cannot read old ones, and
//! neither can who gets into it.
//!
//! A sealed box does not say who made it: anybody can encrypt for a public key. The id of a backup, kept elsewhere, tells which one it is.

use std::{fmt, str::FromStr};

use crypto_box::{PublicKey, SecretKey, aead::OsRng};

use crate::{
    core::hex::{from_hex, to_hex},
    error::{Error, Result},
};

/// What the text of a recipient begins with.
const RECIPIENT: &str = "dynarust-recipient-";
/// What the text of a private key begins with.
const PRIVATE: &str = "dynarust-private-key-";
const KEY_BYTES: usize = 32;
/// A backup for a mistyped key could be opened by nobody.
const CHECK_BYTES: usize = 4;

/// Whom a backup is for: a public key. Its text is `dynarust-recipient-` and 72 hexadecimal digits, the last eight of which are a checksum.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient([u8; KEY_BYTES]);

/// The private key of a recipient. In a file it is a line of `dynarust-private-key-` and 72 hexadecimal digits; lines that begin with `#` are
/// comments.
#[derive(Clone)]
pub struct PrivateKey(SecretKey);

impl Recipient {
    /// Puts a message into a box that only the private key opens.
    ///
    /// # Errors
    /// `Io` if it cannot be encrypted.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>> {
        let sealed = PublicKey::from(self.0).seal(&mut OsRng, plain);
        sealed.map_err(|_| Error::Io("the data key cannot be encrypted for the recipient".into()))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_text(RECIPIENT, &self.0))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Recipient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.starts_with(PRIVATE) {
            return Err(Error::Config(
                "not a recipient but its private key: name what DynaRust backup-key show prints for its file"
                    .into(),
            ));
        }
        from_text(RECIPIENT, text).map(Self).ok_or_else(|| {
            Error::Config(format!(
                "not a recipient, which is {RECIPIENT} and 72 hexadecimal digits, as DynaRust backup-key new prints it; or it is mistyped"
            ))
        })
    }
}

impl PrivateKey {
    /// A new one.
    pub fn generate() -> Self {
        Self(SecretKey::generate(&mut OsRng))
    }

    /// Its recipient.
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.public_key().to_bytes())
    }

    /// Opens a box for its recipient; `None` if it is for another, or was altered.
    pub fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        self.0.unseal(sealed).ok()
    }

    /// What its file has.
    pub fn to_file(&self) -> String {
        format!("# Opens backups for {}\n{}\n", self.recipient(), to_text(PRIVATE, &self.0.to_bytes()))
    }

    /// The private key of a file; `None` if it is a file of something else.
    ///
    /// # Errors
    /// `Config` if it is mistyped, or of a recipient.
    pub fn of_file(text: &str) -> Result<Option<Self>> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let Some(line) = lines.next() else { return Ok(None) };
        if line.starts_with(RECIPIENT) {
            return Err(Error::Config(
                "it has a recipient, which opens nothing, and not its private key".into(),
            ));
        }
        if !line.starts_with(PRIVATE) {
            return Ok(None);
        }
        let bytes = from_text(PRIVATE, line);
        let bytes = bytes.ok_or_else(|| Error::Config("its private key is mistyped or cut off".into()))?;
        Ok(Some(Self(SecretKey::from(bytes))))
    }
}

fn check_of(prefix: &str, bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new_derive_key("DynaRust 2026 checksum of a key for backups");
    hasher.update(prefix.as_bytes()).update(bytes);
    let mut check = [0; CHECK_BYTES];
    hasher.finalize_xof().fill(&mut check);
    check
}

fn to_text(prefix: &str, bytes: &[u8; KEY_BYTES]) -> String {
    format!("{prefix}{}{}", to_hex(bytes), to_hex(&check_of(prefix, bytes)))
}

fn from_text(prefix: &str, text: &str) -> Option<[u8; KEY_BYTES]> {
    let bytes = from_hex(text.trim().strip_prefix(prefix)?)?;
    let (key, check) = bytes.split_at_checked(KEY_BYTES)?;
    (*check == check_of(prefix, key)).then(|| key.try_into().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_opens_with_the_private_key_of_its_recipient_only() {
        let (key, other) = (PrivateKey::generate(), PrivateKey::generate());
        let sealed = key.recipient().seal(b"data key").expect("seals");
        assert_eq!(key.open(&sealed), Some(b"data key".to_vec()));
        assert_eq!(other.open(&sealed), None);
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(key.open(&altered), None, "{at}");
            assert_eq!(key.open(&sealed[..at]), None, "{at}");
        }
    }

    #[test]
    fn keys_come_back_from_their_texts_and_mistyped_ones_are_refused() {
        let key = PrivateKey::generate();
        let text = key.recipient().to_string();
        assert_eq!(text.parse::<Recipient>(), Ok(key.recipient()));
        let again = PrivateKey::of_file(&key.to_file()).expect("reads").expect("is one");
        assert_eq!(again.recipient(), key.recipient());
        for at in RECIPIENT.len()..text.len() {
            let mut mistyped = text.clone().into_bytes();
            mistyped[at] = if mistyped[at] == b'0' { b'1' } else { b'0' };
            let mistyped = String::from_utf8(mistyped).expect("text");
            assert!(mistyped.parse::<Recipient>().is_err(), "{mistyped}");
        }
        let private = key.to_file().lines().last().expect("a line").to_owned();
        assert!(private.parse::<Recipient>().is_err_and(|error| error.to_string().contains("private key")));
        assert!(PrivateKey::of_file(&text).is_err(), "a recipient opens nothing");
        assert!(PrivateKey::of_file(&private[..private.len() - 1]).is_err());
        assert!(PrivateKey::of_file(&"0f".repeat(32)).expect("something else").is_none());
    }
}
