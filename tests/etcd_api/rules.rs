//! What this node does in its own way.

use serde_json::json;
use tonic::{Code, Request};

use super::{
    Served,
    client::{Client, all_keys, pb},
};
use crate::harness::{DEADLINE, Setup, wait_until};

/// Revisions would mean nothing if rows changed without one.
#[test]
fn rest_reads_the_table_and_does_not_write_it() {
    let served = Served::start();
    served.runtime.block_on(async {
        let mut client = Client::open(served.address).await;
        assert_eq!(client.put(b"greeting", b"hello").await.expect("is written"), 2);
        assert_eq!(client.put(b"\xff", b"\x00").await.expect("is written"), 3);
    });
    let row = served.node.get("/etcd/key/key:greeting").expect(200).json();
    assert_eq!(row["value"], json!({ "created": 2, "modified": 2, "version": 1, "text": "hello" }));
    let row = served.node.get("/etcd/key/key:%C3%BF").expect(200).json();
    assert_eq!(row["value"]["base64"], "AA==");
    let body = r#"{"value":1}"#;
    let import = r#"{"table":"etcd","key":"x","value":1}"#;
    let refused = [
        served.node.put("/etcd/key/x", body),
        served.node.put("/etcd/key/head", body),
        served.node.delete("/etcd/key/key:greeting"),
        served.node.delete("/etcd?confirm=etcd"),
        served.node.post("/etcd/batch?atomic=true", r#"[{"op":"put","key":"x","value":1}]"#),
        served.node.post("/_/import", import),
        served.node.post("/_/txn", r#"{"success":[{"op":"put","table":"etcd","key":"x","value":1}]}"#),
    ];
    for response in refused {
        assert!((400..500).contains(&response.status), "{response:?}");
        let text = response.text();
        assert!(text.contains("etcd API"), "{text}");
    }
    // Whoever made a table of this name for another purpose keeps it.
    let other = Served::start();
    other.node.put("/etcd/key/mine", body).expect(200);
    other.runtime.block_on(async {
        let mut client = Client::open(other.address).await;
        let refused = client.put(b"a", b"").await.expect_err("is refused");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    });
}

/// A range without a limit took as much memory as all values that it found, twice.
#[test]
fn a_range_that_is_too_large_for_the_memory_is_refused() {
    let served = Served::start_with(|setup| setup.flag("--max-body", "1MiB").flag("--body-memory", "4MiB"));
    served.runtime.block_on(async {
        let mut client = Client::open(served.address).await;
        for number in 0..8_u8 {
            client.put(&[b'k', number], &[b'x'; 400_000]).await.expect("is written");
        }
        let all = pb::RangeRequest { key: b"k".into(), range_end: b"l".into(), ..Default::default() };
        let refused = client.kv.range(all.clone()).await.expect_err("is refused");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        let read = pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(all.clone())) };
        let txn = pb::TxnRequest { success: vec![read], ..Default::default() };
        let refused = client.kv.txn(txn).await.expect_err("is refused");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        for fits in [
            pb::RangeRequest { limit: 2, ..all.clone() },
            pb::RangeRequest { keys_only: true, ..all.clone() },
            pb::RangeRequest { count_only: true, ..all },
        ] {
            assert_eq!(client.kv.range(fits).await.expect("is answered").into_inner().count, 8);
        }
    });
}

/// Keys of watchers could be as long as a message, and nobody counted the watchers of a node: a client without any right could fill its memory.
#[test]
fn a_watcher_has_a_key_that_can_be_and_a_node_has_no_more_watchers_than_subscriptions() {
    let served = Served::start_with(|setup| setup.flag("--max-subscriptions", "3"));
    let of = |key: &[u8]| pb::WatchCreateRequest { key: key.into(), ..Default::default() };
    served.runtime.block_on(async {
        let mut client = Client::open(served.address).await;
        let range = pb::WatchCreateRequest { range_end: vec![b'z'; 100_000], ..of(b"a") };
        let mut refused = client.watch(vec![of(&[b'k'; 100_000]), range]).await;
        for _ in 0..2 {
            let told = refused.next().await.expect("an answer");
            assert!(told.canceled && told.cancel_reason.contains("100000 bytes"), "{told:?}");
        }
    });
    // Its connection ends with it.
    let elsewhere = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut first = elsewhere
        .block_on(async { Client::open(served.address).await.watch(vec![of(b"a"), of(b"b")]).await });
    for _ in 0..2 {
        assert!(!elsewhere.block_on(first.next()).expect("an answer").canceled);
    }
    let mut client = served.runtime.block_on(Client::open(served.address));
    let mut refusal = |keys: &[&[u8]]| {
        served.runtime.block_on(async {
            let mut stream = client.watch(keys.iter().map(|key| of(key)).collect()).await;
            let mut last = None;
            for _ in keys {
                last = Some(stream.next().await.expect("an answer"));
            }
            last.map(|told| told.cancel_reason).filter(|why| !why.is_empty())
        })
    };
    let why = refusal(&[b"a", b"b"]).expect("there are three already");
    assert!(why.contains("3 watchers") && why.contains("--max-subscriptions"), "{why}");
    drop((first, elsewhere));
    wait_until("there is room again", DEADLINE, || refusal(&[b"c"]).is_none());
}

