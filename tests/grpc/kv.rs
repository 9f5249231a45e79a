//! What the service `Kv` does, next to REST on the same node.

use futures_util::StreamExt;
use serde_json::json as json_of;
use tonic::{Code, Streaming};

use super::client::*;
use crate::harness::http::Request;

#[test]
fn values_of_json_and_bytes_come_back_as_they_were_sent_and_rest_sees_them() {
    let served = Served::start();
    served.with_client(|mut client| async move {
        let wrote = client.set(set("t", "a", json(r#"{"n":1.10}"#))).await.expect("set").into_inner();
        assert!(wrote.created && wrote.timestamp_ms > 0, "{wrote:?}");
        let entry = client.get(get("t", "a")).await.expect("get").into_inner().entry.expect("an entry");
        assert_eq!(
            (entry.value, entry.version, entry.expires_at_ms),
            (json(r#"{"n":1.10}"#), wrote.version, None)
        );
        client.set(set("t", "b", bytes(b"\0\xff"))).await.expect("set");
        let entry = client.get(get("t", "b")).await.expect("get").into_inner().entry.expect("an entry");
        assert_eq!(entry.value, bytes(b"\0\xff"));
        let again = client.set(set("t", "a", json("2"))).await.expect("set").into_inner();
        assert!(!again.created);
        client.delete(delete("t", "a")).await.expect("deleted");
        assert_status(client.delete(delete("t", "a")).await, Code::NotFound, "not-found", &["\"a\"", "t"]);
        let forced = DeleteRequest { force: true, ..delete("t", "a") };
        client.delete(forced).await.expect("a deletion is written");
    });
    let seen = served.node.send(&Request::new("GET", "/t/key/b")).expect(200).json();
    assert_eq!(seen, json_of!({ "value": "data:application/octet-stream;base64,AP8=" }));
    served.node.send(&Request::new("PUT", "/t/key/c").body(r#"{"value":[1]}"#)).expect(200);
    served.with_client(|mut client| async move {
        let entry = client.get(get("t", "c")).await.expect("get").into_inner().entry.expect("an entry");
        assert_eq!(entry.value, json("[1]"));
    });
    let metrics = served.node.send(&Request::new("GET", "/metrics")).expect(200).text().to_owned();
    for line in [
        r#"dynarust_grpc_calls_total{method="dynarust.v1.Kv/Set",code="OK"} 3"#,
        r#"dynarust_grpc_calls_total{method="dynarust.v1.Kv/Delete",code="NOT_FOUND"} 1"#,
        r#"dynarust_grpc_call_duration_seconds_count{method="dynarust.v1.Kv/Get"} 3"#,
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}");
    }
}

#[test]
fn conditions_and_expiries_hold() {
    let served = Served::start();
    served.with_client(|mut client| async move {
        let new = SetRequest { condition: exists(false), ..set("t", "a", json("1")) };
        let first = client.set(new.clone()).await.expect("absent").into_inner();
        assert_status(client.set(new).await, Code::Aborted, "precondition-failed", &[&first.version]);
        let at =
            |version: &str| Some(Condition { expected: Some(condition::Expected::Version(version.into())) });
        let second = SetRequest { condition: at(&first.version), ..set("t", "a", json("2")) };
        client.set(second.clone()).await.expect("at that version");
        assert_status(client.set(second).await, Code::Aborted, "precondition-failed", &[]);
        let other =
            Some(Condition { expected: Some(condition::Expected::NotVersion(first.version.clone())) });
        client.delete(DeleteRequest { condition: other, ..delete("t", "a") }).await.expect("another version");
        let stale = DeleteRequest { condition: exists(true), ..delete("t", "a") };
        assert_status(client.delete(stale).await, Code::Aborted, "precondition-failed", &["absent"]);
        let ttl = Some(set_request::Expiry::TtlMs(3_600_000));
        let wrote = client.set(SetRequest { expiry: ttl, ..set("t", "b", json("1")) }).await.expect("set");
        let entry = client.get(get("t", "b")).await.expect("get").into_inner().entry.expect("an entry");
        assert_eq!(entry.expires_at_ms, Some(wrote.into_inner().timestamp_ms + 3_600_000));
        let at = Some(set_request::Expiry::ExpiresAtMs(entry.timestamp_ms + 1_000_000));
        client.set(SetRequest { expiry: at, ..set("t", "c", json("1")) }).await.expect("set");
        let short = Some(set_request::Expiry::TtlMs(1));
        client.set(SetRequest { expiry: short, ..set("t", "d", json("1")) }).await.expect("set");
        while client.get(get("t", "d")).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn no_table_is_a_strong_one_and_other_modes_are_made_on_demand() {
    let served = Served::start();
    served.with_client(|mut client| async move {
        assert_status(client.get(get("", "a")).await, Code::NotFound, "not-found", &["kv"]);
        client.set(set("", "a", json("1"))).await.expect("the table is made");
        let entry = client.get(get("kv", "a")).await.expect("get").into_inner().entry.expect("an entry");
        assert_eq!(entry.value, json("1"));
        let old = GetRequest { consistency: Consistency::Stale.into(), ..get("", "a") };
        client.get(old).await.expect("a stale read");
        let in_mode = |table: &str, mode: TableMode| SetRequest {
            table_mode: mode.into(),
            ..set(table, "a", json("1"))
        };
        client.set(in_mode("s", TableMode::Strong)).await.expect("made strong");
        client.set(in_mode("s", TableMode::Strong)).await.expect("strong already");
        client.set(in_mode("e", TableMode::Eventual)).await.expect("made eventual");
        let wrong = client.set(in_mode("s", TableMode::Eventual)).await;
        assert_status(wrong, Code::FailedPrecondition, "wrong-mode", &["table s is strong"]);
        let wrong = client.set(in_mode("e", TableMode::Strong)).await;
        assert_status(wrong, Code::FailedPrecondition, "wrong-mode", &["table e"]);
        let group = write_concern::Replicas::Group(write_concern::Group::All.into());
        let concern = Some(WriteConcern { replicas: Some(group), timeout_ms: 0 });
        client
            .set(SetRequest { write_concern: concern, ..set("e", "b", json("1")) })
            .await
            .expect("all of one");
        let concern =
            Some(WriteConcern { replicas: Some(write_concern::Replicas::Count(2)), timeout_ms: 100 });
        let alone = SetRequest { write_concern: concern, ..set("e", "b", json("1")) };
        assert_status(
            client.set(alone.clone()).await,
            Code::DeadlineExceeded,
            "not-enough-replicas",
            &["1 of the 2"],
        );
        let strong = client.set(SetRequest { table: "s".into(), ..alone }).await;
        assert_status(strong, Code::InvalidArgument, "bad-request", &["table s is strong"]);
    });
    let tables = served.node.send(&Request::new("GET", "/_/tables")).expect(200).text().to_owned();
    for mode in
        [r#""name":"kv","mode":"strong""#, r#""name":"s","mode":"strong""#, r#""name":"e","mode":"eventual""#]
    {
        assert!(tables.contains(mode), "{mode} in {tables}");
    }
}

#[test]
fn a_listing_is_ordered_limited_and_goes_on_where_it_ended() {
    let served = Served::start();
    let rows: Vec<_> = (0..2500).map(|n| format!(r#"{{"op":"put","key":"k{n:04}","value":{n}}}"#)).collect();
    let batch = format!("[{}]", rows.join(","));
    served.node.send(&Request::new("POST", "/t/batch").body(batch)).expect(200);
    served.with_client(|mut client| async move {
        let list = |request: ListRequest| ListRequest { table: "t".into(), ..request };
        let mut keys = Vec::new();
        for (key, value) in all(client.list(list(ListRequest::default())).await.expect("list")).await.0 {
            assert_eq!(value, json(&keys.len().to_string()));
            keys.push(key);
        }
        assert_eq!((keys.len(), keys.is_sorted()), (2500, true));
        let page = ListRequest { prefix: "k1".into(), limit: 700, ..ListRequest::default() };
        let (first, token) = all(client.list(list(page.clone())).await.expect("list")).await;
        assert!(first.len() == 700 && !token.is_empty(), "{} {token}", first.len());
        let (rest, end) =
            all(client.list(list(ListRequest { page_token: token, ..page })).await.expect("list")).await;
        assert_eq!((rest.len(), rest[0].0.as_str(), end.as_str()), (300, "k1700", ""));
        let range = ListRequest {
            start: Some("k0010".into()),
            end: Some("k0013".into()),
            reverse: true,
            keys_only: true,
            ..ListRequest::default()
        };
        let (found, _) = all(client.list(list(range)).await.expect("list")).await;
        assert_eq!(found, ["k0012", "k0011", "k0010"].map(|key| (key.to_owned(), None)));
        let (none, _) = all(client.list(ListRequest::default()).await.expect("no table")).await;
        assert_eq!(none, []);
    });
}

/// The rows of a listing, and its last token.
async fn all(listing: tonic::Response<Streaming<ListResponse>>) -> (Vec<(String, Option<Value>)>, String) {
    let (mut listing, mut rows, mut token) = (listing.into_inner(), Vec::new(), String::new());
    while let Some(page) = listing.message().await.expect("a page") {
        rows.extend(page.entries.into_iter().map(|entry| (entry.key, entry.value)));
        token = page.next_page_token;
    }
    (rows, token)
}

#[test]
fn a_watch_sees_changes_goes_on_after_a_cursor_and_says_when_it_cannot() {
    use watch_response::Event;
    let served = Served::start();
    served.with_client(|mut client| async move {
        client.set(set("t", "a1", json("1"))).await.expect("set");
        let watch = WatchRequest {
            table: "t".into(),
            target: Some(watch_request::Target::Prefix("a".into())),
            ..WatchRequest::default()
        };
        let snapshot = WatchRequest { snapshot: true, ..watch.clone() };
        let mut events = client.watch(snapshot).await.expect("watch").into_inner();
        let first = next(&mut events).await;
        assert!(matches!(&first.event, Some(Event::Updated(entry)) if entry.value == json("1")), "{first:?}");
        let synced = next(&mut events).await;
        assert!(matches!(&synced.event, Some(Event::Synced(Synced { incomplete: false }))), "{synced:?}");
        drop(events);
        client.set(set("t", "b", json("0"))).await.expect("set");
        client.set(set("t", "a2", bytes(b"x"))).await.expect("set");
        client.delete(delete("t", "a1")).await.expect("deleted");
        let after = WatchRequest { cursor: synced.cursor, ..watch.clone() };
        let mut events = client.watch(after).await.expect("watch").into_inner();
        let (updated, deleted) = (change(&mut events).await, change(&mut events).await);
        let Some(Event::Updated(entry)) = updated.event else { panic!("{updated:?}") };
        assert_eq!((entry.key.as_str(), entry.value), ("a2", bytes(b"x")));
        let Some(Event::Deleted(deletion)) = &deleted.event else { panic!("{deleted:?}") };
        assert_eq!((deletion.key.as_str(), deletion.expired), ("a1", false));
        let gone = WatchRequest { cursor: "00000001.5".into(), ..watch.clone() };
        let ended = client.watch(gone.clone()).await.expect("watch").into_inner().message().await;
        assert_status(ended, Code::OutOfRange, "cursor-gone", &["without a cursor", "snapshot"]);
        let mut again =
            client.watch(WatchRequest { snapshot: true, ..gone }).await.expect("watch").into_inner();
        assert!(matches!(next(&mut again).await.event, Some(Event::Resync(Resync {}))));
        assert!(matches!(next(&mut again).await.event, Some(Event::Updated(_))));
        assert!(matches!(next(&mut again).await.event, Some(Event::Synced(_))));
        let one = WatchRequest { target: Some(watch_request::Target::Key("b".into())), ..watch };
        let mut events = client.watch(one).await.expect("watch").into_inner();
        assert!(matches!(next(&mut events).await.event, Some(Event::Position(Position {}))));
        client.set(set("t", "bb", json("0"))).await.expect("another key");
        client.set(set("t", "b", json("1"))).await.expect("set");
        let only = change(&mut events).await;
        assert!(matches!(only.event, Some(Event::Updated(Entry { key, .. })) if key == "b"));
    });
}

async fn next(events: &mut Streaming<WatchResponse>) -> WatchResponse {
    events.next().await.expect("the watch goes on").expect("a message")
}

/// The next message that is no position.
async fn change(events: &mut Streaming<WatchResponse>) -> WatchResponse {
    loop {
        let message = next(events).await;
        if !matches!(message.event, Some(watch_response::Event::Position(_))) {
            return message;
        }
    }
}

#[test]
fn a_transaction_compares_and_does_all_or_nothing() {
    use operation::Operation::{Delete, Get, Set};
    use operation_result::Result as Given;
    let served = Served::start();
    served.with_client(|mut client| async move {
        let operation = |operation| Operation { operation: Some(operation) };
        let compare = |expected| Compare { key: "a".into(), expected: Some(expected), ..Compare::default() };
        let txn = TxnRequest {
            compare: vec![compare(compare::Expected::Exists(false))],
            success: vec![
                operation(Set(set("", "a", bytes(b"1")))),
                operation(Set(set("kv", "b", json("2")))),
                operation(Delete(delete("", "b"))),
                operation(Get(get("", "a"))),
            ],
            failure: vec![operation(Get(get("", "a"))), operation(Get(get("", "b")))],
        };
        let made = client.txn(txn.clone()).await.expect("a transaction").into_inner();
        assert!(made.succeeded);
        let given: Vec<_> = made.results.into_iter().map(|result| result.result.expect("a result")).collect();
        let [Given::Set(first), Given::Set(_), Given::Delete(_), Given::Get(got)] = given.as_slice() else {
            panic!("{given:?}")
        };
        let entry = got.entry.as_ref().expect("an entry");
        assert_eq!((entry.key.as_str(), &entry.value, &entry.version), ("a", &bytes(b"1"), &first.version));
        let failed = client.txn(txn).await.expect("a transaction").into_inner();
        assert!(!failed.succeeded);
        assert!(matches!(&failed.results[1].result, Some(Given::Get(GetResponse { entry: None }))));
        let equal = TxnRequest {
            compare: vec![
                compare(compare::Expected::Value(bytes(b"1").expect("bytes"))),
                compare(compare::Expected::Version(first.version.clone())),
            ],
            ..TxnRequest::default()
        };
        assert!(client.txn(equal).await.expect("a transaction").into_inner().succeeded);
        client.set(set("e", "a", json("1"))).await.expect("an eventual table");
        let wrong = TxnRequest { success: vec![operation(Get(get("e", "a")))], ..TxnRequest::default() };
        assert_status(client.txn(wrong).await, Code::FailedPrecondition, "wrong-mode", &["e"]);
    });
}
