//! The page as HTTP has it, and what nodes report to it.

use serde_json::{Value, json};

use crate::harness::{
    Node, Setup,
    cluster::{CONVERGENCE, Cluster, free_address},
    http::Request,
    wait_until,
    ws::Socket,
};

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// A program that asks for `/` gets what it always got.
#[test]
fn a_browser_gets_the_page_at_the_root_and_a_program_does_not() {
    let node = Node::start();
    node.get("/").expect_problem(404, "not-found");
    node.send(&Request::new("GET", "/").header("Accept", "*/*")).expect_problem(404, "not-found");
    node.send(&Request::new("PUT", "/").header("Accept", BROWSER)).expect_problem(404, "not-found");
    let page = node.send(&Request::new("GET", "/").header("Accept", BROWSER)).expect(200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.expect_header("content-security-policy");
    assert!(policy.starts_with("default-src 'self'; connect-src 'self';"), "{policy}");
    assert_eq!(page.text(), node.get("/_/").expect(200).text());
    let again = Request::new("GET", "/").header("Accept", BROWSER);
    node.send(&again.header("If-None-Match", page.expect_header("etag"))).expect(304);
    node.send(&Request::new("GET", "/?what=1").header("Accept", BROWSER)).expect_problem(400, "bad-request");
    let script = node.send(&Request::new("GET", "/_/dashboard/app.js").header("Accept-Encoding", "gzip"));
    assert_eq!(script.expect(200).header("content-encoding"), Some("gzip"));
    node.get("/_/dashboard/nothing.js").expect_problem(404, "not-found");
}

/// The page of a node that stopped goes on with another: its policy names the other, and the other takes its requests.
#[test]
fn a_page_of_one_member_may_use_the_others() {
    let cluster = Cluster::start(2);
    let (own, other) = (cluster.address(0), cluster.address(1));
    let page = cluster[0].get("/_/").expect(200);
    let policy = page.expect_header("content-security-policy");
    assert!(policy.contains(&format!("connect-src 'self' http://{other} ws://{other};")), "{policy}");
    let from = |origin: &str| Request::new("GET", "/_/tables").header("Origin", origin);
    let answer = cluster[1].send(&from(&format!("http://{own}"))).expect(200);
    assert_eq!(answer.header("access-control-allow-origin"), Some(&*format!("http://{own}")));
    for foreign in ["http://127.0.0.1:1", &format!("https://{own}"), "http://evil.example", "null"] {
        let refused = cluster[1].send(&from(foreign));
        assert_eq!(refused.header("access-control-allow-origin"), None, "{foreign}");
        refused.expect_problem(403, "forbidden");
    }
}

/// The answers of a report, by the addresses of their nodes.
fn report(socket: &mut Socket, message: &Value) -> Value {
    let answer = socket.request(message);
    assert_eq!(answer["status"], 200, "{answer}");
    answer
}

#[test]
fn a_node_reports_on_all_nodes_and_finds_the_keys_that_differ() {
    let at_a_fixed_address = || Setup::new().listen(&free_address());
    let first = at_a_fixed_address().start();
    first.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let second = at_a_fixed_address().join(&first.address().to_string()).start();
    let mut socket = Socket::open(first.address(), "/_/ws");
    let answers = |answer: &Value| {
        let nodes = answer["nodes"].as_array().expect("nodes").clone();
        nodes.into_iter().filter(|node| !node["answer"].is_null()).collect::<Vec<_>>()
    };
    let partitions = json!({"op": "report", "rid": 1, "report": "partitions", "table": "t"});
    let mut found = None;
    wait_until("the nodes differ in one partition", CONVERGENCE, || {
        let nodes = answers(&report(&mut socket, &partitions));
        let digests: Vec<_> = nodes.iter().filter_map(|node| node["answer"]["digests"].as_str()).collect();
        let [one, other] = digests[..] else { return false };
        let part = |digests: &str, place: usize| digests[12 * place..12 * (place + 1)].to_owned();
        let differ: Vec<_> = (0..256).filter(|place| part(one, *place) != part(other, *place)).collect();
        found = (differ.len() == 1).then(|| differ[0]).or(found);
        differ.len() == 1
    });
    let differences =
        json!({"op": "report", "rid": 2, "report": "differences", "table": "t", "partition": found});
    let rows = report(&mut socket, &differences);
    // It may have healed just now.
    if rows["total"] == 1 {
        assert_eq!(rows["rows"][0]["key"], "a");
        assert_eq!(rows["rows"][0]["versions"].as_object().map(serde_json::Map::len), Some(2), "{rows}");
    }
    wait_until("they are equal", CONVERGENCE, || {
        let nodes = answers(&report(&mut socket, &partitions));
        nodes.len() == 2 && nodes[0]["answer"]["digests"] == nodes[1]["answer"]["digests"]
    });
    assert_eq!(report(&mut socket, &differences)["total"], 0);
    let status = report(&mut socket, &json!({"op": "report", "rid": 3, "report": "status"}));
    let nodes = answers(&status);
    assert_eq!(nodes.len(), 2, "{status}");
    for node in [&first, &second] {
        let own = nodes.iter().find(|one| one["address"] == node.address().to_string()).expect("a node");
        assert_eq!(own["answer"]["tables"][0]["keys"], 1, "{status}");
    }
    assert_eq!(status["client"]["writes_all"], true);
    let series = report(&mut socket, &json!({"op": "report", "rid": 4, "report": "series"}));
    assert_eq!(series["nodes"][0]["answer"]["fields"][1], "requests", "{series}");
    let comparisons = report(&mut socket, &json!({"op": "report", "rid": 5, "report": "comparisons"}));
    assert_eq!(answers(&comparisons).len(), 2);
    let unknown = socket.request(&json!({"op": "report", "rid": 6, "report": "state"}));
    assert!(unknown["detail"].as_str().is_some_and(|why| why.contains("status")), "{unknown}");
}

/// The rates of the last 15 minutes knew only of HTTP, so that a node that was used through WebSockets or gRPC seemed idle.
#[test]
fn requests_on_websockets_and_calls_of_grpc_are_in_the_rates() {
    let served = crate::grpc::client::Served::start();
    let mut socket = Socket::open(served.node.address(), "/_/ws");
    let points = |socket: &mut Socket| {
        let series = report(socket, &json!({"op": "report", "rid": 4, "report": "series"}));
        series["nodes"][0]["answer"]["points"].as_array().expect("points").clone()
    };
    // Each later point says since when it counts: since the one before.
    wait_until("the first point", CONVERGENCE, || !points(&mut socket).is_empty());
    for number in 0..40 {
        let rid = number + 10;
        let put =
            socket.request(&json!({"op": "put", "rid": rid, "table": "t", "key": "a", "value": number}));
        assert_eq!(put["status"], 200, "{put}");
        assert_eq!(
            socket.request(&json!({"op": "get", "rid": rid, "table": "t", "key": "none"}))["status"],
            404
        );
        socket.request(&json!({"op": "ping", "rid": rid}));
    }
    let expect = |socket: &mut Socket, what: &str, requests: f64, failures: f64| {
        let mut sums = [0.0; 3];
        wait_until(what, CONVERGENCE, || {
            let points = points(socket);
            // A rate times the time since the point before it.
            let sum = |place: usize| -> f64 {
                let at = |point: &Value, place: usize| point[place].as_f64().expect("a number");
                let pairs = points.windows(2);
                pairs.map(|pair| at(&pair[1], place) * (at(&pair[1], 0) - at(&pair[0], 0)) / 1000.0).sum()
            };
            sums = [1, 2, 3].map(sum);
            sums[0] >= requests - 1.0 && sums[1] >= failures - 1.0
        });
        // Requests of the test itself come on top, but reports and pings do not.
        assert!(sums[0] < requests + 20.0 && sums[1] < failures + 5.0 && sums[2] < 1.0, "{what}: {sums:?}");
    };
    expect(&mut socket, "those on a WebSocket", 80.0, 40.0);
    served.with_client(|mut client| async move {
        for _ in 0..60 {
            client.get(crate::grpc::client::get("t", "a")).await.expect("get");
            client.get(crate::grpc::client::get("t", "none")).await.expect_err("no such key");
            client.delete(crate::grpc::client::delete("t", "none")).await.expect_err("no such key");
        }
    });
    expect(&mut socket, "and calls of gRPC", 260.0, 160.0);
}
