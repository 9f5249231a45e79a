//! Access control: who a client is, and whether that is enough for its request. The decision itself is pure (`core::access`); here are the
//! files that say who may what, and the one check that every request of a client passes.
//!
//! 1. [`AccessControl`] finds the [`Principal`] of a request: a token of `--tokens`, a JWT signed by a key of `--jwks`, or the node's admin
//!    token. Without such files everyone is [`Principal::Anyone`].
//! 2. `routes::route` checks the principal against the row of the operation in `request::accepts::OPERATIONS` and what its path and query
//!    touch (`request::permission`), before the handler runs. A handler with keys in its body checks each of them by [`Principal::check`].
//! 3. A stream holds a [`lease`]. It ends when the token is revoked, expires, or changes.
//!
//! Nodes are no clients: links prove the cluster secret, and what a node passes on to another over a link was checked where it came in.
//!
//! Left out: who a person is. A JWT says what it may do in a claim of its own, and no list of people is kept.

mod jwt;
pub mod lease;
pub mod principal;
mod signatures;
pub mod tokens;

use std::{
    collections::HashMap,
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use blake3::Hash;
use hyper::{HeaderMap, header};
use tokio::sync::watch;
use tracing::error;

use self::{jwt::JwtKeys, tokens::TokenFile};
pub use self::{
    jwt::JwtOptions,
    principal::{Principal, Token},
};
use crate::{
    error::{Error, Result},
    node::{AdminToken, WallClock, admin::bearer, wall_clock},
};

/// Longest token that is looked at, in bytes. JWTs of large organisations have a few KiB.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Longest file of tokens or keys, in bytes: far more than the most tokens take.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The parameter that carries a token where a browser cannot send a header.
pub const QUERY_TOKEN: &str = "access_token";

/// Where the rules of access come from.
#[derive(Clone, Debug, Default)]
pub struct AccessOptions {
    /// The file of tokens.
    pub tokens: Option<PathBuf>,
    /// The file of public keys that sign JWTs.
    pub jwks: Option<PathBuf>,
    /// What else a JWT must say.
    pub jwt: JwtOptions,
}

/// Who may do what, as the files say now. Clones share it.
#[derive(Clone)]
pub struct AccessControl(Arc<Shared>);

struct Shared {
    options: AccessOptions,
    known: watch::Sender<Arc<Known>>,
    /// The node's own token, which may do everything. Set once the node runs.
    admin_token: OnceLock<AdminToken>,
    clock: WallClock,
}

/// The tokens and keys of the files, each as it was when it was last right.
#[derive(Clone, Debug, Default)]
struct Known {
    tokens: Option<Taken<HashMap<Hash, Arc<Token>>>>,
    jwt: Option<Taken<JwtKeys>>,
}

/// What a file says.
#[derive(Debug)]
struct Taken<T> {
    /// The hash of its text. The same text is not read again: keys remember what they have verified.
    text: Hash,
    says: Arc<T>,
}

impl<T> Clone for Taken<T> {
    fn clone(&self) -> Self {
        Self { text: self.text, says: Arc::clone(&self.says) }
    }
}

impl fmt::Debug for AccessControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessControl").field("options", &self.0.options).finish_non_exhaustive()
    }
}

impl Default for AccessControl {
    /// No access control: everyone may do everything.
    fn default() -> Self {
        Self::with(AccessOptions::default(), Known::default())
    }
}

impl AccessControl {
    /// Reads the files.
    ///
    /// # Errors
    /// `Config` if one cannot be read, or what it says is wrong.
    pub fn load(options: AccessOptions) -> Result<Self> {
        let known = Known {
            tokens: options.tokens.as_deref().map(|path| take(path, None, parse_tokens)).transpose()?,
            jwt: options
                .jwks
                .as_deref()
                .map(|path| take(path, None, |text| JwtKeys::parse(text, options.jwt.clone())))
                .transpose()?,
        };
        Ok(Self::with(options, known))
    }

    fn with(options: AccessOptions, known: Known) -> Self {
        let known = watch::Sender::new(Arc::new(known));
        Self(Arc::new(Shared { options, known, admin_token: OnceLock::new(), clock: wall_clock() }))
    }

    /// Whether there is access control.
    pub fn is_on(&self) -> bool {
        self.0.options.tokens.is_some() || self.0.options.jwks.is_some()
    }

