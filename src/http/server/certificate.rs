//! What a certificate says of whom it is for. An X.509 certificate (RFC 5280) is nested DER: each part has a tag, a length and a content. We
//! look only at certificates whose signature was checked, or that are our own, and take nothing from them but names for people.

use ring::digest::{SHA256, digest};

use crate::core::hex::to_hex;

/// The tags that we pass through.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// The optional version of a certificate.
const VERSION: u8 = 0xa0;
/// `2.5.4.3`, the common name.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// Longest name that logs repeat, in characters.
const NAME_CHARS_MAX: usize = 128;

/// The name of whom a certificate is for: its common name, or else its SHA-256 fingerprint.
pub fn name(certificate: &[u8]) -> Box<str> {
    match subject_and_issuer(certificate).and_then(|(subject, _)| common_name(subject)) {
        Some(name) if !name.is_empty() => name.chars().take(NAME_CHARS_MAX).collect(),
        Some(_) | None => fingerprint(certificate).into(),
    }
}

/// Whether a certificate names itself as its issuer, as those of authorities do: nobody trusts it without being told to.
pub fn is_self_signed(certificate: &[u8]) -> bool {
    subject_and_issuer(certificate).is_some_and(|(subject, issuer)| subject == issuer)
}

fn fingerprint(certificate: &[u8]) -> String {
    format!("sha256:{}", to_hex(digest(&SHA256, certificate).as_ref()))
}

/// The content of the first part of some DER, if it has this tag, and what follows it.
fn take(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match length {
        short @ 0..0x80 => (usize::from(short), rest),
        // As many bytes of length follow. Longer certificates than four gigabytes there are not.
        long => {
            let (bytes, rest) =
                rest.split_at_checked(usize::from(long & 0x7f)).filter(|(it, _)| it.len() <= 4)?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
    };
    if found == tag { rest.split_at_checked(length) } else { None }
}

/// What follows the first part, whatever that is.
fn skip(der: &[u8]) -> Option<&[u8]> {
    take(der, *der.first()?).map(|(_, rest)| rest)
}

fn subject_and_issuer(certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let (certificate, _) = take(certificate, SEQUENCE)?;
    let (mut fields, _) = take(certificate, SEQUENCE)?;
    if let Some((_, rest)) = take(fields, VERSION) {
        fields = rest;
    }
    let fields = skip(skip(fields)?)?;
    let (issuer, fields) = take(fields, SEQUENCE)?;
    // The time for which it is valid comes in between.
    let (subject, _) = take(skip(fields)?, SEQUENCE)?;
    Some((subject, issuer))
}

/// The last common name in a distinguished name, which is the most specific.
fn common_name(mut name: &[u8]) -> Option<String> {
    let mut found = None;
    while let Some((attributes, rest)) = take(name, SET) {
        let (attribute, _) = take(attributes, SEQUENCE)?;
        let (kind, value) = take(attribute, OBJECT_IDENTIFIER)?;
        if kind == COMMON_NAME {
            let (text, _) = take(value, *value.first()?)?;
            found = Some(String::from_utf8_lossy(text).into_owned());
        }
        name = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::http::server::tls;

    fn fixture(name: &str) -> Vec<u8> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        tls::certificates(&file).expect("a certificate").remove(0).to_vec()
    }

    #[test]
    fn a_certificate_is_named_by_its_common_name_and_knows_its_issuer() {
        let (own, signed) = (fixture("authority.pem"), fixture("signed.pem"));
        assert!(is_self_signed(&own) && !is_self_signed(&signed));
        assert!(!name(&own).starts_with("sha256:"), "{}", name(&own));
    }

    #[test]
    fn what_is_no_certificate_has_a_fingerprint() {
        let whole = fixture("authority.pem");
        for length in 0..whole.len() {
            assert!(!name(&whole[..length]).is_empty(), "{length}");
        }
        assert_eq!(&*name(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert!(!is_self_signed(b"\x30\x84\xff\xff\xff\xff"));
    }
}
