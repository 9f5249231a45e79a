//! What locks and elections share. Who wants to hold a lock or to lead is a *candidate*: a key below the name, with a lease. The candidate whose
//! key came to be first has it, and each other one waits until those before it are gone.
//!
//! Names of keys, comparisons and texts are those of etcd, so that those who leave this to a server meet those whose client library does it.

use std::sync::Arc;

use prost::Message;
use tonic::{Code, Request, Status};

use super::{Api, access::Client, convert, ends::Ends, error, kv::check_operation};
use crate::{
    core::{
        access::Right,
        etcd::{
            history::Event,
            request::{
                self, Answer, Body, Compare, Delete, KeyValue, Keys, Operation, Order, Put, Range, Relation,
                Target, Txn, With,
            },
            watchers::{Due, Watcher},
        },
    },
    error::Error,
    grpc::{proto::etcdserverpb::ResponseHeader, request::Caller},
    node::{etcd::WatchStream, strong::Consistency, with_request_id},
};

/// How many seconds the lease lasts that a candidate is given who comes without one: etcd's.
const LEASE_TTL_S: i64 = 60;

/// What an answer is, with its header.
type Answered<T> = Result<(T, Option<ResponseHeader>), Status>;

/// A call for a lock or an election, which may have to wait.
pub struct Session {
    /// The API.
    pub api: Api,
    client: Client,
    ends: Ends,
    request_id: Arc<str>,
    /// Bytes of the request.
    bytes: usize,
}

/// The candidates of a lock or an election.
pub struct Candidates(Vec<u8>);

impl Candidates {
    /// Those of a name.
    pub fn of(name: &[u8]) -> Self {
        Self([name, b"/"].concat())
    }

    /// Their keys.
    pub fn keys(&self) -> Keys {
        let mut end = self.0.clone();
        if let Some(last) = end.last_mut() {
            // What comes after a slash.
            *last += 1;
        }
        Keys::Range(self.0.clone(), Some(end))
    }

    /// The key of the one with a lease.
    fn key(&self, lease: i64) -> Vec<u8> {
        let sign = if lease < 0 { "-" } else { "" };
        [&self.0, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat()
    }

    /// Reads the one that came to be first.
    pub fn first(&self) -> Range {
        Range { limit: 1, order: Order::Ascending, target: Target::Create, ..Range::new(self.keys()) }
    }
}

/// A candidate. Its key is deleted once this is dropped, unless it is kept.
pub struct Candidate {
    api: Api,
    /// The key.
    pub key: Vec<u8>,
    /// The revision in which the key came to be.
    pub revision: i64,
    /// What was told when the key was written or found.
    pub header: Option<ResponseHeader>,
    /// The value, if the key was there already.
    pub value: Option<Vec<u8>>,
    /// Whether it is the first one.
    pub is_first: bool,
    is_kept: bool,
}

impl Candidate {
    /// Of the answer to the transaction that makes it one.
    fn of(api: Api, key: Vec<u8>, body: Body, header: Option<ResponseHeader>) -> Result<Self, Status> {
        let Body::Txn(is_new, mut answers) = body else { return Err(convert::unexpected(&body)) };
        let mut read = || match answers.pop() {
            Some(Answer { body: Body::Range(ranged), .. }) => ranged.kvs.into_iter().next(),
            _ => None,
        };
        let (first, own) = (read(), if is_new { None } else { read() });
        let written = header.as_ref().map_or(0, |header| header.revision);
        let revision = own.as_ref().map_or(written, |own| own.create_revision);
        Ok(Self {
            api,
            key,
            revision,
            header,
            value: own.map(|own| own.value),
            is_first: first.is_none_or(|first| first.create_revision == revision),
            is_kept: false,
        })
    }

