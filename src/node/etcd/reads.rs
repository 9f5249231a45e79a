//! Reads, from the rows of this node: page by page, each at one instant, and what came after the revision that is read is taken back by what the
//! history has.

use std::{collections::BTreeMap, sync::Arc};

use super::snapshot::Snapshot;
use crate::{
    core::{
        etcd::{
            self,
            evaluate::{self, Page, Past, Rows, SCANNED_BYTES_MAX},
            request::{Keys, Operation, Outcome, Problem, Range, Ranged, Request, Txn},
            row::{self, Granted, Head, Named},
            select::{Found, select, wanted, wants_values},
        },
        json::Value,
        name::Key,
    },
    error::{Error, Result},
    node::{Node, strong::Consistency},
    replication::strong::{
        backend::read_at_once,
        revisions::{Revisions, checked_head},
    },
};

/// How often a read begins anew where the history went on without it.
const TRIES_MAX: usize = 3;

/// Reserves memory for so many bytes, of a read that holds all it has found.
pub type Reserve<'a> = dyn FnMut(usize) -> Result<()> + Send + 'a;

/// A hash of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashed {
    /// The hash.
    pub hash: u32,
    /// The newest revision.
    pub revision: i64,
    /// The oldest revision that can be read; -1 if none was compacted.
    pub compacted: i64,
}

impl Node {
    /// The keys of a lease.
    ///
    /// # Errors
    /// Those of a read.
    pub async fn etcd_lease_keys(self: &Arc<Self>, id: i64) -> Result<Vec<Vec<u8>>> {
        self.etcd_rows(row::leased_bounds(id), |name, _| match name {
            Named::Leased(_, key) => Some(key),
            Named::Head | Named::Key(_) | Named::Lease(_) => None,
        })
        .await
    }

    /// The ids of all leases.
    ///
    /// # Errors
    /// Those of a read.
    pub async fn etcd_leases(self: &Arc<Self>) -> Result<Vec<i64>> {
        self.etcd_rows(row::lease_bounds(), |name, value| match name {
            // One that has begun to end is no more, and what cannot be read is none.
            Named::Lease(id) => {
                Granted::of(value).is_ok_and(|granted| granted.revoked.is_none()).then_some(id)
            }
            Named::Head | Named::Key(_) | Named::Leased(..) => None,
        })
        .await
    }

    /// What `take` makes of the rows with names at or above the first bound and below the other. Each page of them is read at one instant.
    async fn etcd_rows<T>(
        self: &Arc<Self>,
        (mut low, high): (String, String),
        take: impl Fn(Named, &Value) -> Option<T>,
    ) -> Result<Vec<T>> {
        self.before_read(etcd::table(), Consistency::Linearizable).await?;
        let mut taken = Vec::new();
        loop {
            let (from, to) = (low.clone(), high.clone());
            let page = self.etcd_at_once(false, move |snapshot| snapshot.page(&from, &to)).await?;
            taken.extend(page.rows.iter().filter_map(|(name, value)| take(Named::of(name)?, value)));
            let Some(last) = page.last else { return Ok(taken) };
            low = format!("{}\0", last.as_str());
        }
    }

    /// A read of keys at one revision, and the newest revision.
    pub(super) async fn etcd_range(
        self: &Arc<Self>,
        range: &Range,
        reserve: &mut Reserve<'_>,
    ) -> Result<std::result::Result<(i64, Ranged), Problem>> {
        for _ in 0..TRIES_MAX {
            let (mut found, mut bytes) = (Found::default(), 0);
            let walked = self.etcd_walk(&range.keys, range.revision, wanted(range), |mut page| {
                if !wants_values(range) {
                    page.kvs.iter_mut().for_each(|kv| kv.value = Vec::new());
                }
                bytes += page.kvs.iter().map(evaluate::cost).sum::<usize>();
                reserve(bytes)?;
                found.count += page.count;
                found.kvs.extend(page.kvs);
                Ok(Ok(()))
            });
            match walked.await? {
                Ok(head) => return Ok(Ok((head.revision, select(range, found)))),
                // The history went on without it.
                Err(Problem::Compacted(_)) if range.revision <= 0 => {}
                Err(problem) => return Ok(Err(problem)),
            }
        }
        Err(no_end())
    }

