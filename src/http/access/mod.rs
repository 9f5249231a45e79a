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

/// The tokens and keys of one reading of the files.
#[derive(Debug, Default)]
struct Known {
    tokens: HashMap<Hash, Arc<Token>>,
    jwt: Option<JwtKeys>,
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
        let known = Known::read(&options)?;
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

    /// Reads the files again. On an error everything stays as it was. Returns how many tokens there are now.
    ///
    /// # Errors
    /// As `load`.
    pub fn reload(&self) -> Result<usize> {
        let known = Known::read(&self.0.options)?;
        let tokens = known.tokens.len();
        self.0.known.send_replace(Arc::new(known));
        Ok(tokens)
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
        let is_known = looks_like_jwt(secret) || self.known().tokens.contains_key(&tokens::hash(secret));
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
            Some(jwt) if looks_like_jwt(secret) => jwt.token(secret, now_ms)?,
            _ => match known.tokens.get(&tokens::hash(secret)) {
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
    fn read(options: &AccessOptions) -> Result<Self> {
        let tokens = match &options.tokens {
            Some(path) => {
                let file = TokenFile::parse(&text(path)?).map_err(|why| wrong(path, why))?;
                file.tokens.into_iter().map(|token| (token.hash, Arc::new(token.token))).collect()
            }
            None => HashMap::new(),
        };
        let jwt = match &options.jwks {
            Some(path) => {
                let keys = JwtKeys::parse(&text(path)?, options.jwt.clone());
                Some(keys.map_err(|why| wrong(path, why))?)
            }
            None => None,
        };
        Ok(Self { tokens, jwt })
    }
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

    #[test]
    fn without_files_everyone_may_do_everything() {
        let table = TableName::parse("t").expect("a name");
        let anyone = AccessControl::default().authenticate(&HeaderMap::new(), None).expect("anyone");
        for right in Right::ALL {
            assert_eq!(anyone.check(right, Touched::Table(&table)), Ok(()));
        }
    }
}