#[test]
fn a_lease_that_ends_deletes_its_keys_and_one_kept_alive_does_not() {
    let served = Served::start();
    served.runtime.block_on(async {
        let mut client = Client::open(served.address).await;
        for id in [1, 2] {
            let grant = pb::LeaseGrantRequest { id, ttl: 2 };
            client.lease.lease_grant(grant).await.expect("is granted");
            for key in ["a", "b"] {
                let key = format!("{key}{id}").into_bytes();
                let put = pb::PutRequest { key, lease: id, ..Default::default() };
                client.kv.put(put).await.expect("is written");
            }
        }
        let mut watching = client.watch(vec![all_keys()]).await;
        assert!(watching.next().await.expect("is answered").created);
        let mut keeping = client.clone();
        let keep = async move {
            for _ in 0..1_000_000 {
                let alive = futures_util::stream::iter([pb::LeaseKeepAliveRequest { id: 2 }]);
                let mut answers = keeping.lease.lease_keep_alive(alive).await.expect("a stream").into_inner();
                let answer = answers.message().await.expect("is answered").expect("an answer");
                assert_eq!(answer.ttl, 2);
                tokio::task::yield_now().await;
            }
        };
        let ended = tokio::select! {
            ended = watching.next() => ended.expect("goes on"),
            () = keep => unreachable!("it goes on"),
        };
        let kvs: Vec<_> = ended.events.into_iter().map(|event| event.kv.expect("a key")).collect();
        assert!(kvs.iter().map(|kv| kv.key.as_slice()).eq([b"a1", b"b1"]), "{kvs:?}");
        assert_eq!(kvs[0].mod_revision, kvs[1].mod_revision);
        let left = pb::LeaseTimeToLiveRequest { id: 2, keys: true };
        let left = client.lease.lease_time_to_live(left).await.expect("is there").into_inner();
        assert!(left.ttl <= 2 && left.granted_ttl == 2 && left.keys == [b"a2", b"b2"], "{left:?}");
        let gone = pb::LeaseTimeToLiveRequest { id: 1, keys: true };
        assert_eq!(client.lease.lease_time_to_live(gone).await.expect("is answered").into_inner().ttl, -1);
    });
}

/// A lease with more keys than fit one entry of the log never ended: the request was too large, each time.
#[test]
fn a_lease_with_very_many_keys_ends_as_any_other() {
    const TXNS: usize = 20;
    const PUTS: usize = 128;
    let served = Served::start();
    served.runtime.block_on(async {
        let mut client = Client::open(served.address).await;
        client.lease.lease_grant(pb::LeaseGrantRequest { id: 1, ttl: 600 }).await.expect("is granted");
        for txn in 0..TXNS {
            let puts = (0..PUTS).map(|at| {
                let key = format!("{txn:03}{at:03}").into();
                let put = pb::PutRequest { key, lease: 1, ..Default::default() };
                pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
            });
            let txn = pb::TxnRequest { success: puts.collect(), ..Default::default() };
            client.kv.txn(txn).await.expect("is written");
        }
        let mut watching = client.watch(vec![all_keys()]).await;
        assert!(watching.next().await.expect("is answered").created);
        let before = TXNS as i64 + 1;
        let revoke = pb::LeaseRevokeRequest { id: 1 };
        let revoked = client.lease.lease_revoke(revoke).await.expect("has ended").into_inner();
        assert_eq!(revoked.header.expect("a header").revision, before + 2, "in two steps");
        let mut deleted = 0;
        while deleted < TXNS * PUTS {
            deleted += watching.next().await.expect("goes on").events.len();
        }
        assert_eq!(deleted, TXNS * PUTS);
        let gone = client.lease.lease_revoke(revoke).await.expect_err("it is gone");
        assert_eq!(gone.message(), "etcdserver: requested lease not found");
        let leases = client.lease.lease_leases(pb::LeaseLeasesRequest {}).await.expect("are listed");
        assert!(leases.into_inner().leases.is_empty());
    });
}

