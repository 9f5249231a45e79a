//! The one `match` that maps an error to a status of gRPC, and the details that the status carries in `grpc-status-details-bin`:
//! `google.rpc.ErrorInfo` with the code of `docs/errors.md`, and `google.rpc.RetryInfo` where to try again helps.

use std::{collections::HashMap, time::Duration};

use hyper::{HeaderMap, header::HeaderValue};
use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    error::Error,
    http::{request::latencies::Fault, response},
};

/// The domain of the reasons in `ErrorInfo`.
pub const DOMAIN: &str = "dynarust";
/// The longest message: many clients take no more than 8 KiB of headers, and a message may quote what they sent.
const MESSAGE_BYTES_MAX: usize = 1024;
/// The end of a message that was cut.
const CUT: &str = " …";
/// When a client tries again, where nothing else is known: as `Retry-After` of HTTP.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Whose fault a status is, on its way from `of` to the answer that counts it, which takes it out: codes of gRPC do not tell what a status of HTTP
/// does.
const FAULT: &str = "dynarust-fault";

/// The status with whose fault its error is.
pub fn with_fault(mut status: Status, error: &Error) -> Status {
    let name = match Fault::of(response::status_and_code(error).0) {
        Some(Fault::Client) => "client",
        Some(Fault::Server) => "server",
        None => return status,
    };
    status.metadata_mut().insert(FAULT, MetadataValue::from_static(name));
    status
}

/// The code in a head or in trailers, and whose fault it is, which is taken out.
pub fn take_code(headers: &mut HeaderMap) -> Option<(Code, Option<Fault>)> {
    let mark = headers.remove(FAULT);
    let code = Code::from_bytes(headers.get(Status::GRPC_STATUS)?.as_bytes());
    let fault = match mark.as_ref().map(HeaderValue::as_bytes) {
        Some(b"client") => Some(Fault::Client),
        Some(_) => Some(Fault::Server),
        None => fault(code),
    };
    Some((code, fault))
}

/// Whose fault a status is that comes of none of the node's errors. A call that its client ended, or that lasted longer than its client wanted to
/// wait, is no failure: that is how most streams end.
fn fault(code: Code) -> Option<Fault> {
    match code {
        Code::Ok | Code::Cancelled | Code::DeadlineExceeded => None,
        Code::Unknown | Code::Internal | Code::Unavailable | Code::DataLoss => Some(Fault::Server),
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => Some(Fault::Client),
    }
}

/// The status of an error.
pub fn of(error: &Error) -> Status {
    let (_, code) = response::status_and_code(error);
    let mut details = ErrorDetails::with_error_info(reason(code), DOMAIN, metadata(error, code));
    if let Some(delay) = retry_after(error) {
        details.set_retry_info(Some(delay));
    }
    with_fault(Status::with_error_details(code_of(error), cut(error.to_string()), details), error)
}

/// A message of at most `MESSAGE_BYTES_MAX`.
fn cut(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let max = MESSAGE_BYTES_MAX - CUT.len();
        let end = (0..=max).rev().find(|at| message.is_char_boundary(*at)).unwrap_or_default();
        message.truncate(end);
        message.push_str(CUT);
    }
    message
}

/// Cuts the message in a head or in trailers that is not one of ours. It is percent-encoded there, which makes it three times as long at most.
pub fn cut_header(headers: &mut HeaderMap) {
    let Some(message) = headers.get_mut("grpc-message") else { return };
    let max = 3 * MESSAGE_BYTES_MAX;
    if message.len() <= max {
        return;
    }
    let kept = &message.as_bytes()[..max];
    // Not in the middle of an escape of three bytes.
    let end = kept[max - 2..].iter().position(|byte| *byte == b'%').map_or(max, |at| max - 2 + at);
    if let Ok(short) = HeaderValue::from_bytes(&kept[..end]) {
        *message = short;
    }
}

/// The status of a watch whose cursor is too old.
pub fn cursor_gone() -> Status {
    let code = "cursor-gone";
    let details = ErrorDetails::with_error_info(
        reason(code),
        DOMAIN,
        HashMap::from([("code".to_owned(), code.to_owned())]),
    );
    let why = "this node no longer knows what changed after the cursor: watch again without a cursor, and with snapshot for the current values";
    Status::with_error_details(Code::OutOfRange, why, details)
}

