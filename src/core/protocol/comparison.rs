//! The anti-entropy comparison: two replicas find out where they differ by walking down their digest trees.
//!
//! `open` states what there is. Each answer looks at what the other side has and goes one level down wherever that
//! differs, until few enough rows are left to name them. Rows that only one side has are copied. If both have a row,
//! the newer version goes to the side with the older one.
//!
//! ```text
//! Open: tables  ->  Digests: 16 per node  ->  Digests: the partitions  ->  Digests: their buckets
//!    ->  RowFingerprints  ->  Names: what each side lacks  ->  Rows, Want  ->  Rows
//! ```
//!
//! No side keeps state. An answer depends only on the message and on the rows, so a message that is lost, duplicated or
//! late only costs time. A subtree that one side lacks completely is copied without a walk. If few rows are left, their
//! fingerprints are sent at once, without the levels in between.

use std::collections::{HashMap, HashSet};

use super::{
    message::{Comparison, MESSAGE_BYTES, Message, Names, NodeDigests, NodeRowFingerprints},
    replica::Replica,
};
use crate::{
    core::{
        digest::{Digest, DigestKey, KeyHash, PARTITION_BITS, Path, RowFingerprint, ShortDigest, Sum},
        name::{Key, TableName},
        register::Marker,
    },
    error::Result,
};

/// Up to this many rows below a node are sent as fingerprints instead of walking further down: a row fingerprint takes
/// four bytes, a short digest six.
const FINGERPRINTED_ROWS_MAX: i64 = 96;
/// Bits per level below a partition.
const BUCKET_BITS: u8 = 6;
/// Bits per level above the partitions.
const GROUP_BITS: u8 = 4;
/// Nodes never ask for a wider level. A message that does is invalid.
const BELOW_MAX: u8 = BUCKET_BITS;

/// What to do about a message.
#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    /// What to send back.
    pub messages: Vec<Message>,
    /// Rows to send.
    pub rows: Vec<(TableName, Vec<Key>)>,
    /// Nodes whose rows are all to be sent.
    pub streams: Vec<(TableName, Path)>,
}

/// Opens a comparison of what both sides held at an instant. `nonce` must be unpredictable.
///
/// # Errors
/// As the replica's; so for all functions here.
pub fn open(replica: &impl Replica, nonce: u64, at_ms: u64) -> Result<Message> {
    let mut nodes = Vec::new();
    for table in replica.tables() {
        if let Some(sum) = own_sum(replica, &table, at_ms)? {
            nodes.push((table, replica.digest_key().short_digest(nonce, &sum)));
        }
    }
    Ok(Message::Open(Comparison { nonce, at_ms, nodes }))
}

/// Answers an opening.
pub fn answer_open(
    replica: &impl Replica,
    message: &Comparison<Vec<(TableName, ShortDigest)>>,
) -> Result<Answer> {
    let theirs: HashMap<&TableName, ShortDigest> =
        message.nodes.iter().map(|(table, short_digest)| (table, *short_digest)).collect();
    let mut tables: Vec<&TableName> = theirs.keys().copied().collect();
    let own = replica.tables();
    tables.extend(own.iter().filter(|table| !theirs.contains_key(table)));
    tables.sort();
    let mut walk = Walk::new(replica, message.nonce, message.at_ms);
    for table in tables {
        let short_digest = theirs.get(table).copied().unwrap_or(ShortDigest::EMPTY);
        if let Some(sum) = own_sum(replica, table, message.at_ms)? {
            walk.compare(table, Path::ROOT, &sum, short_digest)?;
        }
    }
    Ok(walk.answer())
}

/// Answers digests of nodes.
pub fn answer_digests(replica: &impl Replica, message: &Comparison<Vec<NodeDigests>>) -> Result<Answer> {
    let mut walk = Walk::new(replica, message.nonce, message.at_ms);
    for node in &message.nodes {
        let NodeDigests { table, path, below, short_digests } = node;
        if !path.is_valid() || *below > BELOW_MAX || short_digests.len() != 1 << below {
            continue;
        }
        match replica.sums(table, *path, *below, message.at_ms)? {
            Some(sums) => {
                for (index, (sum, short_digest)) in sums.iter().zip(short_digests).enumerate() {
                    walk.compare(table, path.child(*below, index as u32), sum, *short_digest)?;
                }
            }
            // The other side's tree is deeper than ours.
            None if path.bits >= PARTITION_BITS => walk.row_fingerprint(table, *path)?,
            // Our tree is being built.
            None => {}
        }
    }
    Ok(walk.answer())
}

