//! Tokens and limits over gRPC: the same as over REST.

use std::fs;

use tonic::{Code, Request};

use super::client::*;
use crate::{
    access::{file, guarded},
    harness::{DEADLINE, Setup},
};

/// A request with this token.
fn with<T>(token: &str, request: T) -> Request<T> {
    let mut request = Request::new(request);
    let credentials = format!("Bearer {token}").parse().expect("text");
    request.metadata_mut().insert("authorization", credentials);
    request
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("in time") })
}

#[test]
fn a_token_grants_what_it_says_and_its_streams_end_with_it() {
    let entries = [
        ("reader", "rights = [\"read\"]\ntables = [\"t\"]"),
        ("writer", "rights = [\"read\", \"write\"]\nprefixes = [\"a\"]"),
    ];
    let node =
        guarded(&entries, |setup| setup.flag("--grpc", "127.0.0.1:0").flag("--log", "info,access=info"));
    let address = address_in(&node.log());
    run(async {
        let mut client = client(address).await;
        let nobody = client.get(get("t", "a")).await;
        assert_status(nobody, Code::Unauthenticated, "unauthorized", &["Authorization: Bearer"]);
        let wrong = client.get(with("guessed", get("t", "a"))).await;
        assert_status(wrong, Code::Unauthenticated, "unauthorized", &["does not know the token"]);
        client.set(with("writer", set("t", "a", json("1")))).await.expect("granted");
        let refused = client.set(with("writer", set("t", "b", json("1")))).await;
        assert_status(refused, Code::PermissionDenied, "forbidden", &["writer"]);
        let refused = client.set(with("reader", set("t", "a", json("1")))).await;
        assert_status(refused, Code::PermissionDenied, "forbidden", &["reader"]);
        client.get(with("reader", get("t", "a"))).await.expect("granted");
        let refused = client.list(with("reader", ListRequest::default())).await.map(|_| ());
        assert_status(refused, Code::PermissionDenied, "forbidden", &["reader"]);
        let prefixed = ListRequest { table: "t".into(), prefix: "a".into(), ..ListRequest::default() };
        client.list(with("writer", prefixed)).await.expect("granted");
        let txn = TxnRequest {
            success: vec![Operation { operation: Some(operation::Operation::Set(set("", "b", json("1")))) }],
            ..TxnRequest::default()
        };
        assert_status(
            client.txn(with("writer", txn)).await,
            Code::PermissionDenied,
            "forbidden",
            &["writer"],
        );
        let strong = SetRequest { table_mode: TableMode::Strong.into(), ..set("s", "a", json("1")) };
        assert_status(
            client.set(with("writer", strong)).await,
            Code::PermissionDenied,
            "forbidden",
            &["writer"],
        );
        let watch = WatchRequest { table: "t".into(), ..WatchRequest::default() };
        let refused = client.watch(with("writer", watch.clone())).await.map(|_| ());
        assert_status(refused, Code::PermissionDenied, "forbidden", &["writer"]);
        let mut events = client.watch(with("reader", watch)).await.expect("granted").into_inner();
        events.message().await.expect("a position");
        fs::write(&node.tokens, file(&entries[1..])).expect("written");
        node.signal("HUP");
        let ended = events.message().await;
        assert_status(ended, Code::Unauthenticated, "unauthorized", &["the token was revoked"]);
    });
    let log = node.log();
    let refused = log.lines().find(|line| line.contains("code=\"UNAUTHENTICATED\"")).expect("it is logged");
    assert!(refused.contains("by=\"address:127.0.0.1\""), "{refused}");
}

#[test]
fn limits_of_connections_and_the_access_log_are_those_of_rest() {
    let served = Served::start_with(|setup: Setup| {
        setup.flag("--max-connections", "1").flag("--log", "info,access=info")
    });
    served.with_client(|mut client| async {
        client.set(with("a secret token", set("t", "a", json("1")))).await.expect("no tokens are asked for");
        served
            .node
            .send(&crate::harness::http::Request::new("GET", "/healthz"))
            .expect_problem(429, "too-many");
        drop(client);
    });
    let log = served.node.log();
    let line = log.lines().find(|line| line.contains("dynarust.v1.Kv/Set")).expect("a line for the call");
    assert!(
        line.contains("access") && line.contains("code=\"OK\"") && !log.contains("a secret token"),
        "{line}"
    );
}

#[test]
fn an_address_that_sends_too_much_is_told_how_long_to_wait() {
    use tonic_types::StatusExt;
    let served = Served::start_with(|setup: Setup| setup.flag("--rate-limit-per-address", "1"));
    served.with_client(|mut client| async move {
        let mut limited = Ok(());
        while limited.is_ok()
            || limited.as_ref().is_err_and(|status: &tonic::Status| status.code() == Code::NotFound)
        {
            limited = client.get(get("t", "a")).await.map(|_| ());
        }
        let details = limited.as_ref().expect_err("limited").get_error_details();
        assert!(details.retry_info().and_then(|retry| retry.retry_delay).is_some(), "{details:?}");
        assert_status(limited, Code::ResourceExhausted, "too-many", &["--rate-limit-per-address"]);
    });
}
