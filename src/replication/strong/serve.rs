//! What this node serves to the others: steps of consensus, and calls on behalf of clients and operators.

use std::sync::{Arc, Weak};

use futures_util::{FutureExt, future::BoxFuture};
use tracing::debug;

use super::{
    claim::Claim,
    group::Inner,
    network::check_group,
    restored,
    rpc::{self, Call, CallAnswer, Envelope, GroupId},
};
use crate::{
    core::{clock::NodeId, protocol::message::RequestKind},
    error::{Error, Result},
    replication::{request_id, requests::RequestService},
};

/// Serves the other nodes.
pub struct Service(pub(super) Weak<Inner>);

impl RequestService for Service {
    fn call(
        &self,
        from: NodeId,
        kind: RequestKind,
        body: Vec<u8>,
    ) -> BoxFuture<'static, std::result::Result<Vec<u8>, String>> {
        let inner = self.0.upgrade();
        async move {
            let inner = inner.ok_or_else(|| "the node is stopping".to_owned())?;
            let served = match kind {
                RequestKind::Consensus => inner.consensus(body).await,
                RequestKind::Client => inner.serve_call(from, body).await,
                RequestKind::Report => Err(Error::BadRequest("reports have a service of their own".into())),
            };
            served.map_err(|error| error.to_string())
        }
        .boxed()
    }
}

impl Inner {
    /// Serves a step of consensus.
    async fn consensus(self: Arc<Self>, body: Vec<u8>) -> Result<Vec<u8>> {
        let Envelope { group, body } = rpc::decode(&body)?;
        let member = match self.member() {
            Some((member, _)) if member.group == group => member,
            // In a task of its own: whoever asked may not wait until the log is open, and it must not be opened twice.
            _ => {
                let joining = self.clone();
                let joined = tokio::spawn(async move { joining.join(group).await });
                joined.await.map_err(|error| Error::Io(format!("joining a group failed: {error}")))??
            }
        };
        check_group(member.group, group)?;
        Ok(rpc::encode(&member.serve(body).await?))
    }

    async fn start_for_another(self: &Arc<Self>, group: GroupId) -> Result<CallAnswer> {
        Ok(match self.start_or_join().await {
            Ok(()) => CallAnswer::Claimed(self.claimed()?.unwrap_or(group)),
            Err(error) => CallAnswer::NotStarted(error.into()),
        })
    }

    /// Serves a call.
    pub(super) async fn serve_call(self: Arc<Self>, from: NodeId, body: Vec<u8>) -> Result<Vec<u8>> {
        let (Envelope { group, body }, rest) = rpc::decode_part(&body)?;
        if let Some(id) = request_id::read(rest) {
            debug!(%from, id, "serves a client's request for another node");
        }
        let answer = match (self.member(), body) {
            (_, Call::Tables) => CallAnswer::Tables(self.catalogue(from)?),
            (_, Call::Made(table, is_relayed)) => {
                self.take_made(from, group, table, is_relayed).await?;
                CallAnswer::Noted
            }
            (_, Call::EtcdUrl) => CallAnswer::EtcdUrl(self.parts.revisions.url.get().cloned()),
            (_, Call::Claimed) => CallAnswer::Claim(self.own_claim()?),
            (_, Call::Standing) => CallAnswer::Standing(self.standing().await?),
            (_, Call::Reclaim) => CallAnswer::Claimed(self.reclaim(group).await?),
            (_, Call::Restored(own)) => self.answer_restored(from, own).await?,
            (_, Call::Replace(old, new)) => self.replace(old, new).await?,
            (Some((member, _)), Call::ChangeRole(change, node))
                if member.group == group && member.is_leader() =>
            {
                let changed = self.change_role(&member, change, node).await;
                CallAnswer::RoleChanged(changed.map_err(Into::into))
            }
            (Some((member, _)), Call::Repair) if member.group == group => self.begin_repair(&member, from),
            (Some(_), Call::Start) if !self.has_started().await => self.start_for_another(group).await?,
            (Some((member, _)), call) => member.call(from, group, call).await,
            (None, Call::Digest) => CallAnswer::Digest(None),
            (None, Call::Leaving(_) | Call::Elect) => CallAnswer::Noted,
            (None, Call::Group) => CallAnswer::Group(self.claimed()?.map(|group| (group, false))),
            // It may have claimed another group that it does not know of.
            (None, Call::Claim(_)) if restored::is_restored(&self.parts.store)? => {
                return Err(self.asleep());
            }
            (None, Call::Claim(voters)) => {
                CallAnswer::Claimed(self.claim(Claim { group, voters }).await?.group)
            }
            (None, Call::Start) => self.start_for_another(group).await?,
            (
                None,
                Call::Propose(_)
                | Call::ReadIndex
                | Call::Retire
                | Call::ChangeRole(..)
                | Call::Repair
                | Call::Lease(_),
            ) => CallAnswer::NotLeader(None),
        };
        Ok(rpc::encode(&answer))
    }
}
