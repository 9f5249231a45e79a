//! What clients see after a disaster: revisions that are not told twice, reads that see no half of a snapshot, rows of somebody else.

use std::{collections::BTreeSet, fs, ops::RangeInclusive};

use tokio::time::timeout;
use tonic::Code;

use super::{
    Served, address_in,
    client::{Client, Watching, all_keys, pb},
    cluster, runtime,
};
use crate::harness::{
    DEADLINE, Node, Outcome, Setup,
    cluster::{Cluster, SECRET, setup},
    wait_until,
};

/// Keys that are always written together.
const KEYS: usize = 300;
/// Keys of a transaction.
const PART: usize = 100;

#[track_caller]
fn done(arguments: &[&str]) -> Outcome {
    let outcome = setup().environment("CLUSTER_SECRET", SECRET).run(arguments).1;
    assert_eq!(outcome.code(), Some(0), "{arguments:?}: {outcome:?}");
    outcome
}

fn with_api() -> Setup {
    setup().flag("--etcd", "127.0.0.1:0")
}

/// A write of a part of the keys: all have the number as their value, but for one that is deleted.
fn numbered(part: usize, number: usize) -> pb::TxnRequest {
    let key = |at: usize| format!("part{part}/{at:03}").into_bytes();
    let absent = number % PART;
    let puts = (0..PART).filter(|at| *at != absent).map(|at| {
        let put = pb::PutRequest { key: key(at), value: number.to_string().into(), ..Default::default() };
        pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
    });
    let delete = pb::DeleteRangeRequest { key: key(absent), ..Default::default() };
    let delete = pb::RequestOp { request: Some(pb::request_op::Request::RequestDeleteRange(delete)) };
    pb::TxnRequest { success: puts.chain([delete]).collect(), ..Default::default() }
}

/// A read that may be old, and must not be of two instants. `None` if the node cannot answer yet.
async fn read_whole(client: &mut Client) -> Option<i64> {
    let range = pb::RangeRequest {
        key: b"part".into(),
        range_end: b"paru".into(),
        serializable: true,
        ..Default::default()
    };
    let read = client.kv.range(range).await.ok()?.into_inner();
    let mut numbers = vec![BTreeSet::new(); KEYS / PART];
    for kv in &read.kvs {
        let key = String::from_utf8_lossy(&kv.key);
        let part: usize = key[4..5].parse().expect("a part");
        numbers[part].insert(String::from_utf8_lossy(&kv.value).into_owned());
    }
    let is_whole = numbers.iter().all(|numbers| numbers.len() == 1);
    assert!(read.kvs.is_empty() || is_whole && read.kvs.len() == KEYS - KEYS / PART, "{numbers:?}");
    (!read.kvs.is_empty()).then(|| read.header.expect("a header").revision)
}

