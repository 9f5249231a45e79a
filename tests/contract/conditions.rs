//! Conditional requests: If-Match and If-None-Match, on reads and on every kind of write.

use crate::harness::{Table, http::Response, table};

const WRITES: &[(&str, &str)] = &[("PUT", r#"{"value":{"a":2}}"#), ("PATCH", r#"{"a":2}"#), ("DELETE", "")];

fn conditional(table: &Table, method: &str, body: &str, header: &str, etag: &str) -> Response {
    table.send(&table.request(method, "key/a").header(header, etag).body(body))
}

/// Writes `{"a":1}` and returns its ETag.
fn write(table: &Table) -> String {
    table.put("key/a", r#"{"value":{"a":1}}"#).expect(200).expect_header("etag").to_owned()
}

#[test]
fn if_none_match_of_the_current_version_is_304_to_a_get() {
    let table = table();
    let first = write(&table);
    let read = |etag: &str| conditional(&table, "GET", "", "If-None-Match", etag);

    let unchanged = read(&first).expect(304);
    assert!(unchanged.body.is_empty());
    assert_eq!(unchanged.expect_header("etag"), first);
    read("*").expect(304);
    read(&format!("\"other\", {first}")).expect(304);
    // Reads compare weakly (RFC 9110), because proxies that compress make an ETag weak.
    read(&format!("W/{first}")).expect(304);
    assert_eq!(conditional(&table, "HEAD", "", "If-None-Match", &first).status, 304);

    let second = write(&table);
    assert_ne!(first, second);
    read(&first).expect_body(r#"{"value":{"a":1}}"#);
}

#[test]
fn if_match_of_the_current_version_allows_a_write() {
    for (method, body) in WRITES {
        let table = table();
        let etag = write(&table);
        conditional(&table, method, body, "If-Match", &etag).expect(200);

        let etag = write(&table);
        conditional(&table, method, body, "If-Match", &format!("\"other\", {etag}")).expect(200);

        write(&table);
        conditional(&table, method, body, "If-Match", "*").expect(200);
    }
}

#[test]
fn if_match_of_another_version_refuses_a_write_and_names_the_current_one() {
    for (method, body) in WRITES {
        let table = table();
        let old = write(&table);
        let current = write(&table);
        let refused = conditional(&table, method, body, "If-Match", &old).expect(412);
        let version = current.trim_matches('"');
        assert!(refused.text().contains(version), "{version} in {refused}");
        refused.expect_problem(412, "precondition-failed");
        let read = table.get("key/a").expect_body(r#"{"value":{"a":1}}"#);
        assert_eq!(read.expect_header("etag"), current);
    }
}

#[test]
fn if_match_refuses_a_write_to_an_absent_key() {
    let table = table();
    for etag in ["*", "\"0000000000000000-0000000000000000\""] {
        conditional(&table, "PUT", r#"{"value":1}"#, "If-Match", etag)
            .expect_problem(412, "precondition-failed");
    }
    table.get("key/a").expect_problem(404, "not-found");
    let old = write(&table);
    table.delete("key/a").expect(200);
    conditional(&table, "PUT", r#"{"value":1}"#, "If-Match", &old).expect_problem(412, "precondition-failed");
    table.get("key/a").expect_problem(404, "not-found");
}

#[test]
fn if_none_match_star_writes_only_if_the_key_is_absent() {
    let table = table();
    conditional(&table, "PUT", r#"{"value":1}"#, "If-None-Match", "*").expect(200);
    let refused = conditional(&table, "PUT", r#"{"value":2}"#, "If-None-Match", "*");
    refused.expect_problem(412, "precondition-failed");
    table.get("key/a").expect_body(r#"{"value":1}"#);
    table.delete("key/a").expect(200);
    conditional(&table, "PUT", r#"{"value":3}"#, "If-None-Match", "*").expect(200);
    table.get("key/a").expect_body(r#"{"value":3}"#);
}

#[test]
fn of_many_concurrent_creates_exactly_one_succeeds() {
    let table = table();
    let created = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let table = &table;
                scope.spawn(move || {
                    conditional(table, "PUT", &format!(r#"{{"value":{writer}}}"#), "If-None-Match", "*")
                        .status
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("a writer does not panic")).collect::<Vec<_>>()
    });
    assert_eq!(created.iter().filter(|status| **status == 200).count(), 1, "{created:?}");
    assert_eq!(created.iter().filter(|status| **status == 412).count(), 7, "{created:?}");
}

/// Compare and set: a counter that many clients increment by ETag misses no step.
#[test]
fn a_counter_by_if_match_counts_every_step() {
    let table = table();
    table.put("key/a", r#"{"value":0}"#).expect(200);
    let steps = 15;
    let count_up = |table: &Table| {
        let mut connection = table.connect();
        let mut done = 0;
        while done < steps {
            let read = connection.send(&table.request("GET", "key/a")).expect(200);
            let next = read.json()["value"].as_u64().expect("a number") + 1;
            let put = table.request("PUT", "key/a").header("If-Match", read.expect_header("etag"));
            let written = connection.send(&put.body(format!(r#"{{"value":{next}}}"#)));
            assert!(matches!(written.status, 200 | 412), "{written}");
            done += usize::from(written.status == 200);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| count_up(&table));
        }
    });
    table.get("key/a").expect_body(&format!(r#"{{"value":{}}}"#, 3 * steps));
}

#[test]
fn a_condition_that_is_not_an_etag_never_allows_a_write() {
    let table = table();
    write(&table);
    for wrong in ["unquoted", "\"", "\"other\"", "W/\"other\"", ""] {
        let refused = conditional(&table, "PUT", r#"{"value":2}"#, "If-Match", wrong);
        assert!(matches!(refused.status, 400 | 412), "{wrong:?}: {refused}");
    }
    table.get("key/a").expect_body(r#"{"value":{"a":1}}"#);
}

/// A switch was read only once there was something to show, so that a wrong one passed where the answer was 304 or 404.
#[test]
fn a_wrong_switch_is_refused_whatever_the_answer_would_be() {
    let table = table();
    table.put("key/a", r#"{"value":1}"#).expect(200);
    for key in ["a", "absent"] {
        let read = table.request("GET", &format!("key/{key}?meta=maybe")).header("If-None-Match", "*");
        table.send(&read).expect_problem(400, "bad-request");
    }
}
