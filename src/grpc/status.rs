//! The one `match` that maps an error to a status of gRPC, and the details that the status carries in `grpc-status-details-bin`:
//! `google.rpc.ErrorInfo` with the code of `docs/errors.md`, and `google.rpc.RetryInfo` where to try again helps.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{error::Error, http::response};

/// The domain of the reasons in `ErrorInfo`.
pub const DOMAIN: &str = "dynarust";
/// When a client tries again, where nothing else is known: as `Retry-After` of HTTP.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The status of an error.
pub fn of(error: &Error) -> Status {
    let (_, code) = response::status_and_code(error);
    let mut details = ErrorDetails::with_error_info(
        code.to_ascii_uppercase().replace('-', "_"),
        DOMAIN,
        metadata(error, code),
    );
    if let Some(delay) = retry_after(error) {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(code_of(error), error.to_string(), details)
}

/// What else is known, as texts: the code as HTTP has it, and the members that a problem of HTTP has.
fn metadata(error: &Error, code: &str) -> HashMap<String, String> {
    let mut known = vec![("code", code.to_owned())];
    match error {
        Error::PreconditionFailed { current: Some(version) } => known.push(("version", version.clone())),
        Error::TooLarge { limit, .. } => known.push(("limit", limit.to_string())),
        Error::TooManyOperations { limit, .. } => known.push(("limit", limit.to_string())),
        Error::NotGranted { right, .. } => known.push(("right", (*right).to_owned())),
        Error::RateLimited { wait_ms, .. } => known.push(("retry_after_ms", wait_ms.to_string())),
        Error::NotEnoughReplicas { held, wanted, version, unix_ms } => known.extend([
            ("held", held.to_string()),
            ("wanted", wanted.to_string()),
            ("version", version.clone()),
            ("timestamp", unix_ms.to_string()),
        ]),
        _ => {}
    }
    known.into_iter().map(|(name, text)| (name.to_owned(), text)).collect()
}

/// How long to wait before the same request may succeed; `None` if it cannot, or could do harm.
fn retry_after(error: &Error) -> Option<Duration> {
    match error {
        Error::RateLimited { wait_ms, .. } => Some(Duration::from_millis(*wait_ms)),
        _ if code_of(error) == Code::Unavailable => Some(RETRY_AFTER),
        Error::TooMany(_) => Some(RETRY_AFTER),
        _ => None,
    }
}

/// The code of an error. Clients of gRPC send a call again by themselves for UNAVAILABLE only, so nothing has it that may have been written.
fn code_of(error: &Error) -> Code {
    match error {
        Error::BadJson(_)
        | Error::MissingValue
        | Error::BadKey(_)
        | Error::BadName(_)
        | Error::BadRequest(_)
        | Error::ClockDrift { .. }
        | Error::Misdirected(_)
        | Error::UnsupportedType(_) => Code::InvalidArgument,
        Error::Unauthorized(_) | Error::Unauthenticated { .. } => Code::Unauthenticated,
        Error::Forbidden(_) | Error::NotGranted { .. } => Code::PermissionDenied,
        Error::NotFound(_) => Code::NotFound,
        Error::MethodNotAllowed(_) => Code::Unimplemented,
        // Read, decide and write again.
        Error::PreconditionFailed { .. } => Code::Aborted,
        Error::Conflict(_) | Error::WrongMode(_) => Code::FailedPrecondition,
        Error::TooLarge { .. }
        | Error::HeadTooLarge { .. }
        | Error::TooManyOperations { .. }
        | Error::TooMany(_)
        | Error::RateLimited { .. }
        | Error::StorageFull(_) => Code::ResourceExhausted,
        Error::Overloaded(_)
        | Error::NotReady(_)
        | Error::Draining
        | Error::NoQuorum(_)
        | Error::TimestampsAhead { .. } => Code::Unavailable,
        // It was written, and did not get further in time.
        Error::RequestTimeout(_) | Error::NotEnoughReplicas { .. } => Code::DeadlineExceeded,
        Error::OutcomeUnknown(_) => Code::Unknown,
        Error::Corrupt(_) => Code::DataLoss,
        Error::StorageInUse(_)
        | Error::StorageUnusable(_)
        | Error::StorageDamaged(_)
        | Error::Config(_)
        | Error::Io(_) => Code::Internal,
    }
}
