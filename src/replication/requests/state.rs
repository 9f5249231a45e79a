//! What is under way on one link: the requests of both nodes, what they come to against the limits, and the messages that wait for the
//! link's writer.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tokio::{sync::oneshot, task::AbortHandle};

use super::{FiguresByKind, Limit, RequestError};
use crate::core::protocol::message::{Message, RequestKind};

/// What is under way.
#[derive(Default)]
pub struct State {
    /// Why the link has ended, once it has.
    pub ended: Option<String>,
    /// The number of this node's last request.
    pub last_id: u64,
    /// This node's requests without a response.
    pub asked: BTreeMap<u64, Asked>,
    /// The other node's requests whose responses have not gone to the writer.
    pub served: BTreeMap<u64, Served>,
    /// The other node's requests that were refused and whose refusals have not gone to the writer. The limit holds for
    /// them too: whoever has more does not read its responses.
    pub refused: BTreeMap<u64, Served>,
    /// What `asked`, `served` and `refused` come to, by kind.
    pub loads: ByKind<Loads>,
    /// What waits for the writer, by kind.
    pub queues: ByKind<VecDeque<Message>>,
    /// What was counted so far.
    pub figures: FiguresByKind,
}

/// What is under way of one kind.
#[derive(Clone, Copy, Default)]
pub struct Loads {
    /// This node's requests.
    pub asked: Load,
    /// The other node's.
    pub served: Load,
    /// The other node's that were refused.
    pub refused: Load,
}

/// Requests and the bytes of their bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// How many.
    pub count: usize,
    /// The bytes of their bodies.
    pub bytes: usize,
}

impl Load {
    /// Adds a request, if the limit of its kind allows. Returns whether it does.
    pub fn add(&mut self, kind: RequestKind, bytes: usize) -> bool {
        let admits = Limit::of(kind).admits(self.count, self.bytes, bytes);
        if admits {
            (self.count, self.bytes) = (self.count + 1, self.bytes + bytes);
        }
        admits
    }

    /// Takes out a request.
    pub fn remove(&mut self, bytes: usize) {
        (self.count, self.bytes) = (self.count - 1, self.bytes - bytes);
    }
}

/// A request of this node.
pub struct Asked {
    /// Its kind.
    pub kind: RequestKind,
    /// The bytes of its body.
    pub bytes: usize,
    /// Whether the writer has it.
    pub is_sent: bool,
    /// Who waits.
    pub answer: oneshot::Sender<Answer>,
}

/// A request of the other node.
pub struct Served {
    /// Its kind.
    pub kind: RequestKind,
    /// The bytes of its body.
    pub bytes: usize,
    /// The task that works on it, unless it was refused.
    pub task: Option<AbortHandle>,
}

/// A response, or why there is none.
pub type Answer = std::result::Result<Bytes, RequestError>;
/// One of each kind.
pub type ByKind<T> = [T; RequestKind::ALL.len()];

impl State {
    /// Whether no request of either node is under way.
    pub fn is_idle(&self) -> bool {
        self.asked.is_empty() && self.served.is_empty() && self.refused.is_empty()
    }

    /// Takes out a request of this node.
    pub fn take_asked(&mut self, id: u64) -> Option<Asked> {
        let asked = self.asked.remove(&id)?;
        self.loads[asked.kind.index()].asked.remove(asked.bytes);
        Some(asked)
    }

    /// Takes out a request of the other node, served or refused.
    pub fn take_served(&mut self, id: u64) -> Option<Served> {
        if let Some(served) = self.served.remove(&id) {
            self.loads[served.kind.index()].served.remove(served.bytes);
            return Some(served);
        }
        let refused = self.refused.remove(&id)?;
        self.loads[refused.kind.index()].refused.remove(refused.bytes);
        Some(refused)
    }
}
