//! `GET /_/ws`: many subscriptions and requests on one connection.

use std::sync::Arc;

use warp::{filters::BoxedFilter, reply::Response};

use super::{exactly, route};
use crate::{
    http::{
        keep_alive::{self, KeepAlive},
        request::route::Route,
        websocket,
    },
    node::Node,
};

const PATH: &str = "/_/ws";

/// `GET /_/ws`.
pub fn routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    let keep_alive = KeepAlive::start(keep_alive::PERIOD);
    route(Route::WebSocket, exactly(PATH), move |call, ()| {
        let (node, keep_alive) = (Arc::clone(&node), Arc::clone(&keep_alive));
        async move { websocket::serve(&node, &keep_alive, &call).await }
    })
}