    /// What a transaction that writes nothing comes to. It is read as ranges are, and evaluated on that: however long it takes, no entry waits for it.
    pub(super) async fn etcd_read(
        self: &Arc<Self>,
        operation: Operation,
        reserve: &mut Reserve<'_>,
    ) -> Result<Outcome> {
        let keys: Arc<Vec<_>> = Arc::new(keys_of(&operation));
        let request = Arc::new(Request::Operation(operation));
        for _ in 0..TRIES_MAX {
            let copy = match self.etcd_copy(&keys, reserve).await? {
                Ok(copy) => copy,
                Err(Problem::Compacted(_)) => continue,
                Err(problem) => return Ok(Err(problem)),
            };
            let (request, has_past) = (request.clone(), reads_past(&request));
            let evaluate = move || evaluate::evaluate(&request, &copy).map(|evaluated| evaluated.outcome);
            match self.environment().run(evaluate).await? {
                // The history went on without it, unless it is what the transaction asks for.
                Err(Problem::Compacted(_)) if !has_past => {}
                outcome => return Ok(outcome),
            }
        }
        Err(no_end())
    }

    /// Copies keys, all as they are at one revision.
    async fn etcd_copy(
        self: &Arc<Self>,
        ranges: &[Keys],
        reserve: &mut Reserve<'_>,
    ) -> Result<std::result::Result<Copied, Problem>> {
        let (mut copied, mut bytes) =
            (Copied { rows: BTreeMap::new(), revisions: self.strong.revisions() }, 0);
        let head = self.etcd_at_once(true, |snapshot| checked_head(&snapshot.store)).await?;
        for keys in ranges {
            let walked = self.etcd_walk(keys, head.revision, usize::MAX, |page| {
                for kv in page.kvs {
                    bytes += evaluate::cost(&kv);
                    if bytes > SCANNED_BYTES_MAX {
                        return Ok(Err(Problem::TooLarge));
                    }
                    let key = match row::key(&kv.key) {
                        Ok(key) => key,
                        Err(problem) => return Ok(Err(problem)),
                    };
                    copied.rows.insert(key, row::key_value(&kv));
                }
                reserve(bytes)?;
                Ok(Ok(()))
            });
            if let Err(problem) = walked.await? {
                return Ok(Err(problem));
            }
        }
        copied.rows.insert(row::head(), head.value());
        Ok(Ok(copied))
    }

    /// A hash of all keys with their revisions, as they were after a revision, or are if it is 0. It is the same on all nodes.
    ///
    /// # Errors
    /// Those of a read.
    pub async fn etcd_hash(self: &Arc<Self>, revision: i64) -> Result<std::result::Result<Hashed, Problem>> {
        let mut hasher = blake3::Hasher::new();
        let all = Keys::Range(vec![0], None);
        let walked = self.etcd_walk(&all, revision, usize::MAX, |page| {
            for kv in page.kvs {
                let numbers = [kv.create_revision, kv.mod_revision, kv.version, kv.lease];
                for number in numbers {
                    hasher.update(&number.to_le_bytes());
                }
                for bytes in [&kv.key, &kv.value] {
                    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
                }
            }
            Ok(Ok(()))
        });
        Ok(walked.await?.map(|head| {
            let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
            Hashed {
                hash: u32::from_le_bytes([a, b, c, d]),
                revision: head.revision,
                compacted: head.compacted,
            }
        }))
    }

    /// Reads keys at one revision, page by page, with the values of the first `wanted`. Returns the newest head at the beginning.
    async fn etcd_walk(
        self: &Arc<Self>,
        keys: &Keys,
        revision: i64,
        mut wanted: usize,
        mut take: impl FnMut(Found) -> Result<std::result::Result<(), Problem>>,
    ) -> Result<std::result::Result<Head, Problem>> {
        let (mut keys, mut begun) = (keys.clone(), None::<Head>);
        loop {
            let at = if revision > 0 { revision } else { begun.map_or(0, |head| head.revision) };
            let is_short = matches!(keys, Keys::One(_));
            let page = self.etcd_at_once(is_short, move |snapshot| snapshot.range(&keys, at, wanted)).await?;
            let (head, page) = match page {
                Ok(page) => page,
                Err(problem) => return Ok(Err(problem)),
            };
            let head = *begun.get_or_insert(head);
            wanted = wanted.saturating_sub(page.found.kvs.len());
            if let Err(problem) = take(page.found)? {
                return Ok(Err(problem));
            }
            match page.next {
                Some(next) => keys = next,
                None => return Ok(Ok(head)),
            }
        }
    }