/// Answers row fingerprints.
pub fn answer_row_fingerprints(
    replica: &impl Replica,
    message: &Comparison<Vec<NodeRowFingerprints>>,
) -> Result<Answer> {
    let mut answer = Answer::default();
    let mut batch = Batch::new(message.nonce, message.at_ms, Message::Names);
    let mut heads = Heads::new(replica, message.nonce);
    for NodeRowFingerprints { table, path, row_fingerprints } in &message.nodes {
        if !path.is_valid() {
            continue;
        }
        let theirs: HashSet<RowFingerprint> = row_fingerprints.iter().copied().collect();
        let own = heads.below(table, *path)?;
        let known: HashSet<RowFingerprint> = own.iter().map(|head| head.row_fingerprint).collect();
        let named: Vec<_> = own
            .iter()
            .filter(|head| !theirs.contains(&head.row_fingerprint))
            .map(|head| (head.key.clone(), head.marker))
            .collect();
        let wanted: Vec<RowFingerprint> = row_fingerprints
            .iter()
            .filter(|row_fingerprint| !known.contains(row_fingerprint))
            .copied()
            .collect();
        if named.is_empty() && wanted.is_empty() {
            continue;
        }
        let cost =
            80 + named.iter().map(|(key, _)| 40 + key.as_str().len()).sum::<usize>() + 4 * wanted.len();
        batch.add(Names { table: table.clone(), path: *path, named, wanted }, cost, &mut answer);
    }
    batch.finish(&mut answer);
    Ok(answer)
}

/// Answers the names of rows.
pub fn answer_names(replica: &impl Replica, message: &Comparison<Vec<Names>>) -> Result<Answer> {
    let mut answer = Answer::default();
    let mut wants: Vec<(TableName, Vec<Key>)> = Vec::new();
    let mut heads = Heads::new(replica, message.nonce);
    for Names { table, path, named, wanted } in &message.nodes {
        if !path.is_valid() {
            continue;
        }
        let own = heads.below(table, *path)?;
        let markers: HashMap<&Key, Marker> = own.iter().map(|head| (&head.key, head.marker)).collect();
        let (mut newer, mut older) = (Vec::new(), Vec::new());
        for (key, marker) in named {
            match markers.get(key) {
                Some(own) if own > marker => newer.push(key.clone()),
                Some(own) if own == marker => {}
                Some(_) | None => older.push(key.clone()),
            }
        }
        let named: HashSet<&Key> = named.iter().map(|(key, _)| key).collect();
        let wanted: HashSet<RowFingerprint> = wanted.iter().copied().collect();
        let lacking =
            own.iter().filter(|head| wanted.contains(&head.row_fingerprint) && !named.contains(&head.key));
        newer.extend(lacking.map(|head| head.key.clone()));
        if !newer.is_empty() {
            answer.rows.push((table.clone(), newer));
        }
        if !older.is_empty() {
            match wants.last_mut() {
                Some((last, keys)) if last == table => keys.extend(older),
                Some(_) | None => wants.push((table.clone(), older)),
            }
        }
    }
    if !wants.is_empty() {
        answer.messages.push(Message::Want(wants));
    }
    Ok(answer)
}

/// One side's walk over what the other side sent.
struct Walk<'a, R> {
    replica: &'a R,
    key: DigestKey,
    answer: Answer,
    digests: Batch<NodeDigests>,
    row_fingerprints: Batch<NodeRowFingerprints>,
    heads: Heads<'a, R>,
    pulls: Vec<(TableName, Path)>,
}

impl<'a, R: Replica> Walk<'a, R> {
    fn new(replica: &'a R, nonce: u64, at_ms: u64) -> Self {
        Self {
            replica,
            key: replica.digest_key(),
            answer: Answer::default(),
            digests: Batch::new(nonce, at_ms, Message::Digests),
            row_fingerprints: Batch::new(nonce, at_ms, Message::RowFingerprints),
            heads: Heads::new(replica, nonce),
            pulls: Vec::new(),
        }
    }

    /// Continues at a node if both sides differ there.
    fn compare(&mut self, table: &TableName, path: Path, sum: &Sum, theirs: ShortDigest) -> Result<()> {
        let nonce = self.digests.nonce;
        let own = self.key.short_digest(nonce, sum);
        if own == theirs {
            return Ok(());
        }
        if theirs == ShortDigest::EMPTY && path.bits <= PARTITION_BITS {
            self.answer.streams.push((table.clone(), path));
        } else if own == ShortDigest::EMPTY && path.bits <= PARTITION_BITS {
            self.pulls.push((table.clone(), path));
        } else if sum.count <= FINGERPRINTED_ROWS_MAX || path.bits >= self.replica.depth(table, path)? {
            self.row_fingerprint(table, path)?;
        } else {
            self.descend(table, path)?;
        }
        Ok(())
    }