    /// The files it is read from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.0.options.tokens, &self.0.options.jwks].into_iter().flatten().map(PathBuf::as_path)
    }

    /// Reads the files again, and takes over each that is right; one that is wrong stays as it was. A key that cannot be used is left out,
    /// and logged, so that it does not keep others valid. Returns how many tokens there are now.
    ///
    /// # Errors
    /// As `load`, with everything that is wrong.
    pub fn reload(&self) -> Result<usize> {
        let (options, old) = (&self.0.options, self.known());
        let mut wrong = Vec::new();
        let mut known = Known::clone(&old);
        if let Some(path) = &options.tokens {
            match take(path, old.tokens.as_ref(), parse_tokens) {
                Ok(tokens) => known.tokens = Some(tokens),
                Err(error) => wrong.push(error.to_string()),
            }
        }
        if let Some(path) = &options.jwks {
            match take(path, old.jwt.as_ref(), |text| usable_keys(path, text, &options.jwt)) {
                Ok(keys) => known.jwt = Some(keys),
                Err(error) => wrong.push(error.to_string()),
            }
        }
        let tokens = known.tokens.as_ref().map_or(0, |tokens| tokens.says.len());
        if !known.is_same(&old) {
            self.0.known.send_replace(Arc::new(known));
        }
        if wrong.is_empty() { Ok(tokens) } else { Err(Error::Config(wrong.join("; "))) }
    }

    /// Accepts the node's own token, for everything.
    pub fn accept_admin_token(&self, token: AdminToken) {
        self.0.admin_token.get_or_init(|| token);
    }

    /// Who sends a request with these headers. `in_query`: the token of the query, where the operation takes one there.
    ///
    /// # Errors
    /// `Unauthenticated` without a valid token; `BadRequest` for more than one.
    pub fn authenticate(&self, headers: &HeaderMap, in_query: Option<&str>) -> Result<Principal> {
        if !self.is_on() {
            return Ok(Principal::Anyone);
        }
        match token_of(headers, in_query)? {
            Some(secret) => self.identify(secret, self.now_ms()),
            None => Err(missing("this node asks for a token: send Authorization: Bearer and the token")),
        }
    }

    /// The token of the files that a request to administer carries, if it is one. Other proofs are for `Node::authorize`.
    ///
    /// # Errors
    /// `Unauthenticated` for one that has expired.
    pub fn administrator(&self, headers: &HeaderMap) -> Result<Option<Principal>> {
        let secret = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.to_str().ok()?));
        let Some(secret) = secret.filter(|secret| self.is_on() && !self.is_admin_token(secret)) else {
            return Ok(None);
        };
        let is_known = looks_like_jwt(secret) || self.known().token(secret).is_some();
        if is_known { self.identify(secret, self.now_ms()).map(Some) } else { Ok(None) }
    }

    /// Whose this token is.
    ///
    /// # Errors
    /// `Unauthenticated` if it is nobody's, or has expired.
    pub fn identify(&self, secret: &str, now_ms: u64) -> Result<Principal> {
        if secret.len() > TOKEN_BYTES_MAX {
            return Err(invalid("the token is too long"));
        }
        let known = self.known();
        let token = match &known.jwt {
            Some(jwt) if looks_like_jwt(secret) => jwt.says.token(secret, now_ms)?,
            _ => match known.token(secret) {
                Some(token) => Arc::clone(token),
                None if self.is_admin_token(secret) => return Ok(Principal::Operator),
                None => {
                    return Err(invalid("this node does not know the token: it is wrong, or was revoked"));
                }
            },
        };
        match token.expires_at_ms {
            Some(at_ms) if at_ms <= now_ms => {
                Err(invalid(&format!("the token {:?} has expired", token.name)))
            }
            Some(_) | None => Ok(Principal::Token(token)),
        }
    }

    /// Unix milliseconds, against which expiries are held.
    fn now_ms(&self) -> u64 {
        (self.0.clock)()
    }

    fn is_admin_token(&self, secret: &str) -> bool {
        self.0.admin_token.get().is_some_and(|token| token.is(secret))
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.0.known.borrow())
    }
}

impl Known {
    fn token(&self, secret: &str) -> Option<&Arc<Token>> {
        self.tokens.as_ref()?.says.get(&tokens::hash(secret))
    }

    fn is_same(&self, other: &Self) -> bool {
        let texts = |known: &Self| {
            (known.tokens.as_ref().map(|taken| taken.text), known.jwt.as_ref().map(|taken| taken.text))
        };
        texts(self) == texts(other)
    }
}