    /// Leaves the key there: its client is told of it.
    pub fn keep(mut self) -> Vec<u8> {
        self.is_kept = true;
        std::mem::take(&mut self.key)
    }
}

impl Drop for Candidate {
    /// The client has gone away, or is told of an error. If that fails, as when this node stops, the lease ends some time.
    fn drop(&mut self) {
        // Who has it already, and asks again, loses nothing by that.
        let has_it = self.is_first && self.value.is_some();
        if self.is_kept || has_it {
            return;
        }
        let (node, key) = (self.api.node.clone(), std::mem::take(&mut self.key));
        let delete = Operation::Delete(Delete { keys: Keys::One(key.clone()), prev_kv: false });
        let txn = unchanged(key, self.revision, delete);
        tokio::spawn(async move {
            if let Err(error) = node.etcd(request::Request::Operation(Operation::Txn(txn))).await {
                tracing::debug!(%error, "the key of a candidate that has gone stays until its lease ends");
            }
        });
    }
}

/// Does something, if a key is the one that came to be in a revision.
pub fn unchanged(key: Vec<u8>, revision: i64, operation: Operation) -> Txn {
    let with = With::Create(revision);
    let compare = Compare { keys: Keys::One(key), relation: Some(Relation::Equal), with };
    Txn { compare: vec![compare], success: vec![operation], failure: Vec::new() }
}

/// An error of a lock or an election. etcd has no code for them.
pub fn failed(text: &str) -> Status {
    Status::unknown(text)
}

/// Errors that etcd's server gets from the store by way of a client, which keeps their text only. Those that may pass keep their code, so that
/// clients know that they can try again.
fn by_client(status: Status) -> Status {
    match status.code() {
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::OutOfRange => {
            failed(status.message())
        }
        _ => status,
    }
}

impl Session {
    /// The session of a call.
    ///
    /// # Errors
    /// As [`Api::client`].
    pub fn of<T: Message>(api: &Api, request: &Request<T>) -> Result<Self, Status> {
        let mut client = api.client(request)?;
        let ends = Ends::of(api, request, client.lease.take());
        let request_id = Caller::of(request).map_err(error::failed)?.request_id;
        Ok(Self { api: api.clone(), client, ends, request_id, bytes: request.get_ref().encoded_len() })
    }

    /// This lease, or a new one if it is 0.
    ///
    /// # Errors
    /// The status if it cannot be granted.
    pub async fn lease(&mut self, id: i64) -> Result<i64, Status> {
        if id != 0 {
            return Ok(id);
        }
        self.client.check_table(Right::Write, false)?;
        self.client.admit_write()?;
        let id = self.api.node.etcd_lease_id().map_err(error::failed)?;
        let grant = request::Request::Grant { id, ttl_s: LEASE_TTL_S };
        self.api.taken(self.api.node.etcd(grant).await).map_err(by_client)?;
        Ok(id)
    }

    async fn operate(&mut self, operation: Operation) -> Answered<Body> {
        let done = self.api.operate(&self.client, operation, self.bytes, Consistency::Linearizable).await;
        done.map_err(by_client)
    }

    /// Does a transaction.
    ///
    /// # Errors
    /// The status if it is refused.
    pub async fn txn(&mut self, txn: Txn) -> Answered<(bool, Vec<Answer>)> {
        match self.operate(Operation::Txn(txn)).await? {
            (Body::Txn(succeeded, answers), header) => Ok(((succeeded, answers), header)),
            (other, _) => Err(convert::unexpected(&other)),
        }
    }

