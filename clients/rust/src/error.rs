//! Why a call failed, and what became of the state. The answers of a node are problem documents (RFC 9457); [`Problem`] is one of them.

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{entry::Version, request::Repeat, transfer::Imported};

/// The result of everything that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The call has an argument that cannot be sent. Nothing was sent.
    Invalid(String),
    /// No endpoint could be connected. Nothing was done.
    Unreachable(Vec<Unreachable>),
    /// A write was sent, and no whole answer came. It may have been made, or not: read before you write again.
    OutcomeUnknown {
        /// The endpoint that was asked.
        endpoint: String,
        /// The path that was asked for.
        path: String,
        /// What happened instead of an answer.
        why: String,
    },
    /// A read was sent, and no whole answer came.
    Unanswered {
        /// The endpoint that was asked.
        endpoint: String,
        /// The path that was asked for.
        path: String,
        /// What happened instead of an answer.
        why: String,
    },
    /// Something answers, but it is not a DynaRust node.
    NotANode {
        /// The endpoint that was asked.
        endpoint: String,
        /// The HTTP status of the answer.
        status: u16,
        /// What it says.
        detail: String,
    },
    /// The node refuses the request. [`Problem::code`] says why.
    Refused(Box<Problem>),
    /// The node's value is not of the type that was asked for.
    Decode(String),
    /// A listing, an export or a snapshot ends before its end.
    Incomplete(String),
}

impl Error {
    /// The problem, if the node refused the request.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(problem) => Some(problem),
            Self::Invalid(_)
            | Self::Unreachable(_)
            | Self::OutcomeUnknown { .. }
            | Self::Unanswered { .. }
            | Self::NotANode { .. }
            | Self::Decode(_)
            | Self::Incomplete(_) => None,
        }
    }

    /// Why the node refused the request, if it did.
    pub fn code(&self) -> Option<&Code> {
        self.problem().map(|problem| &problem.code)
    }

    /// Whether a write may have been made, or not: its connection broke, or a strong table cannot tell.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown { .. }) || self.code() == Some(&Code::OutcomeUnknown)
    }

    /// The error of a request that was sent and got no whole answer.
    pub(crate) fn unanswered(repeat: Repeat, endpoint: &str, path: &str, why: String) -> Self {
        let (endpoint, path) = (endpoint.to_owned(), path.to_owned());
        match repeat {
            Repeat::Read => Self::Unanswered { endpoint, path, why },
            Repeat::Repeatable | Repeat::Once => Self::OutcomeUnknown { endpoint, path, why },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) | Self::Decode(why) | Self::Incomplete(why) => f.write_str(why),
            Self::Unreachable(tried) => {
                for (place, one) in tried.iter().enumerate() {
                    write!(f, "{}{one}", if place > 0 { "; " } else { "" })?;
                }
                Ok(())
            }
            Self::OutcomeUnknown { endpoint, path, why } => write!(
                f,
                "the node at {endpoint} did not answer {path}: {why}. It may have done it: look before you try again"
            ),
            Self::Unanswered { endpoint, path, why } => {
                write!(f, "the node at {endpoint} did not answer {path}: {why}")
            }
            Self::NotANode { endpoint, status, detail } => {
                write!(f, "{endpoint} answers, but is not a DynaRust node: {status} {detail}")
            }
            Self::Refused(problem) => {
                write!(f, "the node at {} refuses: {}", problem.endpoint, problem.detail)
            }
        }
    }
}

impl std::error::Error for Error {}

/// Why one endpoint could not be connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// The endpoint.
    pub endpoint: String,
    /// Which kind of failure it was.
    pub reason: Reason,
    /// The failure in words.
    pub why: String,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no node answers at {}: {}", self.endpoint, self.why)
    }
}

/// Kinds of failures to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Nobody listens, the name does not resolve, or the connection broke.
    NoConnection,
    /// The endpoint says HTTPS, and the node does not speak TLS.
    NoTls,
    /// The system does not trust the node's certificate for this host.
    UntrustedCertificate,
    /// The node presents another certificate than those that were given.
    OtherCertificate,
}

/// A node's refusal of a request, or of one operation of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Why: the stable part.
    pub code: Code,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong, for people.
    pub detail: String,
    /// The endpoint that refused; empty for an operation of a batch.
    pub endpoint: String,
    /// All members of the problem document: some codes and routes add some.
    pub members: Map<String, Value>,
}

impl Problem {
    /// The current version of the key whose precondition failed; `None` if it is absent.
    pub fn version(&self) -> Option<Version> {
        self.members.get("version").and_then(Value::as_str).map(Version::from)
    }

    /// What an import did before it was refused; `None` for any other request.
    pub fn imported(&self) -> Option<Imported> {
        let count = |name: &str| self.members.get(name).and_then(Value::as_u64);
        Some(Imported { written: count("written")?, skipped: count("skipped")? })
    }

