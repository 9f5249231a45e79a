//! Limits on the requests a second of a token and of an address.

use serde_json::json;

use super::{ALL, guarded, with};
use crate::harness::{Setup, http::Request, ws::Socket};

/// So slow that nothing comes back while a test runs on a busy machine.
const SLOW: &str = "1";

#[test]
fn a_token_that_sends_too_much_is_told_to_wait_and_others_are_not() {
    let node = guarded(&[("busy", ALL), ("other", ALL), ("socket", ALL)], |setup| {
        setup.flag("--rate-limit-per-token", SLOW).flag("--rate-limit-burst", "30")
    });
    let get = |token: &str, path: &str| node.send(&with(token, Request::new("GET", path)));
    let refused = (0..200).map(|_| get("busy", "/t/keys")).find(|answer| answer.status != 200);
    let refused = refused.expect("a limit");
    let seconds: u64 = refused.expect_header("retry-after").parse().expect("seconds");
    let milliseconds = refused.json()["retry_after_ms"].as_u64().expect("milliseconds");
    assert_eq!(seconds, milliseconds.div_ceil(1000), "{refused}");
    let detail = refused.expect_problem(429, "too-many");
    assert!(
        detail
            .contains("\"busy\" sends more than 1 requests a second, or 30 at once (--rate-limit-per-token)"),
        "{detail}"
    );
    get("other", "/t/keys").expect(200);
    // A wrong token is counted for its address only, and that has no limit here.
    (0..40).for_each(|_| {
        get("stranger", "/t/keys").expect(401);
    });

    let mut socket = Socket::open(node.address(), "/_/ws?access_token=socket");
    let answers: Vec<_> = (0..200).map(|rid| socket.request(&json!({"op": "ping", "rid": rid}))).collect();
    let refused = answers.iter().find(|answer| answer["status"] != 200).expect("a limit");
    assert_eq!((&refused["status"], &refused["error"]), (&json!(429), &json!("too-many")), "{refused}");
    assert!(refused["retry_after_ms"].is_u64(), "{refused}");
    let page = get("other", "/metrics").expect(200);
    let counted = |by: &str| {
        let series = format!("dynarust_rate_limited_total{{by=\"{by}\"}} ");
        let line = page.text().lines().find_map(|line| line.strip_prefix(&series));
        line.unwrap_or_else(|| panic!("no {series}")).parse::<u64>().expect("a number")
    };
    assert!(counted("token") > 50, "{page}");
    assert_eq!(counted("address"), 0);
}

#[test]
fn an_address_that_sends_too_much_is_told_to_wait_but_for_probes_and_nodes() {
    let node = Setup::new().flag("--rate-limit-per-address", SLOW).flag("--log", "info,access=info").start();
    let statuses: Vec<u16> = (0..30).map(|_| node.get("/t/keys").status).collect();
    assert_eq!(statuses[0], 200);
    assert!(statuses.iter().filter(|status| **status == 429).count() > 10, "{statuses:?}");
    let mut limited = node.get("/t/keys");
    while limited.status != 429 {
        limited = node.get("/t/keys");
    }
    assert_eq!(limited.expect_header("retry-after"), "1");
    assert!(
        limited.expect_problem(429, "too-many").contains("127.0.0.1 sends more than 1 requests a second")
    );
    // Who it was, the log did not say: `by="-"`.
    assert!(
        node.log().contains("status=429") && node.log().contains("by=\"address:127.0.0.1\""),
        "{}",
        node.log()
    );
    for _ in 0..30 {
        node.get("/healthz").expect(200);
        node.get("/readyz").expect(200);
    }
    // Nor were operators, and a flood from their own machine shut them out.
    let token =
        std::fs::read_to_string(node.home().join("storage.db/dynarust.admin-token")).expect("a token");
    let (address, data) = (node.address().to_string(), node.home().join("storage.db"));
    for _ in 0..5 {
        node.send(&with(token.trim(), Request::new("POST", "/_/admin/sync"))).expect(200);
        let data = data.to_str().expect("text");
        let told = Setup::new().run(&["sync", &address, "--data", data]).1;
        assert_eq!(told.code(), Some(0), "{told:?}");
    }
    let wrong = || node.send(&with("wrong", Request::new("POST", "/_/admin/sync"))).status;
    assert!((0..30).any(|_| wrong() == 429));
    // Another node on this address links all the same.
    let second = Setup::new().join(&node.address().to_string()).start();
    crate::harness::wait_until("the second node has the first's data", crate::harness::DEADLINE, || {
        second.get("/readyz").status == 200
    });
}

#[test]
fn a_burst_without_a_limit_is_refused() {
    let outcome = Setup::new().run(&["127.0.0.1:0", "--rate-limit-burst", "5"]).1;
    assert_eq!(outcome.code(), Some(2), "{outcome:?}");
    assert!(outcome.log.contains("rate-limit-burst needs rate-limit-per-token"), "{outcome:?}");
}
