//! Between the messages of the etcd API and the requests of [`crate::core::etcd`].

use tonic::Status;

use super::{Api, error};
use crate::{
    core::etcd::{
        history::Event,
        request::{
            Answer, Body, Compare, Delete, KeyValue, Keys, Operation, Order, Problem, Put, Range, Ranged,
            Relation, Target, Txn, With,
        },
    },
    error::Error,
    grpc::proto::{
        etcdserverpb::{
            self as pb,
            compare::{CompareResult, CompareTarget, TargetUnion},
            range_request::{SortOrder, SortTarget},
            request_op, response_op,
        },
        mvccpb,
    },
};

/// A read.
pub fn range(request: pb::RangeRequest) -> Range {
    let (order, target) = (request.sort_order(), request.sort_target());
    Range {
        keys: Keys::new(request.key, request.range_end),
        limit: request.limit,
        revision: request.revision,
        order: match order {
            SortOrder::None => Order::None,
            SortOrder::Ascend => Order::Ascending,
            SortOrder::Descend => Order::Descending,
        },
        target: match target {
            SortTarget::Key => Target::Key,
            SortTarget::Version => Target::Version,
            SortTarget::Create => Target::Create,
            SortTarget::Mod => Target::Mod,
            SortTarget::Value => Target::Value,
        },
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    }
}

/// A write.
pub fn put(request: pb::PutRequest) -> Put {
    Put {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}

/// A deletion.
pub fn delete(request: pb::DeleteRangeRequest) -> Delete {
    Delete { keys: Keys::new(request.key, request.range_end), prev_kv: request.prev_kv }
}

/// A transaction.
pub fn txn(request: pb::TxnRequest) -> Txn {
    let operations = |operations: Vec<pb::RequestOp>| operations.into_iter().map(operation).collect();
    Txn {
        compare: request.compare.into_iter().map(compare).collect(),
        success: operations(request.success),
        failure: operations(request.failure),
    }
}

fn operation(operation: pb::RequestOp) -> Operation {
    match operation.request {
        Some(request_op::Request::RequestRange(request)) => Operation::Range(range(request)),
        Some(request_op::Request::RequestPut(request)) => Operation::Put(put(request)),
        Some(request_op::Request::RequestDeleteRange(request)) => Operation::Delete(delete(request)),
        Some(request_op::Request::RequestTxn(request)) => Operation::Txn(txn(request)),
        None => Operation::Unknown,
    }
}

fn compare(compare: pb::Compare) -> Compare {
    let relation = CompareResult::try_from(compare.result).ok().map(|relation| match relation {
        CompareResult::Equal => Relation::Equal,
        CompareResult::Greater => Relation::Greater,
        CompareResult::Less => Relation::Less,
        CompareResult::NotEqual => Relation::NotEqual,
    });
    let with = compare.target_union.clone();
    // A number for another target counts as none.
    let with = match compare.target() {
        CompareTarget::Version => With::Version(match with {
            Some(TargetUnion::Version(number)) => number,
            _ => 0,
        }),
        CompareTarget::Create => With::Create(match with {
            Some(TargetUnion::CreateRevision(number)) => number,
            _ => 0,
        }),
        CompareTarget::Mod => With::Mod(match with {
            Some(TargetUnion::ModRevision(number)) => number,
            _ => 0,
        }),
        CompareTarget::Lease => With::Lease(match with {
            Some(TargetUnion::Lease(number)) => number,
            _ => 0,
        }),
        CompareTarget::Value => With::Value(match with {
            Some(TargetUnion::Value(bytes)) => bytes,
            _ => Vec::new(),
        }),
    };
    Compare { keys: Keys::new(compare.key, compare.range_end), relation, with }
}

/// A key.
pub fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

/// An event, with what was there before if that is wanted.
pub fn event(event: &Event, with_before: bool) -> mvccpb::Event {
    let kind = if event.is_delete { mvccpb::event::EventType::Delete } else { mvccpb::event::EventType::Put };
    let before = event.before.clone().filter(|_| with_before);
    mvccpb::Event {
        r#type: kind.into(),
        kv: Some(key_value(event.kv.clone())),
        prev_kv: before.map(key_value),
    }
}

/// The answer to a read.
pub fn range_response(ranged: Ranged, header: Option<pb::ResponseHeader>) -> pb::RangeResponse {
    pb::RangeResponse {
        header,
        kvs: ranged.kvs.into_iter().map(key_value).collect(),
        more: ranged.more,
        count: ranged.count,
    }
}

/// The answer to a transaction.
///
/// # Errors
/// The status for an answer to something else, which is a bug.
pub fn txn_response(
    succeeded: bool,
    answers: Vec<Answer>,
    header: Option<pb::ResponseHeader>,
) -> Result<pb::TxnResponse, Status> {
    let responses = answers.into_iter().map(response).collect::<Result<_, _>>()?;
    Ok(pb::TxnResponse { header, succeeded, responses })
}

fn response(Answer { revision, body }: Answer) -> Result<pb::ResponseOp, Status> {
    // Within a transaction only the revision is told.
    let header = Some(pb::ResponseHeader { revision, ..pb::ResponseHeader::default() });
    let response = match body {
        Body::Range(ranged) => response_op::Response::ResponseRange(range_response(ranged, header)),
        Body::Put(before) => {
            response_op::Response::ResponsePut(pb::PutResponse { header, prev_kv: before.map(key_value) })
        }
        Body::Delete(deleted, before) => {
            let prev_kvs = before.into_iter().map(key_value).collect();
            response_op::Response::ResponseDeleteRange(pb::DeleteRangeResponse { header, deleted, prev_kvs })
        }
        Body::Txn(succeeded, answers) => {
            response_op::Response::ResponseTxn(txn_response(succeeded, answers, header)?)
        }
        other @ (Body::Compacted | Body::Granted(_) | Body::Revoked | Body::Revoking) => {
            return Err(unexpected(&other));
        }
    };
    Ok(pb::ResponseOp { response: Some(response) })
}

/// The status for an answer to something else, which is a bug.
pub fn unexpected(body: &Body) -> Status {
    error::of(&Error::Corrupt(format!("the answer to another request: {body:?}")))
}

impl Api {
    /// The answer of a request that took effect.
    ///
    /// # Errors
    /// The status of one that did not.
    pub fn taken(
        &self,
        outcome: crate::error::Result<Result<Answer, Problem>>,
    ) -> Result<(Body, Option<pb::ResponseHeader>), Status> {
        let answer = outcome.map_err(|error| error::of(&error))?.map_err(error::of_problem)?;
        Ok((answer.body, self.header(answer.revision)))
    }
}
