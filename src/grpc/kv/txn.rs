//! `Txn`: transactions over strong tables as messages.

use super::{key, table, value, write};
use crate::{
    core::name::{Key, TableName},
    error::{Error, Result},
    grpc::proto::dynarust::v1 as proto,
    node::{
        Node,
        strong::{Compare, Expected, Operation, OperationResult, Transaction, check_operations},
    },
};
use proto::{compare, operation, operation_result::Result as Given};

/// The transaction that a request asks for.
///
/// # Errors
/// `BadName`, `BadRequest`, and those of its values.
pub fn parse(node: &Node, request: proto::TxnRequest) -> Result<Transaction> {
    check_operations(request.compare.len(), request.success.len(), request.failure.len())?;
    let operations = |operations: Vec<proto::Operation>| {
        operations.into_iter().map(|operation| parse_operation(node, operation)).collect::<Result<_>>()
    };
    Ok(Transaction {
        compare: request.compare.into_iter().map(|it| parse_compare(node, it)).collect::<Result<_>>()?,
        success: operations(request.success)?,
        failure: operations(request.failure)?,
    })
}

/// Whether a transaction has a write that would make this table. What only reads makes none.
pub fn makes(transaction: &Transaction, default: &TableName) -> bool {
    transaction.success.iter().chain(&transaction.failure).any(|operation| match operation {
        Operation::Write { table, write } => table == default && write.check_new_table(table).is_ok(),
        Operation::Get { .. } => false,
    })
}

fn parse_compare(node: &Node, it: proto::Compare) -> Result<Compare> {
    let expected = match it.expected {
        Some(compare::Expected::Value(expected)) => {
            Expected::Value(value::parse(Some(expected), node.value_bytes_max())?)
        }
        Some(compare::Expected::Version(text)) => {
            Expected::Version(write::version("compare.version", &text)?)
        }
        Some(compare::Expected::Exists(exists)) => Expected::Absent(!exists),
        None => {
            return Err(Error::BadRequest(
                "compare: send value, version or exists with the key that is compared".into(),
            ));
        }
    };
    Ok(Compare { table: table(&it.table)?, key: key(&it.key)?, expected })
}

fn parse_operation(node: &Node, it: proto::Operation) -> Result<Operation> {
    let refused = |field: &str| {
        Err(Error::BadRequest(format!("{field} has no meaning in a transaction: leave it out")))
    };
    match it.operation {
        Some(operation::Operation::Get(get)) => {
            if get.consistency != 0 {
                return refused("get.consistency");
            }
            Ok(Operation::Get { table: table(&get.table)?, key: key(&get.key)? })
        }
        Some(operation::Operation::Set(set)) => {
            if set.write_concern.is_some() {
                return refused("set.write_concern");
            }
            if set.table_mode != 0 {
                return refused("set.table_mode");
            }
            Ok(Operation::Write { table: table(&set.table)?, write: write::set(node, set)? })
        }
        Some(operation::Operation::Delete(delete)) => {
            if delete.write_concern.is_some() {
                return refused("delete.write_concern");
            }
            Ok(Operation::Write { table: table(&delete.table)?, write: write::delete(delete)? })
        }
        None => Err(Error::BadRequest("operation: it is empty; send get, set or delete".into())),
    }
}

/// What an operation is, which its result must be too.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A read.
    Get,
    /// A set.
    Set,
    /// A deletion.
    Delete,
}

/// The kinds of some operations, in order, with the keys that they read.
pub fn kinds(operations: &[Operation]) -> Vec<(Kind, Key)> {
    let kind = |operation: &Operation| match operation {
        Operation::Get { key, .. } => (Kind::Get, key.clone()),
        Operation::Write { write, .. } => match write.action {
            crate::node::Action::Delete { .. } => (Kind::Delete, write.key.clone()),
            crate::node::Action::Put { .. } | crate::node::Action::Patch { .. } => {
                (Kind::Set, write.key.clone())
            }
        },
    };
    operations.iter().map(kind).collect()
}

/// The answer: what each operation gave, given the kinds of those that ran.
pub fn render(succeeded: bool, ran: Vec<(Kind, Key)>, results: Vec<OperationResult>) -> proto::TxnResponse {
    let results = ran.into_iter().zip(results).map(|((kind, key), result)| {
        let given = match (kind, result) {
            (_, OperationResult::Got(got)) => Given::Get(proto::GetResponse {
                entry: got.map(|got| value::entry(&key, Some(&got.value), got.timestamp, got.expires_at_ms)),
            }),
            (Kind::Delete, OperationResult::Written(written)) => Given::Delete(write::was_deleted(written)),
            (Kind::Get | Kind::Set, OperationResult::Written(written)) => Given::Set(write::was_set(written)),
        };
        proto::OperationResult { result: Some(given) }
    });
    proto::TxnResponse { succeeded, results: results.collect() }
}
