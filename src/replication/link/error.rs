//! Why there is no link, or no longer. Each text says what went wrong, on which side, and what to do. None quotes a
//! secret.

use std::fmt;

use super::{
    handshake::{HANDSHAKE_TIMEOUT, Refusal, RefusalKind},
    secret::REMEDY,
};
use crate::core::protocol::message::PROTOCOL;

/// Why a link did not come up, or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// Nothing answers there.
    Unreachable {
        /// The cause.
        cause: Cause,
        /// Where, why, and what to do.
        text: String,
    },
    /// Something answers that is not a node.
    NotANode(String),
    /// A node answers and refuses the link.
    Answered {
        /// The HTTP status.
        status: u16,
        /// The reason it gave.
        detail: String,
    },
    /// The other node speaks another version of the protocol.
    OtherProtocol {
        /// The version it speaks.
        remote: String,
    },
    /// This node has no secret, and the other node is on another machine.
    NeedsSecret,
    /// The two sides have no secret in common.
    SecretDiffers,
    /// This node refuses the other.
    Refusing(Refusal),
    /// The other node refuses this one.
    Refused(Refusal),
    /// Invalid bytes arrived: they were changed, or not sent in this order. The link is over.
    Broken(String),
    /// A message longer than the limit, in bytes.
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The connection ended or failed.
    Lost(String),
    /// The other side did not finish the handshake in time.
    TimedOut,
}

/// Why nothing answers at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The name has no address.
    UnknownName,
    /// The machine refuses the connection.
    Refused,
    /// Nothing comes back.
    Silent,
    /// Any other error of the system.
    Other,
}

/// Why there is no link although something answers. Each kind has many texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// It refuses links, with this HTTP status.
    Answered(u16),
    /// It is not a node.
    NotANode,
    /// The versions of the protocol differ.
    OtherProtocol,
    /// This node has no secret.
    NeedsSecret,
    /// The nodes have no secret in common.
    SecretDiffers,
    /// This node refuses the other.
    Refusing(RefusalKind),
    /// The other node refuses this one.
    Refused(RefusalKind),
    /// A link came up and was refused afterwards.
    RefusedAfterLink,
}

impl LinkError {
    /// Whether this counts as a failed attempt of the other side. Hanging or hanging up does not.
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

    /// The obstacle, if it does not go away by itself.
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

    /// Why nothing answers, if nothing does.
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

    /// Whether the node has dialed itself.
    pub fn is_itself(&self) -> bool {
        matches!(self, Self::Refusing(refusal) | Self::Refused(refusal) if refusal.kind == RefusalKind::Itself)
    }

    /// A connection that failed in the operating system.
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
                write!(f, "the other side refuses the link ({status}): {detail}")
            }
            Self::OtherProtocol { remote } => f.write_str(&other_protocol(remote)),
            Self::NeedsSecret => write!(
                f,
                "without CLUSTER_SECRET this node links only with nodes on its own machine, and the other is on another machine: {REMEDY}"
            ),
            Self::SecretDiffers => write!(f, "the two nodes have no secret in common: {REMEDY}"),
            Self::Refusing(refusal) => write!(f, "link refused here: {}", refusal.text),
            Self::Refused(refusal) => write!(f, "link refused by the other node: {}", refusal.text),
            Self::Broken(why) => f.write_str(why),
            Self::TooLarge { limit } => write!(f, "a message is longer than the limit of {limit} bytes"),
            Self::Lost(why) => write!(f, "the connection was lost: {why}"),
            Self::TimedOut => {
                write!(f, "the other side did not finish the handshake within {HANDSHAKE_TIMEOUT:?}")
            }
        }
    }
}

/// The text for a node that speaks another protocol version, used on both sides.
pub fn other_protocol(remote: &str) -> String {
    format!(
        "this node speaks version {PROTOCOL} of the protocol between nodes, and the other speaks {}: run the same \
        version of DynaRust on both",
        sanitize(remote)
    )
}

/// Makes text from another node safe for logs: one line, limited in length.
pub fn sanitize(text: &str) -> String {
    const CHARACTERS_MAX: usize = 600;
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.chars().take(CHARACTERS_MAX).map(plain).collect()
}
