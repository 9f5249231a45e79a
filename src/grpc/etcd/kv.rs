//! Keys: reads, writes, transactions, compaction.

use prost::Message;
use tonic::{Request, Response, Status};

use super::{Api, access::Client, convert, error};
use crate::{
    core::{
        access::Right,
        etcd::{
            check::{REQUEST_BYTES_MAX, check},
            request::{self, Body, Operation, Problem},
        },
    },
    grpc::proto::etcdserverpb::{self as pb, kv_server::Kv},
    node::strong::Consistency,
};

/// Whether a client may do an operation, and it is one. `bytes`: those of the request, if it may be too large.
///
/// # Errors
/// The status if not.
pub fn check_operation(client: &Client, operation: &Operation, bytes: usize) -> Result<(), Status> {
    check(operation).map_err(error::of_problem)?;
    client.check(operation)?;
    match operation.writes() && bytes > REQUEST_BYTES_MAX {
        true => Err(error::of_problem(Problem::TooLarge)),
        false => Ok(()),
    }
}

impl Api {
    /// Does an operation for a client. `bytes` as above.
    ///
    /// # Errors
    /// The status if it is refused.
    pub async fn operate(
        &self,
        client: &Client,
        operation: Operation,
        bytes: usize,
        consistency: Consistency,
    ) -> Result<(Body, Option<pb::ResponseHeader>), Status> {
        check_operation(client, &operation, bytes)?;
        let mut reservation = client.budget.empty_reservation();
        // What is read is in memory a second time when it is written.
        let mut reserve = |bytes: usize| reservation.reserve_at_least(2 * bytes);
        self.taken(self.node.etcd_operate(operation, consistency, &mut reserve).await)
    }
}

#[tonic::async_trait]
impl Kv for Api {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let client = self.client(&request)?;
        let request = request.into_inner();
        let consistency = if request.serializable { Consistency::Stale } else { Consistency::Linearizable };
        let operation = Operation::Range(convert::range(request));
        match self.operate(&client, operation, 0, consistency).await? {
            (Body::Range(ranged), header) => Ok(Response::new(convert::range_response(ranged, header))),
            (other, _) => Err(convert::unexpected(&other)),
        }
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let client = self.client(&request)?;
        let (bytes, request) = (request.get_ref().encoded_len(), request.into_inner());
        client.admit_write()?;
        let operation = Operation::Put(convert::put(request));
        match self.operate(&client, operation, bytes, Consistency::Linearizable).await? {
            (Body::Put(before), header) => {
                Ok(Response::new(pb::PutResponse { header, prev_kv: before.map(convert::key_value) }))
            }
            (other, _) => Err(convert::unexpected(&other)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let client = self.client(&request)?;
        let (bytes, request) = (request.get_ref().encoded_len(), request.into_inner());
        client.admit_write()?;
        let operation = Operation::Delete(convert::delete(request));
        match self.operate(&client, operation, bytes, Consistency::Linearizable).await? {
            (Body::Delete(deleted, before), header) => {
                let prev_kvs = before.into_iter().map(convert::key_value).collect();
                Ok(Response::new(pb::DeleteRangeResponse { header, deleted, prev_kvs }))
            }
            (other, _) => Err(convert::unexpected(&other)),
        }
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let client = self.client(&request)?;
        let (bytes, request) = (request.get_ref().encoded_len(), request.into_inner());
        let operation = Operation::Txn(convert::txn(request));
        if operation.writes() {
            client.admit_write()?;
        }
        match self.operate(&client, operation, bytes, Consistency::Linearizable).await? {
            (Body::Txn(succeeded, answers), header) => {
                Ok(Response::new(convert::txn_response(succeeded, answers, header)?))
            }
            (other, _) => Err(convert::unexpected(&other)),
        }
    }

    /// Compaction is of the history in memory: with `physical` or without there is nothing to wait for.
    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        self.client(&request)?.check_table(Right::Write, true)?;
        let request = request::Request::Compact(request.get_ref().revision);
        let (_, header) = self.taken(self.node.etcd(request).await)?;
        Ok(Response::new(pb::CompactionResponse { header }))
    }
}
