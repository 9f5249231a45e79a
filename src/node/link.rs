//! Where connections that other nodes make come in: let in or not, and handed on to be linked.

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

/// A connection that may become a link, once it is a WebSocket.
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

    /// Holds it against its address: it asked for what there is not.
    pub fn reject(self) {
        self.admission.fail();
    }
}

impl Node {
    /// Lets a connection from `remote` that asks for a link in, or not. `is_forwarded`: it says itself that a proxy passed it on.
    ///
    /// # Errors
    /// `Draining`; `Forbidden` for one that a proxy passed on where there is no secret; else as `Door::admit`.
    pub fn admit_link(&self, remote: SocketAddr, is_forwarded: bool) -> Result<IncomingLink> {
        if self.is_draining() {
            return Err(Error::Draining);
        }
        // A proxy on this machine is a neighbour, and who speaks through it may be anybody.
        if is_forwarded && self.options.replication.secrets.is_open() {
            return Err(Error::Forbidden(format!(
                "without CLUSTER_SECRET this node links with nodes of its own machine only, and a proxy passed this request on: \
                 {REMEDY}"
            )));
        }
        let admission = self.replication.admit(remote)?;
        Ok(IncomingLink { replication: self.replication.clone(), remote, admission })
    }
}