/// What a file says; `old` if its text is the same.
fn take<T>(
    path: &Path,
    old: Option<&Taken<T>>,
    parse: impl FnOnce(&str) -> std::result::Result<T, String>,
) -> Result<Taken<T>> {
    let content = text(path)?;
    let text = blake3::hash(content.as_bytes());
    match old.filter(|old| old.text == text) {
        Some(old) => Ok(old.clone()),
        None => Ok(Taken { text, says: Arc::new(parse(&content).map_err(|why| wrong(path, why))?) }),
    }
}

fn parse_tokens(text: &str) -> std::result::Result<HashMap<Hash, Arc<Token>>, String> {
    let file = TokenFile::parse(text)?;
    Ok(file.tokens.into_iter().map(|token| (token.hash, Arc::new(token.token))).collect())
}

/// The keys of a set that can be used. The others are logged.
fn usable_keys(path: &Path, text: &str, options: &JwtOptions) -> std::result::Result<JwtKeys, String> {
    let (keys, unusable) = JwtKeys::parse_usable(text, options.clone())?;
    for why in unusable {
        error!(target: "audit", "KEY LEFT OUT: {}: {why}. The other keys of the set are used", path.display());
    }
    Ok(keys)
}

fn wrong(path: &Path, why: impl fmt::Display) -> Error {
    Error::Config(format!("{}: {why}", path.display()))
}

/// The text of a file.
fn text(path: &Path) -> Result<String> {
    let length = fs::metadata(path).map_err(|error| wrong(path, error))?.len();
    if length > FILE_BYTES_MAX {
        return Err(wrong(path, format_args!("{length} bytes; at most {FILE_BYTES_MAX} are read")));
    }
    fs::read_to_string(path).map_err(|error| wrong(path, error))
}

/// The token of a request: in its header, or in its query.
///
/// # Errors
/// `BadRequest` for more than one; `Unauthenticated` for a header of another kind.
pub fn token_of<'a>(headers: &'a HeaderMap, in_query: Option<&'a str>) -> Result<Option<&'a str>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    match (values.next(), in_query, values.next()) {
        (Some(_), Some(_), _) | (_, _, Some(_)) => {
            Err(Error::BadRequest("more than one token: send one, in the Authorization header".into()))
        }
        (Some(value), None, None) => match value.to_str().ok().and_then(bearer) {
            Some(secret) => Ok(Some(secret)),
            None => Err(missing("the Authorization header is not \"Bearer\" and a token")),
        },
        (None, in_query, None) => Ok(in_query),
    }
}

/// A JWT has two dots, our tokens have none.
fn looks_like_jwt(secret: &str) -> bool {
    secret.bytes().filter(|byte| *byte == b'.').count() == 2
}

fn missing(why: &str) -> Error {
    Error::Unauthenticated { why: why.into(), is_invalid: false }
}

