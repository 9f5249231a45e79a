//! Errors as etcd has them: clients know them by code and text. What etcd has no error for keeps the text of the node.

use tonic::{Code, Status};

use crate::{
    core::etcd::{check::TTL_S_MAX, request::Problem, row::KEY_TEXT_BYTES_MAX},
    error::Error,
    grpc::status,
};

/// The status of a request that had no effect.
pub fn of_problem(problem: Problem) -> Status {
    let (code, text) = match problem {
        Problem::EmptyKey => (Code::InvalidArgument, "key is not provided"),
        Problem::KeyNotFound => (Code::InvalidArgument, "key not found"),
        Problem::ValueProvided => (Code::InvalidArgument, "value is provided"),
        Problem::LeaseProvided => (Code::InvalidArgument, "lease is provided"),
        Problem::TooManyOperations => (Code::InvalidArgument, "too many operations in txn request"),
        Problem::DuplicateKey => (Code::InvalidArgument, "duplicate key given in txn request"),
        Problem::Compacted(_) => (Code::OutOfRange, "mvcc: required revision has been compacted"),
        Problem::FutureRevision => (Code::OutOfRange, "mvcc: required revision is a future revision"),
        Problem::LeaseNotFound => (Code::NotFound, "requested lease not found"),
        Problem::LeaseExists => (Code::FailedPrecondition, "lease already exists"),
        Problem::TtlTooLarge => {
            debug_assert_eq!(TTL_S_MAX, 9_000_000_000, "the text is etcd's, which has this limit");
            (Code::OutOfRange, "too large lease TTL")
        }
        Problem::TooLarge => (Code::InvalidArgument, "request is too large"),
        Problem::KeyTooLong(bytes) => {
            return Status::invalid_argument(format!(
                "the key has {bytes} bytes as the store keeps it, where a byte from 128 on takes two; at most {KEY_TEXT_BYTES_MAX} are \
                 possible: shorten it"
            ));
        }
        Problem::PastInWrite => {
            return Status::unimplemented(
                "a transaction that writes cannot read an older revision here: read it before, in a request of its own",
            );
        }
    };
    etcd(code, text)
}

/// As `of`, where the error is given away.
pub fn failed(error: Error) -> Status {
    of(&error)
}

/// The status of an error of the node.
pub fn of(error: &Error) -> Status {
    let status = match error {
        Error::NoQuorum(_) => etcd(Code::Unavailable, "no leader"),
        Error::OutcomeUnknown(_) => etcd(Code::Unavailable, "request timed out"),
        Error::Draining => etcd(Code::Unavailable, "server stopped"),
        Error::Overloaded(_) | Error::RateLimited { .. } => {
            etcd(Code::ResourceExhausted, "too many requests")
        }
        Error::StorageFull(_) => etcd(Code::ResourceExhausted, "mvcc: database space exceeded"),
        Error::TooLarge { .. } => of_problem(Problem::TooLarge),
        Error::Unauthenticated { is_invalid: true, .. } => etcd(Code::Unauthenticated, "invalid auth token"),
        // What etcd says to a client that sends no token.
        Error::Unauthenticated { is_invalid: false, .. } => etcd(Code::InvalidArgument, "user name is empty"),
        Error::NotGranted { .. } => etcd(Code::PermissionDenied, "permission denied"),
        other => status::of(other),
    };
    status::with_fault(status, error)
}

/// An error of etcd.
pub fn etcd(code: Code, text: &str) -> Status {
    Status::new(code, format!("etcdserver: {text}"))
}

/// What a client is told that wants another of something that does not change through this API.
pub fn unimplemented(what: &str) -> Status {
    Status::unimplemented(format!("DynaRust answers the etcd API without this: {what}"))
}
