//! The same requests to a real etcd and to a node: the answers are equal, field by field. Left aside are the ids of the cluster and of the
//! member, the term, and what `docs/etcd-api.md` lists as different.

use std::{fmt::Debug, net::SocketAddr};

use tonic::{Response, Status};

use super::{
    Served,
    client::{Client, Watching, mvccpb, pb},
    generator::{Call, Generator},
};
use crate::harness::etcd::Etcd;

/// Requests of a seed.
const CALLS: usize = 150;

/// Those that are tried always, or those of `DYNARUST_ETCD_SEEDS=from..to`.
fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("DYNARUST_ETCD_SEEDS") else { return 1..2 };
    let (from, to) = text.split_once("..").expect("DYNARUST_ETCD_SEEDS=from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[test]
fn answers_are_those_of_etcd() {
    for seed in seeds() {
        let Some(etcd) = Etcd::start() else {
            eprintln!("skipped: it needs etcd-server installed");
            return;
        };
        let served = Served::start();
        let address = etcd.url().trim_start_matches("etcd://").parse().expect("an address");
        served.runtime.block_on(compare(seed, address, served.address));
    }
}

async fn compare(seed: u64, etcd: SocketAddr, node: SocketAddr) {
    let (mut etcd, mut node) = (Client::open(etcd).await, Client::open(node).await);
    let mut generator = Generator::new(seed);
    let watchers: Vec<_> = (0..4).map(|_| generator.watcher()).collect();
    let mut live = (etcd.watch(watchers.clone()).await, node.watch(watchers.clone()).await);
    for number in 0..CALLS {
        let call = generator.call();
        let (expected, revision) = answer(&mut etcd, &call).await;
        let (actual, _) = answer(&mut node, &call).await;
        assert_eq!(actual, expected, "seed {seed}, request {number}: {call:#?}");
        generator.revision = revision.unwrap_or(generator.revision);
    }
    // Each watcher sees a write and a deletion of its first key, if it is for any.
    let mut last = Vec::new();
    for watcher in &watchers {
        let mut revisions = Vec::new();
        for client in [&mut etcd, &mut node] {
            let written = client.put(first_key(watcher), b"last").await.expect("is written");
            let delete = pb::DeleteRangeRequest { key: first_key(watcher).into(), ..Default::default() };
            client.kv.delete_range(delete).await.expect("is deleted");
            revisions.push(written + i64::from(!wants_puts(watcher)));
        }
        assert_eq!(revisions[0], revisions[1], "seed {seed}");
        last.push(revisions[0]);
    }
    let expected = events(&mut live.0, &watchers, &last).await;
    assert_eq!(events(&mut live.1, &watchers, &last).await, expected, "seed {seed}: {watchers:#?}");
}

/// As etcd, which takes an empty key for the smallest one.
fn first_key(watcher: &pb::WatchCreateRequest) -> &[u8] {
    if watcher.key.is_empty() { &[0] } else { &watcher.key }
}

fn wants_puts(watcher: &pb::WatchCreateRequest) -> bool {
    !watcher.filters.contains(&pb::watch_create_request::FilterType::Noput.into())
}

/// What each watcher was told, up to its last revision.
async fn events(
    live: &mut Watching,
    watchers: &[pb::WatchCreateRequest],
    last: &[i64],
) -> Vec<(i64, String, Vec<mvccpb::Event>)> {
    let mut told: Vec<(i64, String, Vec<mvccpb::Event>)> = Vec::new();
    let mut open = std::collections::BTreeSet::new();
    while told.len() < watchers.len() || !open.is_empty() {
        let response = live.next().await.expect("goes on");
        if response.created {
            if !response.canceled {
                open.insert(told.len());
            }
            told.push((response.watch_id, response.cancel_reason, Vec::new()));
            continue;
        }
        let place = told.iter().position(|(id, ..)| *id == response.watch_id).expect("a watcher of ours");
        for event in response.events {
            let revision = event.kv.as_ref().expect("a key").mod_revision;
            if revision >= last[place] {
                open.remove(&place);
            }
            if revision <= last[place] {
                told[place].2.push(event);
            }
        }
    }
    told
}

/// An answer as text, without what differs between any two clusters, and the revision in it.
async fn answer(client: &mut Client, call: &Call) -> (String, Option<i64>) {
    match call.clone() {
        Call::Range(request) => shown(client.kv.range(request).await, |it| &mut it.header),
        Call::Put(request) => shown(client.kv.put(request).await, |it| &mut it.header),
        Call::Delete(request) => shown(client.kv.delete_range(request).await, |it| &mut it.header),
        Call::Txn(request) => shown(client.kv.txn(request).await, |it| &mut it.header),
        Call::Compact(request) => shown(client.kv.compact(request).await, |it| &mut it.header),
        Call::Grant(request) => shown(client.lease.lease_grant(request).await, |it| &mut it.header),
        Call::Revoke(request) => shown(client.lease.lease_revoke(request).await, |it| &mut it.header),
        Call::TimeToLive(request) => {
            let answer = client.lease.lease_time_to_live(request).await.map(|mut answer| {
                let answer_ref = answer.get_mut();
                answer_ref.keys.sort();
                // Some of it has passed.
                answer_ref.ttl = answer_ref.ttl.min(0);
                answer
            });
            shown(answer, |it| &mut it.header)
        }
        Call::Leases => {
            let answer = client.lease.lease_leases(pb::LeaseLeasesRequest {}).await.map(|mut answer| {
                answer.get_mut().leases.sort_by_key(|lease| lease.id);
                answer
            });
            shown(answer, |it| &mut it.header)
        }
        Call::KeepAlive(id) => {
            let requests = futures_util::stream::iter([pb::LeaseKeepAliveRequest { id }]);
            let answer = match client.lease.lease_keep_alive(requests).await {
                Ok(stream) => {
                    stream.into_inner().message().await.map(|it| Response::new(it.expect("an answer")))
                }
                Err(status) => Err(status),
            };
            shown(answer, |it| &mut it.header)
        }
        Call::Watch(request) => (watched(client, request).await, None),
    }
}

/// What a watcher is told of what has happened already.
async fn watched(client: &mut Client, request: pb::WatchCreateRequest) -> String {
    let mut watching = client.watch(vec![request.clone()]).await;
    let created = watching.next().await.expect("is answered");
    let mut told = format!("{:?} {:?} {:?}\n", created.created, created.canceled, created.cancel_reason);
    let key = first_key(&request).to_vec();
    let read = pb::RangeRequest { key, range_end: request.range_end.clone(), ..Default::default() };
    let read = client.kv.range(read).await.expect("is read").into_inner();
    // The newest key that is there was put, and that is the last event which is known to come.
    let newest = read.kvs.iter().map(|kv| kv.mod_revision).max().unwrap_or_default();
    if created.canceled || !wants_puts(&request) || newest < request.start_revision {
        return told;
    }
    loop {
        let mut response = watching.next().await.expect("goes on");
        // Of a canceled one etcd tells no revision.
        response.header = None;
        if response.canceled {
            return told + &format!("{response:?}\n");
        }
        for event in &response.events {
            let kv = event.kv.as_ref().expect("a key");
            if kv.mod_revision > newest {
                return told;
            }
            told += &format!("{event:?}\n");
        }
        if response.events.iter().any(|event| event.kv.as_ref().is_some_and(|kv| kv.mod_revision >= newest)) {
            return told;
        }
    }
}

/// Without what differs between any two clusters.
pub fn shown<T: Debug>(
    answer: Result<Response<T>, Status>,
    header: impl Fn(&mut T) -> &mut Option<pb::ResponseHeader>,
) -> (String, Option<i64>) {
    match answer {
        Ok(answer) => {
            let mut answer = answer.into_inner();
            let header = header(&mut answer).as_mut().expect("a header");
            assert_ne!((header.cluster_id, header.member_id), (0, 0), "who answers");
            let revision = header.revision;
            *header = pb::ResponseHeader { revision, ..Default::default() };
            (format!("{answer:#?}"), Some(revision))
        }
        Err(status) => (format!("{:?}: {}", status.code(), status.message()), None),
    }
}
