//! Three nodes: any of them answers, and watchers miss nothing and see nothing twice when the leader is killed.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::time::{Interval, interval, timeout};
use tonic::{Code, Request};

use super::{
    address_in,
    client::{Client, all_keys, pb},
    runtime,
};
use crate::harness::{
    DEADLINE,
    cluster::{Cluster, setup},
};

/// How long a client waits for an answer before it asks another node.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// What is written before and after the leader is killed.
const WRITES: usize = 40;

pub fn start() -> (Cluster, Vec<SocketAddr>) {
    let cluster = Cluster::start_with(3, |_| setup().flag("--etcd", "127.0.0.1:0"));
    cluster.wait_until_ready_and_linked();
    let addresses = cluster.running().map(|node| address_in(&node.log())).collect();
    (cluster, addresses)
}

/// When to try again.
fn tries() -> Interval {
    interval(Duration::from_millis(20))
}

/// Writes, at whichever of these nodes takes it. Returns the revision; a write that nobody answered may have been made.
pub async fn put(clients: &mut [Client], key: &[u8], value: &str) -> i64 {
    let mut tries = tries();
    let written = async {
        loop {
            tries.tick().await;
            for client in &mut *clients {
                if let Ok(Ok(revision)) = timeout(ANSWER_MAX, client.put(key, value.as_bytes())).await {
                    return revision;
                }
            }
        }
    };
    timeout(DEADLINE, written).await.expect("some node takes it")
}

/// The place of the leader, once the group has one.
pub async fn leader(clients: &mut [Client]) -> usize {
    let mut tries = tries();
    loop {
        tries.tick().await;
        for (place, client) in clients.iter_mut().enumerate() {
            let status = client.maintenance.status(pb::StatusRequest {}).await.expect("answers").into_inner();
            if status.header.is_some_and(|header| header.member_id == status.leader) {
                return place;
            }
        }
    }
}

#[test]
fn a_watcher_misses_nothing_and_sees_nothing_twice_when_the_leader_is_killed() {
    let (mut cluster, addresses) = start();
    runtime().block_on(async {
        let mut clients = Vec::new();
        for address in &addresses {
            clients.push(Client::open(*address).await);
        }
        put(&mut clients, b"first", "1").await;
        let killed = leader(&mut clients).await;
        let mut watchings = Vec::new();
        for (place, client) in clients.iter_mut().enumerate() {
            if place != killed {
                let watcher = pb::WatchCreateRequest { start_revision: 2, prev_kv: true, ..all_keys() };
                watchings.push(client.watch(vec![watcher]).await);
            }
        }
        let mut last = 0;
        for number in 0..WRITES {
            if number == WRITES / 2 {
                cluster.kill(killed);
                clients.remove(killed);
            }
            last = put(&mut clients, format!("k{}", number % 5).as_bytes(), &number.to_string()).await;
        }
        let mut told = Vec::new();
        for watching in &mut watchings {
            assert!(watching.next().await.expect("is answered").created);
            let (mut events, mut state) = (Vec::new(), BTreeMap::new());
            while events.last().is_none_or(|(revision, _)| *revision < last) {
                let response = watching.next().await.expect("goes on");
                assert!(!response.canceled, "{response:?}");
                for event in response.events {
                    let kv = event.kv.expect("a key");
                    let before = state.insert(kv.key.clone(), kv.clone());
                    assert_eq!(event.prev_kv, before, "what was before is what was told before");
                    events.push((kv.mod_revision, kv));
                }
            }
            // Each write is a revision of its own.
            assert!(events.iter().map(|(revision, _)| *revision).eq(2..=last), "{events:?}");
            told.push(events);
        }
        assert_eq!(told[0], told[1]);
        let hash = pb::HashKvRequest { revision: last };
        let mut hashes = Vec::new();
        for client in &mut clients {
            hashes.push(client.maintenance.hash_kv(hash).await.expect("a hash").into_inner().hash);
        }
        assert_eq!(hashes[0], hashes[1]);
        ends_without_a_leader(&mut cluster, &mut clients).await;
    });
}

/// Clients that say that they want a leader are told when there is none, and then ask another node.
async fn ends_without_a_leader(cluster: &mut Cluster, clients: &mut Vec<Client>) {
    fn wanting<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("hasleader", "true".parse().expect("is text"));
        request
    }
    let mut client = clients.pop().expect("two are left");
    let mut watching =
        client.watch.watch(wanting(futures_util::stream::pending())).await.expect("a stream").into_inner();
    let keeping = client.lease.lease_keep_alive(wanting(futures_util::stream::pending()));
    let mut keeping = keeping.await.expect("a stream").into_inner();
    // The other one of the two.
    let other = (0..2).find(|member| cluster.is_running(*member)).expect("it runs");
    cluster.kill(other);
    let ended = [
        timeout(DEADLINE, watching.message()).await.expect("in time").expect_err("ends"),
        timeout(DEADLINE, keeping.message()).await.expect("in time").expect_err("ends"),
        client
            .kv
            .range(wanting(pb::RangeRequest { key: b"a".into(), serializable: true, ..Default::default() }))
            .await
            .expect_err("is refused"),
    ];
    for ended in ended {
        assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "etcdserver: no leader"));
    }
}

#[test]
fn any_node_answers_and_tells_where_the_others_are() {
    let (_cluster, addresses) = start();
    runtime().block_on(async {
        let mut clients = Vec::new();
        for address in &addresses {
            clients.push(Client::open(*address).await);
        }
        for (place, address) in addresses.iter().enumerate() {
            let grant = pb::LeaseGrantRequest { id: 0, ttl: 60 };
            let granted = clients[place].lease.lease_grant(grant).await.expect("is granted").into_inner();
            let key = address.to_string().into_bytes();
            let put = pb::PutRequest { key: key.clone(), lease: granted.id, ..Default::default() };
            clients[place].kv.put(put).await.expect("is written");
            // What one node answered can be read at another, and a lease is known at all.
            let other = &mut clients[(place + 1) % 3];
            let read = pb::RangeRequest { key: key.clone(), ..Default::default() };
            let read = other.kv.range(read).await.expect("is read").into_inner();
            assert_eq!(read.kvs[0].lease, granted.id);
            let left = pb::LeaseTimeToLiveRequest { id: granted.id, keys: true };
            let left = other.lease.lease_time_to_live(left).await.expect("is known").into_inner();
            assert_eq!((left.granted_ttl, left.keys), (60, vec![key]));
        }
        let members = clients[0].cluster.member_list(pb::MemberListRequest::default()).await;
        let members = members.expect("a list").into_inner().members;
        let mut told: Vec<_> = members.into_iter().flat_map(|member| member.client_ur_ls).collect();
        let mut expected: Vec<_> = addresses.iter().map(|address| format!("http://{address}")).collect();
        told.sort();
        expected.sort();
        assert_eq!(told, expected);
    });
}
