//! The digest trees of a table, with the writes of the last seconds at 5,000 a second.

use std::hint::black_box;

use dynarust::core::{
    clock::{NodeId, Timestamp},
    digest::{
        DigestKey, KeyHash,
        tree::{Leaf, PartitionTree},
    },
    name::TableName,
    register::{Fingerprint, Marker},
};
use dynarust_bench::instructions::Operation;

use super::NOW_MS;

pub const OPERATIONS: &[Operation] = &[
    Operation { name: "digest leaf", prepare: |_| leaf() },
    Operation { name: "digest set", prepare: set },
    Operation { name: "digest root, written to", prepare: |rows| root(rows, 2000) },
    Operation { name: "digest root, idle", prepare: |rows| root(rows, 0) },
];

/// As many rows as one was written to before the first write that is measured: what the trees keep of the last seconds.
const ROWS_PER_WRITE: u64 = 20;

struct Trees {
    digest_key: DigestKey,
    table: TableName,
    trees: Vec<PartitionTree>,
    rows: u64,
    written: u64,
}

impl Trees {
    fn new(rows: u64) -> Self {
        let table = TableName::parse("default").expect("a name");
        let trees = vec![PartitionTree::new(6); 256];
        let mut all = Self { digest_key: DigestKey([1; 32]), table, trees, rows, written: 0 };
        for number in 0..rows {
            let name = all.key(number);
            all.replace(&name, None, all.leaf(&name, 1), NOW_MS);
        }
        for _ in 0..rows / ROWS_PER_WRITE {
            all.write();
        }
        all
    }

    fn key(&self, number: u64) -> Vec<u8> {
        format!("user-{:08}", number % self.rows).into_bytes()
    }

    fn leaf(&self, key: &[u8], at_ms: u64) -> Leaf {
        let timestamp = Timestamp { hlc: at_ms << 16, node: NodeId(1) };
        let marker = Marker { timestamp, fingerprint: Fingerprint([2; 8]) };
        Leaf { at_ms, digest: self.digest_key.leaf(&self.table, key, &marker) }
    }

    fn replace(&mut self, key: &[u8], old: Option<Leaf>, new: Leaf, now_ms: u64) {
        let hash = KeyHash::of(key);
        self.trees[usize::from(hash.partition())].replace(hash, old, Some(new), now_ms);
    }

    /// What a PUT does: two leaves and their tree. Returns when it was.
    fn write(&mut self) -> u64 {
        // The rows come in turn, and 7919 is prime: as often as a row was written, so long ago was the last time.
        let name = self.key(self.written.wrapping_mul(7919));
        let at_ms = NOW_MS + self.written / 5;
        let old_ms = self.written.checked_sub(self.rows).map_or(1, |before| NOW_MS + before / 5);
        self.replace(&name, Some(self.leaf(&name, old_ms)), self.leaf(&name, at_ms), at_ms);
        self.written += 1;
        at_ms
    }
}

fn leaf() -> Box<dyn FnMut()> {
    let trees = Trees { trees: Vec::new(), ..Trees::new(1) };
    Box::new(move || {
        black_box(trees.leaf(black_box(b"user-00000001"), NOW_MS));
    })
}

fn set(rows: u64) -> Box<dyn FnMut()> {
    let mut trees = Trees::new(rows);
    Box::new(move || {
        black_box(trees.write());
    })
}

/// The root of the table as it was `before_ms` before the last write.
fn root(rows: u64, before_ms: u64) -> Box<dyn FnMut()> {
    let mut trees = Trees::new(rows);
    let at_ms = trees.write() - before_ms;
    Box::new(move || {
        let sum = trees.trees.iter().map(|tree| tree.total_at(black_box(at_ms))).sum();
        black_box(trees.digest_key.root([(&trees.table, sum)].into_iter()));
    })
}
