//! The tables that calls make: in which mode, and by which calls.

use serde_json::json as json_of;
use tonic::Code;

use super::client::*;
use crate::harness::http::Request;

/// The tables of a node, with their modes.
fn tables(served: &Served) -> Vec<serde_json::Value> {
    let tables = served.node.send(&Request::new("GET", "/_/tables")).expect(200).json();
    let tables = tables["tables"].as_array().or_else(|| tables.as_array()).expect("a list").clone();
    tables.iter().map(|table| json_of!([table["name"], table["mode"]])).collect()
}

fn in_mode(table: &str, mode: TableMode) -> SetRequest {
    SetRequest { table_mode: mode.into(), ..set(table, "a", json("1")) }
}

/// A transaction that only reads made the table `kv`, and so did writes that were refused.
#[test]
fn only_a_write_that_may_succeed_makes_a_table() {
    let served = Served::start();
    served.with_client(|mut client| async move {
        let operation = |operation| Operation { operation: Some(operation) };
        let read = TxnRequest {
            compare: vec![Compare {
                key: "a".into(),
                expected: Some(compare::Expected::Exists(true)),
                ..Compare::default()
            }],
            success: vec![operation(operation::Operation::Get(get("", "a")))],
            failure: vec![operation(operation::Operation::Delete(delete("kv", "a")))],
        };
        client.txn(read).await.expect_err("there is no strong table");
        let stale = SetRequest { condition: exists(true), ..in_mode("s", TableMode::Strong) };
        assert_status(client.set(stale).await, Code::Aborted, "precondition-failed", &[]);
        let stale = SetRequest { condition: exists(true), ..set("", "a", json("1")) };
        assert_status(client.set(stale).await, Code::Aborted, "precondition-failed", &[]);
        assert_status(client.delete(delete("", "a")).await, Code::NotFound, "not-found", &[]);
    });
    assert_eq!(tables(&served), [json_of!(null); 0]);
}

/// The default table became an eventual one by a deletion, or by its name.
#[test]
fn the_default_table_is_strong_whoever_makes_it_by_grpc() {
    for makes in ["deletion", "name"] {
        let served = Served::start();
        served.with_client(|mut client| async move {
            match makes {
                "deletion" => {
                    let forced = DeleteRequest { force: true, ..delete("", "a") };
                    client.delete(forced).await.expect("a deletion is written");
                }
                _ => {
                    client.set(set("kv", "a", json("1"))).await.expect("set");
                }
            }
        });
        assert_eq!(tables(&served), [json_of!(["kv", "strong"])], "{makes}");
    }
    let served = Served::start();
    served.node.send(&Request::new("PUT", "/kv/key/a").body(r#"{"value":1}"#)).expect(200);
    served.with_client(|mut client| async move {
        client.set(set("kv", "a", json("2"))).await.expect("by its name");
        let wrong = client.set(set("", "a", json("3"))).await;
        assert_status(wrong, Code::FailedPrecondition, "wrong-mode", &["names no table", "kv"]);
        let entry = client.get(get("", "a")).await.expect("get").into_inner().entry.expect("an entry");
        assert_eq!(entry.value, json("2"));
    });
}

/// `--new-tables strong` won over the mode that a request asked for.
#[test]
fn a_request_for_an_eventual_table_makes_one_also_where_new_tables_are_strong() {
    let served = Served::start_with(|setup| setup.flag("--new-tables", "strong"));
    served.with_client(|mut client| async move {
        let concern = WriteConcern { replicas: Some(write_concern::Replicas::Count(1)), timeout_ms: 0 };
        let eventual = SetRequest { write_concern: Some(concern), ..in_mode("e", TableMode::Eventual) };
        client.set(eventual).await.expect("made eventual");
        client.set(in_mode("e", TableMode::Eventual)).await.expect("eventual already");
        client.set(in_mode("s", TableMode::Default)).await.expect("made strong");
    });
    assert_eq!(tables(&served), [json_of!(["e", "eventual"]), json_of!(["s", "strong"])]);
}
