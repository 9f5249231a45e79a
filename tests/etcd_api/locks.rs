//! Locks and elections that the server holds for its clients (`v3lock`, `v3election`): the same calls to a real etcd and to a node, and what becomes of
//! those who go away while they wait.

use std::{future::Future, net::SocketAddr, time::Duration};

use tokio::{runtime::Runtime, task::JoinHandle, time::timeout};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    Served,
    client::{
        Client,
        election::{
            CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
            ResignRequest,
        },
        lock::{LockRequest, LockResponse, UnlockRequest},
        pb,
    },
    cluster,
    oracle::shown,
    runtime,
};
use crate::harness::{DEADLINE, Setup, etcd::Etcd};

/// What is told of a lock or an election, as text.
struct Told<'a> {
    client: &'a mut Client,
    text: Vec<String>,
}

impl Told<'_> {
    fn lease(id: i64) -> pb::LeaseGrantRequest {
        pb::LeaseGrantRequest { id, ttl: 1_000 }
    }

    async fn lock(&mut self, name: &str, lease: i64) {
        let answer = self.client.lock.lock(LockRequest { name: name.into(), lease }).await;
        self.text.push(shown(answer, |it| &mut it.header).0);
    }

    async fn unlock(&mut self, key: &str) {
        let answer = self.client.lock.unlock(UnlockRequest { key: key.into() }).await;
        self.text.push(shown(answer, |it| &mut it.header).0);
    }

    async fn campaign(&mut self, name: &str, lease: i64, value: &str) -> Option<LeaderKey> {
        let campaign = CampaignRequest { name: name.into(), lease, value: value.into() };
        let answer = self.client.election.campaign(campaign).await;
        let leader = answer.as_ref().ok().and_then(|it| it.get_ref().leader.clone());
        self.text.push(shown(answer, |it| &mut it.header).0);
        leader
    }

    async fn proclaim(&mut self, leader: Option<LeaderKey>, value: &str) {
        let answer = self.client.election.proclaim(ProclaimRequest { leader, value: value.into() }).await;
        self.text.push(shown(answer, |it| &mut it.header).0);
    }

    async fn resign(&mut self, leader: Option<LeaderKey>) {
        let answer = self.client.election.resign(ResignRequest { leader }).await;
        self.text.push(shown(answer, |it| &mut it.header).0);
    }

    async fn leader(&mut self, name: &str) {
        let answer = self.client.election.leader(LeaderRequest { name: name.into() }).await;
        self.text.push(shown(answer, |it| &mut it.header).0);
    }

    /// The keys that are there.
    async fn keys(&mut self) {
        let all = pb::RangeRequest { key: vec![0], range_end: vec![0], ..Default::default() };
        let answer = self.client.kv.range(all).await;
        self.text.push(shown(answer, |it| &mut it.header).0);
    }
}

/// Whether a key is there.
async fn is_there(client: &mut Client, key: &str) -> bool {
    let range = pb::RangeRequest { key: key.into(), count_only: true, ..Default::default() };
    client.kv.range(range).await.expect("is read").into_inner().count == 1
}

