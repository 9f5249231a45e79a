//! Locks (`v3lock`): a candidate that is the first one holds the lock.

use tonic::{Request, Response, Status};

use super::{
    Api,
    session::{Candidates, Session, failed},
};
use crate::grpc::proto::v3lockpb::{
    LockRequest, LockResponse, UnlockRequest, UnlockResponse, lock_server::Lock,
};

#[tonic::async_trait]
impl Lock for Api {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let mut session = Session::of(self, &request)?;
        let LockRequest { name, lease } = request.into_inner();
        let (candidates, lease) = (Candidates::of(&name), session.lease(lease).await?);
        let candidate = session.enter(&candidates, lease, Vec::new()).await?;
        if candidate.is_first {
            let header = candidate.header;
            return Ok(Response::new(LockResponse { header, key: candidate.keep() }));
        }
        let (is_there, header) = session.until_first(&candidates, &candidate).await?;
        if !is_there {
            return Err(failed("mutex: session is expired"));
        }
        Ok(Response::new(LockResponse { header, key: candidate.keep() }))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let mut session = Session::of(self, &request)?;
        let ((), header) = session.delete(request.into_inner().key).await?;
        Ok(Response::new(UnlockResponse { header }))
    }
}
