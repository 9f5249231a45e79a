//! Watching. A stream has many watchers; each is a place in the history of this node, and is sent what came after it. Nothing is queued: a
//! stream whose client does not read stays where it is, until the history has gone on without it.

use std::{collections::VecDeque, future::pending, pin::Pin, time::Duration};

use futures_util::{Stream, stream};
use tokio::{
    task::yield_now,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};
use tonic::{Request, Response, Status, Streaming};

use super::{Api, access::Client, convert, ends::Ends, error};
use crate::{
    core::{
        access::Right,
        etcd::{
            request::Keys,
            row::check_lengths,
            watchers::{BYTES_MAX, Due, Place, Watcher, event_bytes},
        },
    },
    grpc::proto::etcdserverpb::{
        WatchCreateRequest, WatchRequest, WatchResponse, watch_create_request::FilterType,
        watch_request::RequestUnion, watch_server::Watch,
    },
    node::etcd::WatchStream,
};

/// Most watchers of a stream: a client's mistake is told before it takes the memory of many.
const WATCHERS_MAX: usize = 10_000;
/// How often a watcher that wants to know is told that nothing happened: etcd's default.
const PROGRESS_EVERY: Duration = Duration::from_secs(10 * 60);
/// The id in answers that are about no watcher.
const NO_WATCHER: i64 = -1;

type Responses = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Watch for Api {
    type WatchStream = Responses;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Responses>, Status> {
        let mut client = self.client(&request)?;
        let ends = Ends::of(self, &request, client.lease.take());
        let watchers = self.node.etcd_watch_stream().map_err(|error| error::of(&error))?;
        let mut progress = interval_at(Instant::now() + PROGRESS_EVERY, PROGRESS_EVERY);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watching = Watching {
            api: self.clone(),
            client,
            ends,
            requests: Some(request.into_inner()),
            watchers,
            progress,
            wants_progress: false,
            due: VecDeque::new(),
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
    ends: Ends,
    /// `None` once the client has no more.
    requests: Option<Streaming<WatchRequest>>,
    watchers: WatchStream,
    progress: Interval,
    /// Whether the client has asked how far it has come.
    wants_progress: bool,
    /// What watchers are told next, and the newest revision when that was found.
    due: VecDeque<(Due, i64)>,
    /// What goes first.
    responses: VecDeque<WatchResponse>,
}

impl Watching {
    /// The next response; `None` if the client has no more watchers and will make none.
    async fn next(&mut self) -> Result<Option<WatchResponse>, Status> {
        let mut is_idle = false;
        loop {
            if let Some(response) = self.responses.pop_front() {
                return Ok(Some(response));
            }
            // However much there is to be sent, the client may want less of it.
            self.wait(is_idle).await?;
            if !self.responses.is_empty() {
                continue;
            }
            if self.requests.is_none() {
                return Ok(None);
            }
            is_idle = !self.tell();
        }
    }

    /// Adds what is to be sent next. Returns whether there may be more.
    fn tell(&mut self) -> bool {
        if let Some((due, revision)) = self.due.pop_front() {
            self.respond_due(due, revision);
            return true;
        }
        let (taken, revision) = self.watchers.take();
        if let Some(taken) = taken {
            self.due.extend(taken.into_iter().map(|due| (due, revision)));
            return true;
        }
        if std::mem::take(&mut self.wants_progress) {
            // All up to here was sent, and what is sent later is newer.
            self.respond(NO_WATCHER, revision, |_| ());
            return true;
        }
        false
    }

    /// Takes what the client asks, and returns: if `is_idle`, not before there may be something to do.
    async fn wait(&mut self, is_idle: bool) -> Result<(), Status> {
        let requests = self.requests.as_mut();
        let request = async {
            match requests {
                Some(requests) => requests.message().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            why = self.ends.ended() => return Err(why),
            request = request => match request? {
                Some(request) => self.take(request),
                None => self.requests = None,
            },
            // A stream that has much to send leaves time for others.
            () = yield_now(), if !is_idle => {}
            () = self.watchers.woken(), if is_idle => {}
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
        // What waits to be sent is not for a later watcher of this id.
        let before = self.due.len();
        self.due.retain(|(due, _)| due.id() != id);
        if self.watchers.remove(id) || self.due.len() < before {
            let revision = self.watchers.revision();
            self.respond(id, revision, |response| response.canceled = true);
        }
    }

    fn create(&mut self, request: WatchCreateRequest) {
        let revision = self.watchers.revision();
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
        let why = |status: Status| status.message().to_owned();
        check_lengths(&keys).map_err(|problem| why(error::of_problem(problem)))?;
        self.client.check_keys(Right::Read, &keys).map_err(why)?;
        if matches!(&keys, Keys::Range(low, Some(high)) if low >= high) {
            return Err("mvcc: watcher range is empty".into());
        }
        if self.watchers.count() >= WATCHERS_MAX {
            return Err(format!("this stream has {WATCHERS_MAX} watchers, which is the most: open another"));
        }
        let most = self.api.node.subscriptions_max();
        if self.watchers.count_of_node() >= most {
            return Err(format!("this node has {most} watchers, which is the most (--max-subscriptions)"));
        }
        // The client was not told yet that such a one is canceled.
        let is_due = self.watchers.is_canceled(request.watch_id)
            || self.due.iter().any(|(due, _)| due.id() == request.watch_id);
        let id = self.watchers.free_id(request.watch_id);
        let Some(id) = id.filter(|_| request.watch_id == 0 || !is_due) else {
            return Err("mvcc: duplicate watch ID provided on the WatchStream".into());
        };
        let filters: Vec<_> = request.filters().collect();
        let next = if request.start_revision == 0 { revision + 1 } else { request.start_revision };
        let watcher = Watcher {
            with_before: request.prev_kv,
            puts: !filters.contains(&FilterType::Noput),
            deletes: !filters.contains(&FilterType::Nodelete),
            fragments: request.fragment,
            wants_progress: request.progress_notify,
            ..Watcher::new(keys, next)
        };
        Ok((id, watcher))
    }

    fn respond_due(&mut self, due: Due, revision: i64) {
        match due {
            Due::Events(id, events) => self.respond_events(id, revision, events),
            Due::Compacted(id, first) => self.respond(id, revision, |response| {
                response.canceled = true;
                response.compact_revision = first;
            }),
        }
    }

    fn respond_events(&mut self, id: i64, revision: i64, events: Vec<Place>) {
        // It may be canceled meanwhile.
        let Some(watcher) = self.watchers.get_mut(id) else { return };
        watcher.is_quiet = false;
        let (with_before, fragments) = (watcher.with_before, watcher.fragments);
        let mut parts: Vec<Vec<Place>> = vec![Vec::new()];
        let mut bytes = 0;
        for place in events {
            let more = event_bytes(&place.0[place.1], with_before);
            if fragments && bytes + more > BYTES_MAX && bytes > 0 {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += more;
            if let Some(part) = parts.last_mut() {
                part.push(place);
            }
        }
        let last = parts.len() - 1;
        for (place, part) in parts.into_iter().enumerate() {
            self.respond(id, revision, |response| {
                response.fragment = place < last;
                let event = |(events, place): &Place| convert::event(&events[*place], with_before);
                response.events = part.iter().map(event).collect();
            });
        }
    }

    fn tell_progress(&mut self) {
        let revision = self.watchers.revision();
        let mut quiet = self.watchers.quiet(revision);
        // What waits to be sent comes first.
        quiet.retain(|id| self.due.iter().all(|(due, _)| due.id() != *id));
        quiet.into_iter().for_each(|id| self.respond(id, revision, |_| ()));
    }
}
