//! What clients of the etcd API ask, and what they are told. Both travel between nodes: any node takes a request, and passes it to the
//! leader.

use serde::{Deserialize, Serialize};

/// A key with its value and revisions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// The revision in which it came to be.
    pub create_revision: i64,
    /// The revision in which it was written last.
    pub mod_revision: i64,
    /// How often it was written since it came to be. 0 in the event of a deletion.
    pub version: i64,
    /// The value.
    pub value: Vec<u8>,
    /// The lease that it ends with; 0 if none.
    pub lease: i64,
}

/// Which keys a request is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keys {
    /// One key.
    One(Vec<u8>),
    /// All keys at or above the first, and below the second if there is one.
    Range(Vec<u8>, Option<Vec<u8>>),
}

impl Keys {
    /// The keys that etcd's `key` and `range_end` name: an empty end is one key, and a zero byte is no end.
    pub fn new(key: Vec<u8>, range_end: Vec<u8>) -> Self {
        match range_end.as_slice() {
            [] => Self::One(key),
            [0] => Self::Range(key, None),
            _ => Self::Range(key, Some(range_end)),
        }
    }

    /// The first of them.
    pub fn first(&self) -> &[u8] {
        match self {
            Self::One(key) | Self::Range(key, _) => key,
        }
    }

    /// Whether a key is among them.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Range(low, high) => {
                key >= low.as_slice() && high.as_ref().is_none_or(|high| key < high.as_slice())
            }
        }
    }
}

/// A request to the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Reads and writes of keys.
    Operation(Operation),
    /// Forgets what was before a revision.
    Compact(i64),
    /// Makes a lease.
    Grant {
        /// Its id, not 0.
        id: i64,
        /// How many seconds it lasts after it was kept alive.
        ttl_s: i64,
    },
    /// Ends a lease, and deletes its keys; of one with very many some of them.
    Revoke(i64),
    /// Goes on with ending a lease, where [`Body::Revoking`] was the answer. Changes nothing if the lease is not being revoked: one of this id may have
    /// been granted since.
    ContinueRevoke(i64),
}

/// An operation on keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Reads keys.
    Range(Range),
    /// Writes a key.
    Put(Put),
    /// Deletes keys.
    Delete(Delete),
    /// Compares, and runs one of two lists of operations.
    Txn(Txn),
    /// None that this build knows: a request that has one is refused.
    Unknown,
}

impl Operation {
    /// Whether it may change anything.
    pub fn writes(&self) -> bool {
        match self {
            Self::Range(_) | Self::Unknown => false,
            Self::Put(_) | Self::Delete(_) => true,
            Self::Txn(txn) => txn.success.iter().chain(&txn.failure).any(Self::writes),
        }
    }
}

/// A read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The keys.
    pub keys: Keys,
    /// Most keys that are returned; 0 and less: all.
    pub limit: i64,
    /// The revision to read; 0 and less: the newest.
    pub revision: i64,
    /// The order; as the keys are, unless a target is named.
    pub order: Order,
    /// What is ordered.
    pub target: Target,
    /// Leave out the values.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
    /// Only keys that were written in this revision or later; 0: all.
    pub min_mod_revision: i64,
    /// Only keys that were written in this revision or earlier; 0: all.
    pub max_mod_revision: i64,
    /// Only keys that came to be in this revision or later; 0: all.
    pub min_create_revision: i64,
    /// Only keys that came to be in this revision or earlier; 0: all.
    pub max_create_revision: i64,
}

impl Range {
    /// Reads all of some keys.
    pub fn new(keys: Keys) -> Self {
        Self {
            keys,
            limit: 0,
            revision: 0,
            order: Order::None,
            target: Target::Key,
            keys_only: false,
            count_only: false,
            min_mod_revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
        }
    }
}

/// An order of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// None in particular.
    #[default]
    None,
    /// The smallest first.
    Ascending,
    /// The largest first.
    Descending,
}

