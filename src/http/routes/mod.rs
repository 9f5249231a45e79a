//! Routes: one warp filter per resource, whatever the method, so that HEAD, OPTIONS and 405 are right everywhere.

pub mod admin;
pub mod backup;
pub mod batch;
pub mod changes;
pub mod dashboard;
pub mod describe;
pub(super) mod export;
pub mod export_frame;
pub mod import;
pub mod kv;
pub mod link;
pub mod listing;
pub mod metrics;
pub(super) mod multi_get;
pub mod status;
pub mod strong;
pub mod subscribe;
pub mod table;
pub mod websocket;

use std::future::{Future, ready};

use warp::{Filter, filters::BoxedFilter, reply::Response};

use super::{
    access::Principal,
    audit,
    request::{
        Call,
        accepts::{self, Operation},
        permission::{self, Resource},
    },
    response,
};
use crate::{error::Result, http::request::route::Route};

/// A filter for the paths that `parse` recognizes. It answers with `handle`, with the problem that `parse` found, or with a problem if the
/// client may not ask for the operation, or the request has parameters or headers that it does not accept. A method without a row in the
/// table of operations never reaches `handle`. Other paths go to the next route.
pub fn route<T, P, H, F>(route: Route, parse: P, handle: H) -> BoxedFilter<(Response,)>
where
    T: Resource + Send + 'static,
    P: Fn(&str) -> Option<Result<T>> + Clone + Send + Sync + 'static,
    H: Fn(Call, T) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response>> + Send + 'static,
{
    warp::ext::get::<Call>()
        .and_then(move |call: Call| {
            let found = parse(call.path()).ok_or_else(warp::reject::not_found);
            ready(found.map(|resource| (call, resource)))
        })
        .untuple_one()
        .then(move |call: Call, resource: Result<T>| {
            call.routed(route);
            let operation = Operation::find(route, &call.method, call.path());
            // We make the handler's future here: it borrows nothing, so the filter may be dropped while it runs.
            let answer = match operation {
                Some(operation) => admit(operation, &call, resource)
                    .map(|resource| handle(call.clone(), resource))
                    .map_err(Some),
                None => Err(None),
            };
            async move {
                let answer = match answer {
                    Ok(answer) => answer.await,
                    Err(Some(error)) => Err(error),
                    Err(None) => response::other_method(&call),
                };
                let answer = answer.unwrap_or_else(|error| response::problem(&error, &call));
                if operation.is_some_and(|operation| operation.access.is_admin()) {
                    audit::ended(&call, answer.status());
                }
                answer
            }
        })
        .boxed()
}

/// The resource, if the client may ask for the operation on it, and the request has only what the operation accepts. Who the client is
/// comes first: one without a token learns nothing else.
fn admit<T: Resource>(operation: &Operation, call: &Call, resource: Result<T>) -> Result<T> {
    let principal = permission::authenticate(operation, call)?;
    // Also for what is logged of a refusal.
    if principal != Principal::Nobody {
        call.sent_by(principal);
    }
    call.connection.options.rate_limits.count_token(call.principal())?;
    let resource = resource?;
    permission::check(operation.access, call.principal(), &resource, call)?;
    accepts::check(operation, call)?;
    Ok(resource)
}

/// A `parse` for `route` that matches exactly one path.
pub fn exactly(path: &'static str) -> impl Fn(&str) -> Option<Result<()>> + Clone + Send + Sync + 'static {
    move |asked| (asked == path).then_some(Ok(()))
}