/// A client that watched from the revision that it had seen last was told of other writes with the same numbers: those after the backup were lost,
/// and their revisions came again. And a node that joins, which is sent all rows one after the other, showed half of them.
#[test]
fn after_a_restored_backup_no_revision_comes_again_and_who_joins_shows_no_half_of_a_snapshot() {
    let mut cluster = Cluster::start_from(vec![with_api()]);
    let shelf = tempfile::tempdir().expect("a directory");
    let backup = shelf.path().join("backup").to_str().expect("text").to_owned();
    let runtime = runtime();
    let write = |cluster: &Cluster, numbers: std::ops::Range<usize>| {
        runtime.block_on(async {
            let mut client = Client::open(address_in(&cluster[0].log())).await;
            let mut last = 0;
            for number in numbers {
                for part in 0..KEYS / PART {
                    let written = client.kv.txn(numbered(part, number)).await.expect("is written");
                    last = written.into_inner().header.expect("a header").revision;
                }
            }
            last
        })
    };
    let backed_up = write(&cluster, 0..2);
    let data = cluster[0].home().join("storage.db").to_str().expect("text").to_owned();
    done(&["backup", &backup, "--at", &cluster[0].address().to_string(), "--data", &data]);
    let seen = write(&cluster, 2..4);
    assert_eq!(seen, backed_up + 6);
    cluster.kill(0);
    fs::remove_dir_all(&data).expect("the disk is lost");
    done(&["restore", &backup, "--data", &data]);
    cluster.restart(0);
    done(&["strong", "init", "--force", "--at", &cluster[0].address().to_string()]);
    let first = write(&cluster, 4..5);
    assert!(first > seen + 1_000_000, "{first}");

    let joined = cluster.add(with_api());
    runtime.block_on(async {
        let mut writing = Client::open(address_in(&cluster[0].log())).await;
        let mut watching =
            writing.watch(vec![pb::WatchCreateRequest { start_revision: seen, ..all_keys() }]).await;
        assert!(watching.next().await.expect("is answered").created);
        let canceled = watching.next().await.expect("is told");
        assert!(canceled.canceled && canceled.compact_revision > seen, "{canceled:?}");
        let past = pb::RangeRequest { key: b"a".into(), revision: seen, ..Default::default() };
        let past = writing.kv.range(past).await.expect_err("is compacted");
        assert_eq!(past.code(), Code::OutOfRange, "{past:?}");

        let mut reading = Client::open(address_in(&cluster[joined].log())).await;
        let write = async {
            for number in 5.. {
                for part in 0..KEYS / PART {
                    writing.kv.txn(numbered(part, number)).await.expect("is written");
                }
            }
        };
        let read = async {
            let mut reads = 0;
            while reads < 20 {
                match read_whole(&mut reading).await {
                    Some(revision) if revision >= first => reads += 1,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        let read = timeout(DEADLINE, read);
        tokio::select! {
            read = read => read.expect("it answers in time"),
            () = write => unreachable!("it goes on"),
        }
    });
}

/// Rows that were written to a table of this name before the API was used. They are refused, the node and its other tables go on, and once they are
/// deleted the API takes the table.
#[test]
fn a_strong_table_of_somebody_else_is_refused_until_it_is_empty_and_ends_no_node() {
    let node = Setup::new().start();
    wait_until("the node answers", DEADLINE, || node.get("/readyz").status == 200);
    for table in ["etcd", "stock"] {
        node.put(&format!("/_/tables/{table}"), r#"{"mode":"strong"}"#);
    }
    for (key, value) in [("mine", "1"), ("zone", r#"{"revision":7}"#)] {
        node.put(&format!("/etcd/key/{key}"), format!(r#"{{"value":{value}}}"#)).expect(200);
    }
    node.post("/_/import", r#"{"table":"etcd","key":"imported","value":2}"#).expect(200);
    for (key, value) in [("head", r#"{"modified":1}"#), ("key:a", "1"), ("lease:0000000000000001", "1")] {
        let refused = node.put(&format!("/etcd/key/{key}"), format!(r#"{{"value":{value}}}"#));
        refused.expect_problem(409, "conflict");
    }
    let (setup, _) = node.terminate();
    let served = Served::from(setup.flag("--etcd", "127.0.0.1:0"));
    wait_until("the node answers", DEADLINE, || served.node.get("/readyz").status == 200);
    served.runtime.block_on(async {
        let mut client = Client::open(served.address).await;
        let mut refused = vec![client.put(b"a", b"1").await.map(drop)];
        let all = pb::RangeRequest { key: vec![0], range_end: vec![0], ..Default::default() };
        refused.push(client.kv.range(all.clone()).await.map(drop));
        let grant = pb::LeaseGrantRequest { id: 1, ttl: 60 };
        refused.push(client.lease.lease_grant(grant).await.map(drop));
        let read = pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(all)) };
        let txn = pb::TxnRequest { success: vec![read], ..Default::default() };
        refused.push(client.kv.txn(txn).await.map(drop));
        for refused in refused {
            let refused = refused.expect_err("it is somebody else's");
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
            assert!(
                refused.message().contains("\"imported\"") && refused.message().contains("delete"),
                "{refused:?}"
            );
        }
    });
    served.node.put("/stock/key/a", r#"{"value":1}"#).expect(200);
    for key in ["mine", "zone", "imported"] {
        served.node.delete(&format!("/etcd/key/{key}")).expect(200);
    }
    served.runtime.block_on(async {
        let mut client = Client::open(served.address).await;
        let mut watching = client.watch(vec![all_keys()]).await;
        assert!(watching.next().await.expect("is answered").created);
        assert_eq!(client.put(b"a", b"1").await.expect("is written"), 2);
        assert_eq!(watching.next().await.expect("is told").events.len(), 1);
    });
}

/// Bytes of a value that fits one request, and how many of them are more than the log keeps.
const LARGE: usize = 1_400_000;
const LARGE_PUTS: usize = 55;

/// The first entry of each file of a node's log.
fn log_files(node: &Node) -> BTreeSet<String> {
    let files = fs::read_dir(node.home().join("storage.db/raft")).expect("it has a log");
    let names = files.map(|file| file.expect("is read").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(|first: char| first.is_ascii_digit())).collect()
}

/// Writes until the log of these nodes has nothing that it has now. Returns the last revision.
async fn write_more_than_the_log_keeps(nodes: [&Node; 2], writing: &mut [Client]) -> i64 {
    let before = nodes.map(log_files);
    let mut last = 0;
    for number in 0..LARGE_PUTS {
        let value = char::from(b'a' + (number % 26) as u8).to_string().repeat(LARGE);
        last = cluster::put(writing, b"large", &value).await;
    }
    for (node, before) in nodes.into_iter().zip(&before) {
        wait_until("the log is shorter", DEADLINE, || log_files(node).is_disjoint(before));
    }
    last
}

/// Reads the events of these revisions, each of which changes one key.
async fn told_of_each(watching: &mut Watching, mut revisions: RangeInclusive<i64>) {
    while !revisions.is_empty() {
        for event in watching.next().await.expect("goes on").events {
            let expected = revisions.next();
            assert!(expected.is_none_or(|expected| event.kv.is_some_and(|kv| kv.mod_revision == expected)));
        }
    }
}

/// A follower that goes on after it missed more than the log keeps is sent a snapshot, of which there are no events: its watchers that have not seen all
/// before are canceled, and those of revisions to come are told of them.
#[test]
fn a_snapshot_to_a_running_follower_cancels_the_watchers_that_miss_something_and_no_others() {
    const TO_COME: i64 = 200;
    if std::env::var_os("DYNARUST_LONG_SNAPSHOTS").is_none() {
        return;
    }
    let (cluster, addresses) = cluster::start();
    runtime().block_on(async {
        let mut clients = Vec::new();
        for address in &addresses {
            clients.push(Client::open(*address).await);
        }
        let seen = cluster::put(&mut clients, b"small", "1").await;
        let leads = cluster::leader(&mut clients).await;
        let away = (leads + 1) % 3;
        let to_come = seen + TO_COME;
        let mut missing = clients[away].watch(vec![all_keys()]).await;
        let mut waiting =
            clients[away].watch(vec![pb::WatchCreateRequest { start_revision: to_come, ..all_keys() }]).await;
        for watching in [&mut missing, &mut waiting] {
            assert!(watching.next().await.expect("is answered").created);
        }
        let seen = clients[leads].put(b"small", b"2").await.expect("is written");
        assert_eq!(missing.next().await.expect("is told").events.len(), 1);

        cluster[away].signal("STOP");
        let others = [leads, (leads + 2) % 3];
        let mut writing = others.map(|member| clients[member].clone());
        let mut last =
            write_more_than_the_log_keeps(others.map(|member| &cluster[member]), &mut writing).await;
        assert!(last < to_come);
        cluster[away].signal("CONT");

        let mut seen = seen;
        let canceled = loop {
            let told = missing.next().await.expect("is told");
            if told.canceled {
                break told;
            }
            // What was on its way to the follower when it was stopped.
            for event in told.events {
                assert_eq!(event.kv.expect("a key").mod_revision, seen + 1);
                seen += 1;
            }
        };
        assert!(canceled.compact_revision > seen, "{canceled:?}");
        let log: String = cluster.running().map(Node::log).collect();
        assert!(log.contains("sent a snapshot of the strong tables"), "{log}");
        let read = pb::RangeRequest { key: b"large".into(), ..Default::default() };
        let read = clients[away].kv.range(read).await.expect("is read").into_inner();
        assert_eq!((read.kvs[0].mod_revision, read.kvs[0].value.len()), (last, LARGE));
        let begun = canceled.compact_revision;
        let mut again =
            clients[away].watch(vec![pb::WatchCreateRequest { start_revision: begun, ..all_keys() }]).await;
        assert!(again.next().await.expect("is answered").created);
        while last < to_come {
            last = cluster::put(&mut writing, b"small", "3").await;
        }
        let told = waiting.next().await.expect("is told");
        assert!(!told.canceled, "{told:?}");
        let revision = told.events[0].kv.as_ref().expect("a key").mod_revision;
        assert_eq!(revision, to_come);
        told_of_each(&mut again, begun..=to_come).await;
    });
}

/// The revision was raised at each start while the node was in doubt, and one without others is in doubt for ever.
#[test]
fn the_revision_of_a_node_without_others_is_raised_once_for_each_damage() {
    const RAISED_BY: i64 = 1_000_000_000;
    let write = |address| {
        runtime().block_on(async {
            let mut clients = [Client::open(address).await];
            cluster::put(&mut clients, b"k", "v").await
        })
    };
    let served = Served::start();
    let mut revision = write(served.address);
    let mut node = served.node;
    for is_damaged in [true, false, false, true, false] {
        let (setup, outcome) = node.terminate();
        assert!(outcome.status.success(), "{outcome:?}");
        if is_damaged {
            fs::write(setup.home().join("storage.db/dynarust.doubt"), "rows may be missing\n")
                .expect("is written");
        }
        node = setup.start();
        let raised = if is_damaged { RAISED_BY } else { 0 };
        assert_eq!(write(address_in(&node.log())), revision + raised + 1);
        revision += raised + 1;
    }
}
