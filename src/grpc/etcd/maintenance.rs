//! What operators ask: how the member is, and whether members hold the same. What there is nothing to do for here is answered so.

use std::pin::Pin;

use futures_util::Stream;
use tonic::{Request, Response, Status};

use super::{Api, error};
use crate::{
    core::access::Right,
    grpc::proto::etcdserverpb::{self as pb, alarm_request::AlarmAction, maintenance_server::Maintenance},
};

/// The version of the API that this answers, for clients that look whether they can use it.
const API_VERSION: &str = "3.5.0";

#[tonic::async_trait]
impl Maintenance for Api {
    /// There are no alarms: what is wrong with a node is in its own view of the cluster.
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        self.client(&request)?.check_table(Right::Read, false)?;
        match request.get_ref().action() {
            AlarmAction::Get | AlarmAction::Deactivate => {
                let header = self.newest_header().map_err(error::failed)?;
                Ok(Response::new(pb::AlarmResponse { header, alarms: Vec::new() }))
            }
            AlarmAction::Activate => Err(error::unimplemented("no alarm is raised by clients")),
        }
    }

    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        self.client(&request)?;
        let identity = self.node.etcd_identity();
        let bytes = i64::try_from(self.node.etcd_disk_bytes()).unwrap_or(i64::MAX);
        let errors = identity.is_leaderless().then(|| "etcdserver: no leader".into());
        Ok(Response::new(pb::StatusResponse {
            header: self.newest_header().map_err(error::failed)?,
            version: API_VERSION.into(),
            db_size: bytes,
            leader: identity.position.leader.map_or(0, |leader| leader.0),
            raft_index: identity.position.log_index,
            raft_term: identity.position.term,
            raft_applied_index: identity.position.applied_index,
            errors: errors.into_iter().collect(),
            db_size_in_use: bytes,
            is_learner: self.node.etcd_learners().contains(&self.node.id()),
        }))
    }

    /// Space is given back without being asked for.
    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.client(&request)?.check_table(Right::Read, false)?;
        let header = self.newest_header().map_err(error::failed)?;
        Ok(Response::new(pb::DefragmentResponse { header }))
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        self.client(&request)?.check_table(Right::Read, true)?;
        let hashed = self.node.etcd_hash(0).await.map_err(error::failed)?.map_err(error::of_problem)?;
        Ok(Response::new(pb::HashResponse { header: self.header(hashed.revision), hash: hashed.hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        self.client(&request)?.check_table(Right::Read, true)?;
        let revision = request.get_ref().revision;
        let hashed =
            self.node.etcd_hash(revision).await.map_err(error::failed)?.map_err(error::of_problem)?;
        Ok(Response::new(pb::HashKvResponse {
            header: self.header(hashed.revision),
            hash: hashed.hash,
            compact_revision: hashed.compacted,
        }))
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>;

    async fn snapshot(
        &self,
        _: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(error::unimplemented("a snapshot is a file of etcd's own storage; use `DynaRust backup`"))
    }

    async fn move_leader(
        &self,
        _: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        Err(error::unimplemented("`DynaRust strong transfer` makes another member the leader"))
    }

    async fn downgrade(
        &self,
        _: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        Err(error::unimplemented("versions of etcd mean nothing here"))
    }
}