/// What is compared, or ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The key.
    #[default]
    Key,
    /// The version.
    Version,
    /// The revision in which the key came to be.
    Create,
    /// The revision in which it was written last.
    Mod,
    /// The value.
    Value,
}

/// A write of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The lease that it ends with; 0 for none.
    pub lease: i64,
    /// Return what was there before.
    pub prev_kv: bool,
    /// Keep the value that is there.
    pub ignore_value: bool,
    /// Keep the lease that is there.
    pub ignore_lease: bool,
}

/// A deletion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    /// The keys.
    pub keys: Keys,
    /// Return what was there before.
    pub prev_kv: bool,
}

/// A transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// What is compared, all with the state before the outermost transaction.
    pub compare: Vec<Compare>,
    /// What is done if all comparisons hold.
    pub success: Vec<Operation>,
    /// What is done otherwise.
    pub failure: Vec<Operation>,
}

/// A comparison. It must hold of each key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The keys.
    pub keys: Keys,
    /// What relation must hold; `None` is one that this build does not know, which always does.
    pub relation: Option<Relation>,
    /// What is compared, and with what.
    pub with: With,
}

/// A relation of two numbers or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    /// They are equal.
    Equal,
    /// The key's is greater.
    Greater,
    /// The key's is less.
    Less,
    /// They are not equal.
    NotEqual,
}

/// What a comparison compares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum With {
    /// The version with a number.
    Version(i64),
    /// The revision in which the key came to be with a number.
    Create(i64),
    /// The revision in which it was written last with a number.
    Mod(i64),
    /// The value with bytes. Of an absent key this never holds.
    Value(Vec<u8>),
    /// The lease with a number.
    Lease(i64),
}

/// What a request gave.
pub type Outcome = Result<Answer, Problem>;

/// The answer to a request or to an operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The store's revision after it; 0 in the answer to a transaction within another.
    pub revision: i64,
    /// What it gave.
    pub body: Body,
}

/// What an operation gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// To `Range`.
    Range(Ranged),
    /// To `Put`: what was there before, if that was asked for.
    Put(Option<KeyValue>),
    /// To `Delete`: how many keys, and what was there before, if that was asked for.
    Delete(i64, Vec<KeyValue>),
    /// To `Txn`: whether all comparisons held, and what each operation gave.
    Txn(bool, Vec<Answer>),
    /// To `Compact`.
    Compacted,
    /// To `Grant`: how many seconds the lease lasts.
    Granted(i64),
    /// To `Revoke`, and to `ContinueRevoke` once nothing is left to do.
    Revoked,
    /// To `Revoke`: some of the lease's keys are deleted, and more are left for `ContinueRevoke`.
    Revoking,
}

/// What a read gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranged {
    /// The keys.
    pub kvs: Vec<KeyValue>,
    /// Whether a limit left some out.
    pub more: bool,
    /// How many keys there are in the range, whatever was left out.
    pub count: i64,
}

/// Why a request had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Problem {
    /// A key is empty.
    EmptyKey,
    /// An operation is empty, or keeps what is not there.
    KeyNotFound,
    /// A put both names a value and keeps that of before.
    ValueProvided,
    /// A put both names a lease and keeps that of before.
    LeaseProvided,
    /// A transaction has too many operations.
    TooManyOperations,
    /// A transaction writes a key twice.
    DuplicateKey,
    /// The revision is compacted. The oldest that can be had.
    Compacted(i64),
    /// The revision has not come yet.
    FutureRevision,
    /// There is no such lease.
    LeaseNotFound,
    /// A lease of this id is there already.
    LeaseExists,
    /// A lease would last too long.
    TtlTooLarge,
    /// The request, or what it reads or writes, is too large.
    TooLarge,
    /// A key is longer than the store takes, with this many bytes.
    KeyTooLong(u64),
    /// A transaction that writes reads an older revision.
    PastInWrite,
}
