//! `GET /_/ws`: many subscriptions and requests on one connection.

use std::sync::Arc;

use warp::{filters::BoxedFilter, reply::Response};

use super::{exactly, route};
use crate::{
    http::{request::route::Route, websocket},
    node::Node,
};

const PATH: &str = "/_/ws";

/// `GET /_/ws`.
pub fn routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    route(Route::WebSocket, exactly(PATH), move |call, ()| {
        let node = Arc::clone(&node);
        async move { websocket::serve(&node, &call).await }
    })
}
