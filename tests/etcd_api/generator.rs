//! Requests at random, from a seed. Few keys and values, so that requests meet; what is wrong on purpose is among them.

use super::client::pb::{
    self,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
};

/// No more than etcd orders stably, which it does not promise for more: then keys with equal values come in any order.
const KEYS: [&[u8]; 12] =
    [b"a", b"ab", b"abc", b"ac", b"b", b"b\0", b"\0", b"\xff", b"a\xff", b"\xc3\xa9", b"c/d", b"d"];
const VALUES: [&[u8]; 6] = [b"", b"1", b"2", b"{\"n\":1}", b"\xff\x00\x01", "ä\n".as_bytes()];
pub const LEASES: i64 = 4;

/// A request.
#[derive(Clone, Debug)]
pub enum Call {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    Grant(pb::LeaseGrantRequest),
    Revoke(pb::LeaseRevokeRequest),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    Leases,
    KeepAlive(i64),
    /// A watcher that reads what came after a revision.
    Watch(pb::WatchCreateRequest),
}

/// SplitMix64.
pub struct Generator {
    state: u64,
    /// The newest revision, as the last answer told it.
    pub revision: i64,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { state: seed, revision: 1 }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn key(&mut self) -> Vec<u8> {
        if self.one_in(60) { Vec::new() } else { KEYS[self.below(KEYS.len() as u64) as usize].into() }
    }

    fn value(&mut self) -> Vec<u8> {
        VALUES[self.below(VALUES.len() as u64) as usize].into()
    }

    fn end(&mut self, key: &[u8]) -> Vec<u8> {
        match self.below(6) {
            0 | 1 => Vec::new(),
            2 => vec![0],
            // All with the key as a prefix.
            3 => {
                [&key[..key.len().saturating_sub(1)], &[key.last().map_or(0, |last| last.saturating_add(1))]]
                    .concat()
            }
            _ => self.key(),
        }
    }

    fn lease(&mut self) -> i64 {
        if self.one_in(3) { 1 + self.below(LEASES as u64) as i64 } else { 0 }
    }

    fn past(&mut self) -> i64 {
        self.below(self.revision as u64 + 3) as i64
    }

    fn range(&mut self, reads_past: bool) -> pb::RangeRequest {
        let key = self.key();
        let range_end = self.end(&key);
        let bound = |it: &mut Self| if it.one_in(6) { it.past() } else { 0 };
        pb::RangeRequest {
            range_end,
            limit: if self.one_in(3) { self.below(4) as i64 } else { 0 },
            revision: if reads_past && self.one_in(3) { self.past() } else { 0 },
            sort_order: self.below(3) as i32,
            sort_target: if self.one_in(2) { self.below(5) as i32 } else { 0 },
            serializable: self.one_in(3),
            keys_only: self.one_in(5),
            count_only: self.one_in(6),
            min_mod_revision: bound(self),
            max_mod_revision: bound(self),
            min_create_revision: bound(self),
            max_create_revision: bound(self),
            key,
        }
    }

