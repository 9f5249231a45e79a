//! Why there is no link, or no longer. Each text says what was wrong, on which side, and what to do; none quotes a secret.

use std::fmt;

use super::{
    handshake::{HANDSHAKE_TIMEOUT, Refusal, RefusalKind},
    secret::REMEDY,
};
use crate::core::protocol::message::PROTOCOL;

/// Why a link did not come up, or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// Nobody answers there.
    Unreachable {
        /// What is in the way.
        cause: Cause,
        /// Where, and what to do.
        text: String,
    },
    /// Whoever answers there is no node.
    NotANode(String),
    /// Whoever answers takes no link: what it said, and the HTTP status.
    Answered {
        /// The status.
        status: u16,
        /// What it said.
        detail: String,
    },
    /// The other node speaks another version of the protocol.
    OtherProtocol {
        /// What it says it speaks.
        remote: String,
    },
    /// There is no secret here, and the other node is on another machine.
    NeedsSecret,
    /// The two sides have no secret in common.
    SecretDiffers,
    /// This node refuses the other.
    Refusing(Refusal),
    /// The other node refuses this one.
    Refused(Refusal),
    /// Bytes came in that the other side did not send, or not in this order. The link is over.
    Broken(String),
    /// A message longer than there are; in bytes.
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The connection ended or failed.
    Lost(String),
    /// The other side did not finish the handshake in time.
    TimedOut,
}

/// Why nobody answers at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Its name has no address.
    UnknownName,
    /// The machine is there, and takes no connection.
    Refused,
    /// Nothing comes back.
    Silent,
    /// Anything else that the system says.
    Other,
}

/// What stands in the way of a link though somebody answers: of each there are many texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// It takes no link: the HTTP status.
    Answered(u16),
    /// It is no node.
    NotANode,
    /// The versions of the protocol differ.
    OtherProtocol,
    /// There is no secret here.
    NeedsSecret,
    /// There is no secret in common.
    SecretDiffers,
    /// This node refuses the other.
    Refusing(RefusalKind),
    /// The other node refuses this one.
    Refused(RefusalKind),
    /// A link stood, and was refused then.
    RefusedAfterLink,
}

impl LinkError {
    /// Whether the other side tried and failed; not whether it only hung, or hung up.
    pub fn is_failed_attempt(&self) -> bool {
        match self {
            Self::SecretDiffers
            | Self::OtherProtocol { .. }
            | Self::Refusing(_)
            | Self::Refused(_)
            | Self::Broken(_)
            | Self::TooLarge { .. } => true,
            Self::Unreachable { .. }
            | Self::NotANode(_)
            | Self::Answered { .. }
            | Self::NeedsSecret
            | Self::Lost(_)
            | Self::TimedOut => false,
        }
    }

    /// What stands in the way, where it does not go away by itself.
    pub fn obstacle(&self) -> Option<Obstacle> {
        match self {
            Self::Answered { status, detail: _ } => Some(Obstacle::Answered(*status)),
            Self::NotANode(_) => Some(Obstacle::NotANode),
            Self::OtherProtocol { .. } => Some(Obstacle::OtherProtocol),
            Self::NeedsSecret => Some(Obstacle::NeedsSecret),
            Self::SecretDiffers => Some(Obstacle::SecretDiffers),
            Self::Refusing(refusal) => Some(Obstacle::Refusing(refusal.kind)),
            Self::Refused(refusal) => Some(Obstacle::Refused(refusal.kind)),
            Self::Unreachable { .. }
            | Self::Broken(_)
            | Self::TooLarge { .. }
            | Self::Lost(_)
            | Self::TimedOut => None,
        }
    }

    /// Why nobody answers, where nobody does.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::Unreachable { cause, text: _ } => Some(*cause),
            Self::TimedOut => Some(Cause::Silent),
            Self::Broken(_) | Self::TooLarge { .. } | Self::Lost(_) => Some(Cause::Other),
            Self::Answered { .. }
            | Self::NotANode(_)
            | Self::OtherProtocol { .. }
            | Self::NeedsSecret
            | Self::SecretDiffers
            | Self::Refusing(_)
            | Self::Refused(_) => None,
        }
    }

    /// Whether the node has reached itself.
    pub fn is_itself(&self) -> bool {
        matches!(self, Self::Refusing(refusal) | Self::Refused(refusal) if refusal.kind == RefusalKind::Itself)
    }

    /// A connection that failed in the hands of the system.
    pub fn lost(error: impl fmt::Display) -> Self {
        Self::Lost(error.to_string())
    }
}

impl std::error::Error for LinkError {}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { cause: _, text: why } | Self::NotANode(why) => f.write_str(why),
            Self::Answered { status, detail } => {
                write!(f, "the other side takes no link ({status}): {detail}")
            }
            Self::OtherProtocol { remote } => f.write_str(&other_protocol(remote)),
            Self::NeedsSecret => write!(
                f,
                "without CLUSTER_SECRET this node links with nodes of its own machine only, and the other is on \
                 another: {REMEDY}"
            ),
            Self::SecretDiffers => write!(f, "the two nodes have no secret in common: {REMEDY}"),
            Self::Refusing(refusal) => write!(f, "link refused here: {}", refusal.text),
            Self::Refused(refusal) => write!(f, "link refused by the other node: {}", refusal.text),
            Self::Broken(why) => f.write_str(why),
            Self::TooLarge { limit } => write!(f, "a message is longer than the limit of {limit} bytes"),
            Self::Lost(why) => write!(f, "the connection is lost: {why}"),
            Self::TimedOut => {
                write!(f, "the other side did not finish the handshake within {HANDSHAKE_TIMEOUT:?}")
            }
        }
    }
}

/// What a node of this version says to one of another, or of it.
pub fn other_protocol(remote: &str) -> String {
    format!(
        "this node speaks version {PROTOCOL} of the protocol between nodes, and the other speaks {}: run the same \
         version of DynaRust on both",
        sanitize(remote)
    )
}

/// Text of a stranger, fit for a log: one line, and not long.
pub fn sanitize(text: &str) -> String {
    const CHARACTERS_MAX: usize = 600;
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.chars().take(CHARACTERS_MAX).map(plain).collect()
}