/// A row, a head, an answer of many pages: a read is at one revision, whatever is written meanwhile.
#[test]
fn a_long_read_is_at_one_revision() {
    let served = Served::start();
    served.runtime.block_on(async {
        let mut client = Client::open(served.address).await;
        let value = vec![b'x'; 1_024];
        for number in 0..20 {
            let puts = (0..100).map(|at| {
                let put = pb::PutRequest {
                    key: format!("{number:02}{at:02}").into(),
                    value: value.clone(),
                    ..Default::default()
                };
                pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
            });
            client
                .kv
                .txn(pb::TxnRequest { success: puts.collect(), ..Default::default() })
                .await
                .expect("is written");
        }
        let all = pb::RangeRequest { key: vec![0], range_end: vec![0], ..Default::default() };
        let (mut writing, mut reading) = (client.clone(), client.clone());
        let write = async move {
            for _ in 0..1_000_000 {
                for key in [b"0000".as_slice(), b"1999"] {
                    writing.put(key, b"new").await.expect("is written");
                }
            }
        };
        let read = async move {
            for _ in 0..5 {
                let read = reading.kv.range(all.clone()).await.expect("is read").into_inner();
                let revision = read.header.expect("a header").revision;
                assert_eq!((read.count, read.kvs.len()), (2_000, 2_000));
                let newest = read.kvs.iter().map(|kv| kv.mod_revision).max().expect("has keys");
                assert_eq!(newest, revision, "what was written last is in it, and nothing later");
                let again = pb::RangeRequest { revision, ..all.clone() };
                let again = reading.kv.range(again).await.expect("is read").into_inner();
                assert_eq!(again.kvs, read.kvs);
            }
        };
        tokio::select! {
            () = read => {}
            () = write => unreachable!("it goes on"),
        }
    });
}

/// A client of etcd sends a password once, and then the token that it got.
#[test]
fn a_token_is_a_password_and_opens_what_it_grants() {
    let make = ["token", "new", "app", "--rights", "read,write", "--table", "etcd", "--prefix", "key:app/"];
    let (setup, made) = Setup::new().run(&[&make[..], &["--tokens", "tokens.toml"]].concat());
    let secret = made.stdout.trim().to_owned();
    let served = Served::from(setup.flag("--tokens", "tokens.toml").flag("--etcd", "127.0.0.1:0"));
    served.runtime.block_on(async {
        let mut client = Client::open(served.address).await;
        let put = |key: &str, token: Option<&str>| {
            let mut request = Request::new(pb::PutRequest { key: key.into(), ..Default::default() });
            if let Some(token) = token {
                request.metadata_mut().insert("token", token.parse().expect("is text"));
            }
            request
        };
        let nobody = client.kv.put(put("app/a", None)).await.expect_err("asks for a token");
        assert_eq!(
            (nobody.code(), nobody.message()),
            (Code::InvalidArgument, "etcdserver: user name is empty")
        );
        let login =
            |password: &str| pb::AuthenticateRequest { name: "any".into(), password: password.into() };
        let wrong = client.auth.authenticate(login("wrong")).await.expect_err("is wrong");
        assert!(wrong.message().starts_with("etcdserver: authentication failed"), "{wrong:?}");
        let token = client.auth.authenticate(login(&secret)).await.expect("is taken").into_inner().token;
        client.kv.put(put("app/a", Some(&token))).await.expect("is granted");
        let other = client.kv.put(put("other", Some(&token))).await.expect_err("is not granted");
        assert_eq!(
            (other.code(), other.message()),
            (Code::PermissionDenied, "etcdserver: permission denied")
        );
        let mut all =
            Request::new(pb::RangeRequest { key: vec![0], range_end: vec![0], ..Default::default() });
        all.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("is text"));
        assert_eq!(client.kv.range(all).await.expect_err("is not granted").code(), Code::PermissionDenied);

        // A stream ends with the token. One that keeps a lease alive went on for ever.
        let grant = |id| {
            let mut request = Request::new(pb::LeaseGrantRequest { id, ttl: 60 });
            request.metadata_mut().insert("token", token.parse().expect("is text"));
            request
        };
        client.lease.lease_grant(grant(1)).await.expect("is granted");
        let asked = futures_util::stream::iter([pb::LeaseKeepAliveRequest { id: 1 }]);
        let mut keeping =
            Request::new(futures_util::StreamExt::chain(asked, futures_util::stream::pending()));
        keeping.metadata_mut().insert("token", token.parse().expect("is text"));
        let mut kept = client.lease.lease_keep_alive(keeping).await.expect("a stream").into_inner();
        assert_eq!(kept.message().await.expect("is answered").expect("an answer").ttl, 60);
        std::fs::write(served.node.home().join("tokens.toml"), "").expect("no token is left");
        let ended = tokio::time::timeout(DEADLINE, kept.message()).await.expect("in time");
        let ended = ended.expect_err("ends");
        assert_eq!(
            (ended.code(), ended.message()),
            (Code::Unauthenticated, "etcdserver: invalid auth token")
        );
    });
    let open = Served::start();
    open.runtime.block_on(async {
        let mut client = Client::open(open.address).await;
        let login = pb::AuthenticateRequest { name: "any".into(), password: "any".into() };
        let off = client.auth.authenticate(login).await.expect_err("there is none");
        assert_eq!(off.message(), "etcdserver: authentication is not enabled");
    });
}

