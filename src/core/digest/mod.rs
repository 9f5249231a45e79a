//! Digests of rows: they tell two replicas whether they hold the same rows, and where they differ.
//!
//! A *leaf* is the keyed blake3 hash of a row's table, key and marker. A *sum* adds leaves mod 2^256 and counts them.
//! Adding or removing a row is one addition or subtraction, in any order, and the sum of a set is the sum of its parts.
//! Adding hashes of this width is safe only while nobody can compute leaves (Bellare and Micciancio, "A New Paradigm
//! for Collision-free Hashing", 1997; Wagner, "A Generalized Birthday Problem", 2002). So the digest key is random,
//! made with the cluster, and never shown to clients.
//!
//! Nodes send each other a sum as a *short digest*: six bytes of a hash under a nonce of the comparison. Two sums that
//! collide once do not collide the next time.

pub mod tree;

use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

use serde::{Deserialize, Serialize};

use super::{name::TableName, register::Marker};

/// The secret key that a cluster's rows are hashed with. Random, and the same on every member.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestKey(pub [u8; 32]);

impl std::fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DigestKey")
    }
}

impl DigestKey {
    /// The leaf of a row.
    pub fn leaf(&self, table: &TableName, key: &[u8], marker: &Marker) -> Digest {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        let name = table.as_str().as_bytes();
        // The lengths go first, so that no two rows hash the same bytes.
        let mut head = [0; 28];
        head[0] = name.len() as u8;
        head[2..4].copy_from_slice(&(key.len() as u16).to_le_bytes());
        head[4..12].copy_from_slice(&marker.timestamp.hlc.to_le_bytes());
        head[12..20].copy_from_slice(&marker.timestamp.node.0.to_le_bytes());
        head[20..28].copy_from_slice(&marker.fingerprint.0);
        hasher.update(&head).update(name).update(key);
        Digest::from_bytes(hasher.finalize().as_bytes())
    }

    /// The short digest of a sum under `nonce`. All zeros for an empty sum, and for no other.
    pub fn short_digest(&self, nonce: u64, sum: &Sum) -> ShortDigest {
        if sum.count == 0 {
            return ShortDigest::EMPTY;
        }
        let mut short_digest = [0; SHORT_DIGEST_BYTES];
        short_digest.copy_from_slice(&self.hash_sum(nonce, sum).as_bytes()[..SHORT_DIGEST_BYTES]);
        if short_digest == [0; SHORT_DIGEST_BYTES] {
            short_digest[0] = 1;
        }
        ShortDigest(short_digest)
    }

    /// The fingerprint of a row under `nonce`: four bytes that tell it from other rows in its bucket.
    pub fn row_fingerprint(&self, nonce: u64, leaf: &Digest) -> RowFingerprint {
        let hash = self.hash_sum(nonce, &Sum { digest: *leaf, count: 1 });
        RowFingerprint(*hash.as_bytes().first_chunk().expect("a hash has four bytes"))
    }

    /// The digest of all tables: each one's name and sum, in order of their names. Empty tables do not count.
    pub fn root<'a>(&self, tables: impl Iterator<Item = (&'a TableName, Sum)>) -> RootDigest {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for (table, sum) in tables.filter(|(_, sum)| sum.count != 0) {
            hasher.update(&[table.as_str().len() as u8]).update(table.as_str().as_bytes());
            hasher.update(&sum.digest.to_bytes()).update(&sum.count.to_le_bytes());
        }
        let mut root = [0; 16];
        root.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        RootDigest(root)
    }

    fn hash_sum(&self, nonce: u64, sum: &Sum) -> blake3::Hash {
        let mut bytes = [0; 48];
        bytes[..8].copy_from_slice(&nonce.to_le_bytes());
        bytes[8..40].copy_from_slice(&sum.digest.to_bytes());
        bytes[40..].copy_from_slice(&sum.count.to_le_bytes());
        blake3::keyed_hash(&self.0, &bytes)
    }
}

const SHORT_DIGEST_BYTES: usize = 6;

/// A sum as nodes send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShortDigest([u8; SHORT_DIGEST_BYTES]);

impl ShortDigest {
    /// The short digest of no rows.
    pub const EMPTY: Self = Self([0; SHORT_DIGEST_BYTES]);
}

/// A row as nodes send it during a comparison. An array of bytes, because postcard encodes a `u32` in up to five.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RowFingerprint([u8; 4]);

/// The digest of everything a replica holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootDigest(pub [u8; 16]);

/// A number mod 2^256, least limb first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest([u64; 4]);

