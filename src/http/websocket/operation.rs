//! What a request on a WebSocket does, and the body of its result: as over HTTP, with what HTTP has in headers.

use std::sync::Arc;

use crate::{
    core::{
        access::{Right, Touched},
        name::TableName,
    },
    error::Result,
    http::{
        access::Principal,
        reports::collect::Report,
        request::{path::Address, transaction, value},
    },
    node::{
        Action, Node, Write, Written,
        strong::{Consistency, Transaction},
    },
};

/// A read or write, as over REST.
#[derive(Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read a key.
    Get(Address, Consistency),
    /// Change a key.
    Write(TableName, Write),
    /// Delete all keys of a table with this prefix; empty means all.
    DeleteAll(TableName, String),
    /// Compare and change keys of strong tables.
    Transact(Transaction),
    /// Report on the cluster.
    Report(Report),
    /// Nothing: measures the round trip.
    Ping,
}

impl Operation {
    /// Whether it changes anything.
    pub fn is_write(&self) -> bool {
        matches!(self, Self::Write(..) | Self::DeleteAll(..) | Self::Transact(_))
    }

    /// Whether it is counted among the requests. What only looks at the cluster would count itself.
    pub fn is_counted(&self) -> bool {
        !matches!(self, Self::Report(_) | Self::Ping)
    }

    /// Whether a client may run it.
    ///
    /// # Errors
    /// `NotGranted`.
    pub fn check(&self, principal: &Principal) -> Result<()> {
        match self {
            Self::Get(address, _) => principal.check(Right::Read, Touched::Key(&address.table, &address.key)),
            Self::Write(table, write) => principal.check_write(table, write),
            Self::DeleteAll(table, prefix) => principal.check(Right::Write, Touched::Keys(table, prefix)),
            Self::Transact(transaction) => principal.check_transaction(transaction),
            Self::Report(report) => report.check(principal),
            Self::Ping => Ok(()),
        }
    }

    /// Runs the operation and returns the body of its result. Errors are those that the client may see.
    ///
    /// # Errors
    /// Those of REST.
    pub async fn run(self, node: &Arc<Node>, principal: &Principal) -> Result<String> {
        match self {
            Self::Get(address, consistency) => {
                node.before_read(&address.table, consistency).await?;
                let entry = node.get(&address.table, &address.key)?.ok_or_else(|| value::absent(&address))?;
                let body = value::with_metadata(&entry);
                Ok(match consistency {
                    Consistency::Linearizable => body,
                    Consistency::Stale => format!("{{\"stale\":true,{}", &body[1..]),
                })
            }
            Self::Write(table, write) => {
                let deletes = matches!(write.action, Action::Delete { .. });
                let written = node.write(&table, write).await;
                let written = written.map_err(|error| principal.conceal(&table, error))?;
                Ok(if deletes { DELETED.into() } else { wrote(written) })
            }
            Self::DeleteAll(table, prefix) => {
                let mut removal = node.begin_removal(table, prefix);
                while removal.step(node).await?.is_some() {}
                Ok(format!(r#"{{"deleted":{}}}"#, removal.deleted()))
            }
            Self::Transact(transaction) => {
                let tables = transaction.written_tables();
                let transacted = node.transact(transaction).await;
                let (succeeded, results) =
                    transacted.map_err(|error| principal.conceal_any(&tables, error))?;
                Ok(transaction::rendered(succeeded, &results))
            }
            Self::Report(report) => Ok(report.collect(node, principal).await?.to_string()),
            Self::Ping => Ok("{}".into()),
        }
    }
}

const DELETED: &str = r#"{"deleted":true}"#;

/// The body REST would send, with the members that REST puts in headers.
fn wrote(written: Written) -> String {
    let Written { timestamp, created } = written;
    format!(r#"{{"version":"{timestamp}","timestamp":{},"created":{created}}}"#, timestamp.unix_ms())
}