/// After a restart the history is gone: whoever wants more is told from where on there is one.
#[test]
fn what_was_before_a_restart_is_compacted_for_watchers_and_still_there_for_readers() {
    let served = Served::start();
    served.runtime.block_on(async {
        let mut client = Client::open(served.address).await;
        for value in [b"1", b"2"] {
            client.put(b"k", value).await.expect("is written");
        }
    });
    let (setup, outcome) = served.node.terminate();
    assert!(outcome.status.success(), "{outcome:?}");
    let node = setup.start();
    let address = super::address_in(&node.log());
    served.runtime.block_on(async {
        let mut client = Client::open(address).await;
        let read = pb::RangeRequest { key: b"k".into(), ..Default::default() };
        let read = client.kv.range(read).await.expect("is read").into_inner();
        assert_eq!((read.kvs[0].value.as_slice(), read.kvs[0].version), (b"2".as_slice(), 2));
        let past = pb::RangeRequest { key: b"k".into(), revision: 2, ..Default::default() };
        let past = client.kv.range(past).await.expect_err("is compacted");
        assert_eq!(past.message(), "etcdserver: mvcc: required revision has been compacted");
        let mut watching =
            client.watch(vec![pb::WatchCreateRequest { start_revision: 2, ..all_keys() }]).await;
        assert!(watching.next().await.expect("is answered").created);
        let canceled = watching.next().await.expect("is told");
        assert_eq!((canceled.canceled, canceled.compact_revision), (true, 4));
        assert_eq!(client.put(b"k", b"3").await.expect("is written"), 4);
    });
}

#[test]
fn what_is_not_answered_says_so_and_errors_are_those_of_etcd() {
    let served = Served::start();
    wait_until("the node answers", DEADLINE, || served.node.get("/readyz").status == 200);
    served.runtime.block_on(async {
        let mut client = Client::open(served.address).await;
        let snapshot = client.maintenance.snapshot(Request::new(pb::SnapshotRequest {})).await;
        let snapshot = snapshot.expect_err("is not answered");
        assert!(
            snapshot.code() == Code::Unimplemented && snapshot.message().contains("backup"),
            "{snapshot:?}"
        );
        let long = client.put(&[b'k'; 1_001], b"").await.expect_err("is too long");
        assert!(long.code() == Code::InvalidArgument && long.message().contains("1000"), "{long:?}");
        let large = client.put(b"k", &vec![0; 1_600_000]).await.expect_err("is too large");
        assert_eq!(
            (large.code(), large.message()),
            (Code::InvalidArgument, "etcdserver: request is too large")
        );
        assert!(client.put(b"k", &vec![0; 1_500_000]).await.is_ok());
        let hash = |client: &Client| {
            let mut client = client.clone();
            async move {
                client
                    .maintenance
                    .hash_kv(pb::HashKvRequest { revision: 0 })
                    .await
                    .expect("a hash")
                    .into_inner()
                    .hash
            }
        };
        let before = hash(&client).await;
        client.put(b"k", b"").await.expect("is written");
        assert_ne!(hash(&client).await, before);
    });
}
