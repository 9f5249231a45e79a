//! Clients of the etcd API, generated, for a node and for a real etcd alike.

use std::net::SocketAddr;

use tonic::{Status, Streaming};

use crate::grpc::client::{Channel, generated};
pub use generated::{
    etcdserverpb::{
        self as pb, auth_client::AuthClient, cluster_client::ClusterClient, kv_client::KvClient,
        lease_client::LeaseClient, maintenance_client::MaintenanceClient, watch_client::WatchClient,
    },
    mvccpb, v3electionpb as election, v3lockpb as lock,
};

/// A connection.
#[derive(Clone)]
pub struct Client {
    pub auth: AuthClient<Channel>,
    pub cluster: ClusterClient<Channel>,
    pub kv: KvClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub watch: WatchClient<Channel>,
    pub maintenance: MaintenanceClient<Channel>,
    pub lock: lock::lock_client::LockClient<Channel>,
    pub election: election::election_client::ElectionClient<Channel>,
}

impl Client {
    pub async fn open(address: SocketAddr) -> Self {
        let channel = Channel::open(address).await;
        let origin: hyper::Uri = format!("http://{address}").parse().expect("a URI");
        Self {
            auth: AuthClient::with_origin(channel.clone(), origin.clone()),
            cluster: ClusterClient::with_origin(channel.clone(), origin.clone()),
            kv: KvClient::with_origin(channel.clone(), origin.clone()),
            lease: LeaseClient::with_origin(channel.clone(), origin.clone()),
            watch: WatchClient::with_origin(channel.clone(), origin.clone()),
            maintenance: MaintenanceClient::with_origin(channel.clone(), origin.clone()),
            lock: lock::lock_client::LockClient::with_origin(channel.clone(), origin.clone()),
            election: election::election_client::ElectionClient::with_origin(channel, origin),
        }
    }

    pub async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<i64, Status> {
        let request = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        let response = self.kv.put(request).await?.into_inner();
        Ok(response.header.expect("a header").revision)
    }

    /// A stream with these watchers.
    pub async fn watch(&mut self, watchers: Vec<pb::WatchCreateRequest>) -> Watching {
        let requests = watchers.into_iter().map(|watcher| pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(watcher)),
        });
        let requests: Vec<_> = requests.collect();
        let open = futures_util::stream::pending();
        let requests = futures_util::StreamExt::chain(futures_util::stream::iter(requests), open);
        Watching(self.watch.watch(requests).await.expect("a stream").into_inner())
    }
}

/// A stream of events.
pub struct Watching(Streaming<pb::WatchResponse>);

impl Watching {
    pub async fn next(&mut self) -> Result<pb::WatchResponse, Status> {
        let next = tokio::time::timeout(crate::harness::DEADLINE, self.0.message()).await;
        next.expect("in time").map(|message| message.expect("the stream goes on"))
    }
}

/// A request for events of all keys with a prefix.
pub fn all_keys() -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: vec![0], range_end: vec![0], ..Default::default() }
}
