//! What users see of a strong table: the requests of any table, and each read on each node shows what was answered before.

use serde_json::{Value, json};

use super::{fresh_name, shared, strong};
use crate::harness::{DEADLINE, http::Request, sse::Events, wait_until};

#[test]
fn a_strong_table_is_made_once_and_asking_again_on_any_node_changes_nothing() {
    let (cluster, name) = (shared(), fresh_name());
    let path = format!("/_/tables/{name}");
    let made = cluster[1].put(&path, r#"{"mode":"strong"}"#).expect(201);
    assert_eq!(made.json(), json!({ "table": name, "mode": "strong" }));
    for node in cluster.running() {
        let again = node.put(&path, r#"{"mode":"strong"}"#).expect(200);
        assert_eq!(again.json(), json!({ "table": name, "mode": "strong" }));
    }
}

/// A node that has not applied yet that a table was made would take a write into an eventual table of that name.
#[test]
fn a_table_is_strong_on_every_node_once_it_was_answered_to_be() {
    let cluster = shared();
    for round in 0..10 {
        let name = fresh_name();
        let (maker, writer) = (&cluster[round % 3], &cluster[(round + 1) % 3]);
        maker.put(&format!("/_/tables/{name}"), r#"{"mode":"strong"}"#).expect(201);
        writer.put(&format!("/{name}/key/a"), r#"{"value":1}"#).expect(200);
        for node in cluster.running() {
            node.get(&format!("/{name}/key/a")).expect_body(r#"{"value":1}"#);
        }
    }
}

#[test]
fn what_one_node_answered_each_node_reads_at_once_by_every_way_to_read() {
    let table = strong();
    for round in 0..12 {
        let (writer, key) = (&table[round % 3], format!("k{round:02}"));
        let put =
            writer.put(&table.path(&format!("key/{key}")), format!(r#"{{"value":{round}}}"#)).expect(200);
        assert_eq!(put.header("dynarust-created"), Some("true"));
        let version = put.json()["version"].as_str().expect("a version").to_owned();
        for node in table.nodes() {
            let got = node.get(&table.path(&format!("key/{key}")));
            assert_eq!(got.header("dynarust-version"), Some(&*version));
            assert_eq!(got.header("dynarust-stale"), None);
            got.expect_body(&format!(r#"{{"value":{round}}}"#));
            let head = node.send(&Request::new("HEAD", &table.path(&format!("key/{key}"))));
            assert_eq!(head.expect(200).header("dynarust-version"), Some(&*version));
            node.get(&table.path("count")).expect_body(&format!(r#"{{"count":{}}}"#, round + 1));
            let keys = node.get(&table.path("keys")).expect(200).json();
            assert_eq!(keys.as_array().and_then(|keys| keys.last()), Some(&json!(key)));
            let rows = node.get(&table.path("store")).expect(200).json();
            assert_eq!(rows[&key], json!(round));
            let some = node.post(&table.path("keys"), json!([key, "absent"]).to_string()).expect(200);
            assert_eq!(some.json(), json!({ key.as_str(): round }));
        }
    }
}

#[test]
fn a_delete_is_seen_at_once_on_every_node_and_a_second_one_finds_nothing() {
    let table = strong();
    for round in 0..6 {
        let (writer, deleter) = (&table[round % 3], &table[(round + 1) % 3]);
        writer.put(&table.path("key/a"), r#"{"value":1}"#).expect(200);
        deleter.delete(&table.path("key/a")).expect_body(r#"{"deleted":true}"#);
        for node in table.nodes() {
            node.get(&table.path("key/a")).expect(404);
            node.get(&table.path("count")).expect_body(r#"{"count":0}"#);
            node.delete(&table.path("key/a")).expect(404);
        }
    }
    table[2].delete(&table.path("key/never?force=true")).expect(200);
}

/// A write that failed could be followed to the node that the client asked, and no further.
#[test]
fn a_write_that_is_passed_on_has_the_same_request_id_in_the_log_of_the_leader() {
    if super::backend::skips_raft() {
        return;
    }
    let table = strong();
    for node in table.nodes() {
        let id = format!("client-{}-{}", table.path("x").replace('/', ""), node.pid());
        let put = Request::new("PUT", &table.path("key/a")).header("X-Request-Id", &id);
        node.send(&put.body(r#"{"value":1}"#)).expect(200);
        // Those that do not lead have passed it on.
        if node.view()["strong"]["leads"] != true {
            wait_until(&format!("a leader has logged {id}"), DEADLINE, || {
                table.nodes().any(|node| node.log().contains(&id))
            });
        }
    }
}

#[test]
fn versions_rise_in_the_order_of_answers_whichever_node_takes_the_write() {
    let table = strong();
    let mut last = String::new();
    for round in 0..15 {
        let put = table[round % 3].put(&table.path("key/a"), format!(r#"{{"value":{round}}}"#)).expect(200);
        let version = put.json()["version"].as_str().expect("a version").to_owned();
        assert!(version > last, "{version} after {last}");
        last = version;
    }
}

#[test]
fn pages_and_ranges_of_a_listing_are_those_of_any_table() {
    let table = strong();
    let puts: Vec<_> =
        (0..20).map(|row| json!({ "op": "put", "key": format!("k{row:02}"), "value": row })).collect();
    table[0].post(&table.path("batch"), json!(puts).to_string()).expect(200);
    let page = table[1].get(&table.path("keys?prefix=k1&limit=4")).expect(200);
    assert_eq!(page.json(), json!(["k10", "k11", "k12", "k13"]));
    let cursor = page.expect_header("dynarust-next-cursor");
    let next = table[2].get(&table.path(&format!("keys?prefix=k1&limit=4&cursor={cursor}"))).expect(200);
    assert_eq!(next.json(), json!(["k14", "k15", "k16", "k17"]));
    table[2].get(&table.path("count?prefix=k0")).expect_body(r#"{"count":10}"#);
    assert_eq!(
        table[1].get(&table.path("keys?start=k18&reverse=true")).expect(200).json(),
        json!(["k19", "k18"])
    );
}

#[test]
fn a_stale_read_says_so_and_shows_in_the_end_what_was_written() {
    let table = strong();
    table[0].put(&table.path("key/a"), r#"{"value":1}"#).expect(200);
    for node in table.nodes() {
        for path in ["key/a", "keys", "store", "count"] {
            let path = table.path(&format!("{path}?read=stale"));
            wait_until("the write arrives", super::RECOVERY, || {
                let read = node.get(&path);
                assert_eq!(read.header("dynarust-stale").unwrap_or("true"), "true", "{read}");
                read.status == 200 && !["[]", "{}", r#"{"count":0}"#].contains(&read.text().trim_end())
            });
            assert_eq!(node.get(&path).expect(200).expect_header("dynarust-stale"), "true");
        }
        let some = node.post(&table.path("keys?read=stale"), r#"["a"]"#).expect(200);
        assert_eq!(some.expect_header("dynarust-stale"), "true");
        assert_eq!(
            node.get(&table.path("key/a?read=linearizable")).expect(200).header("dynarust-stale"),
            None
        );
    }
}

#[test]
fn deleting_by_prefix_and_the_whole_table_removes_the_rows_on_every_node() {
    let table = strong();
    let puts: Vec<_> = (0..40)
        .map(|row| json!({ "op": "put", "key": format!("{}{row:02}", if row % 2 == 0 { "even" } else { "odd" }), "value": row }))
        .collect();
    table[1].post(&table.path("batch"), json!(puts).to_string()).expect(200);
    table[2].delete(&format!("/{}?prefix=even", table.name)).expect_body(r#"{"deleted":20}"#);
    for node in table.nodes() {
        node.get(&table.path("count")).expect_body(r#"{"count":20}"#);
        node.get(&table.path("count?prefix=even")).expect_body(r#"{"count":0}"#);
    }
    table[0].delete(&format!("/{0}?confirm={0}", table.name)).expect_body(r#"{"deleted":20}"#);
    for node in table.nodes() {
        assert_eq!(node.get(&table.path("keys")).expect(200).json(), json!([]));
    }
    // It is strong all the same.
    table[1].put(&format!("/_/tables/{}", table.name), r#"{"mode":"strong"}"#).expect(200);
    table[1].put(&table.path("key/a?w=2"), r#"{"value":1}"#).expect_problem(400, "bad-request");
}

#[test]
fn an_expired_value_is_gone_on_every_node_and_each_watcher_hears_of_it_once() {
    let table = strong();
    let watch =
        |node: &crate::harness::Node| Events::open(node.address(), &table.path("subscribe?prefix=")).0;
    let mut watchers: Vec<_> = table.nodes().map(watch).collect();
    let put = table[1].put(&table.path("key/a?ttl=500ms"), r#"{"value":1}"#).expect(200);
    let written = put.json()["version"].clone();
    table[2].put(&table.path("key/b?ttl=1h"), r#"{"value":2}"#).expect(200);
    for node in table.nodes() {
        wait_until("it expires", super::RECOVERY, || node.get(&table.path("key/a")).status == 404);
        node.get(&table.path("key/b")).expect_body(r#"{"value":2}"#);
        node.get(&table.path("count")).expect_body(r#"{"count":1}"#);
    }
    table[0].put(&table.path("key/end"), r#"{"value":0}"#).expect(200);
    for watcher in &mut watchers {
        let events = watcher.data_until(|event| event["key"] == "end");
        let of_a: Vec<_> = events.iter().filter(|event| event["key"] == "a").collect();
        assert_eq!(of_a.len(), 2, "{events:?}");
        assert_eq!((&of_a[0]["event"], &of_a[0]["version"]), (&json!("Updated"), &written));
        assert_eq!(of_a[1]["event"], "Deleted", "{of_a:?}");
    }
}

/// A value ends by a delete through the log, and its event had the reason of a delete.
#[test]
fn the_event_of_an_expired_value_says_that_it_expired() {
    let table = strong();
    let watch =
        |node: &crate::harness::Node| Events::open(node.address(), &table.path("subscribe?prefix=")).0;
    let watchers: Vec<_> = table.nodes().map(watch).collect();
    table[1].put(&table.path("key/a?ttl=100ms"), r#"{"value":1}"#).expect(200);
    table[0].put(&table.path("key/deleted?ttl=1h"), r#"{"value":1}"#).expect(200);
    table[2].delete(&table.path("key/deleted")).expect(200);
    for mut watcher in watchers {
        let mut ends = std::iter::repeat_with(|| {
            watcher.data_until(|event| event["event"] == "Deleted").pop().expect("it ends with one")
        });
        let ends = ends.by_ref().take(2).map(|end| (end["key"].to_string(), end["reason"].clone()));
        let reasons: std::collections::BTreeMap<_, _> = ends.collect();
        assert_eq!(json!(reasons), json!({ "\"a\"": "expired", "\"deleted\"": "delete" }));
    }
}

/// A key that is written again before its time has come must not be taken by the deletion that was due.
#[test]
fn a_value_that_was_renewed_does_not_expire_with_the_one_before() {
    let table = strong();
    for round in 0..5 {
        let key = format!("key/{round}");
        table[0].put(&table.path(&format!("{key}?ttl=300ms")), r#"{"value":"short"}"#).expect(200);
        table[1].put(&table.path(&key), r#"{"value":"stays"}"#).expect(200);
    }
    table[2].put(&table.path("key/marker?ttl=1s"), r#"{"value":1}"#).expect(200);
    wait_until("the marker expires", super::RECOVERY, || {
        table[2].get(&table.path("key/marker")).status == 404
    });
    for round in 0..5 {
        table[round % 3].get(&table.path(&format!("key/{round}"))).expect_body(r#"{"value":"stays"}"#);
    }
}

#[test]
fn an_export_has_the_rows_and_they_can_be_imported_without_their_versions() {
    let (source, target) = (strong(), strong());
    source[0].put(&source.path("key/a"), r#"{"value":{"n":1.10}}"#).expect(200);
    source[1].put(&source.path("key/b?ttl=1h"), r#"{"value":null}"#).expect(200);
    let own = |text: &str| -> Vec<Value> {
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
        lines.filter(|line| line["table"] == source.name.as_str()).collect()
    };
    for node in source.nodes() {
        let mut rows = Vec::new();
        wait_until("the rows are exported", super::RECOVERY, || {
            rows = own(node.get("/_/export").expect(200).text());
            rows.len() == 2
        });
        assert!(rows.iter().all(|row| row["version"].is_string()), "{rows:?}");
        let mut lines = String::new();
        for row in &mut rows {
            row["table"] = json!(target.name);
            let row = row.as_object_mut().expect("a row is an object");
            row.remove("version");
            row.remove("timestamp");
            lines.push_str(&format!("{}\n", json!(row)));
        }
        node.post("/_/import", lines).expect(200);
        for node in target.nodes() {
            node.get(&target.path("key/a")).expect_body(r#"{"value":{"n":1.10}}"#);
            let expires =
                node.get(&target.path("key/b")).expect(200).header("dynarust-expires").map(str::to_owned);
            assert_eq!(expires, rows[1]["expires_at"].as_u64().map(|at| at.to_string()));
        }
    }
}
