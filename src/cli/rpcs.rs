//! The listeners beside the main one, each of which a setting turns on: `--grpc`.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;
use tracing::info;

use super::listener;
use crate::{
    config::{Config, types::Address},
    error::{Error, Result},
    grpc,
    http::server::rpc::{RpcListener, RpcService},
    node::Node,
};

/// What makes the services of a listener.
type Services = fn(&Arc<Node>) -> Result<Arc<dyn RpcService>>;

/// The listeners, which no client is served on yet.
pub struct Rpcs(Vec<Rpc>);

struct Rpc {
    listener: TcpListener,
    services: Services,
}

/// Listens at each address that is set.
///
/// # Errors
/// As [`listener::bind`].
pub async fn bind(config: &Config) -> Result<Rpcs> {
    // A line for each protocol.
    let settings: [(&str, &Option<Address>, Services); 1] = [("gRPC", &config.grpc, grpc::kv_services)];
    let mut rpcs = Vec::new();
    for (protocol, address, services) in settings {
        let Some(address) = address else { continue };
        let listener = listener::bind(address).await?;
        info!(address = %local(&listener)?, "listening for {protocol}");
        rpcs.push(Rpc { listener, services });
    }
    Ok(Rpcs(rpcs))
}

impl Rpcs {
    /// What the server of HTTP serves on them.
    ///
    /// # Errors
    /// Those of the services.
    pub fn serve(self, node: &Arc<Node>) -> Result<Vec<RpcListener>> {
        let serve = |rpc: Rpc| Ok(RpcListener { listener: rpc.listener, service: (rpc.services)(node)? });
        self.0.into_iter().map(serve).collect()
    }
}

fn local(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|error| Error::io("cannot tell the port", &error))
}
