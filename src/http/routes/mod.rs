//! Routes: one warp filter per resource, whatever the method, so that HEAD, OPTIONS and 405 are right everywhere.

pub mod admin;
pub mod batch;
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
    request::{Call, accepts},
    response,
};
use crate::{error::Result, http::request::route::Route};

/// A filter for the paths that `parse` recognizes. It answers with `handle`, with the problem that `parse` found, or with a problem if the
/// request has parameters or headers that the operation does not accept. Other paths go to the next route.
pub fn route<T, P, H, F>(route: Route, parse: P, handle: H) -> BoxedFilter<(Response,)>
where
    T: Send + 'static,
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
            // We make the handler's future here: it borrows nothing, so the filter may be dropped while it runs.
            let answer = resource
                .and_then(|resource| accepts::check(route, &call).map(|()| resource))
                .map(|resource| handle(call.clone(), resource));
            async move {
                let answer = match answer {
                    Ok(answer) => answer.await,
                    Err(error) => Err(error),
                };
                answer.unwrap_or_else(|error| response::problem(&error, &call))
            }
        })
        .boxed()
}

/// A `parse` for `route` that matches exactly one path.
pub fn exactly(path: &'static str) -> impl Fn(&str) -> Option<Result<()>> + Clone + Send + Sync + 'static {
    move |asked| (asked == path).then_some(Ok(()))
}
