//! Who calls, and what they may do. Clients of etcd have no `authorization`: they send a user name and a password once (`Authenticate`), and then
//! the token that they got as `token`. Here the password is a token of the node, whatever the name, and the token is the same. An
//! `authorization` is taken too.

use std::sync::Arc;

use hyper::{HeaderMap, header};
use tonic::{Request, Status, metadata::MetadataMap};

use super::error;
use crate::{
    core::{
        access::{Right, Touched},
        etcd::{
            self,
            request::{Keys, Operation},
            row,
        },
    },
    error::{Error, Result},
    grpc::request::Caller,
    http::{
        access::{Principal, lease::Lease, token_of},
        request::budget::Budget,
    },
};

/// Who makes a call.
pub struct Client {
    /// Who it is.
    pub principal: Principal,
    /// What ends when its token does; `None` if it never ends.
    pub lease: Option<Lease>,
    /// The memory for its answers.
    pub budget: Arc<Budget>,
}

/// Who makes a call.
///
/// # Errors
/// The status for whoever has no valid token, where the node asks for one.
pub fn client<T>(request: &Request<T>) -> std::result::Result<Client, Status> {
    identify(request).map_err(|error| error::of(&error))
}

fn identify<T>(request: &Request<T>) -> Result<Client> {
    let caller = Caller::of(request)?;
    let options = &caller.connection.options;
    let headers = headers(request.metadata())?;
    let principal = options.access.authenticate(&headers, None)?;
    let lease = match (&principal, token_of(&headers, None)?) {
        (Principal::Token(_), Some(secret)) => options.access.lease(&principal, secret),
        _ => None,
    };
    options.rate_limits.count_token(&principal)?;
    Ok(Client { principal, lease, budget: Arc::clone(&caller.connection.budget) })
}

/// The token of a call, as HTTP has it.
fn headers(metadata: &MetadataMap) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let bytes = |name: &str| metadata.get(name).map(|value| value.as_bytes().to_vec());
    let authorization = bytes("authorization")
        .or_else(|| bytes("token").map(|token| [b"Bearer ".as_slice(), &token].concat()));
    if let Some(authorization) = authorization {
        let value = authorization.try_into();
        let value = value.map_err(|_| Error::BadRequest("the token in the metadata is not text".into()))?;
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(headers)
}

impl Client {
    /// Lets it write. Whoever ends a lease or gives up a lock is not asked: others wait for that.
    ///
    /// # Errors
    /// The status where the memory of the process is nearly used up.
    pub fn admit_write(&self) -> std::result::Result<(), Status> {
        self.budget.admit_write().map_err(|error| error::of(&error))
    }

    /// Whether it may do an operation.
    ///
    /// # Errors
    /// The status for whoever may not.
    pub fn check(&self, operation: &Operation) -> std::result::Result<(), Status> {
        match operation {
            Operation::Range(range) => self.check_keys(Right::Read, &range.keys),
            Operation::Put(put) => {
                let keys = Keys::One(put.key.clone());
                self.check_keys(Right::Write, &keys)?;
                // They tell what is there.
                match put.prev_kv || put.ignore_value || put.ignore_lease {
                    true => self.check_keys(Right::Read, &keys),
                    false => Ok(()),
                }
            }
            Operation::Delete(delete) => {
                self.check_keys(Right::Write, &delete.keys)?;
                if delete.prev_kv { self.check_keys(Right::Read, &delete.keys) } else { Ok(()) }
            }
            Operation::Txn(txn) => {
                txn.compare.iter().try_for_each(|compare| self.check_keys(Right::Read, &compare.keys))?;
                txn.success.iter().chain(&txn.failure).try_for_each(|operation| self.check(operation))
            }
            Operation::Unknown => Ok(()),
        }
    }

    /// Whether it may read or write some keys.
    ///
    /// # Errors
    /// The status for whoever may not.
    pub fn check_keys(&self, right: Right, keys: &Keys) -> std::result::Result<(), Status> {
        let table = etcd::table();
        let (low, high) = row::bounds(keys);
        let checked = match keys {
            Keys::One(key) => match row::key(key) {
                Ok(key) => self.principal.check(right, Touched::Key(table, &key)),
                // It is refused for its length.
                Err(_) => Ok(()),
            },
            Keys::Range(..) => self.principal.check(right, Touched::Keys(table, prefix(&low, &high))),
        };
        checked.map_err(|error| error::of(&error))
    }

    /// Whether it has a right for something in the table, or for all of it.
    ///
    /// # Errors
    /// The status for whoever has not.
    pub fn check_table(&self, right: Right, all: bool) -> std::result::Result<(), Status> {
        let table = etcd::table();
        let touched = if all { Touched::Keys(table, "") } else { Touched::Table(table) };
        self.principal.check(right, touched).map_err(|error| error::of(&error))
    }
}

/// The longest prefix that all names at or above `low` and below `high` have.
fn prefix<'a>(low: &'a str, high: &str) -> &'a str {
    if is_after_prefix(low, high) {
        return low;
    }
    let common = low.char_indices().zip(high.chars()).take_while(|((_, low), high)| low == high);
    let end = common.last().map_or(0, |((place, character), _)| place + character.len_utf8());
    &low[..end]
}

/// Whether `high` is what comes after all names that begin with `low`.
fn is_after_prefix(low: &str, high: &str) -> bool {
    let mut characters: Vec<_> = low.chars().collect();
    while let Some(last) = characters.pop() {
        // Keys have no greater ones.
        if last < '\u{ff}' {
            characters.extend(char::from_u32(u32::from(last) + 1));
            return characters.into_iter().eq(high.chars());
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_needs_the_right_for_the_prefix_that_its_keys_have() {
        let prefix_of = |key: &[u8], end: &[u8]| {
            let (low, high) = row::bounds(&Keys::new(key.into(), end.into()));
            prefix(&low, &high).to_owned()
        };
        assert_eq!(prefix_of(b"app/", b"app0"), "key:app/");
        assert_eq!(prefix_of(b"app/a", b"app/c"), "key:app/");
        assert_eq!(prefix_of(b"a\xff", b"b"), "key:a\u{ff}");
        assert_eq!(prefix_of(b"app/", b"b"), "key:");
        assert_eq!(prefix_of(b"app/", b"\0"), "key");
        assert_eq!(prefix_of(b"a", b"ab"), "key:a");
    }
}
