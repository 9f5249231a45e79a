//! The etcd API, version 3, over the node: services with etcd's names, messages, status codes and texts, so that clients of etcd take this for
//! one.
//!
//! [`convert`] is between its messages and those of [`crate::core::etcd`], [`error`] maps errors, and [`access`] finds out who calls, and [`ends`] when that ends. The
//! services: [`kv`], [`watch`], [`lease`], [`cluster`], [`maintenance`] and [`auth`]; and on top of the first three [`lock`] and [`election`], which
//! share [`session`].

pub mod access;
pub mod auth;
pub mod cluster;
pub mod convert;
pub mod election;
pub mod ends;
pub mod error;
pub mod kv;
pub mod lease;
pub mod lock;
pub mod maintenance;
pub mod session;
pub mod watch;

use std::sync::Arc;

use super::{
    proto::{
        etcdserverpb::{
            ResponseHeader, auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer,
            lease_server::LeaseServer, maintenance_server::MaintenanceServer, watch_server::WatchServer,
        },
        v3electionpb::election_server::ElectionServer,
        v3lockpb::lock_server::LockServer,
    },
    services::{Access, Services},
    with_common,
};
use crate::{core::etcd::check::REQUEST_BYTES_MAX, error::Result, http::server::rpc::RpcService, node::Node};

/// Most bytes of a message: a request and its envelope, as etcd has it.
const MESSAGE_BYTES_MAX: usize = REQUEST_BYTES_MAX + 512 * 1024;

/// The API over a node. Clones share it.
#[derive(Clone)]
pub struct Api {
    node: Arc<Node>,
}

/// The services of `--etcd`, whose clients reach them at `url`.
///
/// # Errors
/// As [`super::reflection::add`].
pub fn services(node: &Arc<Node>, url: String) -> Result<Arc<dyn RpcService>> {
    node.set_etcd_url(url);
    let api = || Api { node: Arc::clone(node) };
    let services = Services::new(Arc::clone(node))
        .add(Access::OwnCheck, KvServer::new(api()).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add(Access::OwnCheck, WatchServer::new(api()))
        .add(Access::OwnCheck, LeaseServer::new(api()))
        .add(Access::OwnCheck, ClusterServer::new(api()))
        .add(Access::OwnCheck, MaintenanceServer::new(api()))
        .add(Access::OwnCheck, AuthServer::new(api()))
        .add(Access::OwnCheck, LockServer::new(api()))
        .add(Access::OwnCheck, ElectionServer::new(api()));
    with_common(services, node)
}

impl Api {
    /// The header of an answer at a revision.
    fn header(&self, revision: i64) -> Option<ResponseHeader> {
        let identity = self.node.etcd_identity();
        Some(ResponseHeader {
            cluster_id: identity.position.group,
            member_id: identity.member,
            revision,
            raft_term: identity.position.term,
        })
    }

    /// The header of an answer at the newest revision that this node has.
    fn newest_header(&self) -> Result<Option<ResponseHeader>> {
        Ok(self.header(self.node.etcd_head()?.revision))
    }
}
