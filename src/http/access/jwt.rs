//! JWTs: tokens that somebody else signs, such as an identity provider. This node has the public keys, a JSON Web Key Set (RFC 7517).
//!
//! A token is accepted if a key of the set signed it by the algorithm of that key, it has an expiry, it is for this audience and by this
//! issuer if those are set, and it has the claim `dynarust`, which says what its bearer may do:
//!
//! ```json
//! {"sub": "alice", "exp": 1798761600, "dynarust": {"rights": ["read"], "tables": ["orders"], "prefixes": ["eu/"]}}
//! ```
//!
//! The algorithm comes from the key and not from the token, so neither `none` nor a public key used as an HMAC secret gets through:
//! symmetric keys are refused when the set is read.
//!
//! `jsonwebtoken` parses keys and headers and decides which signature to check; we look at times and audiences ourselves, because it
//! cannot read numbers where serde_json keeps them as text, as it does here.

use blake3::Hash;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;

use super::{Token, signatures, tokens};
use crate::error::{Error, Result};

/// Most keys of a set. Providers keep two or three.
const KEYS_MAX: usize = 100;
/// Verified tokens that are remembered, so that a signature is checked once and not with each request.
const VERIFIED_MAX: usize = 10_000;
/// How far the clock of the issuer may be ahead of ours, in seconds, for `nbf`. `exp` has no such slack.
const NOT_BEFORE_SLACK_S: f64 = 60.0;
/// Longest subject.
const SUBJECT_BYTES_MAX: usize = 128;

/// What a JWT must say besides its expiry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwtOptions {
    /// `iss` must be this.
    pub issuer: Option<String>,
    /// `aud` must be, or contain, this. Without it a token must have no `aud`: it would be meant for others.
    pub audience: Option<String>,
}

/// The keys of a set, and the tokens that they have verified.
#[derive(Debug)]
pub struct JwtKeys {
    keys: Vec<Key>,
    options: JwtOptions,
    verified: Cache<Hash, Arc<Token>>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// A JSON Web Key Set, whose keys are read one by one: one of an unknown kind does not hide the others.
#[derive(Deserialize)]
struct KeySet<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// The claims that count.
#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<Audience>,
    dynarust: Option<GrantClaim>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// What the bearer of a token may do.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantClaim {
    rights: Vec<String>,
    tables: Option<Vec<String>>,
    prefixes: Option<Vec<String>>,
}

impl JwtKeys {
    /// Reads a JSON Web Key Set.
    ///
    /// # Errors
    /// What is wrong, and with which key.
    pub fn parse(text: &str, options: JwtOptions) -> std::result::Result<Self, String> {
        match Self::parse_usable(text, options)? {
            (_, unusable) if !unusable.is_empty() => Err(unusable.join("; ")),
            (keys, _) => Ok(keys),
        }
    }

    /// The same, but leaves out keys that cannot be used, and says why.
    ///
    /// # Errors
    /// What is wrong with the set, or with its keys if none can be used.
    pub fn parse_usable(text: &str, options: JwtOptions) -> std::result::Result<(Self, Vec<String>), String> {
        signatures::install();
        let set: KeySet<'_> = serde_json::from_str(text)
            .map_err(|error| format!("it is not a JSON Web Key Set, {{\"keys\": [...]}}: {error}"))?;
        if set.keys.is_empty() || set.keys.len() > KEYS_MAX {
            return Err(format!("{} keys: a set has 1 to {KEYS_MAX}", set.keys.len()));
        }
        let (mut keys, mut unusable) = (Vec::new(), Vec::new());
        for (place, raw) in set.keys.iter().enumerate() {
            let jwk = serde_json::from_str::<Jwk>(raw.get()).map_err(|error| error.to_string());
            match jwk {
                Ok(jwk) if jwk.common.public_key_use == Some(PublicKeyUse::Encryption) => {}
                jwk => match jwk.and_then(|jwk| key(&jwk)) {
                    Ok(key) => keys.push(key),
                    Err(why) => unusable.push(format!("key {}: {why}", place + 1)),
                },
            }
        }
        if keys.is_empty() && !unusable.is_empty() {
            return Err(unusable.join("; "));
        }
        Ok((Self { keys, options, verified: Cache::new(VERIFIED_MAX) }, unusable))
    }

    /// The token that this JWT is.
    ///
    /// # Errors
    /// `Unauthenticated`, with what is wrong.
    pub fn token(&self, jwt: &str, now_ms: u64) -> Result<Arc<Token>> {
        let hash = tokens::hash(jwt);
        if let Some(token) = self.verified.get(&hash) {
            return Ok(token);
        }
        let token = self.verify(jwt, now_ms).map(Arc::new).map_err(|why| Error::Unauthenticated {
            why: format!("the JWT is not valid: {why}"),
            is_invalid: true,
        })?;
        self.verified.insert(hash, Arc::clone(&token));
        Ok(token)
    }