    fn put(&mut self) -> pb::PutRequest {
        let (ignore_value, ignore_lease) = (self.one_in(8), self.one_in(8));
        // Rarely a contradiction.
        let named = |it: &mut Self, ignored: bool| !ignored || it.one_in(6);
        pb::PutRequest {
            key: self.key(),
            value: if named(self, ignore_value) { self.value() } else { Vec::new() },
            lease: if named(self, ignore_lease) { self.lease() } else { 0 },
            prev_kv: self.one_in(3),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let key = self.key();
        pb::DeleteRangeRequest { range_end: self.end(&key), prev_kv: self.one_in(2), key }
    }

    fn compare(&mut self) -> pb::Compare {
        let key = self.key();
        let range_end = if self.one_in(4) { self.end(&key) } else { Vec::new() };
        let result =
            [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];
        let number = self.past();
        let (target, union) = match self.below(5) {
            0 => (CompareTarget::Version, TargetUnion::Version(number % 4)),
            1 => (CompareTarget::Create, TargetUnion::CreateRevision(number)),
            2 => (CompareTarget::Mod, TargetUnion::ModRevision(number)),
            3 => (CompareTarget::Value, TargetUnion::Value(self.value())),
            _ => (CompareTarget::Lease, TargetUnion::Lease(self.lease())),
        };
        pb::Compare {
            result: result[self.below(4) as usize].into(),
            target: target.into(),
            target_union: if self.one_in(10) { None } else { Some(union) },
            key,
            range_end,
        }
    }

    fn operations(&mut self, depth: u64) -> Vec<pb::RequestOp> {
        let count = self.below(4);
        (0..count).map(|_| self.operation(depth)).collect()
    }

    fn operation(&mut self, depth: u64) -> pb::RequestOp {
        let request = match self.below(if depth > 0 { 8 } else { 7 }) {
            0 | 1 => Request::RequestRange(self.range(false)),
            2 => {
                let mut delete = self.delete();
                // etcd does not see what such a deletion shares with a put: docs/etcd-api.md.
                if delete.range_end == [0] {
                    delete.range_end.clear();
                }
                Request::RequestDeleteRange(delete)
            }
            7 => Request::RequestTxn(self.txn(depth - 1)),
            _ => Request::RequestPut(self.put()),
        };
        pb::RequestOp { request: if self.one_in(80) { None } else { Some(request) } }
    }

    fn txn(&mut self, depth: u64) -> pb::TxnRequest {
        let count = self.below(3);
        pb::TxnRequest {
            compare: (0..count).map(|_| self.compare()).collect(),
            success: self.operations(depth),
            failure: self.operations(depth),
        }
    }

    /// A transaction that only reads may read the past.
    fn reading_txn(&mut self) -> pb::TxnRequest {
        let read = |it: &mut Self| pb::RequestOp { request: Some(Request::RequestRange(it.range(true))) };
        pb::TxnRequest {
            compare: vec![self.compare()],
            success: vec![read(self), read(self)],
            failure: vec![read(self)],
        }
    }

    pub fn watcher(&mut self) -> pb::WatchCreateRequest {
        let key = self.key();
        let filter = self.below(6) as i32;
        pb::WatchCreateRequest {
            range_end: self.end(&key),
            prev_kv: self.one_in(2),
            filters: if filter < 2 { vec![filter] } else { Vec::new() },
            key,
            ..Default::default()
        }
    }

    pub fn call(&mut self) -> Call {
        match self.below(40) {
            0..=9 => Call::Range(self.range(true)),
            10..=17 => Call::Put(self.put()),
            18..=20 => Call::Delete(self.delete()),
            21..=29 => Call::Txn(self.txn(2)),
            30 => Call::Txn(self.reading_txn()),
            31 => {
                // Mostly what is old.
                let revision = if self.one_in(3) { self.past() } else { self.past() / 2 };
                Call::Compact(pb::CompactionRequest { revision, physical: true })
            }
            32 | 33 => {
                let ttl = [1_000, 5_000, 9_000_000_000, 9_000_000_001][self.below(4) as usize];
                Call::Grant(pb::LeaseGrantRequest { id: 1 + self.below(LEASES as u64) as i64, ttl })
            }
            34 => Call::Revoke(pb::LeaseRevokeRequest { id: 1 + self.below(LEASES as u64) as i64 }),
            35 => {
                let id = 1 + self.below(LEASES as u64) as i64;
                Call::TimeToLive(pb::LeaseTimeToLiveRequest { id, keys: self.one_in(2) })
            }
            36 => Call::Leases,
            37 => Call::KeepAlive(1 + self.below(LEASES as u64) as i64),
            _ => {
                let start_revision = 1 + self.past();
                Call::Watch(pb::WatchCreateRequest { start_revision, ..self.watcher() })
            }
        }
    }
}
