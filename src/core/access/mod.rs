//! Access control as a pure decision: what a client may do, against what a request needs. Who the client is, `http::access` finds out.
//!
//! A client has [`Grants`]: rights, the tables they hold for, and the prefixes of keys. No right implies another. A request needs one
//! right for each thing that it touches. Everything that a request touches is one of the four kinds of [`Touched`], so no route has a rule
//! of its own.
//!
//! Left out: rights per operation, and rules that deny. What is not granted is refused.

mod glob;
mod grants;

pub use self::{
    glob::TablePattern,
    grants::{Grants, Refusal, Touched},
};

use std::fmt;

/// What a client may be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Right {
    /// Read values, lists, events and figures.
    Read = 1,
    /// Write and delete keys, and make tables.
    Write = 2,
    /// Command the node and its cluster.
    Admin = 4,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    /// Its name, for clients and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }

    /// The right of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|right| right.name() == name)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// Whether this right is one of them.
    pub fn contains(self, right: Right) -> bool {
        self.0 & right as u8 != 0
    }

    /// The rights, in the order of [`Right::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.contains(*right))
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<T: IntoIterator<Item = Right>>(rights: T) -> Self {
        Self(rights.into_iter().fold(0, |set, right| set | right as u8))
    }
}
