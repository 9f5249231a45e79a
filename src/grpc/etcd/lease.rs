//! Leases.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status, Streaming};

use super::{Api, convert, ends::Ends, error};
use crate::{
    core::{
        access::Right,
        etcd::request::{self, Body, Keys},
    },
    grpc::proto::etcdserverpb::{self as pb, lease_server::Lease},
    node::etcd::LeaseCall,
};

/// What is left of a lease that there is not.
const GONE: i64 = -1;

#[tonic::async_trait]
impl Lease for Api {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let client = self.client(&request)?;
        client.check_table(Right::Write, false)?;
        client.admit_write()?;
        let pb::LeaseGrantRequest { id, ttl } = *request.get_ref();
        let id = if id == 0 { self.node.etcd_lease_id().map_err(error::failed)? } else { id };
        let granted = self.node.etcd(request::Request::Grant { id, ttl_s: ttl }).await;
        match self.taken(granted)? {
            (Body::Granted(ttl), header) => {
                Ok(Response::new(pb::LeaseGrantResponse { header, id, ttl, error: String::new() }))
            }
            (other, _) => Err(convert::unexpected(&other)),
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let client = self.client(&request)?;
        client.check_table(Right::Write, false)?;
        let id = request.get_ref().id;
        if client.lease.is_some() {
            // It deletes them.
            for key in self.node.etcd_lease_keys(id).await.map_err(error::failed)? {
                client.check_keys(Right::Write, &Keys::One(key))?;
            }
        }
        let (_, header) = self.taken(self.node.etcd_revoke(id).await)?;
        Ok(Response::new(pb::LeaseRevokeResponse { header }))
    }

    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let mut client = self.client(&request)?;
        client.check_table(Right::Write, false)?;
        let ends = Ends::of(self, &request, client.lease.take());
        let begun = (self.clone(), request.into_inner(), ends);
        let answers = stream::try_unfold(begun, |(api, mut requests, mut ends)| async move {
            let request = tokio::select! {
                biased;
                why = ends.ended() => return Err(why),
                request = requests.message() => request?,
            };
            let Some(pb::LeaseKeepAliveRequest { id }) = request else { return Ok(None) };
            let time = api.node.etcd_lease(LeaseCall::KeepAlive(id)).await.map_err(error::failed)?;
            let header = api.newest_header().map_err(error::failed)?;
            let answer =
                pb::LeaseKeepAliveResponse { header, id, ttl: time.map_or(0, |time| time.granted_s) };
            Ok(Some((answer, (api, requests, ends))))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let client = self.client(&request)?;
        client.check_table(Right::Read, false)?;
        let pb::LeaseTimeToLiveRequest { id, keys } = *request.get_ref();
        let time = self.node.etcd_lease(LeaseCall::TimeToLive(id)).await.map_err(error::failed)?;
        let held = match time {
            Some(_) if keys => self.node.etcd_lease_keys(id).await.map_err(error::failed)?,
            Some(_) | None => Vec::new(),
        };
        for key in &held {
            client.check_keys(Right::Read, &Keys::One(key.clone()))?;
        }
        Ok(Response::new(pb::LeaseTimeToLiveResponse {
            header: self.newest_header().map_err(error::failed)?,
            id,
            ttl: time.map_or(GONE, |time| i64::try_from(time.left_ms / 1_000).unwrap_or(i64::MAX)),
            granted_ttl: time.map_or(0, |time| time.granted_s),
            keys: held,
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        self.client(&request)?.check_table(Right::Read, false)?;
        let leases = self.node.etcd_leases().await.map_err(error::failed)?;
        Ok(Response::new(pb::LeaseLeasesResponse {
            header: self.newest_header().map_err(error::failed)?,
            leases: leases.into_iter().map(|id| pb::LeaseStatus { id }).collect(),
        }))
    }
}