    /// Reads at one instant. What is not short is made where it holds up nobody. Where rows came from another member, all is applied first that the
    /// leader has: what is here before is no state of the log.
    async fn etcd_at_once<T: Send + 'static>(
        self: &Arc<Self>,
        is_short: bool,
        read: impl Fn(&Snapshot) -> Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        let revisions = self.strong.revisions();
        let snapshot = Snapshot { store: self.store.clone(), revisions: revisions.clone() };
        for _ in 0..TRIES_MAX {
            let arrivals =
                revisions.as_ref().map(|revisions| (&revisions.arrivals, revisions.arrivals.count()));
            if let Some((arrivals, count)) = arrivals
                && !arrivals.is_settled(count)
            {
                self.strong.barrier().await?;
                arrivals.settle(&self.store, count)?;
            }
            let result = read_at_once(&*self.strong, || {
                let (snapshot, read) = (snapshot.clone(), read.clone());
                async move {
                    if is_short {
                        return read(&snapshot);
                    }
                    self.environment().run(move || read(&snapshot)).await
                }
            });
            // What an arrival fell into is repeated, whatever it gave.
            let result = result.await;
            if arrivals.is_none_or(|(arrivals, count)| arrivals.is_settled(count)) {
                return result?.ok_or_else(|| {
                    Error::NotReady(
                        "this node could not read these keys as they are at one instant, because it is busy or takes no writes".into(),
                    )
                });
            }
        }
        Err(Error::NotReady("this node is being brought up to date; try again, or another node".into()))
    }
}

fn no_end() -> Error {
    Error::NotReady("so much is written that this long read finds no end: read less at a time".into())
}

/// The keys that a read looks at, whichever way it goes.
fn keys_of(operation: &Operation) -> Vec<Keys> {
    match operation {
        Operation::Range(range) => vec![range.keys.clone()],
        Operation::Txn(Txn { compare, success, failure }) => {
            let compared = compare.iter().map(|compare| compare.keys.clone());
            compared.chain(success.iter().chain(failure).flat_map(keys_of)).collect()
        }
        Operation::Put(_) | Operation::Delete(_) | Operation::Unknown => Vec::new(),
    }
}

/// Whether a request reads an older revision.
fn reads_past(request: &Request) -> bool {
    fn of(operation: &Operation) -> bool {
        match operation {
            Operation::Range(range) => range.revision > 0,
            Operation::Txn(txn) => txn.success.iter().chain(&txn.failure).any(of),
            Operation::Put(_) | Operation::Delete(_) | Operation::Unknown => false,
        }
    }
    matches!(request, Request::Operation(operation) if of(operation))
}

/// Rows in memory, all at one revision, and the history.
struct Copied {
    rows: BTreeMap<Key, Value>,
    revisions: Option<Arc<Revisions>>,
}

impl Rows for Copied {
    fn row(&self, key: &Key) -> Result<Option<Value>> {
        Ok(self.rows.get(key).cloned())
    }

    fn page(&self, low: &str, high: &str) -> Result<Page> {
        let from_low = self.rows.iter().skip_while(|(key, _)| key.as_str() < low);
        let rows = from_low.take_while(|(key, _)| key.as_str() < high);
        Ok(Page { rows: rows.map(|(key, value)| (key.clone(), value.clone())).collect(), last: None })
    }

    fn past(&self, keys: &Keys, revision: i64) -> std::result::Result<Past, Problem> {
        let history = self.revisions.as_ref().and_then(|revisions| revisions.history());
        history.map_or(Err(Problem::Compacted(revision + 1)), |history| history.past(keys, revision))
    }
}