    /// Whether another node may take the request: this one did nothing of it, and says that it cannot now; or it may have done it, and it
    /// `is_repeatable`.
    pub(crate) fn is_for_another_node(&self, is_repeatable: bool) -> bool {
        let is_begun = self.imported().is_some_and(|imported| imported != Imported::default());
        let is_possible = self.code.is_for_another_node() || is_repeatable && self.code == Code::StorageFull;
        is_possible && !is_begun
    }

    /// The problem in the body of an answer; `None` if that is not one.
    pub(crate) fn parse(endpoint: &str, status: u16, body: &[u8]) -> Option<Self> {
        Self::from_members(endpoint, status, serde_json::from_slice(body).ok()?)
    }

    pub(crate) fn from_members(endpoint: &str, status: u16, members: Map<String, Value>) -> Option<Self> {
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let code = Code::from(text("error")?);
        let detail = text("detail")?.to_owned();
        Some(Self { code, status, detail, endpoint: endpoint.to_owned(), members })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Why a node refuses a request. `docs/errors.md` says of each what to do.
        #[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
        #[serde(from = "String")]
        #[non_exhaustive]
        pub enum Code {
            $($(#[doc = $doc])+ $name,)+
            /// A code that this client does not know.
            Other(String),
        }

        impl Code {
            /// The code as the node writes it.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$name => $text,)+
                    Self::Other(text) => text,
                }
            }
        }

        impl From<&str> for Code {
            fn from(text: &str) -> Self {
                match text {
                    $($text => Self::$name,)+
                    other => Self::Other(other.to_owned()),
                }
            }
        }
    };
}

codes! {
    /// The body is not the JSON that the request needs.
    BadJson = "bad-json",
    /// There is no `value` in the body.
    MissingValue = "missing-value",
    /// The key's escapes are broken.
    BadKey = "bad-key",
    /// An unknown parameter or field, or a value out of range.
    BadRequest = "bad-request",
    /// A token, or another proof, is missing or wrong.
    Unauthorized = "unauthorized",
    /// Known, but not allowed to do this.
    Forbidden = "forbidden",
    /// The key, member or path is absent.
    NotFound = "not-found",
    /// The path does not take the method.
    MethodNotAllowed = "method-not-allowed",
    /// The body came too slowly.
    RequestTimeout = "request-timeout",
    /// The patch does not apply to the value.
    Conflict = "conflict",
    /// The table is eventual, and the request needs a strong one, or the other way round.
    WrongMode = "wrong-mode",
    /// The condition does not hold. [`Problem::version`] is the current version.
    PreconditionFailed = "precondition-failed",
    /// A value, body or count is above its limit.
    TooLarge = "too-large",
    /// An encoding that the node does not take.
    UnsupportedType = "unsupported-type",
    /// The node does not know itself by the name in the endpoint.
    Misdirected = "misdirected",
    /// A table or key breaks its rules.
    BadName = "bad-name",
    /// Clocks are too far apart.
    ClockDrift = "clock-drift",
    /// A limit is reached: connections, subscriptions, tables, requests.
    TooMany = "too-many",
    /// The head of the request is too long.
    HeadTooLarge = "head-too-large",
    /// Bytes on the node's disk are damaged. Another node has them.
    Corrupt = "corrupt",
    /// A bug, or the system refused something. A write may have been done.
    Internal = "internal",
    /// The node sheds load. Nothing was done, but for the rows of an import that [`Problem::imported`] counts.
    Overloaded = "overloaded",
    /// The node cannot serve this yet. Nothing was done.
    NotReady = "not-ready",
    /// No majority of the voters of the strong tables can be reached. Nothing was done.
    NoQuorum = "no-quorum",
    /// The node is stopping. Nothing was done.
    Draining = "draining",
    /// The write is kept, but fewer replicas than asked for hold it.
    NotEnoughReplicas = "not-enough-replicas",
    /// A write to a strong table may have been done, or may yet be.
    OutcomeUnknown = "outcome-unknown",
    /// The node's disk is full or fails. A write may have been done.
    StorageFull = "storage-full",
}

impl Code {
    /// Whether another node may do what this one cannot do now.
    fn is_for_another_node(&self) -> bool {
        matches!(self, Self::Overloaded | Self::NotReady | Self::NoQuorum | Self::Draining | Self::Corrupt)
    }
}

impl From<String> for Code {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_its_code_and_the_members_of_its_route() {
        let body = br#"{"status":412,"error":"precondition-failed","detail":"no","version":"01-02"}"#;
        let problem = Problem::parse("a:1", 412, body).expect("a problem");
        assert_eq!(problem.code, Code::PreconditionFailed);
        assert_eq!(problem.version(), Some(Version::from("01-02")));
        let other = Problem::parse("a:1", 418, br#"{"error":"teapot","detail":"no"}"#).expect("a problem");
        assert_eq!((other.code.as_str(), other.version()), ("teapot", None));
        for body in ["<html>", "[]", "{}", r#"{"error":"not-found"}"#] {
            assert!(Problem::parse("a:1", 404, body.as_bytes()).is_none(), "{body}");
        }
    }
}
