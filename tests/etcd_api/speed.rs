//! How fast it is beside a real etcd of one member, with the same clients:
//! `DYNARUST_ETCD_SPEED=1 cargo test --release --test tests etcd_api::speed -- --nocapture`.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::{
    Served,
    client::{Client, pb},
};
use crate::harness::etcd::Etcd;

const CLIENTS: usize = 64;
const RUN: Duration = Duration::from_secs(5);

#[test]
fn puts_and_reads_a_second_beside_an_etcd() {
    if std::env::var_os("DYNARUST_ETCD_SPEED").is_none() {
        return;
    }
    let etcd = Etcd::start().expect("etcd-server is installed");
    let served = Served::start();
    let of_etcd = etcd.url().trim_start_matches("etcd://").parse().expect("an address");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    for is_read in [false, true] {
        let what = if is_read { "linearizable reads" } else { "puts" };
        let etcd = runtime.block_on(rate(of_etcd, is_read));
        let node = runtime.block_on(rate(served.address, is_read));
        println!("{what} of {CLIENTS} clients: etcd {etcd:.0}/s, node {node:.0}/s, {:.2} times", node / etcd);
        assert!(etcd > 0.0 && node > 0.0, "both answer");
    }
}

/// Each watcher was asked about each revision.
#[test]
fn puts_a_second_with_and_without_many_watchers_of_other_keys() {
    if std::env::var_os("DYNARUST_ETCD_SPEED").is_none() {
        return;
    }
    const WATCHERS: usize = 5_000;
    let served = Served::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let without = runtime.block_on(rate(served.address, false));
    let with = runtime.block_on(async {
        let mut client = Client::open(served.address).await;
        let watcher =
            |number| pb::WatchCreateRequest { key: format!("other{number}").into(), ..Default::default() };
        let mut watching = client.watch((0..WATCHERS).map(watcher).collect()).await;
        for _ in 0..WATCHERS {
            assert!(watching.next().await.expect("is answered").created);
        }
        rate(served.address, false).await
    });
    println!(
        "puts of {CLIENTS} clients: {without:.0}/s, with {WATCHERS} watchers {with:.0}/s, {:.2} times",
        with / without
    );
    assert!(with > 0.0);
}

async fn rate(address: SocketAddr, is_read: bool) -> f64 {
    static DONE: AtomicU64 = AtomicU64::new(0);
    DONE.store(0, Ordering::Relaxed);
    let begun = Instant::now();
    let clients = (0..CLIENTS).map(|number| {
        tokio::spawn(async move {
            let mut client = Client::open(address).await;
            let key = format!("key{number}").into_bytes();
            while begun.elapsed() < RUN {
                let value = [b'x'; 256];
                match is_read {
                    true => {
                        let range = pb::RangeRequest { key: key.clone(), ..Default::default() };
                        drop(client.kv.range(range).await.expect("is read"));
                    }
                    false => drop(client.put(&key, &value).await.expect("is written")),
                }
                DONE.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    futures_util::future::join_all(clients.collect::<Vec<_>>()).await;
    DONE.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}