    /// Reads keys.
    ///
    /// # Errors
    /// The status if it is refused.
    pub async fn range(&mut self, range: Range) -> Answered<Vec<KeyValue>> {
        match self.operate(Operation::Range(range)).await? {
            (Body::Range(ranged), header) => Ok((ranged.kvs, header)),
            (other, _) => Err(convert::unexpected(&other)),
        }
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// The status if it is refused.
    pub async fn delete(&mut self, key: Vec<u8>) -> Answered<()> {
        let delete = Delete { keys: Keys::One(key), prev_kv: false };
        self.operate(Operation::Delete(delete)).await.map(|(_, header)| ((), header))
    }

    /// Becomes a candidate, unless the one of this lease is there already.
    ///
    /// # Errors
    /// The status if it is refused.
    pub async fn enter(
        &mut self,
        candidates: &Candidates,
        lease: i64,
        value: Vec<u8>,
    ) -> Result<Candidate, Status> {
        let key = candidates.key(lease);
        let put = Operation::Put(Put { key: key.clone(), value, lease, ..Put::default() });
        let own = Operation::Range(Range::new(Keys::One(key.clone())));
        let first = || Operation::Range(candidates.first());
        let mut txn = unchanged(key.clone(), 0, put);
        txn.success.push(first());
        txn.failure.extend([own, first()]);
        let operation = Operation::Txn(txn);
        check_operation(&self.client, &operation, self.bytes).map_err(by_client)?;
        self.client.admit_write()?;
        let (api, request_id) = (self.api.clone(), self.request_id.clone());
        let entering = async move {
            // It reads no more than two keys.
            let mut reserve = |_| Ok(());
            let done = api.node.etcd_operate(operation, Consistency::Linearizable, &mut reserve).await;
            let (body, header) = api.taken(done).map_err(by_client)?;
            Candidate::of(api, key, body, header)
        };
        // It goes on if the call is broken off, so that a key which is written then is deleted.
        let entering = async move { with_request_id(&request_id, entering).await };
        let entered = tokio::spawn(entering).await;
        entered.map_err(|stopped| error::of(&Error::Io(format!("a task stopped: {stopped}"))))?
    }

    /// Returns once all candidates are gone that came to be before this one, and whether this one is still there: its lease may have ended
    /// meanwhile.
    ///
    /// # Errors
    /// The status once the call ends.
    pub async fn until_first(&mut self, candidates: &Candidates, candidate: &Candidate) -> Answered<bool> {
        let before = Range {
            limit: 1,
            order: Order::Descending,
            target: Target::Create,
            max_create_revision: candidate.revision - 1,
            keys_only: true,
            ..Range::new(candidates.keys())
        };
        loop {
            let (kvs, header) = self.range(before.clone()).await?;
            let Some(last) = kvs.into_iter().next() else { break };
            let mut changes = Changes::after(&self.api, Keys::One(last.key), header.as_ref())?;
            // What the history does not have is read again.
            while let Some(events) = self.next(&mut changes).await? {
                if events.iter().any(|event| event.is_delete) {
                    break;
                }
            }
        }
        let (own, header) = self.range(Range::new(Keys::One(candidate.key.clone()))).await?;
        Ok((!own.is_empty(), header))
    }

    /// The next changes; `None` if the history does not have them.
    ///
    /// # Errors
    /// The status once the call ends.
    pub async fn next(&mut self, changes: &mut Changes) -> Result<Option<Vec<Event>>, Status> {
        tokio::select! {
            biased;
            why = self.ends.ended() => Err(why),
            () = self.api.node.drained() => Err(error::of(&Error::Draining)),
            events = changes.next() => Ok(events),
        }
    }
}

/// What changes some keys from a revision on, as it is applied here.
pub struct Changes(WatchStream);

impl Changes {
    /// Those of keys after the revision of an answer.
    ///
    /// # Errors
    /// The status if this node keeps no history.
    pub fn after(api: &Api, keys: Keys, header: Option<&ResponseHeader>) -> Result<Self, Status> {
        let mut watchers = api.node.etcd_watch_stream().map_err(error::failed)?;
        let watcher = Watcher::new(keys, header.map_or(0, |header| header.revision) + 1);
        let id = watchers.free_id(0).expect("the first one is free");
        watchers.insert(id, watcher);
        Ok(Self(watchers))
    }

    /// The next events; `None` if the history does not have them.
    async fn next(&mut self) -> Option<Vec<Event>> {
        loop {
            let Some(due) = self.0.take().0 else {
                self.0.woken().await;
                continue;
            };
            match due.into_iter().next() {
                None => {}
                Some(Due::Compacted(..)) => return None,
                Some(Due::Events(_, places)) => {
                    return Some(places.iter().map(|(events, place)| events[*place].clone()).collect());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_candidate_is_that_of_etcds_clients() {
        let candidates = Candidates::of(b"office");
        for (lease, key) in [(0x7f, "office/7f"), (-1, "office/-1"), (i64::MIN, "office/-8000000000000000")] {
            assert_eq!(candidates.key(lease), key.as_bytes());
            assert!(candidates.keys().contains(key.as_bytes()));
        }
        assert!(!candidates.keys().contains(b"office") && !candidates.keys().contains(b"office0"));
    }
}
