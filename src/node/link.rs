//! Incoming connections from other nodes: admits them, and hands them to replication.

use std::net::SocketAddr;

use super::Node;
use crate::{
    error::{Error, Result},
    replication::{
        Replication,
        link::{Duplex, admission::Admission, secret::REMEDY},
    },
};

pub use crate::replication::link::{
    connect::{PATH as LINK_PATH, subprotocol},
    error::other_protocol,
};

/// A connection that may become a link once it is a WebSocket.
pub struct IncomingLink {
    replication: Replication,
    remote: SocketAddr,
    admission: Admission,
}

impl IncomingLink {
    /// Hands the connection over.
    pub fn accept(self, stream: impl Duplex + 'static) {
        self.replication.link(Box::new(stream), self.remote, self.admission);
    }

    /// Counts the connection as a failure of its address, because it asked for an unknown protocol.
    pub fn reject(self) {
        self.admission.fail();
    }
}

impl Node {
    /// Decides whether a connection from `remote` may open a link. `is_forwarded`: its headers say that a proxy forwarded it.
    ///
    /// # Errors
    /// `Draining`; `Forbidden` for a forwarded connection if there is no cluster secret; otherwise as `Replication::admit`.
    pub fn admit_link(&self, remote: SocketAddr, is_forwarded: bool) -> Result<IncomingLink> {
        if self.is_draining() {
            return Err(Error::Draining);
        }
        // A proxy on this machine has a local address, but anybody may speak through it.
        if is_forwarded && self.options.replication.secrets.is_open() {
            return Err(Error::Forbidden(format!(
                "without CLUSTER_SECRET this node links only with nodes on its own machine, and a proxy forwarded this request: {REMEDY}"
            )));
        }
        let admission = self.replication.admit(remote)?;
        Ok(IncomingLink { replication: self.replication.clone(), remote, admission })
    }
}
