//! The listener as part of the program: its address, and the program `distributed_kv`, whose defaults are others.

use serde_json::json as json_of;

use super::client::*;
use crate::harness::{Setup, http::Request};

const PROGRAM: &str = env!("CARGO_BIN_EXE_distributed_kv");

#[test]
fn an_address_that_is_taken_or_given_twice_is_refused_with_what_to_do() {
    let served = Served::start();
    let taken = served.address.to_string();
    let outcome = Setup::new().flag("--grpc", &taken).try_start().err().expect("it does not start");
    for words in [&*taken, "the port is in use", "another port"] {
        assert!(outcome.log.contains(words), "{outcome:?}");
    }
    let outcome = Setup::new().run(&["127.0.0.1:7777", "--grpc", "127.0.0.1:7777"]).1;
    assert_eq!(outcome.code(), Some(2), "{outcome:?}");
    assert!(outcome.log.contains("LISTEN is the same address"), "{outcome:?}");
    let outcome = Setup::new().run(&["127.0.0.1:0", "--grpc", "here"]).1;
    assert!(outcome.code() == Some(2) && outcome.log.contains("flag --grpc: \"here\""), "{outcome:?}");
}

/// Users of an older store type `./target/debug/distributed_kv`.
#[test]
fn distributed_kv_is_the_same_node_with_grpc_and_strong_tables() {
    let help = Setup::new().binary(PROGRAM).run(&["--help"]).1;
    let said = help.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "127.0.0.1:50051",
        "127.0.0.1:50052",
        "DynaRust --grpc 127.0.0.1:50051 --new-tables strong 127.0.0.1:50052",
        "[default: strong; DYNARUST_NEW_TABLES]",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let other = Setup::new().run(&["--help"]).1;
    assert!(
        other.stdout.contains("127.0.0.1:6660") && !other.stdout.contains("[default: strong;"),
        "{other:?}"
    );
    let served = Served::start_with(|setup| setup.binary(PROGRAM));
    served.with_client(|mut client| async move {
        client.set(set("", "a", json("1"))).await.expect("set");
        client.set(set("t", "a", json("1"))).await.expect("set");
    });
    served.node.send(&Request::new("PUT", "/u/key/a").body(r#"{"value":1}"#)).expect(200);
    served
        .node
        .send(&Request::new("POST", "/v/batch").body(r#"[{"op":"put","key":"a","value":1}]"#))
        .expect(200);
    served
        .node
        .send(&Request::new("POST", "/_/import").body(r#"{"table":"w","key":"a","value":1}"#))
        .expect(200);
    served.node.send(&Request::new("DELETE", "/x/key/a")).expect(404);
    let tables = served.node.send(&Request::new("GET", "/_/tables")).expect(200).json();
    let tables = tables["tables"].as_array().or_else(|| tables.as_array()).expect("a list").clone();
    let modes: Vec<_> = tables.iter().map(|table| json_of!([table["name"], table["mode"]])).collect();
    let strong = ["kv", "t", "u", "v", "w"].map(|name| json_of!([name, "strong"]));
    assert_eq!(modes, strong);
}