    fn verify(&self, jwt: &str, now_ms: u64) -> std::result::Result<Token, String> {
        let header = jsonwebtoken::decode_header(jwt).map_err(|error| format!("its header: {error}"))?;
        let mut last = "no key of this node has its \"kid\"".to_owned();
        for key in self.keys.iter().filter(|key| header.kid.is_none() || key.id == header.kid) {
            if header.alg != key.algorithm {
                last =
                    format!("its algorithm is {:?}, and that of the key is {:?}", header.alg, key.algorithm);
                continue;
            }
            let mut validation = Validation::new(key.algorithm);
            validation.required_spec_claims.clear();
            (validation.validate_exp, validation.validate_aud) = (false, false);
            match jsonwebtoken::decode::<Claims>(jwt, &key.key, &validation) {
                Ok(decoded) => return self.accept(decoded.claims, now_ms),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }

    fn accept(&self, claims: Claims, now_ms: u64) -> std::result::Result<Token, String> {
        let now_s = now_ms as f64 / 1000.0;
        let exp = claims.exp.ok_or("it has no \"exp\", and would never end")?;
        if !exp.is_finite() || exp <= now_s {
            return Err("it has expired".into());
        }
        if claims.nbf.is_some_and(|nbf| nbf > now_s + NOT_BEFORE_SLACK_S) {
            return Err("it is not valid yet (\"nbf\")".into());
        }
        if self.options.issuer.is_some() && claims.iss != self.options.issuer {
            return Err("its \"iss\" is not the issuer that this node trusts".into());
        }
        let is_ours = match (&self.options.audience, &claims.aud) {
            (None, None) => true,
            (None, Some(_)) | (Some(_), None) => false,
            (Some(ours), Some(Audience::One(aud))) => ours == aud,
            (Some(ours), Some(Audience::Many(all))) => all.contains(ours),
        };
        if !is_ours {
            return Err("its \"aud\" is not the audience of this node (--jwt-audience)".into());
        }
        let grant = claims.dynarust.ok_or("it has no claim \"dynarust\" with its rights")?;
        let grants = tokens::grants(&grant.rights, grant.tables.as_deref(), grant.prefixes.as_deref());
        Ok(Token {
            name: subject(claims.sub)?,
            grants: grants.map_err(|why| format!("its claim \"dynarust\": {why}"))?,
            expires_at_ms: Some((exp * 1000.0) as u64),
        })
    }
}

/// The name in errors, logs and limits: the subject with its kind, as a subject may be anything, also the name of a token of the file.
fn subject(subject: Option<String>) -> std::result::Result<Box<str>, String> {
    let subject = subject.unwrap_or_default();
    match subject.len() <= SUBJECT_BYTES_MAX && !subject.contains(char::is_control) {
        true => Ok(format!("{}{subject}", tokens::JWT_PREFIX).into()),
        false => {
            Err(format!("its \"sub\" is longer than {SUBJECT_BYTES_MAX} bytes, or has control characters"))
        }
    }
}

/// A key of the set, with the one algorithm that it is for.
fn key(jwk: &Jwk) -> std::result::Result<Key, String> {
    let algorithm = match (&jwk.algorithm, jwk.common.key_algorithm) {
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::RS256) | None) => Algorithm::RS256,
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::RS384)) => Algorithm::RS384,
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::RS512)) => Algorithm::RS512,
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::PS256)) => Algorithm::PS256,
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::PS384)) => Algorithm::PS384,
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::PS512)) => Algorithm::PS512,
        (AlgorithmParameters::EllipticCurve(ec), Some(KeyAlgorithm::ES256) | None)
            if ec.curve == EllipticCurve::P256 =>
        {
            Algorithm::ES256
        }
        (AlgorithmParameters::EllipticCurve(ec), Some(KeyAlgorithm::ES384) | None)
            if ec.curve == EllipticCurve::P384 =>
        {
            Algorithm::ES384
        }
        (AlgorithmParameters::OctetKeyPair(okp), Some(KeyAlgorithm::EdDSA) | None)
            if okp.curve == EllipticCurve::Ed25519 =>
        {
            Algorithm::EdDSA
        }
        (AlgorithmParameters::OctetKey(_), _) => {
            return Err(
                "it is symmetric (\"oct\"): whoever can check tokens could make them; use a public key"
                    .into(),
            );
        }
        (_, algorithm) => {
            return Err(format!(
                "its type does not go with its \"alg\" ({algorithm:?}): use RSA with RS256 to PS512, EC with ES256 or ES384, or OKP with EdDSA"
            ));
        }
    };
    let decoding = DecodingKey::from_jwk(jwk).map_err(|error| error.to_string())?;
    signatures::check_key(algorithm, &decoding)?;
    Ok(Key { id: jwk.common.key_id.clone(), algorithm, key: decoding })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::core::access::Right;

    /// A set of an RSA, a P-256 and an Ed25519 key, and tokens signed by their private keys, which nobody has any more.
    const FIXTURE: &str = include_str!("../../../tests/fixtures/jwt.json");
    /// Before the tokens of the fixture end, in 2100.
    const NOW_MS: u64 = 1_795_000_000_000;

    fn fixture() -> Value {
        serde_json::from_str(FIXTURE).expect("JSON")
    }

    fn keys(options: JwtOptions) -> JwtKeys {
        JwtKeys::parse(&fixture()["jwks"].to_string(), options).expect("a set")
    }

    fn token(keys: &JwtKeys, name: &str) -> std::result::Result<Arc<Token>, String> {
        let jwt = fixture()["tokens"][name].as_str().unwrap_or_else(|| panic!("{name}")).to_owned();
        keys.token(&jwt, NOW_MS).map_err(|error| error.to_string())
    }

    #[test]
    fn a_token_is_accepted_by_each_kind_of_key() {
        let keys = keys(JwtOptions::default());
        for name in ["rsa", "ec", "ed", "without_kid", "fraction"] {
            let token = token(&keys, name).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert_eq!((&*token.name, token.expires_at_ms.is_some()), ("jwt:alice", true), "{name}");
            assert!(Right::ALL.iter().all(|right| token.grants.rights.contains(*right)), "{name}");
        }
        let limited = token(&keys, "limited").expect("valid");
        assert_eq!((&*limited.name, &*limited.grants.prefixes[0]), ("jwt:bob", "eu/"));
        assert!(limited.grants.tables[0].matches("orders") && !limited.grants.rights.contains(Right::Write));
    }

    /// The old holes of JWTs: no signature, a public key as the secret of an HMAC, another algorithm than the key's, no expiry.
    #[test]
    fn everything_else_is_refused() {
        let keys = keys(JwtOptions::default());
        for (name, words) in [
            ("none", "header"),
            ("none_without_kid", "header"),
            ("hs256_with_public_key", "algorithm is HS256"),
            ("hs256_with_modulus", "algorithm is HS256"),
            ("ps256_with_rs256_key", "algorithm is PS256"),
            ("stranger", "InvalidSignature"),
            ("altered", "InvalidSignature"),
            ("other_kid", "no key"),
            ("wrong_kid", "algorithm is EdDSA"),
            ("expired", "expired"),
            ("without_exp", "\"exp\""),
            ("not_yet", "\"nbf\""),
            ("without_claim", "no claim"),
            ("bad_right", "did you mean \"read\"?"),
            ("bad_field", "unknown field"),
            ("audience", "audience"),
        ] {
            let why = token(&keys, name).expect_err(name);
            assert!(why.contains(words), "{name}: {why}");
        }
        for text in ["", "..", "a.b.c", "eyJhbGciOiJFZERTQSJ9.e30.AAAA"] {
            assert!(keys.token(text, NOW_MS).is_err(), "{text}");
        }
    }

    #[test]
    fn issuer_and_audience_must_be_those_that_are_set() {
        let options = |issuer: Option<&str>, audience: Option<&str>| JwtOptions {
            issuer: issuer.map(Into::into),
            audience: audience.map(Into::into),
        };
        let accepted = |options, name| token(&keys(options), name).is_ok();
        assert!(accepted(options(Some("https://issuer.example"), Some("dynarust")), "audience"));
        assert!(!accepted(options(Some("https://other.example"), Some("dynarust")), "audience"));
        assert!(!accepted(options(None, Some("somebody")), "audience"));
        assert!(!accepted(options(None, Some("dynarust")), "ed"), "it names no audience");
        assert!(!accepted(options(Some("https://issuer.example"), None), "ed"), "it names no issuer");
    }

    #[test]
    fn a_set_with_a_key_that_cannot_be_used_is_refused() {
        let rsa = |change: fn(&mut Value)| {
            let mut key = fixture()["jwks"]["keys"][0].clone();
            change(&mut key);
            serde_json::json!({ "keys": [key] }).to_string()
        };
        for (text, words) in [
            (r#"{"keys":[]}"#.to_owned(), "0 keys"),
            ("[]".to_owned(), "JSON Web Key Set"),
            (r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#.to_owned(), "symmetric"),
            (rsa(|key| key["alg"] = "HS256".into()), "does not go with"),
            (rsa(|key| key["alg"] = "ES256".into()), "does not go with"),
            (rsa(|key| key["n"] = "AQAB".into()), "does not fit"),
        ] {
            let why = JwtKeys::parse(&text, JwtOptions::default()).expect_err(&text);
            assert!(why.contains(words), "{text}: {why}");
        }
    }

    /// A token that was verified once is not verified again, but still ends.
    #[test]
    fn a_verified_token_is_remembered_with_its_expiry() {
        let keys = keys(JwtOptions::default());
        let first = token(&keys, "ed").expect("valid");
        assert!(Arc::ptr_eq(&first, &token(&keys, "ed").expect("valid")));
        assert_eq!(first.expires_at_ms, Some(4_102_444_800_000));
    }
}
