//! gRPC: what [`Node`] can do, as services on listeners of their own. The listeners belong to the server of HTTP
//! ([`crate::http::server::rpc`]), which gives them its limits, certificates, metrics and shutdown.
//!
//! The path of a call: [`services`] finds the service by the path, checks who calls, and keeps the deadline; [`request`] holds the messages of
//! the client to the limits; the service answers; [`answer`] ends the answer's stream with the deadline, the token, or the node.
//! [`status`] maps an error to its status.
//!
//! # What a new service needs
//! 1. A `.proto` file below `proto/`; `build.rs` finds it, and [`proto`] has what it makes.
//! 2. A folder here which implements the generated trait over `Node`.
//! 3. [`Services::add`] in the function of its listener, such as [`kv_services`].

pub mod answer;
mod call_span;
pub mod descriptors;
pub mod etcd;
pub mod health;
pub mod kv;
pub mod proto;
pub mod reflection;
pub mod request;
pub mod services;
pub mod status;

use std::sync::Arc;

use self::services::{Access, Services};
use crate::{error::Result, http::server::rpc::RpcService, node::Node};

/// The services of `--grpc`.
///
/// # Errors
/// As [`reflection::add`].
pub fn kv_services(node: &Arc<Node>) -> Result<Arc<dyn RpcService>> {
    let services = Services::new(Arc::clone(node)).add(Access::Token, kv::NodeKv::server(Arc::clone(node)));
    with_common(services, node)
}

/// With what every listener has: health and reflection.
///
/// # Errors
/// As [`reflection::add`].
pub fn with_common(services: Services, node: &Arc<Node>) -> Result<Arc<dyn RpcService>> {
    let health = health::NodeHealth::server(Arc::clone(node), services.names().collect());
    Ok(Arc::new(reflection::add(services.add(Access::Open, health))?))
}