/// Returns once a key is there, or is not.
async fn until(client: &mut Client, key: &str, wanted: bool) {
    let looking = async {
        while is_there(client, key).await != wanted {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, looking).await.expect("in time");
}

type Waiting<T> = JoinHandle<Result<Response<T>, Status>>;

/// Begins to wait for a lock, and returns once its key is there.
async fn wait_for_lock(client: &mut Client, name: &str, lease: i64) -> Waiting<LockResponse> {
    let mut waiting = client.clone();
    let request = LockRequest { name: name.into(), lease };
    let waiting = tokio::task::spawn_local(async move { waiting.lock.lock(request).await });
    until(client, &format!("{name}/{lease:x}"), true).await;
    waiting
}

async fn wait_to_lead(client: &mut Client, name: &str, lease: i64, value: &str) -> Waiting<CampaignResponse> {
    let mut waiting = client.clone();
    let request = CampaignRequest { name: name.into(), lease, value: value.into() };
    let waiting = tokio::task::spawn_local(async move { waiting.election.campaign(request).await });
    until(client, &format!("{name}/{lease:x}"), true).await;
    waiting
}

async fn ended<T>(waiting: Waiting<T>) -> Result<Response<T>, Status> {
    timeout(DEADLINE, waiting).await.expect("in time").expect("it does not panic")
}

fn run_local(runtime: &Runtime, test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().block_on(runtime, test);
}

/// What is told of locks; and what one is told that waits and whose lease ends, where etcd 3.4 says that it has the lock.
async fn locks(client: &mut Client) -> (Vec<String>, String) {
    let mut told = Told { client, text: Vec::new() };
    for id in 1..=4 {
        told.client.lease.lease_grant(Told::lease(id)).await.expect("is granted");
    }
    for (name, lease) in [("m", 1), ("m", 1), ("m", 99), ("", 1), ("n/", 2)] {
        told.lock(name, lease).await;
    }
    told.keys().await;
    // One waits, and has the lock once it is free.
    let second = wait_for_lock(told.client, "m", 2).await;
    // Another waits for both.
    let third = wait_for_lock(told.client, "m", 3).await;
    told.unlock("m/1").await;
    told.text.push(shown(ended(second).await, |it| &mut it.header).0);
    // The lease of one that waits ends.
    told.client.lease.lease_revoke(pb::LeaseRevokeRequest { id: 3 }).await.expect("is revoked");
    told.unlock("m/2").await;
    let expired = shown(ended(third).await, |it| &mut it.header).0;
    // That of one who has the lock.
    told.lock("m", 1).await;
    let fourth = wait_for_lock(told.client, "m", 4).await;
    told.client.lease.lease_revoke(pb::LeaseRevokeRequest { id: 1 }).await.expect("is revoked");
    told.text.push(shown(ended(fourth).await, |it| &mut it.header).0);
    for key in ["m/4", "m/4", "nobody", ""] {
        told.unlock(key).await;
    }
    told.keys().await;
    (told.text, expired)
}

async fn elections(client: &mut Client) -> Vec<String> {
    let mut told = Told { client, text: Vec::new() };
    for id in 5..=7 {
        told.client.lease.lease_grant(Told::lease(id)).await.expect("is granted");
    }
    told.leader("e").await;
    let leader = told.campaign("e", 5, "a").await.expect("it leads");
    told.campaign("e", 5, "a").await;
    told.campaign("e", 5, "b").await;
    told.campaign("e", 99, "c").await;
    told.leader("e").await;
    told.leader("").await;
    told.proclaim(None, "d").await;
    told.proclaim(Some(leader.clone()), "d").await;
    let wrong = [
        LeaderKey { rev: leader.rev + 1, ..leader.clone() },
        LeaderKey { key: b"e/nobody".into(), ..leader.clone() },
        LeaderKey { key: Vec::new(), ..leader.clone() },
        LeaderKey { lease: 99, ..leader.clone() },
        LeaderKey { name: b"other".into(), ..leader.clone() },
    ];
    for wrong in wrong {
        told.proclaim(Some(wrong), "e").await;
    }
    told.leader("e").await;
    let second = wait_to_lead(told.client, "e", 6, "second").await;
    told.resign(None).await;
    told.resign(Some(LeaderKey { rev: leader.rev + 1, ..leader.clone() })).await;
    told.resign(Some(leader.clone())).await;
    told.text.push(shown(ended(second).await, |it| &mut it.header).0);
    told.resign(Some(leader.clone())).await;
    told.proclaim(Some(leader), "late").await;
    told.leader("e").await;
    told.keys().await;
    told.text
}

/// What observers are told.
async fn observed(client: &mut Client) -> Vec<String> {
    let mut text = Vec::new();
    for id in 8..=9 {
        client.lease.lease_grant(Told::lease(id)).await.expect("is granted");
    }
    let request = LeaderRequest { name: b"o".to_vec() };
    let mut told = Told { client, text: Vec::new() };
    let first = told.campaign("o", 8, "one").await.expect("it leads");
    let observing = told.client.election.observe(request.clone()).await;
    let mut observing = observing.expect("a stream").into_inner();
    text.push(next(&mut observing).await);
    told.proclaim(Some(first.clone()), "two").await;
    text.push(next(&mut observing).await);
    // Whoever begins later is told what is.
    let mut later = told.client.election.observe(request).await.expect("a stream").into_inner();
    text.push(next(&mut later).await);
    let second = wait_to_lead(told.client, "o", 9, "three").await;
    told.resign(Some(first)).await;
    text.push(next(&mut observing).await);
    text.push(next(&mut later).await);
    let second = ended(second).await.expect("it leads").into_inner().leader;
    told.resign(second).await;
    told.campaign("o", 8, "four").await;
    text.push(next(&mut observing).await);
    text.push(next(&mut later).await);
    text
}

async fn next(observing: &mut Streaming<LeaderResponse>) -> String {
    let told = timeout(DEADLINE, observing.message()).await.expect("in time");
    shown(told.map(|told| Response::new(told.expect("it goes on"))), |it| &mut it.header).0
}

#[test]
fn locks_and_elections_are_those_of_etcd() {
    let Some(etcd) = Etcd::start() else {
        eprintln!("skipped: it needs etcd-server installed");
        return;
    };
    let served = Served::start();
    let address: SocketAddr = etcd.url().trim_start_matches("etcd://").parse().expect("an address");
    run_local(&served.runtime, async {
        let (mut etcd, mut node) = (Client::open(address).await, Client::open(served.address).await);
        // Both have the same revision throughout.
        let (told, expired) = locks(&mut node).await;
        assert_eq!(told, locks(&mut etcd).await.0);
        assert_eq!(expired, "Unknown: mutex: session is expired");
        assert_eq!(elections(&mut node).await, elections(&mut etcd).await);
        assert_eq!(observed(&mut node).await, observed(&mut etcd).await);
    });
}

#[test]
fn whoever_goes_away_while_it_waits_leaves_nothing_behind() {
    let served = Served::start();
    run_local(&served.runtime, async {
        let mut client = Client::open(served.address).await;
        for id in 1..=4 {
            client.lease.lease_grant(Told::lease(id)).await.expect("is granted");
        }
        client.lock.lock(LockRequest { name: b"m".to_vec(), lease: 1 }).await.expect("has it");
        let leads = CampaignRequest { name: b"e".to_vec(), lease: 1, value: b"first".to_vec() };
        client.election.campaign(leads).await.expect("it leads");
        // A client that cancels its call.
        let waiting = wait_for_lock(&mut client, "m", 2).await;
        waiting.abort();
        until(&mut client, "m/2", false).await;
        let waiting = wait_to_lead(&mut client, "e", 2, "second").await;
        waiting.abort();
        until(&mut client, "e/2", false).await;
        // One whose lease ends.
        let waiting = wait_to_lead(&mut client, "e", 2, "second").await;
        client.lease.lease_revoke(pb::LeaseRevokeRequest { id: 2 }).await.expect("is revoked");
        let leader = LeaderRequest { name: b"e".to_vec() };
        let first = client.election.leader(leader).await.expect("one leads").into_inner().kv.expect("a key");
        client.lock.unlock(UnlockRequest { key: first.key }).await.expect("resigns");
        let ended = ended(waiting).await.expect_err("it leads nothing");
        assert_eq!((ended.code(), ended.message()), (Code::Unknown, "election: not leader"));
        // One whose deadline passes.
        let mut timed = Request::new(LockRequest { name: b"m".to_vec(), lease: 3 });
        timed.set_timeout(Duration::from_millis(200));
        let passed = client.lock.lock(timed).await.expect_err("it has no time");
        assert_eq!(passed.code(), Code::DeadlineExceeded, "{passed:?}");
        until(&mut client, "m/3", false).await;
        // One that hangs up.
        let mut gone = Client::open(served.address).await;
        let waiting = wait_for_lock(&mut gone, "m", 4).await;
        waiting.abort();
        drop(gone);
        until(&mut client, "m/4", false).await;
        assert!(is_there(&mut client, "m/1").await);
        // Whoever observes from before there is a leader is told of the first one.
        let nobody = LeaderRequest { name: b"none".to_vec() };
        let mut observing = client.election.observe(nobody).await.expect("a stream").into_inner();
        let leads = CampaignRequest { name: b"none".to_vec(), lease: 1, value: b"first".to_vec() };
        client.election.campaign(leads).await.expect("it leads");
        let told = timeout(DEADLINE, observing.message()).await.expect("in time").expect("is told");
        assert_eq!(told.and_then(|told| told.kv).expect("a key").value, b"first");
        // A lock without a lease gets one of its own.
        let own = client.lock.lock(LockRequest { name: b"own".to_vec(), lease: 0 }).await.expect("has it");
        let key = String::from_utf8(own.into_inner().key).expect("text");
        let lease = i64::from_str_radix(key.trim_start_matches("own/"), 16).expect("a lease");
        let left = pb::LeaseTimeToLiveRequest { id: lease, keys: true };
        let left = client.lease.lease_time_to_live(left).await.expect("is there").into_inner();
        assert_eq!((left.granted_ttl, left.keys), (60, vec![key.into_bytes()]));
    });
}

#[test]
fn a_token_grants_locks_of_its_keys_and_a_wait_ends_with_it() {
    let make = ["token", "new", "app", "--rights", "read,write", "--table", "etcd", "--prefix", "key:app/"];
    let (setup, made) = Setup::new().run(&[&make[..], &["--tokens", "tokens.toml"]].concat());
    let secret = made.stdout.trim().to_owned();
    let served = Served::from(setup.flag("--tokens", "tokens.toml").flag("--etcd", "127.0.0.1:0"));
    fn with<T>(message: T, secret: &str) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("token", secret.parse().expect("is text"));
        request
    }
    run_local(&served.runtime, async {
        let mut client = Client::open(served.address).await;
        let lock = |name: &str, lease| LockRequest { name: name.into(), lease };
        let nobody = client.lock.lock(lock("app/m", 0)).await.expect_err("asks for a token");
        assert_eq!(nobody.message(), "etcdserver: user name is empty");
        let other = client.lock.lock(with(lock("other", 0), &secret)).await.expect_err("is not granted");
        assert_eq!(other.code(), Code::PermissionDenied, "{other:?}");
        let leader = LeaderRequest { name: b"other".to_vec() };
        let other = client.election.leader(with(leader, &secret)).await.expect_err("is not granted");
        assert_eq!(other.code(), Code::PermissionDenied, "{other:?}");
        client.lock.lock(with(lock("app/m", 0), &secret)).await.expect("has it");
        let (mut waiting, request) = (client.clone(), with(lock("app/m", 0), &secret));
        let waiting = tokio::task::spawn_local(async move { waiting.lock.lock(request).await });
        let both = pb::RangeRequest {
            key: b"app/m/".into(),
            range_end: b"app/m0".into(),
            count_only: true,
            ..Default::default()
        };
        let looking = async {
            while client.kv.range(with(both.clone(), &secret)).await.expect("is read").into_inner().count < 2
            {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, looking).await.expect("it waits");
        std::fs::write(served.node.home().join("tokens.toml"), "").expect("no token is left");
        let ended = ended(waiting).await.expect_err("it ends");
        assert_eq!(
            (ended.code(), ended.message()),
            (Code::Unauthenticated, "etcdserver: invalid auth token")
        );
    });
}

#[test]
fn a_lock_is_passed_on_between_nodes() {
    let (_cluster, addresses) = cluster::start();
    run_local(&runtime(), async {
        let mut clients = Vec::new();
        for address in &addresses {
            clients.push(Client::open(*address).await);
        }
        let [first, second, third] = &mut clients[..] else { panic!("there are three") };
        for id in 1..=2 {
            first.lease.lease_grant(Told::lease(id)).await.expect("is granted");
        }
        first.lock.lock(LockRequest { name: b"m".to_vec(), lease: 1 }).await.expect("has it");
        let waiting = wait_for_lock(second, "m", 2).await;
        third.lock.unlock(UnlockRequest { key: b"m/1".to_vec() }).await.expect("is free");
        assert_eq!(ended(waiting).await.expect("has it").into_inner().key, b"m/2");
    });
}

/// A node that is stopped does not wait for those who wait for a lock.
#[test]
fn a_node_stops_while_a_client_waits_for_a_lock() {
    let Served { node, address, runtime } = Served::start();
    run_local(&runtime, async {
        let mut client = Client::open(address).await;
        for id in 1..=2 {
            client.lease.lease_grant(Told::lease(id)).await.expect("is granted");
        }
        client.lock.lock(LockRequest { name: b"m".to_vec(), lease: 1 }).await.expect("has it");
        let waiting = wait_for_lock(&mut client, "m", 2).await;
        let terminating = tokio::task::spawn_blocking(move || node.terminate());
        let ended = ended(waiting).await.expect_err("it ends");
        assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "etcdserver: server stopped"));
        let (_, outcome) = terminating.await.expect("it does not panic");
        assert!(outcome.status.success(), "{outcome:?}");
    });
}
