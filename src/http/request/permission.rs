//! The one check that every request of a client passes before its handler runs: who sends it, and whether the row of its operation allows
//! it for what the path and the query touch.

use std::borrow::Cow;

use super::{
    Call, Head,
    accepts::{Access, Operation},
    path::Address,
};
use crate::{
    core::{
        access::{Right, Touched},
        name::TableName,
    },
    error::Result,
    http::access::{
        Principal, QUERY_TOKEN,
        lease::{HeldLease, Lease},
        token_of,
    },
};

/// What a path names.
pub trait Resource {
    /// What a request for it touches.
    fn touched(&self) -> Touched<'_>;
}

impl Resource for () {
    fn touched(&self) -> Touched<'_> {
        Touched::Node
    }
}

impl Resource for Address {
    fn touched(&self) -> Touched<'_> {
        Touched::Key(&self.table, &self.key)
    }
}

impl Resource for TableName {
    fn touched(&self) -> Touched<'_> {
        Touched::Keys(self, "")
    }
}

/// Who sends a request. For an operation that is open, or for administrators who prove themselves in another way, it is nobody.
///
/// # Errors
/// `Unauthenticated` without a valid token; `BadRequest` for more than one.
pub fn authenticate(operation: &Operation, call: &Call) -> Result<Principal> {
    let control = &call.connection.options.access;
    match operation.access {
        Access::Open | Access::Peer => Ok(Principal::Nobody),
        Access::Admin | Access::AdminAndRead => {
            Ok(control.administrator(&call.headers)?.unwrap_or(Principal::Nobody))
        }
        Access::Node(_) | Access::Path(_) | Access::Prefix(_) | Access::Each(_) | Access::Mixed => {
            control.authenticate(&call.headers, query_token(operation, call)?.as_deref())
        }
    }
}

/// The lease of a request that takes long.
///
/// # Errors
/// As `lease`.
pub fn held_lease(head: &Head) -> Result<HeldLease> {
    lease(head).map(HeldLease::new)
}

/// The lease of a stream that the client of this request begins; `None` if it never ends.
///
/// # Errors
/// As `authenticate`, which has succeeded by now.
pub fn lease(head: &Head) -> Result<Option<Lease>> {
    // Without access control a header may be of another kind.
    if !matches!(head.principal(), Principal::Token(_)) {
        return Ok(None);
    }
    let in_query = head.query().get(QUERY_TOKEN)?;
    let secret = token_of(&head.headers, in_query.as_deref())?;
    Ok(secret.and_then(|secret| head.connection.options.access.lease(head.principal(), secret)))
}

fn query_token<'a>(operation: &Operation, call: &'a Call) -> Result<Option<Cow<'a, str>>> {
    let takes_one = operation.parameters.iter().any(|parameter| parameter.name == QUERY_TOKEN);
    if takes_one { call.query().get(QUERY_TOKEN) } else { Ok(None) }
}

/// Whether a client may ask for an operation. `resource` is what the path names.
///
/// # Errors
/// `NotGranted`; `BadRequest` if the query does not decode.
pub fn check(access: Access, principal: &Principal, resource: &impl Resource, call: &Call) -> Result<()> {
    let touched = resource.touched();
    match (access, touched.table()) {
        (Access::Open | Access::Peer, _) => Ok(()),
        // The handler asks for another proof.
        (Access::Admin | Access::AdminAndRead, _) if *principal == Principal::Nobody => Ok(()),
        (Access::Admin, _) => principal.check(Right::Admin, Touched::Node),
        (Access::AdminAndRead, _) => {
            principal.check(Right::Admin, Touched::Node)?;
            principal.check(Right::Read, Touched::AllTables)
        }
        (Access::Path(right), _) => principal.check(right, touched),
        (Access::Prefix(right), Some(table)) => {
            let prefix = call.query().get("prefix")?;
            principal.check(right, Touched::Keys(table, prefix.as_deref().unwrap_or_default()))
        }
        (Access::Each(right), Some(table)) => principal.check(right, Touched::Table(table)),
        (Access::Node(right) | Access::Each(right) | Access::Prefix(right), _) => {
            principal.check(right, Touched::Node)
        }
        // Whoever may neither write nor read is told about reading.
        (Access::Mixed, _) => {
            let writes = principal.check(Right::Write, Touched::Node);
            writes.or_else(|_| principal.check(Right::Read, Touched::Node))
        }
    }
}
