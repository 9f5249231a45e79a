//! `grpc.health.v1`: whether the node serves, as `/readyz` says it. The services of a listener are as healthy as the node.

use std::{
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use tokio::{sync::watch, time::sleep};
use tonic::{Request, Response, Status, server::NamedService};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use crate::{
    core::nearest,
    node::{Node, Readiness},
};

/// How often the node is asked, for those that watch.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The name of the service.
pub const NAME: &str = <HealthServer<NodeHealth> as NamedService>::NAME;

/// The descriptor of the service, for reflection.
pub use tonic_health::pb::FILE_DESCRIPTOR_SET as DESCRIPTOR;

/// The health of a node and of the services of a listener.
pub struct NodeHealth {
    node: Arc<Node>,
    services: Vec<&'static str>,
    watched: Arc<Watched>,
}

impl NodeHealth {
    /// The service for a listener with these services.
    pub fn server(node: Arc<Node>, services: Vec<&'static str>) -> HealthServer<Self> {
        let asked = Arc::clone(&node);
        let watched = Arc::new(Watched::new(move || status(&asked)));
        HealthServer::new(Self { node, services, watched })
    }

    /// An empty name is the node as a whole.
    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }
}

fn status(node: &Node) -> ServingStatus {
    match node.readiness() {
        Readiness::Ready => ServingStatus::Serving,
        Readiness::ReadOnly(_)
        | Readiness::Joining(_)
        | Readiness::Refused(_)
        | Readiness::Syncing { .. }
        | Readiness::Clock(_)
        | Readiness::Repairing { .. }
        | Readiness::Broken(_)
        | Readiness::Draining => ServingStatus::NotServing,
    }
}

/// The status of a node for all that watch it. The node is asked for as long as there are any.
struct Watched {
    ask: Box<dyn Fn() -> ServingStatus + Send + Sync>,
    status: watch::Sender<ServingStatus>,
    is_asked: Mutex<bool>,
}

impl Watched {
    fn new(ask: impl Fn() -> ServingStatus + Send + Sync + 'static) -> Self {
        let status = watch::Sender::new(ServingStatus::Unknown);
        Self { ask: Box::new(ask), status, is_asked: Mutex::new(false) }
    }

    /// The status now, and what becomes of it.
    fn subscribe(self: &Arc<Self>) -> watch::Receiver<ServingStatus> {
        let mut is_asked = self.is_asked.lock().unwrap_or_else(PoisonError::into_inner);
        self.ask();
        let receiver = self.status.subscribe();
        if !mem::replace(&mut *is_asked, true) {
            tokio::spawn(Arc::clone(self).ask_again());
        }
        receiver
    }

    fn ask(&self) {
        let now = (self.ask)();
        self.status.send_if_modified(|told| mem::replace(told, now) != now);
    }

    async fn ask_again(self: Arc<Self>) {
        loop {
            sleep(LOOK_INTERVAL).await;
            let mut is_asked = self.is_asked.lock().unwrap_or_else(PoisonError::into_inner);
            if self.status.receiver_count() == 0 {
                *is_asked = false;
                return;
            }
            self.ask();
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

type Statuses = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Health for NodeHealth {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        match self.knows(service) {
            true => Ok(Response::new(response(status(&self.node)))),
            false => Err(Status::not_found(nearest::unknown("service", service, &self.services))),
        }
    }

    type WatchStream = Statuses;

    /// The status now, and each change of it. An unknown service has a status of its own, as the protocol wants it.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Statuses>, Status> {
        if !self.knows(&request.get_ref().service) {
            let unknown = stream::iter([Ok(response(ServingStatus::ServiceUnknown))]);
            return Ok(Response::new(Box::pin(unknown.chain(stream::pending()))));
        }
        let begin = (self.watched.subscribe(), None);
        let changes = stream::unfold(begin, |(mut receiver, told)| async move {
            loop {
                let now = receiver.borrow_and_update().to_owned();
                if told != Some(now) {
                    return Some((Ok(response(now)), (receiver, Some(now))));
                }
                receiver.changed().await.ok()?;
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    /// However many watch, the node is asked at the same pace; and not at all once nobody does.
    #[tokio::test(start_paused = true)]
    async fn a_node_is_asked_for_all_that_watch_and_as_long_as_there_are_any() {
        let (asked, serves) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
        let (count, state) = (Arc::clone(&asked), Arc::clone(&serves));
        let watched = Arc::new(Watched::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
            if state.load(Ordering::Relaxed) { ServingStatus::Serving } else { ServingStatus::NotServing }
        }));
        let mut watchers: Vec<_> = (0..10).map(|_| watched.subscribe()).collect();
        assert!(watchers.iter_mut().all(|watcher| *watcher.borrow_and_update() == ServingStatus::Serving));
        serves.store(false, Ordering::Relaxed);
        for watcher in &mut watchers {
            watcher.changed().await.expect("it is asked");
            assert_eq!(*watcher.borrow_and_update(), ServingStatus::NotServing);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 11, "once for each that came, once for all");
        watchers.clear();
        sleep(LOOK_INTERVAL * 10).await;
        assert_eq!(asked.load(Ordering::Relaxed), 11, "nobody watches");
        serves.store(true, Ordering::Relaxed);
        let mut late = watched.subscribe();
        assert_eq!(*late.borrow_and_update(), ServingStatus::Serving, "what is now, not what was");
        serves.store(false, Ordering::Relaxed);
        late.changed().await.expect("it is asked again");
    }
}
