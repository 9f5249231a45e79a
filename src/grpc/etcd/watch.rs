//! Watching. A stream has many watchers; each is a place in the history of this node, and is sent what came after it. Nothing is queued: a
//! stream whose client does not read stays where it is, until the history has gone on without it.

use std::{
    collections::{BTreeMap, VecDeque},
    future::pending,
    ops::Bound,
    pin::Pin,
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::{
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Api, access, access::Client, convert, error};
use crate::{
    core::{
        access::Right,
        etcd::{
            history::Event,
            request::{Keys, Problem},
        },
    },
    grpc::proto::etcdserverpb::{
        WatchCreateRequest, WatchRequest, WatchResponse, watch_create_request::FilterType,
        watch_request::RequestUnion, watch_server::Watch,
    },
    node::etcd::EtcdHistory,
};

/// Most watchers of a stream: each is asked about each revision.
const WATCHERS_MAX: usize = 10_000;
/// Most events in a message, unless one revision has more: they are sent together.
const EVENTS_MAX: usize = 1_000;
/// Most bytes of keys and values in a message, unless one revision has more and the client takes no fragments.
const BYTES_MAX: usize = 1024 * 1024;
/// How often a watcher that wants to know is told that nothing happened: etcd's default.
const PROGRESS_EVERY: Duration = Duration::from_secs(10 * 60);
/// The id in answers that are about no watcher.
const NO_WATCHER: i64 = -1;

type Responses = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Watch for Api {
    type WatchStream = Responses;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Responses>, Status> {
        let client = access::client(&request)?;
        let needs_leader =
            request.metadata().get("hasleader").is_some_and(|value| value.as_bytes() == b"true");
        let history = self.node.etcd_history().map_err(|error| error::of(&error))?;
        let mut progress = interval_at(Instant::now() + PROGRESS_EVERY, PROGRESS_EVERY);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watching = Watching {
            api: self.clone(),
            client,
            needs_leader,
            requests: Some(request.into_inner()),
            newest: history.newest(),
            history,
            watchers: BTreeMap::new(),
            next_id: 0,
            last: NO_WATCHER,
            progress,
            wants_progress: false,
            responses: VecDeque::new(),
        };
        let responses = stream::try_unfold(watching, |mut watching| async move {
            Ok(watching.next().await?.map(|response| (response, watching)))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

/// A stream.
struct Watching {
    api: Api,
    client: Client,
    /// Whether the client wants the stream to end where there is no leader.
    needs_leader: bool,
    /// `None` once the client has no more.
    requests: Option<Streaming<WatchRequest>>,
    history: EtcdHistory,
    newest: watch::Receiver<i64>,
    watchers: BTreeMap<i64, Watcher>,
    next_id: i64,
    /// The watcher that was sent something last: the next one is one after it.
    last: i64,
    progress: Interval,
    /// Whether the client has asked how far it has come.
    wants_progress: bool,
    /// What goes first.
    responses: VecDeque<WatchResponse>,
}

struct Watcher {
    keys: Keys,
    /// The next revision that it has not seen.
    next: i64,
    with_before: bool,
    puts: bool,
    deletes: bool,
    fragments: bool,
    wants_progress: bool,
    /// Whether it was sent nothing since it was told of its progress last.
    is_quiet: bool,
}

impl Watcher {
    fn wants(&self, event: &Event) -> bool {
        self.keys.contains(&event.kv.key) && if event.is_delete { self.deletes } else { self.puts }
    }
}

impl Watching {
    /// The next response; `None` if the client has no more watchers and will make none.
    async fn next(&mut self) -> Result<Option<WatchResponse>, Status> {
        loop {
            if let Some(response) = self.responses.pop_front() {
                return Ok(Some(response));
            }
            // Marked as seen first, so that what comes while they are looked through is noticed.
            let revision = *self.newest.borrow_and_update();
            if self.send_events() {
                continue;
            }
            if std::mem::take(&mut self.wants_progress) {
                self.respond(NO_WATCHER, revision, |_| ());
                continue;
            }
            self.wait().await?;
            if self.requests.is_none() && self.responses.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Returns when there may be something to do.
    async fn wait(&mut self) -> Result<(), Status> {
        let requests = self.requests.as_mut();
        let request = async {
            match requests {
                Some(requests) => requests.message().await,
                None => pending().await,
            }
        };
        let lease_ends = async {
            match self.client.lease.as_mut() {
                Some(lease) => lease.await,
                None => pending().await,
            }
        };
        tokio::select! {
            request = request => match request? {
                Some(request) => self.take(request),
                None => self.requests = None,
            },
            changed = self.newest.changed() => changed.map_err(|_| error::etcd(Code::Unavailable, "server stopped"))?,
            _ = lease_ends => return Err(error::etcd(Code::Unauthenticated, "invalid auth token")),
            () = self.api.without_leader(), if self.needs_leader => {
                return Err(error::etcd(Code::Unavailable, "no leader"));
            }
            _ = self.progress.tick() => self.tell_progress(),
        }
        Ok(())
    }

    fn respond(&mut self, watch_id: i64, revision: i64, change: impl FnOnce(&mut WatchResponse)) {
        let mut response =
            WatchResponse { header: self.api.header(revision), watch_id, ..WatchResponse::default() };
        change(&mut response);
        self.responses.push_back(response);
    }

    fn revision(&self) -> i64 {
        self.history.lock().head().revision
    }

    fn take(&mut self, request: WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(request),
            Some(RequestUnion::CancelRequest(request)) => self.cancel(request.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.wants_progress = true,
            // As etcd, which ignores what it does not know.
            None => {}
        }
    }

    fn cancel(&mut self, id: i64) {
        if self.watchers.remove(&id).is_some() {
            let revision = self.revision();
            self.respond(id, revision, |response| response.canceled = true);
        }
    }

    fn create(&mut self, request: WatchCreateRequest) {
        let revision = self.revision();
        let (id, created) = match self.checked(request, revision) {
            Ok((id, watcher)) => {
                self.watchers.insert(id, watcher);
                (id, Ok(()))
            }
            Err(why) => (NO_WATCHER, Err(why)),
        };
        self.respond(id, revision, |response| {
            response.created = true;
            if let Err(why) = created {
                response.canceled = true;
                response.cancel_reason = why;
            }
        });
    }

    fn checked(&mut self, request: WatchCreateRequest, revision: i64) -> Result<(i64, Watcher), String> {
        // The smallest key.
        let key = if request.key.is_empty() { vec![0] } else { request.key.clone() };
        let keys = Keys::new(key, request.range_end.clone());
        self.client.check_keys(Right::Read, &keys).map_err(|status| status.message().to_owned())?;
        if matches!(&keys, Keys::Range(low, Some(high)) if low >= high) {
            return Err("mvcc: watcher range is empty".into());
        }
        if self.watchers.len() >= WATCHERS_MAX {
            return Err(format!("this stream has {WATCHERS_MAX} watchers, which is the most: open another"));
        }
        let id = match request.watch_id {
            0 => {
                while self.watchers.contains_key(&self.next_id) {
                    self.next_id += 1;
                }
                self.next_id += 1;
                self.next_id - 1
            }
            id if self.watchers.contains_key(&id) => {
                return Err("mvcc: duplicate watch ID provided on the WatchStream".into());
            }
            id => id,
        };
        let filters: Vec<_> = request.filters().collect();
        let next = if request.start_revision == 0 { revision + 1 } else { request.start_revision };
        let watcher = Watcher {
            keys,
            next,
            with_before: request.prev_kv,
            puts: !filters.contains(&FilterType::Noput),
            deletes: !filters.contains(&FilterType::Nodelete),
            fragments: request.fragment,
            wants_progress: request.progress_notify,
            is_quiet: true,
        };
        Ok((id, watcher))
    }

    /// Adds what the next watcher that has something to be sent is sent. `false` if there is none.
    fn send_events(&mut self) -> bool {
        let after = self.watchers.range((Bound::Excluded(self.last), Bound::Unbounded)).map(|(id, _)| *id);
        let ids: Vec<_> = after.chain(self.watchers.range(..=self.last).map(|(id, _)| *id)).collect();
        for id in ids {
            let (is_sent, revision) = {
                let history = self.history.lock();
                let Some(watcher) = self.watchers.get_mut(&id) else { continue };
                (
                    events(watcher, |revision| history.events(revision).map(|events| events.cloned())),
                    history.head().revision,
                )
            };
            match is_sent {
                Ok(events) if events.is_empty() => {}
                Ok(events) => {
                    self.last = id;
                    self.respond_events(id, revision, events);
                    return true;
                }
                Err(first) => {
                    self.watchers.remove(&id);
                    self.respond(id, revision, |response| {
                        response.canceled = true;
                        response.compact_revision = first;
                    });
                    return true;
                }
            }
        }
        false
    }

    fn respond_events(&mut self, id: i64, revision: i64, events: Vec<Event>) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        watcher.is_quiet = false;
        let (with_before, fragments) = (watcher.with_before, watcher.fragments);
        let mut parts: Vec<Vec<Event>> = vec![Vec::new()];
        let mut bytes = 0;
        for event in events {
            let more = event_bytes(&event);
            if fragments && bytes + more > BYTES_MAX && bytes > 0 {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += more;
            if let Some(part) = parts.last_mut() {
                part.push(event);
            }
        }
        let last = parts.len() - 1;
        for (place, part) in parts.into_iter().enumerate() {
            self.respond(id, revision, |response| {
                response.fragment = place < last;
                response.events = part.iter().map(|event| convert::event(event, with_before)).collect();
            });
        }
    }

    fn tell_progress(&mut self) {
        let revision = *self.newest.borrow();
        let mut told = Vec::new();
        for (id, watcher) in &mut self.watchers {
            if std::mem::replace(&mut watcher.is_quiet, true)
                && watcher.wants_progress
                && watcher.next > revision
            {
                told.push(*id);
            }
        }
        told.into_iter().for_each(|id| self.respond(id, revision, |_| ()));
    }
}

fn event_bytes(event: &Event) -> usize {
    event.kv.key.len() + event.kv.value.len() + event.before.as_ref().map_or(0, |before| before.value.len())
}

/// The next events for a watcher, whole revisions of them, and moves it behind them.
///
/// # Errors
/// The oldest revision that can be had, if those that it has not seen are compacted.
fn events(
    watcher: &mut Watcher,
    revision: impl Fn(i64) -> Result<Option<std::sync::Arc<[Event]>>, Problem>,
) -> Result<Vec<Event>, i64> {
    let (mut wanted, mut bytes) = (Vec::new(), 0);
    while wanted.len() < EVENTS_MAX && bytes < BYTES_MAX {
        match revision(watcher.next) {
            Ok(Some(events)) => {
                let matching = events.iter().filter(|event| watcher.wants(event));
                for event in matching {
                    bytes += event_bytes(event);
                    wanted.push(event.clone());
                }
                watcher.next += 1;
            }
            Ok(None) => break,
            Err(_) if !wanted.is_empty() => break,
            Err(Problem::Compacted(first)) => return Err(first),
            Err(_) => break,
        }
    }
    Ok(wanted)
}
