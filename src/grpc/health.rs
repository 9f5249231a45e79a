//! `grpc.health.v1`: whether the node serves, as `/readyz` says it. The services of a listener are as healthy as the node.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::time::{MissedTickBehavior, interval};
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
}

impl NodeHealth {
    /// The service for a listener with these services.
    pub fn server(node: Arc<Node>, services: Vec<&'static str>) -> HealthServer<Self> {
        HealthServer::new(Self { node, services })
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
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let begin = (Arc::clone(&self.node), ticks, None);
        let changes = stream::unfold(begin, |(node, mut ticks, told)| async move {
            loop {
                // The first is there at once.
                ticks.tick().await;
                let now = status(&node);
                if told != Some(now) {
                    return Some((Ok(response(now)), (node, ticks, Some(now))));
                }
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
