//! Messages of the protocol to those of the window, and back.

use tonic::{Code, Status};

use super::{
    link::reason,
    proto::{
        self, ClusterResponse, Compare, DeleteRequest, GetRequest, SetRequest, TableMode, TablesResponse,
        TxnRequest, TxnResponse, compare, operation, operation_result, set_request, value::Kind,
    },
};
use crate::{
    message::{
        Cluster, Entry, Expected, Expiry, Group, Member, Mode, Operation, Outcome, Place, Table, Transaction,
        Value,
    },
    model::preview,
};

/// A failure in words.
pub fn failure(status: &Status) -> String {
    let code = match status.code() {
        Code::Unauthenticated => "The node does not let this token in",
        Code::PermissionDenied => "The token does not allow this",
        Code::Unavailable => "The node is not available",
        Code::DeadlineExceeded => "The node took too long",
        Code::ResourceExhausted => "A limit of the node is reached",
        Code::FailedPrecondition => "Not for this table",
        Code::InvalidArgument => "The node does not take this",
        Code::DataLoss => "The node cannot read this",
        Code::Unimplemented => "The node does not know this call",
        _ => "The call has failed",
    };
    // An error of the transport is the cause of the status.
    let message = std::error::Error::source(status).map_or_else(|| status.message().to_owned(), reason);
    if message.is_empty() { code.to_owned() } else { format!("{code}: {message}") }
}

/// An entry; `None` without a value, which a node does not send.
pub fn entry(entry: proto::Entry) -> Option<Entry> {
    let value = match entry.value?.kind? {
        Kind::Json(text) => Value::Json(text),
        Kind::Bytes(bytes) => Value::Bytes(bytes),
    };
    Some(Entry {
        key: entry.key.into(),
        value,
        version: entry.version,
        timestamp_ms: entry.timestamp_ms,
        expires_at_ms: entry.expires_at_ms,
    })
}

/// The tables.
pub fn tables(response: TablesResponse) -> Vec<Table> {
    let table = |table: proto::Table| {
        let mode = if table.mode() == TableMode::Strong { Mode::Strong } else { Mode::Eventual };
        Table { mode, name: table.name, keys: table.keys }
    };
    response.tables.into_iter().map(table).collect()
}

/// The cluster.
pub fn cluster(response: ClusterResponse) -> Cluster {
    let group = response.strong.map(|strong| {
        let (voters, learners): (Vec<_>, Vec<_>) =
            strong.members.into_iter().partition(|member| member.voter);
        let nodes =
            |members: Vec<proto::StrongMember>| members.into_iter().map(|member| member.node).collect();
        Group {
            leader: strong.leader,
            term: strong.term,
            applied_index: strong.applied_index,
            log_index: strong.log_index,
            voters: nodes(voters),
            learners: nodes(learners),
        }
    });
    Cluster {
        id: response.cluster,
        node: response.node,
        address: response.address,
        version: response.version,
        uptime_ms: response.uptime_ms,
        phase: response.phase,
        detail: response.detail,
        members: response.members.into_iter().map(member).collect(),
        group,
    }
}

fn member(member: proto::Member) -> Member {
    let state = match member.state() {
        proto::MemberState::Unspecified => "unknown",
        proto::MemberState::Self_ => "this node",
        proto::MemberState::Alive => "alive",
        proto::MemberState::Suspect => "suspect",
        proto::MemberState::Down => "down",
        proto::MemberState::Left => "left",
        proto::MemberState::Forgotten => "forgotten",
    };
    Member {
        node: member.node,
        address: member.address,
        state,
        since_ms: member.since_ms,
        linked: member.linked,
        round_trip_ms: member.round_trip_ms,
        rows: member.rows,
        lag_ms: member.lag_ms,
        outbox: member.outbox,
        trouble: member.trouble,
    }
}

fn json(text: String) -> proto::Value {
    proto::Value { kind: Some(Kind::Json(text)) }
}

/// A write without a condition.
pub fn set(place: Place, text: String, expiry: Expiry) -> SetRequest {
    let expiry = match expiry {
        Expiry::Never => None,
        Expiry::At(at_ms) => Some(set_request::Expiry::ExpiresAtMs(at_ms)),
        Expiry::After(ms) => Some(set_request::Expiry::TtlMs(ms)),
    };
    SetRequest {
        table: place.table,
        key: place.key,
        value: Some(json(text)),
        expiry,
        ..SetRequest::default()
    }
}

fn operation(operation: Operation) -> proto::Operation {
    let operation = match operation {
        Operation::Get(Place { table, key }) => {
            operation::Operation::Get(GetRequest { table, key, ..GetRequest::default() })
        }
        Operation::Set(place, text, expiry) => operation::Operation::Set(set(place, text, expiry)),
        Operation::Delete(Place { table, key }) => {
            operation::Operation::Delete(DeleteRequest { table, key, ..DeleteRequest::default() })
        }
    };
    proto::Operation { operation: Some(operation) }
}

/// A transaction.
pub fn transaction(transaction: Transaction) -> TxnRequest {
    let check = |(Place { table, key }, expected)| {
        let expected = match expected {
            Expected::Exists(exists) => compare::Expected::Exists(exists),
            Expected::Version(version) => compare::Expected::Version(version),
            Expected::Json(text) => compare::Expected::Value(json(text)),
        };
        Compare { table, key, expected: Some(expected) }
    };
    TxnRequest {
        compare: transaction.checks.into_iter().map(check).collect(),
        success: transaction.success.into_iter().map(operation).collect(),
        failure: transaction.failure.into_iter().map(operation).collect(),
    }
}

/// What a transaction came to, by the operations that ran.
pub fn outcome(response: TxnResponse, run: &[Operation]) -> Outcome {
    let results = run.iter().zip(response.results).map(|(operation, result)| {
        let (verb, place) = match operation {
            Operation::Get(place) => ("get", place),
            Operation::Set(place, ..) => ("set", place),
            Operation::Delete(place) => ("delete", place),
        };
        let gave = match result.result {
            Some(operation_result::Result::Get(get)) => match get.entry.and_then(entry) {
                Some(entry) => preview(&entry.value),
                None => "no value".to_owned(),
            },
            Some(operation_result::Result::Set(set)) if set.created => "created".to_owned(),
            Some(operation_result::Result::Set(_)) => "replaced".to_owned(),
            Some(operation_result::Result::Delete(_)) => "deleted".to_owned(),
            None => "no result".to_owned(),
        };
        format!("{verb} {}/{}: {gave}", place.table, place.key)
    });
    Outcome { succeeded: response.succeeded, results: results.collect() }
}
