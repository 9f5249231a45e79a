//! Writes as messages: conditions, expiries, and how many replicas must hold them.

use std::time::Duration;

use super::{key, value};
use crate::{
    core::clock::Timestamp,
    error::{Error, Result},
    grpc::proto::dynarust::v1 as proto,
    http::request::{condition, expiry},
    node::{Action, Condition, Expiry, Node, Replicas, Write, WriteConcern, Written},
};
use proto::{condition::Expected, set_request, write_concern};

/// The write that a request asks for.
///
/// # Errors
/// `BadName`, `BadRequest`, and those of its value.
pub fn set(node: &Node, request: proto::SetRequest) -> Result<Write> {
    Ok(Write {
        key: key(&request.key)?,
        action: Action::Put {
            value: value::parse(request.value, node.value_bytes_max())?,
            expiry: expiry_of(request.expiry, node.now_ms())?,
        },
        condition: condition_of(request.condition)?,
    })
}

/// The deletion that a request asks for.
///
/// # Errors
/// `BadName`, `BadRequest`.
pub fn delete(request: proto::DeleteRequest) -> Result<Write> {
    Ok(Write {
        key: key(&request.key)?,
        action: Action::Delete { force: request.force },
        condition: condition_of(request.condition)?,
    })
}

/// The version that a message names as `field`.
///
/// # Errors
/// `BadRequest`.
pub fn version(field: &str, text: &str) -> Result<Timestamp> {
    text.parse().map_err(|_| {
        Error::BadRequest(format!(
            "{field}: {text:?} is not a version: send the one of a response or an entry"
        ))
    })
}

/// How many replicas must hold a write.
///
/// # Errors
/// `BadRequest`.
pub fn concern(concern: proto::WriteConcern) -> Result<WriteConcern> {
    let replicas = match concern.replicas {
        None => return Err(Error::BadRequest("write_concern: send count or group with it".into())),
        Some(write_concern::Replicas::Count(0)) => {
            return Err(Error::BadRequest(
                "write_concern.count is 0: use at least 1, because this node itself holds the write".into(),
            ));
        }
        Some(write_concern::Replicas::Count(count)) => {
            Replicas::Count(usize::try_from(count).unwrap_or(usize::MAX))
        }
        Some(write_concern::Replicas::Group(group)) => {
            match super::known(group, "write_concern.group", "GROUP_ONE, GROUP_MAJORITY and GROUP_ALL")? {
                write_concern::Group::One => Replicas::Count(1),
                write_concern::Group::Majority => Replicas::Majority,
                write_concern::Group::All => Replicas::All,
            }
        }
    };
    let timeout = match concern.timeout_ms {
        0 => condition::W_TIMEOUT,
        milliseconds => Duration::from_millis(milliseconds.into()),
    };
    if timeout > condition::W_TIMEOUT_MAX {
        return Err(Error::BadRequest(format!(
            "write_concern.timeout_ms: use up to {}, or leave it out for {}",
            condition::W_TIMEOUT_MAX.as_millis(),
            condition::W_TIMEOUT.as_millis()
        )));
    }
    Ok(WriteConcern { replicas, timeout })
}

fn condition_of(condition: Option<proto::Condition>) -> Result<Condition> {
    let Some(condition) = condition else { return Ok(Condition::Always) };
    // A condition that holds always is none that anybody meant.
    let expected = condition.expected.ok_or_else(|| {
        Error::BadRequest("condition: it is empty; send exists, version or not_version with it".into())
    })?;
    Ok(match expected {
        Expected::Exists(true) => Condition::Present,
        Expected::Exists(false) => Condition::Absent,
        Expected::Version(text) => Condition::Version(vec![version("condition.version", &text)?]),
        Expected::NotVersion(text) => Condition::NotVersion(vec![version("condition.not_version", &text)?]),
    })
}

fn expiry_of(given: Option<set_request::Expiry>, now_ms: u64) -> Result<Option<Expiry>> {
    Ok(match given {
        None => None,
        Some(set_request::Expiry::TtlMs(milliseconds)) => {
            Some(Expiry::After(expiry::ttl_of_milliseconds(milliseconds)?))
        }
        Some(set_request::Expiry::ExpiresAtMs(unix_ms)) => {
            Some(Expiry::At(expiry::parse_instant(&unix_ms.to_string(), now_ms)?))
        }
    })
}

/// The answer to a set.
pub fn was_set(written: Written) -> proto::SetResponse {
    proto::SetResponse {
        version: written.timestamp.to_string(),
        timestamp_ms: written.timestamp.unix_ms(),
        created: written.created,
    }
}

/// The answer to a deletion.
pub fn was_deleted(written: Written) -> proto::DeleteResponse {
    proto::DeleteResponse {
        version: written.timestamp.to_string(),
        timestamp_ms: written.timestamp.unix_ms(),
    }
}
