//! Who may be a member: whoever has the secret, and nobody else. Whoever tries costs the node nothing.

use std::fs;

use dynarust::replication::link::connect::subprotocol;
use tokio_tungstenite::tungstenite::{Message, client};

use super::{wait_for_body, wait_until_logged};
use crate::{
    crash::ledger::Chance,
    harness::{
        Node, Setup,
        cluster::{Cluster, SECRET, bare_setup, setup, wait_until_ready},
        http::Request,
        wait_until,
    },
};

const USAGE: Option<i32> = Some(2);
const OTHER: &str = "four may not keep it at all";

/// Starts a node that is to be refused by `first`, and looks whether it was.
fn expect_kept_out(first: &Node, setup: Setup) {
    let stranger = setup.join(&first.address().to_string()).start();
    wait_until_logged(&stranger, "CLUSTER_SECRET");
    wait_until_logged(first, "CLUSTER_SECRET");
    stranger.get("/readyz").expect(503);
    stranger.get("/t/key/a").expect_problem(404, "not-found");
    assert_eq!(first.view()["members"].as_array().map(Vec::len), Some(1), "{}", first.view());
    for node in [first, &stranger] {
        for secret in [SECRET, OTHER] {
            assert!(!node.log().contains(secret), "a secret is in the log");
        }
    }
    first.get("/t/key/a").expect_body(r#"{"value":1}"#);
}

#[test]
fn a_node_with_another_secret_or_none_is_kept_out_and_both_sides_say_why() {
    let first = setup().start();
    first.put("/t/key/a", r#"{"value":1}"#).expect(200);
    expect_kept_out(&first, bare_setup().environment("CLUSTER_SECRET", OTHER));
    let first = first.terminate().0.start();
    expect_kept_out(&first, bare_setup());
}

#[test]
fn a_node_without_a_secret_takes_none_that_has_one() {
    let first = bare_setup().start();
    first.put("/t/key/a", r#"{"value":1}"#).expect(200);
    expect_kept_out(&first, setup());
}

#[test]
fn without_a_secret_nodes_of_one_machine_are_a_cluster() {
    let cluster = Cluster::start_from((0..3).map(|_| bare_setup()).collect());
    cluster[2].put("/t/key/a?w=all", r#"{"value":1}"#).expect(200);
    cluster[0].get("/t/key/a").expect_body(r#"{"value":1}"#);
}

#[test]
fn the_secret_can_be_changed_one_node_after_the_other() {
    let mut cluster = Cluster::start(3);
    let secrets = [format!("{SECRET},{OTHER}"), format!("{OTHER},{SECRET}"), OTHER.to_owned()];
    for (step, secret) in secrets.iter().enumerate() {
        for member in 0..3 {
            cluster.terminate(member);
            cluster.restart_with(member, |setup| {
                setup.without_environment("CLUSTER_SECRET").environment("CLUSTER_SECRET", secret)
            });
            cluster.wait_until_ready_and_linked();
        }
        cluster[step].put(&format!("/t/key/{step}?w=all"), r#"{"value":1}"#).expect(200);
    }
}

#[test]
fn a_node_that_was_refused_joins_once_the_reason_has_gone() {
    let first = setup().start();
    let second = bare_setup().environment("CLUSTER_SECRET", OTHER).join(&first.address().to_string()).start();
    wait_until_logged(&second, "CLUSTER_SECRET");
    second.get("/readyz").expect(503);
    let both = format!("{SECRET},{OTHER}");
    let first = first.terminate().0.without_environment("CLUSTER_SECRET");
    let first = first.environment("CLUSTER_SECRET", both).start();
    wait_until_ready(&second);
    first.put("/t/key/a?w=all", r#"{"value":1}"#).expect(200);
    second.get("/t/key/a").expect_body(r#"{"value":1}"#);
}

#[test]
fn to_join_elsewhere_without_a_secret_is_refused_with_the_remedy() {
    for join in ["192.0.2.1:6660", "[2001:db8::1]:6660"] {
        let outcome = bare_setup().join(join).try_start().err().expect("it does not start");
        assert_eq!(outcome.code(), USAGE, "{outcome:?}");
        assert!(outcome.log.contains("CLUSTER_SECRET") && outcome.log.contains(join), "{outcome:?}");
    }
    let short =
        bare_setup().environment("CLUSTER_SECRET", "short").try_start().err().expect("it does not start");
    assert_eq!(short.code(), USAGE, "{short:?}");
    assert!(short.log.contains("16") && !short.log.contains("\"short\""), "{short:?}");
}

#[test]
fn the_secret_may_come_from_a_file() {
    let first = setup().start();
    let second = bare_setup().environment("CLUSTER_SECRET_FILE", "secret").join(&first.address().to_string());
    fs::write(second.home().join("secret"), format!("{SECRET}\n")).expect("a file can be written");
    let second = second.start();
    first.put("/t/key/a", r#"{"value":1}"#).expect(200);
    wait_for_body(&second, "/t/key/a", r#"{"value":1}"#);
}

/// A proxy on the node's own machine connects from there whoever speaks through it.
#[test]
fn without_a_secret_what_a_proxy_passes_on_is_no_neighbour() {
    let upgrade = |name: &str, protocol: &str| {
        Request::new("GET", "/_/link")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-protocol", protocol)
            .header(name, "203.0.113.5")
    };
    let (open, shared) = (bare_setup().start(), setup().start());
    for name in ["x-forwarded-for", "forwarded", "via"] {
        let why = open.send(&upgrade(name, &subprotocol())).expect_problem(403, "forbidden");
        assert!(why.contains("CLUSTER_SECRET"), "{why}");
        // With one, who has it comes in by whatever way: this is refused for its version alone.
        shared.send(&upgrade(name, "dynarust.link.0")).expect_problem(400, "bad-request");
    }
}

/// Whatever a stranger sends to where nodes link, the cluster goes on.
#[test]
fn garbage_where_nodes_link_disturbs_nobody() {
    let cluster = Cluster::start(2);
    let node = &cluster[0];
    node.get("/_/link").expect_refused("no upgrade");
    node.post("/_/link", "garbage").expect_problem(405, "method-not-allowed");
    let mut chance = Chance::new(6);
    let mut open = Vec::new();
    for attempt in 0..60 {
        let stream = std::net::TcpStream::connect(node.address()).expect("the node accepts connections");
        let Ok((mut socket, _)) = client::client(format!("ws://{}/_/link", node.address()), stream) else {
            // It may have had enough of this address by now.
            continue;
        };
        let length = [0, 1, 32, 48, 49, 100, 65_536, 300_000][attempt % 8];
        let bytes: Vec<u8> = (0..length).map(|_| chance.below(256) as u8).collect();
        let message = if attempt % 5 == 4 { Message::text("text") } else { Message::binary(bytes) };
        // What the node makes of it shows below: an error here is an answer as well.
        let _ = socket.send(message);
        if attempt % 3 == 0 {
            open.push(socket);
        }
    }
    node.put("/t/key/a?w=all", r#"{"value":1}"#).expect(200);
    cluster[1].get("/t/key/a").expect_body(r#"{"value":1}"#);
    drop(open);
    // And none of them became a member, nor keeps one out.
    let mut cluster = cluster;
    cluster.add(setup());
    cluster.wait_until_ready_and_linked();
    assert_eq!(cluster[0].view()["members"].as_array().map(Vec::len), Some(3));
    wait_until("the new one has all", super::DEADLINE, || cluster[2].get("/t/key/a").status == 200);
}
