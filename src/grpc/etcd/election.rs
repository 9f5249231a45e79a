//! Elections (`v3election`): a candidate that is the first one leads, and the value of its key is what it proclaims.

use std::{collections::VecDeque, pin::Pin};

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status};

use super::{
    Api, convert,
    session::{Candidates, Changes, Session, failed, unchanged},
};
use crate::{
    core::etcd::request::{Delete, KeyValue, Keys, Operation, Put},
    grpc::proto::{
        etcdserverpb::ResponseHeader,
        v3electionpb::{
            CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
            ProclaimResponse, ResignRequest, ResignResponse, election_server::Election,
        },
    },
};

fn no_key() -> Status {
    failed("\"leader\" field must be provided")
}

fn not_leader() -> Status {
    failed("election: not leader")
}

/// Writes a value, if the key is that of the leader still.
async fn proclaim(
    session: &mut Session,
    leader: LeaderKey,
    value: Vec<u8>,
) -> Result<Option<ResponseHeader>, Status> {
    let put = Put { key: leader.key.clone(), value, lease: leader.lease, ..Put::default() };
    let ((succeeded, _), header) =
        session.txn(unchanged(leader.key, leader.rev, Operation::Put(put))).await?;
    if succeeded { Ok(header) } else { Err(not_leader()) }
}

#[tonic::async_trait]
impl Election for Api {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let mut session = Session::of(self, &request)?;
        let CampaignRequest { name, lease, value } = request.into_inner();
        let (candidates, lease) = (Candidates::of(&name), session.lease(lease).await?);
        let candidate = session.enter(&candidates, lease, value.clone()).await?;
        let leader = LeaderKey { name, key: candidate.key.clone(), rev: candidate.revision, lease };
        if candidate.value.as_ref().is_some_and(|before| *before != value) {
            proclaim(&mut session, leader.clone(), value).await?;
        }
        if !candidate.is_first && !session.until_first(&candidates, &candidate).await?.0 {
            return Err(not_leader());
        }
        let header = candidate.header;
        candidate.keep();
        Ok(Response::new(CampaignResponse { header, leader: Some(leader) }))
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let mut session = Session::of(self, &request)?;
        let ProclaimRequest { leader, value } = request.into_inner();
        let leader = leader.ok_or_else(no_key)?;
        let lease = session.lease(leader.lease).await?;
        let header = proclaim(&mut session, LeaderKey { lease, ..leader }, value).await?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let mut session = Session::of(self, &request)?;
        let (kvs, header) = session.range(Candidates::of(&request.get_ref().name).first()).await?;
        let leader = kvs.into_iter().next().ok_or_else(|| failed("election: no leader"))?;
        Ok(Response::new(response(leader, header)))
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let observing = Observing {
            session: Session::of(self, &request)?,
            candidates: Candidates::of(&request.get_ref().name),
            leader: None,
            responses: VecDeque::new(),
        };
        let responses = stream::try_unfold(observing, |mut observing| async move {
            Ok(Some((observing.next().await?, observing)))
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let mut session = Session::of(self, &request)?;
        let leader = request.into_inner().leader.ok_or_else(no_key)?;
        let delete = Operation::Delete(Delete { keys: Keys::One(leader.key.clone()), prev_kv: false });
        let (_, header) = session.txn(unchanged(leader.key, leader.rev, delete)).await?;
        Ok(Response::new(ResignResponse { header }))
    }
}

fn response(kv: KeyValue, header: Option<ResponseHeader>) -> LeaderResponse {
    LeaderResponse { header, kv: Some(convert::key_value(kv)) }
}

/// A stream that tells who leads.
struct Observing {
    session: Session,
    candidates: Candidates,
    /// The changes of the leader's key, while there is one.
    leader: Option<Changes>,
    /// What is told first.
    responses: VecDeque<LeaderResponse>,
}

impl Observing {
    async fn next(&mut self) -> Result<LeaderResponse, Status> {
        loop {
            if let Some(response) = self.responses.pop_front() {
                return Ok(response);
            }
            let Some(changes) = &mut self.leader else {
                self.find().await?;
                continue;
            };
            // What the history does not have is read again.
            let Some(events) = self.session.next(changes).await? else {
                self.leader = None;
                continue;
            };
            for event in events {
                if event.is_delete {
                    self.leader = None;
                    break;
                }
                self.tell(event.kv);
            }
        }
    }

    /// Waits for a leader.
    async fn find(&mut self) -> Result<(), Status> {
        let (kvs, header) = self.session.range(self.candidates.first()).await?;
        if let Some(leader) = kvs.into_iter().next() {
            self.leader =
                Some(Changes::after(&self.session.api, Keys::One(leader.key.clone()), header.as_ref())?);
            self.responses.push_back(response(leader, header));
            return Ok(());
        }
        let mut changes = Changes::after(&self.session.api, self.candidates.keys(), header.as_ref())?;
        while let Some(events) = self.session.next(&mut changes).await? {
            if let Some(put) = events.into_iter().find(|event| !event.is_delete) {
                let header = self.session.api.header(put.kv.mod_revision);
                let keys = Keys::One(put.kv.key.clone());
                self.leader = Some(Changes::after(&self.session.api, keys, header.as_ref())?);
                self.tell(put.kv);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Tells of a leader's key, as it was written in its revision.
    fn tell(&mut self, kv: KeyValue) {
        let header = self.session.api.header(kv.mod_revision);
        self.responses.push_back(response(kv, header));
    }
}