impl Digest {
    /// The digest of these bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut limbs = [0; 4];
        for (limb, bytes) in limbs.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *limb = u64::from_le_bytes(*bytes);
        }
        Self(limbs)
    }

    /// Its bytes, least significant first.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (bytes, limb) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *bytes = limb.to_le_bytes();
        }
        bytes
    }
}

impl AddAssign for Digest {
    fn add_assign(&mut self, other: Self) {
        let mut carry = false;
        for (limb, other) in self.0.iter_mut().zip(other.0) {
            let (sum, over) = limb.overflowing_add(other);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            (*limb, carry) = (sum, over || over_again);
        }
    }
}

impl Neg for Digest {
    type Output = Self;

    fn neg(self) -> Self {
        let mut negated = Self(self.0.map(|limb| !limb));
        negated += Self([1, 0, 0, 0]);
        negated
    }
}

/// Length of an encoded sum.
pub const SUM_BYTES: usize = 40;

/// Leaves added up, and how many. Also the difference of two sums, whose count may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// The sum of the leaves.
    pub digest: Digest,
    /// The number of leaves.
    pub count: i64,
}

impl Sum {
    /// The sum of one row.
    pub fn of(leaf: Digest) -> Self {
        Self { digest: leaf, count: 1 }
    }

    /// The sum as bytes: the count (big-endian), then the digest.
    pub fn to_bytes(&self) -> [u8; SUM_BYTES] {
        let mut bytes = [0; SUM_BYTES];
        bytes[..8].copy_from_slice(&self.count.to_be_bytes());
        bytes[8..].copy_from_slice(&self.digest.to_bytes());
        bytes
    }

    /// The count of an encoded sum.
    pub fn count_of(bytes: &[u8; SUM_BYTES]) -> i64 {
        i64::from_be_bytes(*bytes.first_chunk().expect("a sum has eight bytes"))
    }
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.digest += other.digest;
        self.count += other.count;
    }
}

impl SubAssign for Sum {
    fn sub_assign(&mut self, other: Self) {
        *self += -other;
    }
}

impl Neg for Sum {
    type Output = Self;

    fn neg(self) -> Self {
        Self { digest: -self.digest, count: -self.count }
    }
}

impl Add for Sum {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl Sub for Sum {
    type Output = Self;

    fn sub(mut self, other: Self) -> Self {
        self -= other;
        self
    }
}

impl std::iter::Sum for Sum {
    fn sum<I: Iterator<Item = Self>>(sums: I) -> Self {
        sums.fold(Self::default(), Add::add)
    }
}

/// The first bits of a key's hash. They give the row its place in the tree; the first eight are its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyHash(pub u32);

impl KeyHash {
    /// The hash of a key: the first four bytes of its blake3 hash.
    pub fn of(key: &[u8]) -> Self {
        Self(u32::from_be_bytes(*blake3::hash(key).as_bytes().first_chunk().expect("a hash has four bytes")))
    }

    /// The partition.
    pub fn partition(self) -> u8 {
        (self.0 >> 24) as u8
    }
}

/// A node of a table's tree: all rows whose key hash begins with these bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Path {
    /// The number of bits, up to `BITS_MAX`. 0 is the root.
    pub bits: u8,
    /// The bits, as a number below 2^bits.
    pub prefix: u32,
}

/// The greatest depth of a tree, in bits.
pub const BITS_MAX: u8 = 24;
/// The number of bits that select a partition.
pub const PARTITION_BITS: u8 = 8;

impl Path {
    /// The root of a table.
    pub const ROOT: Self = Self { bits: 0, prefix: 0 };

    /// A partition.
    pub fn partition(number: u8) -> Self {
        Self { bits: PARTITION_BITS, prefix: u32::from(number) }
    }

    /// Whether the path is well-formed. Paths come from other nodes.
    pub fn is_valid(self) -> bool {
        self.bits <= BITS_MAX && u64::from(self.prefix) < 1 << self.bits
    }

    /// The descendant `below` bits further down, whose additional bits are `index`.
    pub fn child(self, below: u8, index: u32) -> Self {
        Self { bits: self.bits + below, prefix: self.prefix << below | index }
    }

    /// Whether a key with this hash lies below this node.
    pub fn covers(self, hash: KeyHash) -> bool {
        self.bits == 0 || hash.0 >> (32 - self.bits) == self.prefix
    }

    /// The partitions below this node.
    pub fn partitions(self) -> std::ops::RangeInclusive<u8> {
        match self.bits.checked_sub(PARTITION_BITS) {
            Some(below) => {
                let partition = (self.prefix >> below) as u8;
                partition..=partition
            }
            None => {
                let width = PARTITION_BITS - self.bits;
                let first = self.prefix << width;
                first as u8..=(first + (1 << width) - 1) as u8
            }
        }
    }
}
