//! `GET /_/ws`: many subscriptions and requests on one connection.

use std::sync::Arc;

use warp::{filters::BoxedFilter, reply::Response};

use super::{exactly, route};
use crate::{
    http::{
        keep_alive::{self, Pulse},
        request::route::Route,
        websocket,
    },
    node::Node,
};

const PATH: &str = "/_/ws";

/// `GET /_/ws`.
pub fn routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    let pulse = Pulse::start(keep_alive::PERIOD);
    route(Route::WebSocket, exactly(PATH), move |call, ()| {
        let (node, pulse) = (Arc::clone(&node), Arc::clone(&pulse));
        async move { websocket::conversation(&node, &pulse, &call).await }
    })
}
