//! The listeners beside the main one, each of which a setting turns on: `--grpc`, `--etcd`.

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

/// What makes the services of a listener, from the node and the URL of the listener.
type Services = fn(&Arc<Node>, String) -> Result<Arc<dyn RpcService>>;

/// The listeners, which no client is served on yet.
pub struct Rpcs {
    listeners: Vec<Rpc>,
    /// `http`, or `https` with certificates.
    scheme: &'static str,
}

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
    let settings: [(&str, &Option<Address>, Services); 2] = [
        ("gRPC", &config.grpc, |node, _| grpc::kv_services(node)),
        ("the etcd API", &config.etcd, grpc::etcd::services),
    ];
    let mut rpcs = Vec::new();
    for (protocol, address, services) in settings {
        let Some(address) = address else { continue };
        let listener = listener::bind(address).await?;
        info!(address = %local(&listener)?, "listening for {protocol}");
        rpcs.push(Rpc { listener, services });
    }
    let scheme = if config.tls_cert.is_some() { "https" } else { "http" };
    Ok(Rpcs { listeners: rpcs, scheme })
}

impl Rpcs {
    /// What the server of HTTP serves on them.
    ///
    /// # Errors
    /// Those of the services.
    pub fn serve(self, node: &Arc<Node>) -> Result<Vec<RpcListener>> {
        let serve = |rpc: Rpc| {
            let url = url(self.scheme, local(&rpc.listener)?, node.address());
            Ok(RpcListener { listener: rpc.listener, service: (rpc.services)(node, url)? })
        };
        self.listeners.into_iter().map(serve).collect()
    }
}

/// The URL of a listener. One that listens everywhere has the host at which others reach the node.
fn url(scheme: &str, local: SocketAddr, node: &str) -> String {
    match node.rsplit_once(':').filter(|_| local.ip().is_unspecified()) {
        Some((host, _)) => format!("{scheme}://{host}:{}", local.port()),
        None => format!("{scheme}://{local}"),
    }
}

fn local(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|error| Error::io("cannot tell the port", &error))
}
