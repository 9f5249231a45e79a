//! Batches: how many operations, how long others wait for one, and what is said of one that too few replicas hold.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Node, Setup, http::Request};

fn puts(count: usize, value: &str) -> String {
    (0..count).map(|row| format!("{{\"op\":\"put\",\"key\":\"k{row}\",\"value\":{value}}}\n")).collect()
}

#[test]
fn more_operations_than_the_limit_are_refused_and_nothing_is_written() {
    let node = Setup::new().flag("--max-batch-ops", "100").start();
    for path in ["/t/batch", "/t/batch?atomic=true"] {
        let lines = puts(101, "1");
        let array = format!("[{}]", lines.trim_end().replace('\n', ","));
        for body in [lines, array] {
            let refused = node.post(path, body);
            assert_eq!(refused.json()["limit"], 100);
            let detail = refused.expect_problem(413, "too-large");
            assert!(detail.contains("100 operations") && detail.contains("--max-batch-ops"), "{detail}");
        }
        node.get("/t/count").expect_body(r#"{"count":0}"#);
    }
    node.post("/t/batch", puts(100, "1")).expect(200);
    let keys: Vec<String> = (0..101).map(|number| format!("\"k{number}\"")).collect();
    let detail = node.post("/t/keys", format!("[{}]", keys.join(","))).expect_problem(413, "too-large");
    assert!(detail.contains("100 keys"), "{detail}");
}

/// An operation that is wrong after thousands that are right keeps all of them from being written, piece by piece as they are.
#[test]
fn a_long_batch_that_is_wrong_at_its_end_writes_nothing() {
    let node = Node::start();
    let refused = node.post("/t/batch", puts(5000, "1") + "{\"op\":\"put\",\"key\":\"\",\"value\":1}");
    let detail = refused.expect_problem(422, "bad-name");
    assert!(detail.contains("operation 5001"), "{detail}");
    node.get("/t/count").expect_body(r#"{"count":0}"#);
    let results = node.post("/t/batch", puts(5000, "1")).expect(200).json();
    let results = results["results"].as_array().expect("a list");
    assert!(results.len() == 5000 && results.iter().all(|result| result["created"] == true));
}

/// Another client's write waited for 18 s for an atomic batch of a million operations.
#[test]
fn writes_of_others_go_on_while_a_batch_is_written() {
    let node = Setup::new().flag("--durability", "none").start();
    node.put("/t/key/other", r#"{"value":0}"#).expect(200);
    let body = puts(10_000, &format!("\"{}\"", "v".repeat(500)));
    thread::scope(|scope| {
        let batch = scope.spawn(|| {
            let begun = Instant::now();
            node.post("/t/batch?atomic=true", body.as_str()).expect(200);
            begun.elapsed()
        });
        let mut connection = node.connect();
        let (mut longest, mut writes) = (Duration::ZERO, 0);
        while !batch.is_finished() {
            let begun = Instant::now();
            connection.send(&Request::new("PUT", "/t/key/other").body(r#"{"value":1}"#)).expect(200);
            longest = longest.max(begun.elapsed());
            writes += 1;
        }
        let took = batch.join().expect("no panic");
        // It would have waited for all of it. The machine may be busy with other tests.
        assert!(writes >= 10, "{writes} writes, the longest took {longest:?}, the batch {took:?}");
    });
}

/// The 504 of a batch dropped the results of its operations: which were written, and under which version, nobody could tell.
#[test]
fn a_batch_that_too_few_replicas_hold_keeps_its_results() {
    let node = Node::start();
    for atomic in [false, true] {
        let body = r#"[{"op":"put","key":"a","value":1},{"op":"delete","key":"absent"}]"#;
        let body = if atomic { r#"[{"op":"put","key":"a","value":1}]"# } else { body };
        let answer = node.post(&format!("/t/batch?w=2&atomic={atomic}"), body);
        let problem = answer.json();
        let results = problem["results"].as_array().expect("results").clone();
        assert_eq!(results[0]["status"], 200, "{problem}");
        assert_eq!(results[0]["version"], problem["version"], "{problem}");
        if !atomic {
            assert_eq!((&results[1]["status"], results.len()), (&404.into(), 2), "{problem}");
        }
        answer.expect_problem(504, "not-enough-replicas");
    }
    node.get("/t/key/a").expect_body(r#"{"value":1}"#);
}
