//! The members of the cluster, as clients of etcd want to know them. They are changed by DynaRust's own commands.

use tonic::{Request, Response, Status};

use super::{Api, error};
use crate::{
    core::access::Right,
    grpc::proto::etcdserverpb::{self as pb, cluster_server::Cluster},
    node::MemberState,
};

/// What a client is told that wants to change the members.
const CHANGES: &str = "members join with --join, and leave with `DynaRust leave` and `DynaRust forget`";

#[tonic::async_trait]
impl Cluster for Api {
    /// A member has a client address if it serves the etcd API, and that is known here.
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        self.client(&request)?.check_table(Right::Read, false)?;
        let header = self.newest_header().map_err(|error| error::of(&error))?;
        let own = self.node.id();
        let learners = self.node.etcd_learners();
        let urls = self.node.etcd_urls().await;
        let view = self.node.cluster();
        let members = view.members.iter().filter(|member| match member.state {
            MemberState::Forgotten => false,
            MemberState::Myself
            | MemberState::Alive
            | MemberState::Suspect
            | MemberState::Down
            | MemberState::Left => true,
        });
        let mut members: Vec<_> = members
            .map(|member| pb::Member {
                id: member.node.0,
                name: member.node.to_string(),
                peer_ur_ls: vec![format!("http://{}", member.address)],
                client_ur_ls: urls.get(&member.node).cloned().into_iter().collect(),
                is_learner: learners.contains(&member.node),
            })
            .collect();
        members.sort_by_key(|member| (member.id != own.0, member.id));
        Ok(Response::new(pb::MemberListResponse { header, members }))
    }

    async fn member_add(
        &self,
        _: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(error::unimplemented(CHANGES))
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(error::unimplemented(CHANGES))
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(error::unimplemented("a member tells its addresses by itself"))
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(error::unimplemented("`DynaRust strong promote` makes a member a voter"))
    }
}
