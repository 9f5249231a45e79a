//! What is wrong with a call is said with a status, a code and what to do; nothing hangs, and nothing is ignored.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use tonic::{Code, Request};

use super::client::*;

#[test]
fn a_call_that_makes_no_sense_is_refused_with_what_is_wrong() {
    let served = Served::start();
    served.with_client(|mut client| async move {
        const INVALID: Code = Code::InvalidArgument;
        for (request, code, words) in [
            (set("", "a", None), "missing-value", vec!["value"]),
            (set("", "a", json("{")), "bad-json", vec!["value.json"]),
            (set("", "", json("1")), "bad-name", vec!["key"]),
            (set("no/table", "a", json("1")), "bad-name", vec!["no/table"]),
            (
                SetRequest { table_mode: 7, ..set("", "a", json("1")) },
                "bad-request",
                vec!["table_mode: 7", "TABLE_MODE_STRONG"],
            ),
            (
                SetRequest { condition: Some(Condition::default()), ..set("", "a", json("1")) },
                "bad-request",
                vec!["condition", "exists"],
            ),
            (
                SetRequest {
                    condition: Some(Condition { expected: Some(condition::Expected::Version("1".into())) }),
                    ..set("", "a", json("1"))
                },
                "bad-request",
                vec!["condition.version", "\"1\""],
            ),
            (
                SetRequest { expiry: Some(set_request::Expiry::TtlMs(0)), ..set("", "a", json("1")) },
                "bad-request",
                vec!["ttl_ms 0"],
            ),
            (
                SetRequest { expiry: Some(set_request::Expiry::ExpiresAtMs(5)), ..set("", "a", json("1")) },
                "bad-request",
                vec!["expires_at"],
            ),
            (
                SetRequest { write_concern: Some(WriteConcern::default()), ..set("t", "a", json("1")) },
                "bad-request",
                vec!["write_concern", "count or group"],
            ),
        ] {
            assert_status(client.set(request).await, INVALID, code, &words);
        }
    });
}

#[test]
fn pages_cursors_and_transactions_that_make_no_sense_are_refused_and_so_is_what_is_too_large() {
    let served = Served::start_with(|setup| setup.flag("--max-value", "1KiB").flag("--max-body", "64KiB"));
    served.with_client(|mut client| async move {
        const INVALID: Code = Code::InvalidArgument;
        let unknown = GetRequest { consistency: 9, ..get("", "a") };
        assert_status(
            client.get(unknown).await,
            INVALID,
            "bad-request",
            &["consistency: 9", "CONSISTENCY_STALE"],
        );
        for (prefix, token) in [("", "zz"), ("", "6"), ("b", "61"), ("", "ff")] {
            let page =
                ListRequest { page_token: token.into(), prefix: prefix.into(), ..ListRequest::default() };
            assert_status(
                client.list(page).await.map(|_| ()),
                INVALID,
                "bad-request",
                &["page_token", token],
            );
        }
        let watch = WatchRequest { cursor: "yesterday".into(), ..WatchRequest::default() };
        assert_status(
            client.watch(watch).await.map(|_| ()),
            INVALID,
            "bad-request",
            &["cursor \"yesterday\""],
        );
        let empty = TxnRequest {
            compare: vec![Compare { key: "a".into(), ..Compare::default() }],
            ..TxnRequest::default()
        };
        assert_status(client.txn(empty).await, INVALID, "bad-request", &["value, version or exists"]);
        let empty = TxnRequest { success: vec![Operation::default()], ..TxnRequest::default() };
        assert_status(client.txn(empty).await, INVALID, "bad-request", &["get, set or delete"]);
        let many = TxnRequest { success: vec![Operation::default(); 129], ..TxnRequest::default() };
        assert_status(client.txn(many).await, INVALID, "bad-request", &["129 operations", "128"]);
        let large = Code::ResourceExhausted;
        assert_status(
            client.set(set("", "a", bytes(&[0; 800]))).await,
            large,
            "too-large",
            &["value", "1024"],
        );
        let message = client.set(set("", "a", bytes(&[0; 70_000]))).await;
        assert_status(message, large, "too-large", &["message", "65536"]);
    });
}

#[test]
fn a_deadline_ends_calls_and_streams_and_one_that_cannot_be_read_is_refused() {
    let served = Served::start();
    served.with_client(|mut client| async move {
        let mut watch = Request::new(WatchRequest::default());
        watch.set_timeout(Duration::from_millis(100));
        let mut events = client.watch(watch).await.expect("watch").into_inner();
        let ended = loop {
            match events.message().await {
                Ok(Some(_)) => {}
                ended => break ended,
            }
        };
        let status = ended.expect_err("it ends with a status");
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        let mut ended = Request::new(set("t", "a", json("1")));
        ended.metadata_mut().insert("grpc-timeout", "0n".parse().expect("text"));
        let status = client.set(ended).await.expect_err("no time");
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        assert_status(client.get(get("t", "a")).await, Code::NotFound, "not-found", &[]);
        let mut wrong = Request::new(get("", "a"));
        wrong.metadata_mut().insert("grpc-timeout", "soon".parse().expect("text"));
        assert_status(
            client.get(wrong).await,
            Code::InvalidArgument,
            "bad-request",
            &["grpc-timeout", "soon"],
        );
        let mut page = Request::new(get("", "a"));
        page.metadata_mut().insert("origin", "http://evil.example".parse().expect("text"));
        assert_status(client.get(page).await, Code::PermissionDenied, "forbidden", &["web page"]);
    });
}

#[test]
fn other_protocols_are_told_what_this_port_speaks() {
    let served = Served::start();
    let mut stream = TcpStream::connect(served.address).expect("the listener accepts");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, and the end");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("speaks gRPC"), "{answer}");
    let ended = served.with_client(|client| async move {
        let origin = format!("http://{}", served.address).parse().expect("a URI");
        let mut unknown = tonic::client::Grpc::with_origin(Channel::open(served.address).await, origin);
        drop(client);
        unknown.ready().await.expect("ready");
        let path = "/dynarust.v1.Kw/Get".parse().expect("a path");
        let codec = tonic_prost::ProstCodec::<GetRequest, GetResponse>::default();
        unknown.unary(Request::new(get("", "a")), path, codec).await.expect_err("no such service")
    });
    assert_eq!(ended.code(), Code::Unimplemented, "{ended:?}");
    assert!(ended.message().contains("did you mean \"dynarust.v1.Kv\"?"), "{ended:?}");
}