fn invalid(why: &str) -> Error {
    Error::Unauthenticated { why: why.into(), is_invalid: true }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;
    use crate::core::{
        access::{Right, Touched},
        name::TableName,
    };

    const SECRET: &str = "dynarust_one";

    fn control(tokens: &str) -> (tempfile::TempDir, AccessControl) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tokens.toml");
        fs::write(&file, tokens).expect("written");
        let options = AccessOptions { tokens: Some(file), ..AccessOptions::default() };
        let control = AccessControl::load(options).expect("valid");
        (folder, control)
    }

    fn entry(name: &str, secret: &str, more: &str) -> String {
        format!(
            "[[token]]\nname = \"{name}\"\nhash = \"{}\"\nrights = [\"read\"]\n{more}\n",
            tokens::hash(secret)
        )
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let value = |value: &&str| (header::AUTHORIZATION, HeaderValue::from_str(value).expect("a value"));
        let mut headers = HeaderMap::new();
        values.iter().map(value).for_each(|(name, value)| {
            headers.append(name, value);
        });
        headers
    }

    #[test]
    fn a_token_is_found_in_the_header_or_where_allowed_in_the_query() {
        let (_folder, control) = control(&entry("one", SECRET, ""));
        let name = |values: &[&str], in_query| {
            control.authenticate(&headers(values), in_query).map(|who| who.name().to_owned())
        };
        let header = format!("Bearer {SECRET}");
        assert_eq!(name(&[&header], None), Ok("one".into()));
        assert_eq!(name(&[&header.replace("Bearer", "bearer")], None), Ok("one".into()));
        assert_eq!(name(&[], Some(SECRET)), Ok("one".into()));
        for (values, in_query, is_invalid) in [
            (&[][..], None, false),
            (&["Basic YTpi"], None, false),
            (&["Bearer dynarust_two"], None, true),
            (&[], Some("dynarust_two"), true),
            (&["Bearer "], None, true),
            (&["Bearer a.b.c"], None, true),
        ] {
            match name(values, in_query) {
                Err(Error::Unauthenticated { is_invalid: found, .. }) => {
                    assert_eq!(found, is_invalid, "{values:?}")
                }
                other => panic!("{values:?}: {other:?}"),
            }
        }
        for (values, in_query) in [(&[&*header][..], Some(SECRET)), (&[&*header, &*header], None)] {
            assert!(matches!(name(values, in_query), Err(Error::BadRequest(_))), "{values:?}");
        }
    }

    #[test]
    fn an_expired_token_is_refused_by_name() {
        let (_folder, control) = control(&entry("old", SECRET, "expires = 2026-01-01T00:00:00Z"));
        let at_ms = 1_767_225_600_000;
        assert!(control.identify(SECRET, at_ms - 1).is_ok());
        let refused = control.identify(SECRET, at_ms).expect_err("expired").to_string();
        assert!(refused.contains("\"old\" has expired"), "{refused}");
    }

    #[test]
    fn a_broken_file_keeps_the_old_tokens() {
        let (folder, control) = control(&entry("one", SECRET, ""));
        let file = folder.path().join("tokens.toml");
        fs::write(&file, "[[token]]\nname = 1").expect("written");
        assert!(matches!(control.reload(), Err(Error::Config(why)) if why.contains("tokens.toml")));
        assert!(control.identify(SECRET, 0).is_ok());
        fs::write(&file, entry("two", "dynarust_two", "")).expect("written");
        assert_eq!(control.reload(), Ok(1));
        assert!(control.identify(SECRET, 0).is_err() && control.identify("dynarust_two", 0).is_ok());
    }

    /// A set of keys that was broken kept the tokens from being read: one that was revoked stayed valid. One key that could not be used kept
    /// all others as they were.
    #[test]
    fn one_wrong_file_or_key_does_not_hold_back_the_rest() {
        let folder = tempfile::tempdir().expect("a folder");
        let [tokens, jwks] = ["tokens.toml", "jwks.json"].map(|name| folder.path().join(name));
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/fixtures/jwt.json")).expect("JSON");
        let jwt = |name: &str| fixture["tokens"][name].as_str().expect("a token").to_owned();
        let now_ms = 1_795_000_000_000;
        fs::write(&tokens, entry("one", SECRET, "")).expect("written");
        fs::write(&jwks, fixture["jwks"].to_string()).expect("written");
        let options = AccessOptions {
            tokens: Some(tokens.clone()),
            jwks: Some(jwks.clone()),
            ..AccessOptions::default()
        };
        let control = AccessControl::load(options.clone()).expect("valid");
        assert!(control.identify(SECRET, now_ms).is_ok() && control.identify(&jwt("ed"), now_ms).is_ok());
        fs::write(&jwks, "{").expect("written");
        fs::write(&tokens, "").expect("written");
        assert!(
            matches!(control.reload(), Err(Error::Config(why)) if why.contains("jwks.json") && !why.contains("tokens"))
        );
        assert!(control.identify(SECRET, now_ms).is_err(), "revoked");
        assert!(control.identify(&jwt("ed"), now_ms).is_ok(), "as before");
        let first = fixture["jwks"]["keys"][0].clone();
        let unusable = serde_json::json!({"kty": "oct", "k": "c2VjcmV0"});
        let unknown = serde_json::json!({"kty": "of a later year"});
        let set = serde_json::json!({"keys": [unusable, unknown, first]});
        fs::write(&jwks, set.to_string()).expect("written");
        fs::write(&tokens, "[[token]]\nname = 1").expect("written");
        assert!(
            matches!(control.reload(), Err(Error::Config(why)) if why.contains("tokens.toml") && !why.contains("jwks"))
        );
        assert!(control.identify(&jwt("rsa"), now_ms).is_ok(), "its key is still there");
        assert!(control.identify(&jwt("ed"), now_ms).is_err(), "its key was removed");
        assert!(AccessControl::load(options).is_err(), "a node does not start with it");
    }

    #[test]
    fn without_files_everyone_may_do_everything() {
        let table = TableName::parse("t").expect("a name");
        let anyone = AccessControl::default().authenticate(&HeaderMap::new(), None).expect("anyone");
        for right in Right::ALL {
            assert_eq!(anyone.check(right, Touched::Table(&table)), Ok(()));
        }
    }
}
