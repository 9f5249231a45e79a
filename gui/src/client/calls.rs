//! Calls that are answered once.

use std::sync::Arc;

use tonic::{Code, Request, Status};

use super::{
    convert,
    link::{Kv, call, deadline},
    proto::{
        Condition, Consistency, DeleteRequest, GetRequest, ListRequest, SetRequest, condition::Expected,
    },
};
use crate::{
    message::{Command, Entry, Expiry, Guard, Message, Place, Row, Transaction},
    model::preview,
};

/// As many bytes of values are read to fill rows; what comes after them is read when it is looked at again.
const DETAILS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Makes the call that a command asks for.
pub async fn run(kv: Kv, command: Command) -> Option<Message> {
    match command {
        Command::Details { generation, table, prefix, start, count } => {
            Some(details(kv, generation, table, prefix, &start, count).await)
        }
        Command::Get { request, place } => Some(match get(kv, place).await {
            Ok(entry) => Message::Got { request, entry },
            Err(status) => failed_with(request, &status),
        }),
        Command::Set { request, place, json, expiry, guard } => {
            Some(set(kv, request, place, json, expiry, guard).await)
        }
        Command::Delete { request, place, version } => Some(delete(kv, request, place, version).await),
        Command::Transact { request, transaction } => Some(transact(kv, request, transaction).await),
        Command::Connect(_) | Command::Retry | Command::Refresh | Command::Open { .. } => None,
    }
}

/// The answer to a call that cannot be made.
pub fn failed(command: &Command, why: &str) -> Option<Message> {
    match command {
        Command::Details { generation, .. } => {
            Some(Message::Details { generation: *generation, rows: Vec::new(), is_all: false })
        }
        Command::Get { request, .. }
        | Command::Set { request, .. }
        | Command::Delete { request, .. }
        | Command::Transact { request, .. } => Some(Message::Failed { request: *request, why: why.into() }),
        Command::Connect(_) | Command::Retry | Command::Refresh | Command::Open { .. } => None,
    }
}

fn failed_with(request: u64, status: &Status) -> Message {
    Message::Failed { request, why: convert::failure(status) }
}

/// A write whose outcome is not known says so.
fn write_failed(request: u64, status: &Status) -> Message {
    // Where the transport has failed, the node may have got the write, whatever the code says.
    let is_cut = std::error::Error::source(status).is_some();
    let unknown = is_cut || matches!(status.code(), Code::Unknown | Code::DeadlineExceeded | Code::Cancelled);
    let why = convert::failure(status);
    let why = if unknown { format!("{why}. It may have been written: reload to see") } else { why };
    Message::Failed { request, why }
}

async fn details(
    mut kv: Kv,
    generation: u64,
    table: String,
    prefix: String,
    start: &Arc<str>,
    count: usize,
) -> Message {
    let request = ListRequest {
        table,
        prefix,
        start: Some(start.to_string()),
        limit: count as u64,
        consistency: Consistency::Stale.into(),
        ..ListRequest::default()
    };
    let (mut rows, mut bytes, mut is_all) = (Vec::new(), 0, false);
    if let Ok(mut pages) = call(kv.list(deadline(request))).await {
        // An error in between leaves the rest unread.
        loop {
            match pages.message().await {
                Ok(Some(page)) => {
                    for entry in page.entries.into_iter().filter_map(convert::entry) {
                        bytes += entry.value.length();
                        rows.push(row(&entry));
                    }
                }
                Ok(None) => {
                    is_all = true;
                    break;
                }
                Err(_) => break,
            }
            if bytes > DETAILS_BYTES_MAX {
                break;
            }
        }
    }
    Message::Details { generation, rows, is_all }
}

fn row(entry: &Entry) -> Row {
    let preview = preview(&entry.value);
    let version = entry.version.clone();
    Row { key: Arc::clone(&entry.key), preview, version, expires_at_ms: entry.expires_at_ms }
}

async fn get(mut kv: Kv, place: Place) -> Result<Option<Entry>, Status> {
    let request = GetRequest { table: place.table, key: place.key, ..GetRequest::default() };
    match call(kv.get(deadline(request))).await {
        Ok(response) => Ok(response.entry.and_then(convert::entry)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

fn version(version: String) -> Option<Condition> {
    Some(Condition { expected: Some(Expected::Version(version)) })
}

async fn set(mut kv: Kv, request: u64, place: Place, json: String, expiry: Expiry, guard: Guard) -> Message {
    let condition = match guard {
        Guard::Absent => Some(Condition { expected: Some(Expected::Exists(false)) }),
        Guard::Version(it) => version(it),
    };
    let set = SetRequest { condition, ..convert::set(place.clone(), json, expiry) };
    match call(kv.set(deadline(set))).await {
        Ok(set) => Message::Written { request, version: set.version, timestamp_ms: set.timestamp_ms },
        Err(status) if status.code() == Code::Aborted => conflict(kv, request, place).await,
        Err(status) => write_failed(request, &status),
    }
}

async fn delete(mut kv: Kv, request: u64, place: Place, deleted: String) -> Message {
    let delete = DeleteRequest {
        table: place.table.clone(),
        key: place.key.clone(),
        condition: version(deleted),
        ..DeleteRequest::default()
    };
    match call(kv.delete(deadline(delete))).await {
        Ok(gone) => Message::Written { request, version: gone.version, timestamp_ms: gone.timestamp_ms },
        Err(status) if matches!(status.code(), Code::Aborted | Code::NotFound) => {
            conflict(kv, request, place).await
        }
        Err(status) => write_failed(request, &status),
    }
}

/// What somebody else wrote.
async fn conflict(kv: Kv, request: u64, place: Place) -> Message {
    match get(kv, place).await {
        Ok(theirs) => Message::Conflict { request, theirs },
        Err(status) => {
            let why = convert::failure(&status);
            Message::Failed {
                request,
                why: format!("Somebody else has changed it, and it cannot be read: {why}"),
            }
        }
    }
}

async fn transact(mut kv: Kv, request: u64, transaction: Transaction) -> Message {
    let (succeeds, fails) = (transaction.success.clone(), transaction.failure.clone());
    let txn: Request<_> = deadline(convert::transaction(transaction));
    match call(kv.txn(txn)).await {
        Ok(response) => {
            let run = if response.succeeded { succeeds } else { fails };
            Message::Transacted { request, outcome: convert::outcome(response, &run) }
        }
        Err(status) => write_failed(request, &status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that is cut gives UNAVAILABLE or INTERNAL, which was told as a write that was not made.
    #[test]
    fn a_write_that_the_transport_cut_may_have_been_made() {
        let why = |status: &Status| match write_failed(1, status) {
            Message::Failed { why, .. } => why,
            other => panic!("{other:?}"),
        };
        let mut cut = Status::unavailable("transport error");
        cut.set_source(Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        assert!(why(&cut).contains("may have been written"));
        assert!(!why(&Status::unavailable("the node starts")).contains("may have been written"));
    }
}