/// A code as a reason in `ErrorInfo`, whose form is fixed (AIP-193).
fn reason(code: &str) -> String {
    code.to_ascii_uppercase().replace('-', "_")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{grpc::etcd::error as etcd_error, http::routes::metrics::rpc::CODES};

    /// What each error is over gRPC, with whether to try again helps. docs/grpc.md has the same table.
    fn cases() -> Vec<(Error, Code, &'static str, bool)> {
        let text = || "why".to_owned();
        let (version, right) = ("1".to_owned(), "read");
        vec![
            (Error::BadJson(text()), Code::InvalidArgument, "bad-json", false),
            (Error::MissingValue, Code::InvalidArgument, "missing-value", false),
            (Error::BadKey(text()), Code::InvalidArgument, "bad-key", false),
            (Error::BadName(text()), Code::InvalidArgument, "bad-name", false),
            (Error::BadRequest(text()), Code::InvalidArgument, "bad-request", false),
            (Error::Unauthorized(text()), Code::Unauthenticated, "unauthorized", false),
            (
                Error::Unauthenticated { why: text(), is_invalid: true },
                Code::Unauthenticated,
                "unauthorized",
                false,
            ),
            (Error::Forbidden(text()), Code::PermissionDenied, "forbidden", false),
            (Error::NotGranted { right, why: text() }, Code::PermissionDenied, "forbidden", false),
            (Error::Misdirected(text()), Code::InvalidArgument, "misdirected", false),
            (Error::NotFound(text()), Code::NotFound, "not-found", false),
            (Error::MethodNotAllowed(text()), Code::Unimplemented, "method-not-allowed", false),
            (Error::RequestTimeout(text()), Code::DeadlineExceeded, "request-timeout", false),
            (Error::Conflict(text()), Code::FailedPrecondition, "conflict", false),
            (
                Error::PreconditionFailed { current: Some(version.clone()) },
                Code::Aborted,
                "precondition-failed",
                false,
            ),
            (Error::TooLarge { what: "value", limit: 7 }, Code::ResourceExhausted, "too-large", false),
            (Error::HeadTooLarge { limit: 7 }, Code::ResourceExhausted, "head-too-large", false),
            (
                Error::TooManyOperations { what: "keys", limit: 7 },
                Code::ResourceExhausted,
                "too-large",
                false,
            ),
            (Error::UnsupportedType(text()), Code::InvalidArgument, "unsupported-type", false),
            (Error::TooMany(text()), Code::ResourceExhausted, "too-many", true),
            (Error::RateLimited { why: text(), wait_ms: 5 }, Code::ResourceExhausted, "too-many", true),
            (Error::Overloaded(text()), Code::Unavailable, "overloaded", true),
            (Error::NotReady(text()), Code::Unavailable, "not-ready", true),
            (Error::Draining, Code::Unavailable, "draining", true),
            (Error::StorageFull(text()), Code::ResourceExhausted, "storage-full", false),
            (
                Error::NotEnoughReplicas { held: 1, wanted: 2, version, unix_ms: 3 },
                Code::DeadlineExceeded,
                "not-enough-replicas",
                false,
            ),
            (Error::WrongMode(text()), Code::FailedPrecondition, "wrong-mode", false),
            (Error::NoQuorum(text()), Code::Unavailable, "no-quorum", true),
            (Error::OutcomeUnknown(text()), Code::Unknown, "outcome-unknown", false),
            (Error::Corrupt(text()), Code::DataLoss, "corrupt", false),
            (Error::ClockDrift { ahead_ms: 1, allowed_ms: 2 }, Code::InvalidArgument, "clock-drift", false),
            (Error::Io(text()), Code::Internal, "internal", false),
        ]
    }

    #[test]
    fn each_error_has_a_status_with_its_code_and_whether_to_try_again_helps() {
        for (error, code, name, is_retryable) in cases() {
            let status = of(&error);
            let details = status.get_error_details();
            let info = details.error_info().expect("an ErrorInfo");
            assert_eq!((status.code(), info.metadata["code"].as_str()), (code, name), "{error:?}");
            assert_eq!(info.reason, name.to_ascii_uppercase().replace('-', "_"));
            assert_eq!(info.domain, DOMAIN);
            assert_eq!(details.retry_info().is_some(), is_retryable, "{error:?}");
            assert_eq!(status.message(), error.to_string());
        }
    }

    /// The rates of the dashboard called a full disk a fault of the client, and a client that sent too slowly, or a watch that lasted as long as its
    /// client wanted, a fault of the server.
    #[test]
    fn a_failure_is_whose_fault_it_is_over_http() {
        let taken = |status: Status| {
            let mut headers = HeaderMap::new();
            status.add_header(&mut headers).expect("headers");
            let taken = take_code(&mut headers);
            assert!(!headers.contains_key(FAULT), "clients do not get it: {headers:?}");
            taken
        };
        for (error, code, ..) in cases() {
            let fault = Fault::of(response::status_and_code(&error).0);
            assert!(fault.is_some(), "{error:?}");
            assert_eq!(taken(of(&error)), Some((code, fault)), "{error:?}");
            assert_eq!(taken(etcd_error::of(&error)).map(|(_, fault)| fault), Some(fault), "{error:?}");
        }
        let deadline = crate::grpc::answer::deadline_exceeded();
        assert_eq!(taken(deadline), Some((Code::DeadlineExceeded, None)));
        assert_eq!(
            taken(Status::unimplemented("no such call")),
            Some((Code::Unimplemented, Some(Fault::Client)))
        );
        assert_eq!(take_code(&mut HeaderMap::new()), None);
    }

    /// A name of 1 MiB came back in a header, which clients take for a broken connection.
    #[test]
    fn messages_are_cut_at_a_limit() {
        let long = of(&Error::BadName("\u{e9}".repeat(100_000)));
        let message = long.message();
        assert!((MESSAGE_BYTES_MAX - 8..=MESSAGE_BYTES_MAX).contains(&message.len()), "{}", message.len());
        assert!(message.ends_with(CUT));
        assert_eq!(cut("short".into()), "short");
        for text in ["\u{e9}".repeat(10_000), format!("a{}", "\u{e9}".repeat(10_000)), "a".repeat(10_000)] {
            let mut headers = HeaderMap::new();
            Status::not_found(text).add_header(&mut headers).expect("headers");
            cut_header(&mut headers);
            let message = headers["grpc-message"].to_str().expect("text");
            assert!((3 * MESSAGE_BYTES_MAX - 2..=3 * MESSAGE_BYTES_MAX).contains(&message.len()));
            let unfinished = message.rfind('%').is_some_and(|at| at + 3 > message.len());
            assert!(!unfinished, "{message}");
        }
    }

    /// Both pages are read by people who look for a code.
    #[test]
    fn the_pages_have_every_code_and_its_status() {
        let (errors, page) = (include_str!("../../docs/errors.md"), include_str!("../../docs/grpc.md"));
        let cases = cases();
        for (error, code, name, _) in &cases {
            let status = CODES[*code as usize];
            let row = page.lines().find(|line| line.starts_with(&format!("| {status} |")));
            let is_there = row.is_some_and(|row| row.contains(&format!("`{name}`")));
            assert!(is_there, "{status} and {name} in docs/grpc.md: {error:?}");
        }
        let (_, table) = errors.split_once("## Codes").expect("a chapter");
        let (table, _) = table.split_once("\n## ").expect("a chapter after it");
        for row in table.lines().filter_map(|line| line.strip_prefix("| `")) {
            let code = row.split('`').next().unwrap_or_default();
            assert!(cases.iter().any(|(_, _, name, _)| *name == code), "docs/errors.md has {code}");
        }
    }

    #[test]
    fn details_have_what_the_problem_of_http_has() {
        let limited = of(&Error::RateLimited { why: String::new(), wait_ms: 1500 }).get_error_details();
        let delay = limited.retry_info().and_then(|retry| retry.retry_delay);
        assert_eq!(delay, Some(Duration::from_millis(1500)));
        let replicas = of(&Error::NotEnoughReplicas { held: 1, wanted: 3, version: "v".into(), unix_ms: 9 });
        let details = replicas.get_error_details();
        let metadata = &details.error_info().expect("an ErrorInfo").metadata;
        for (name, text) in [("held", "1"), ("wanted", "3"), ("version", "v"), ("timestamp", "9")] {
            assert_eq!(metadata[name], text, "{name}");
        }
    }
}