    fn descend(&mut self, table: &TableName, path: Path) -> Result<()> {
        let below = match path.bits {
            0..PARTITION_BITS => GROUP_BITS - path.bits % GROUP_BITS,
            bits => match self.replica.depth(table, path)?.checked_sub(bits) {
                // Its tree has been built anew since the caller looked.
                None | Some(0) => return self.row_fingerprint(table, path),
                Some(below) => BUCKET_BITS.min(below),
            },
        };
        let Some(sums) = self.replica.sums(table, path, below, self.digests.at_ms)? else {
            return self.row_fingerprint(table, path);
        };
        let short_digests: Vec<ShortDigest> =
            sums.iter().map(|sum| self.key.short_digest(self.digests.nonce, sum)).collect();
        let cost = 16 + table.as_str().len() + 6 * short_digests.len();
        let node = NodeDigests { table: table.clone(), path, below, short_digests };
        self.digests.add(node, cost, &mut self.answer);
        Ok(())
    }

    fn row_fingerprint(&mut self, table: &TableName, path: Path) -> Result<()> {
        let row_fingerprints: Vec<RowFingerprint> =
            self.heads.below(table, path)?.into_iter().map(|head| head.row_fingerprint).collect();
        let cost = 16 + table.as_str().len() + 4 * row_fingerprints.len();
        self.row_fingerprints.add(
            NodeRowFingerprints { table: table.clone(), path, row_fingerprints },
            cost,
            &mut self.answer,
        );
        Ok(())
    }

    fn answer(mut self) -> Answer {
        self.digests.finish(&mut self.answer);
        self.row_fingerprints.finish(&mut self.answer);
        if !self.pulls.is_empty() {
            self.answer.messages.push(Message::Pull(self.pulls));
        }
        self.answer
    }
}

/// Parts of an answer, collected into messages of a suitable size.
struct Batch<T> {
    nonce: u64,
    at_ms: u64,
    message: fn(Comparison<Vec<T>>) -> Message,
    nodes: Vec<T>,
    bytes: usize,
}

impl<T> Batch<T> {
    fn new(nonce: u64, at_ms: u64, message: fn(Comparison<Vec<T>>) -> Message) -> Self {
        Self { nonce, at_ms, message, nodes: Vec::new(), bytes: 0 }
    }

    fn add(&mut self, node: T, cost: usize, answer: &mut Answer) {
        if self.bytes + cost > MESSAGE_BYTES {
            self.finish(answer);
        }
        self.nodes.push(node);
        self.bytes += cost;
    }

    fn finish(&mut self, answer: &mut Answer) {
        let nodes = std::mem::take(&mut self.nodes);
        self.bytes = 0;
        if !nodes.is_empty() {
            let (nonce, at_ms) = (self.nonce, self.at_ms);
            answer.messages.push((self.message)(Comparison { nonce, at_ms, nodes }));
        }
    }
}

/// A row, as comparisons see it.
#[derive(Clone)]
struct Head {
    key: Key,
    marker: Marker,
    hash: KeyHash,
    row_fingerprint: RowFingerprint,
}

/// Reads rows by partition, the order they have on disk. Consecutive nodes are mostly in the same one.
struct Heads<'a, R> {
    replica: &'a R,
    digest_key: DigestKey,
    nonce: u64,
    read: Option<(TableName, u8, Vec<Head>)>,
}

impl<'a, R: Replica> Heads<'a, R> {
    fn new(replica: &'a R, nonce: u64) -> Self {
        Self { replica, digest_key: replica.digest_key(), nonce, read: None }
    }

    fn below(&mut self, table: &TableName, path: Path) -> Result<Vec<Head>> {
        let mut heads = Vec::new();
        for partition in path.partitions() {
            let read = self.partition(table, partition)?;
            heads.extend(read.iter().filter(|head| path.covers(head.hash)).cloned());
        }
        Ok(heads)
    }

    fn partition(&mut self, table: &TableName, number: u8) -> Result<&[Head]> {
        let is_read = |(of, partition, _): &(TableName, u8, Vec<Head>)| of == table && *partition == number;
        if !self.read.as_ref().is_some_and(is_read) {
            let heads = self.replica.heads(table, Path::partition(number))?;
            let heads = heads.into_iter().map(|(key, marker, leaf)| self.head(key, marker, &leaf)).collect();
            self.read = Some((table.clone(), number, heads));
        }
        Ok(&self.read.as_ref().expect("just read").2)
    }

    fn head(&self, key: Key, marker: Marker, leaf: &Digest) -> Head {
        let hash = KeyHash::of(key.as_str().as_bytes());
        Head { key, marker, hash, row_fingerprint: self.digest_key.row_fingerprint(self.nonce, leaf) }
    }
}

/// The sum of a table. `None` while its tree is being built: then it cannot be compared.
fn own_sum(replica: &impl Replica, table: &TableName, at_ms: u64) -> Result<Option<Sum>> {
    let sums = replica.sums(table, Path::ROOT, 0, at_ms)?;
    Ok(sums.and_then(|sums| sums.first().copied()))
}
