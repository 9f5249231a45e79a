//! The error type of the whole program. A variant says who caused the error and what became of the state. Errors of
//! other libraries are mapped to it here or where they arise, and never pass through. Only `http/response` decides the
//! HTTP status of each. It is the lowest layer, so variants carry text and numbers, and none of the types of `core`.

use std::{fmt, io, path::PathBuf};

/// The result of everything that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong. Unless a variant says otherwise nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The body is not the JSON that the request needs. The text says where and what was expected.
    BadJson(String),
    /// The body is JSON, but has no `value`.
    MissingValue,
    /// The key's escapes or bytes are not text.
    BadKey(String),
    /// A table, key or parameter outside its rules.
    BadName(String),
    /// A parameter or header that cannot be understood.
    BadRequest(String),
    /// The client has not proved who it is. The text says how to.
    Unauthorized(String),
    /// The client has no valid token, and this node asks for one. The text says what is wrong.
    Unauthenticated {
        /// What is wrong, and what to send.
        why: String,
        /// Whether there was a token, which is not valid.
        is_invalid: bool,
    },
    /// The client may not do this. The text says why.
    Forbidden(String),
    /// The client's token does not grant this.
    NotGranted {
        /// The right that it lacks: `read`, `write`, `admin`.
        right: &'static str,
        /// For what, and what the token is limited to.
        why: String,
    },
    /// The request is for another host. The text says how to send it.
    Misdirected(String),
    /// Nothing is there. The text says why.
    NotFound(String),
    /// The path does not accept this method. The text lists the methods it does.
    MethodNotAllowed(String),
    /// The client began a request and did not send the rest in time.
    RequestTimeout(String),
    /// A patch that does not apply to the current value, or a change of the strong tables' group that would do harm.
    Conflict(String),
    /// A condition did not hold.
    PreconditionFailed {
        /// The current version, as text; `None` if the key is absent.
        current: Option<String>,
    },
    /// Larger than a limit, in bytes.
    TooLarge {
        /// What was too large: `value`, `body`.
        what: &'static str,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The head of the request is longer than the limit.
    HeadTooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// More operations in a batch, or keys in a multi-get, than the limit.
    TooManyOperations {
        /// What there is too much of: `operations`, `keys`.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A content type that the request does not accept.
    UnsupportedType(String),
    /// A count has reached its limit. The text names the limit.
    TooMany(String),
    /// The client sends more requests a second than it may. The text says which limit it is.
    RateLimited {
        /// Who sends more than what.
        why: String,
        /// When the next request will be taken, in milliseconds from now.
        wait_ms: u64,
    },
    /// The node sheds load; try again.
    Overloaded(String),
    /// The node cannot serve this yet; try again.
    NotReady(String),
    /// The node is stopping; try another.
    Draining,
    /// The disk is full or fails. Reads and subscriptions go on; writes are refused until it recovers. The write that
    /// got this answer may or may not be kept.
    StorageFull(String),
    /// The write is durable here, but on fewer replicas than asked for.
    NotEnoughReplicas {
        /// How many replicas hold it.
        held: usize,
        /// How many were asked for.
        wanted: usize,
        /// The version that was written, as text.
        version: String,
        /// The Unix milliseconds of that version.
        unix_ms: u64,
    },
    /// The table is of the other mode, eventual or strong. The text says which and what to do.
    WrongMode(String),
    /// No majority of the voters can be reached, so a strong table takes no writes and no linearizable reads here.
    NoQuorum(String),
    /// A write of a strong table may or may not have taken effect, or may yet.
    OutcomeUnknown(String),
    /// The bytes on disk are not what was written. Found on a read; never returned as a value.
    Corrupt(String),
    /// A remote timestamp further ahead of this node's wall clock than `--max-clock-drift` allows.
    ClockDrift {
        /// How far ahead, in milliseconds.
        ahead_ms: u64,
        /// How far is allowed, in milliseconds.
        allowed_ms: u64,
    },
    /// This node's own timestamps are further ahead of its clock than other nodes accept: its clock was ahead, or is
    /// behind now. It accepts no writes until this is fixed.
    TimestampsAhead {
        /// How far ahead, in milliseconds.
        ahead_ms: u64,
        /// How far clocks may be apart, in milliseconds.
        allowed_ms: u64,
    },
    /// Another process has the storage directory open.
    StorageInUse(PathBuf),
    /// The storage directory cannot be used as it is; the text says why and what to do.
    StorageUnusable(String),
    /// The storage directory does not open because its contents are damaged.
    StorageDamaged(String),
    /// A wrong argument, flag, variable or configuration file.
    Config(String),
    /// The operating system refused something. The text says what was being done.
    Io(String),
}

impl Error {
    /// Wraps an operating system error with what was being done.
    pub fn io(doing: impl fmt::Display, error: &io::Error) -> Self {
        Self::Io(format!("{doing}: {error}"))
    }

    /// A condition that did not hold: the key is at this version, or absent.
    pub fn precondition_failed(current: Option<impl fmt::Display>) -> Self {
        Self::PreconditionFailed { current: current.map(|version| version.to_string()) }
    }

    /// A record of `table` whose bytes do not decode.
    pub fn corrupt_record(table: impl fmt::Display, key: &[u8], why: impl fmt::Display) -> Self {
        Self::Corrupt(format!("table {table}, key {:?}: {why}", String::from_utf8_lossy(key)))
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadJson(why) => write!(f, "the body is not the JSON that this request needs: {why}"),
            Self::MissingValue => {
                f.write_str(r#"the body has no "value": send {"value": ...}; null is a value"#)
            }
            Self::BadKey(why) => write!(f, "the key is not text: {why}"),
            Self::BadName(why)
            | Self::BadRequest(why)
            | Self::Unauthorized(why)
            | Self::Unauthenticated { why, .. }
            | Self::NotGranted { why, .. }
            | Self::Forbidden(why)
            | Self::Misdirected(why)
            | Self::NotFound(why)
            | Self::RequestTimeout(why)
            | Self::Conflict(why)
            | Self::WrongMode(why)
            | Self::NoQuorum(why)
            | Self::OutcomeUnknown(why)
            | Self::UnsupportedType(why)
            | Self::TooMany(why)
            | Self::RateLimited { why, .. }
            | Self::Overloaded(why)
            | Self::NotReady(why)
            | Self::StorageUnusable(why)
            | Self::StorageDamaged(why)
            | Self::Config(why)
            | Self::Io(why) => f.write_str(why),
            Self::MethodNotAllowed(allow) => write!(f, "this path accepts only {allow}"),
            Self::PreconditionFailed { current } => fmt_precondition(f, current.as_deref()),
            Self::TooLarge { what, limit } => {
                write!(f, "the {what} is larger than the limit of {limit} bytes")
            }
            Self::HeadTooLarge { limit } => write!(
                f,
                "the head of the request is longer than {limit} bytes: use a shorter URL or fewer headers"
            ),
            Self::TooManyOperations { what, limit } => write!(
                f,
                "more than {limit} {what} in one request (--max-batch-ops): send them in several; POST /_/import takes any number \
                 of rows"
            ),
            Self::Draining => f.write_str("this node is shutting down; send the request to another"),
            Self::StorageFull(why) => {
                write!(f, "writes are refused until the disk has room again ({why}); reads go on")
            }
            Self::NotEnoughReplicas { held, wanted, .. } => write!(
                f,
                "the write is kept and durable on {held} of the {wanted} replicas asked for; more may follow"
            ),
            Self::Corrupt(what) => write!(f, "damaged bytes on disk: {what}"),
            Self::ClockDrift { ahead_ms, allowed_ms } => write!(
                f,
                "a timestamp is {ahead_ms} ms ahead of this node's clock, and at most {allowed_ms} ms are allowed \
                (--max-clock-drift): set the clocks by NTP"
            ),
            Self::TimestampsAhead { ahead_ms, allowed_ms } => write!(
                f,
                "this node's timestamps are {ahead_ms} ms ahead of its clock, and at most {allowed_ms} ms are allowed \
                 (--max-clock-drift): its clock was ahead, or is behind now. Set the clock right, then stop the node, \
                 run `DynaRust clock repair --data DIR`, and start it again. Other nodes accept writes meanwhile"
            ),
            Self::StorageInUse(dir) => write!(
                f,
                "{} is in use by another process: stop that one, or choose another directory with --data",
                dir.display()
            ),
        }
    }
}

fn fmt_precondition(f: &mut fmt::Formatter<'_>, current: Option<&str>) -> fmt::Result {
    match current {
        Some(version) => write!(f, "the condition does not hold: the version here is {version}"),
        None => f.write_str("the condition does not hold: the key is absent here"),
    }
}
