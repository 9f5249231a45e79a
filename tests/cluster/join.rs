//! How nodes become a cluster, and find each other again.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::json;

use super::{model::Model, wait_for_body};
use crate::harness::{
    DEADLINE, Node,
    cluster::{CONVERGENCE, Client, Cluster, bare_setup, member, setup, wait_until_ready},
    http::Request,
    network::Network,
    wait_until,
};

#[test]
fn a_node_joins_through_any_member_and_all_see_all() {
    let mut cluster = Cluster::start(2);
    let second = cluster.address(1);
    cluster.add(setup().join(&second));
    cluster.wait_until_ready_and_linked();
    let mut addresses: Vec<_> = (0..3).map(|member| cluster.address(member)).collect();
    addresses.sort();
    for node in cluster.running() {
        let members: Vec<String> =
            serde_json::from_slice(&node.get("/membership").expect(200).body).expect("addresses");
        assert_eq!(members, addresses);
    }
    let clusters: Vec<_> = cluster.running().map(|node| node.view()["cluster"].clone()).collect();
    assert!(clusters.windows(2).all(|pair| pair[0] == pair[1]), "{clusters:?}");
}

#[test]
fn a_join_address_where_nobody_is_does_no_harm_beside_one_where_somebody_is() {
    let nobody = setup();
    let first = setup().start();
    let setup = setup().join("127.0.0.1:1").join(&first.address().to_string());
    drop(nobody);
    let second = setup.start();
    wait_until_ready(&second);
    first.put("/t/key/a", r#"{"value":1}"#).expect(200);
    wait_for_body(&second, "/t/key/a", r#"{"value":1}"#);
}

/// Whoever is started first waits for the other.
#[test]
fn a_node_joins_as_soon_as_there_is_somebody_to_join() {
    let first = setup();
    let address = first.listening_at();
    let second = setup().join(&address).start();
    second.get("/readyz").expect(503);
    second.get("/healthz").expect(200);
    let first = first.start();
    wait_until_ready(&second);
    first.put("/t/key/a", r#"{"value":1}"#).expect(200);
    wait_for_body(&second, "/t/key/a", r#"{"value":1}"#);
}

/// An address that nobody has was left out again: there is nobody to wait for.
#[test]
fn a_node_that_met_nobody_and_is_started_without_join_is_ready() {
    let node = setup().join("127.0.0.1:1").start();
    node.get("/readyz").expect(503);
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let (setup, _) = node.terminate();
    let node = setup.without_join().start();
    wait_until_ready(&node);
    node.get("/t/key/a").expect_body(r#"{"value":1}"#);
}

/// Two clusters do not merge, through a third either.
#[test]
fn a_node_that_is_told_to_join_two_clusters_joins_one_of_them() {
    let clusters = ["a", "b"].map(|table| {
        let node = setup().start();
        let rows: Vec<_> =
            (0..3000).map(|row| json!({ "op": "put", "key": row.to_string(), "value": row })).collect();
        node.post(&format!("/{table}/batch"), json!(rows).to_string()).expect(200);
        node
    });
    let both = clusters.iter().fold(setup(), |setup, node| setup.join(&node.address().to_string())).start();
    wait_until_ready(&both);
    let joined = both.log().matches("joining a cluster").count();
    assert!(joined < 5, "it went over {joined} times");
    for (node, others) in clusters.iter().zip(["b", "a"]) {
        node.get(&format!("/{others}/count")).expect_body(r#"{"count":0}"#);
    }
}

/// They began one of their own, which was ready with nothing in it, and the two clusters refused each other for ever.
#[test]
fn new_nodes_wait_for_a_cluster_that_is_down_and_join_it_when_it_is_back() {
    let mut cluster = Cluster::start(2);
    cluster[0].put("/t/key/a?w=all", r#"{"value":1}"#).expect(200);
    let id = cluster[0].view()["cluster"].clone();
    let down = cluster.address(0);
    (0..2).for_each(|member| assert_eq!(cluster.terminate(member).code(), Some(0)));
    let fresh = [setup(), setup()];
    let addresses = fresh.each_ref().map(|setup| setup.listening_at());
    let fresh = fresh.map(|setup| setup.join(&down).join(&addresses[0]).join(&addresses[1]));
    let fresh = fresh.map(|setup| cluster.place(setup));
    wait_until_awaited([&cluster[fresh[0]], &cluster[fresh[1]]], &down);
    (0..2).for_each(|member| cluster.restart(member));
    cluster.wait_until_ready_and_linked();
    for node in fresh.map(|member| &cluster[member]) {
        assert_eq!(node.view()["cluster"], id);
        node.get("/t/key/a").expect_body(r#"{"value":1}"#);
    }
}

/// An address where nobody will ever be keeps the others waiting until they are started without it.
#[test]
fn nodes_say_which_address_they_wait_for_and_begin_once_they_are_started_without_it() {
    let nobody = "127.0.0.1:1";
    let setups = [setup(), setup()];
    let addresses = setups.each_ref().map(|setup| setup.listening_at());
    let nodes = setups.map(|setup| setup.join(nobody).join(&addresses[0]).join(&addresses[1]).start());
    wait_until_awaited(nodes.each_ref(), nobody);
    nodes[0].put("/t/key/a", r#"{"value":1}"#).expect(200);
    let rounds = || member(&nodes[0], &addresses[1])["rounds"].as_u64().expect("a count");
    let rounds_then = rounds();
    wait_until("rounds go on", DEADLINE, || rounds() > rounds_then + 10);
    let said: usize = nodes.iter().map(|node| node.log().matches(AWAITED).count()).sum();
    assert_eq!(said, 1, "one of them says it, once");
    let [first, second] = nodes.map(|node| node.terminate().0.without_join());
    let first = first.join(&addresses[1]).start();
    let second = second.join(&addresses[0]).start();
    wait_until_ready(&first);
    wait_until_ready(&second);
    wait_for_body(&second, "/t/key/a", r#"{"value":1}"#);
}

/// What a node logs that would begin a cluster, but for an address where nobody answers.
const AWAITED: &str = "no cluster begins yet";

/// Waits until nodes that found each other say that they wait for whoever is at `address`, and for nobody else.
fn wait_until_awaited(nodes: [&Node; 2], address: &str) {
    wait_until("one says that it waits", DEADLINE, || {
        for node in nodes {
            node.get("/readyz").expect(503);
        }
        nodes.iter().any(|node| node.log().contains(AWAITED))
    });
    for node in nodes {
        wait_until("it waits for nobody else", DEADLINE, || {
            let readiness = node.get("/readyz").expect(503).json();
            let detail = readiness["detail"].as_str().unwrap_or_default();
            readiness["phase"] == "joining"
                && detail.contains(&format!("no answer yet from {address} ("))
                && detail.contains("start this one without it")
        });
    }
}

/// Each names itself as well, and all of them under a second name where the system has one. Where several went over to each other at
/// once, one could take over the id of a cluster with the key of the next, and was never ready.
#[test]
fn nodes_that_all_name_each_other_begin_one_cluster_in_any_order() {
    let has_two_names = TcpListener::bind("[::ffff:127.0.0.1]:0").is_ok();
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
        let setups = [setup(), setup(), setup()];
        let mut names: Vec<_> = setups.iter().map(|setup| setup.listening_at()).collect();
        if has_two_names {
            names.extend(names.clone().iter().map(|name| format!("[::ffff:{}", name.replace(':', "]:"))));
        }
        let mut setups = setups.map(|setup| Some(names.iter().fold(setup, |setup, name| setup.join(name))));
        let cluster =
            Cluster::start_from(order.map(|at| setups[at].take().expect("each is started once")).into());
        let clusters: Vec<_> = cluster.running().map(|node| node.view()["cluster"].clone()).collect();
        assert!(clusters.iter().all(|id| *id == clusters[0]), "{clusters:?}");
    }
}

#[test]
fn a_new_node_gets_all_there_is_and_is_ready_only_then() {
    let mut cluster = Cluster::start(1);
    let mut model = Model::new("t");
    for part in 0..10 {
        let rows = (0..500).map(|row| (format!("k{part}-{row}"), Some((row * part).into())));
        model.write(&cluster[0], rows.collect());
    }
    model.delete(&cluster[0], "k3-3");
    let added = cluster.add(setup());
    wait_until("the new node is ready", CONVERGENCE, || {
        let count = cluster[added].get("/t/count").expect(200).json()["count"].clone();
        // In this order: what is ready now was so when it was counted, or the count is of before.
        let ready = cluster[added].get("/readyz").status == 200;
        let count_then = cluster[added].get("/t/count").expect(200).json()["count"].clone();
        assert!(!ready || count_then == model.live(), "ready with {count_then} keys, {count} before");
        ready
    });
    cluster.wait_until_equal();
    model.expect_on(&cluster);
}

#[test]
fn nodes_that_wrote_alone_join_with_what_they_have() {
    let first = setup();
    let second = setup().start();
    second.put("/t/key/second", r#"{"value":2}"#).expect(200);
    second.put("/t/key/both", r#"{"value":2}"#).expect(200);
    super::model::next_instant();
    let first = first.start();
    first.put("/t/key/first", r#"{"value":1}"#).expect(200);
    first.put("/t/key/both", r#"{"value":1}"#).expect(200);
    let second = second.terminate().0.join(&first.address().to_string()).start();
    for node in [&first, &second] {
        wait_for_body(node, "/t/key/first", r#"{"value":1}"#);
        wait_for_body(node, "/t/key/second", r#"{"value":2}"#);
        wait_for_body(node, "/t/key/both", r#"{"value":1}"#);
    }
}

/// The ancestor lost what was written on one node within five seconds of another's join.
#[test]
fn what_is_written_on_any_node_during_a_join_arrives_everywhere() {
    let mut cluster = Cluster::start(2);
    let joined = AtomicBool::new(false);
    let clients: Vec<_> = (0..2).map(|at| Client::new(&cluster, at)).collect();
    let written: usize = thread::scope(|scope| {
        let writers: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(writer, mut client)| {
                let joined = &joined;
                scope.spawn(move || {
                    let mut written = 0;
                    while !joined.load(Ordering::Relaxed) {
                        let path = format!("/t/key/w{writer}-{written}");
                        client
                            .send(&Request::new("PUT", &path).body(format!(r#"{{"value":{written}}}"#)))
                            .expect(200);
                        written += 1;
                    }
                    written
                })
            })
            .collect();
        let joining = scope.spawn(|| {
            let _joined = Raised(&joined);
            let added = cluster.add(setup());
            wait_until_ready(&cluster[added]);
            // The first writes after it said that it is ready are the ones that would be forgotten.
            let count = || cluster[added].get("/t/count").expect(200).json()["count"].as_u64();
            let ready_with = count();
            wait_until("writes go on", DEADLINE, || count() > ready_with.map(|count| count + 50));
        });
        joining.join().expect("the node joins");
        writers.into_iter().map(|writer| writer.join().expect("writes are taken")).sum()
    });
    cluster.wait_until_equal();
    for node in cluster.running() {
        node.get("/t/count").expect_body(&format!(r#"{{"count":{written}}}"#));
    }
}

/// A node that waits for a cluster with another, and is then told of one that stands, goes over to that. It went on counting and
/// dialing the other, so that `w=all` failed on it and nothing was ever swept.
#[test]
fn who_goes_over_to_a_cluster_takes_nobody_along_and_whoever_follows_is_a_member_again() {
    // As long as nobody is there no cluster begins between the two.
    let waiting = || setup().join("127.0.0.1:1");
    let other = waiting().start();
    let node = waiting().join(&other.address().to_string()).start();
    for (one, two) in [(&node, &other), (&other, &node)] {
        let address = two.address().to_string();
        wait_until("both wait together", DEADLINE, || member(one, &address)["linked"] == true);
    }
    let id = other.view()["node"].clone();
    let (other, node) = (other.terminate().0.without_join(), node.terminate().0.without_join());
    assert!(!node.log().contains("begins with this node") && !other.log().contains("begins with this node"));

    let mut cluster = Cluster::start(2);
    let first = cluster.add_through(node, 1);
    cluster.wait_until_ready_and_linked();
    let knows = |node: &Node| {
        let view = node.view();
        view["members"].as_array().expect("members").iter().any(|member| member["node"] == id)
    };
    cluster[first].put("/t/key/a?w=all", r#"{"value":1}"#).expect(200);
    assert!(cluster.running().all(|node| !knows(node)), "{}", cluster[first].view());
    cluster.terminate(first);
    cluster.restart_with(first, |setup| setup.without_join());
    cluster.wait_until_ready_and_linked();
    cluster[first].put("/t/key/b?w=all", r#"{"value":1}"#).expect(200);
    assert!(cluster.running().all(|node| !knows(node)), "{}", cluster[first].view());

    // It remembers the one that went ahead, and comes to its cluster through it.
    cluster.place(other);
    cluster.wait_until_ready_and_linked();
    assert!(cluster.running().all(knows));
    cluster[0].put("/t/key/c?w=all", r#"{"value":1}"#).expect(200);
    cluster.wait_until_equal();
}

/// Told of both at once it links with either first, and forgets whom it leaves.
#[test]
fn of_one_that_waits_and_one_that_stands_both_come_to_that_one() {
    let mut cluster = Cluster::start(1);
    let through = cluster.address(0);
    let waiting = cluster.place(setup().join("127.0.0.1:1"));
    let address = cluster.address(waiting);
    cluster.place(setup().join(&address).join(&through));
    cluster.wait_until_ready_and_linked();
    let clusters: Vec<_> = cluster.running().map(|node| node.view()["cluster"].clone()).collect();
    assert!(clusters.iter().all(|id| *id == clusters[0]), "{clusters:?}");
    cluster[waiting].put("/t/key/a?w=all", r#"{"value":1}"#).expect(200);
    cluster.wait_until_equal();
}

/// It had to learn its address again after each start, and until it had, others lost the one they knew.
#[test]
fn an_address_that_was_learned_is_known_after_a_restart() {
    let Some(network) = Network::new(1) else { return };
    let inside = |listen: &str| setup().listen(listen).inside(network.namespace(0));
    let node = inside("0.0.0.0:6660").start();
    let other = inside("127.0.0.1:6661").join("localhost:6660").start();
    wait_until("it has learned it", DEADLINE, || node.view()["address"] == "localhost:6660");
    wait_until_ready(&other);
    let other = other.terminate().0.without_join();
    let node = node.terminate().0.start();
    assert_eq!(node.view()["address"], "localhost:6660");
    let other = other.start();
    wait_until("they meet again", CONVERGENCE, || member(&other, "localhost:6660")["linked"] == true);
    assert_eq!(node.view()["address"], "localhost:6660");
    // What it is told to say goes before, and what it listens at does.
    let node = node.terminate().0.flag("--advertise", "127.0.0.1:6660").start();
    assert_eq!(node.view()["address"], "127.0.0.1:6660");
    wait_until("it is found there", CONVERGENCE, || member(&other, "127.0.0.1:6660")["linked"] == true);
}

/// Says that something is over, also where it failed: whoever waits for it goes on.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_node_that_restarts_without_join_finds_its_cluster_again() {
    let mut cluster = Cluster::start(3);
    for killed in [true, false] {
        if killed {
            cluster.kill(2);
        } else {
            assert_eq!(cluster.terminate(2).code(), Some(0));
        }
        cluster[0].put("/t/key/missed", format!(r#"{{"value":{killed}}}"#)).expect(200);
        cluster.restart_with(2, |setup| setup.without_join());
        cluster.wait_until_ready_and_linked();
        wait_for_body(&cluster[2], "/t/key/missed", &format!(r#"{{"value":{killed}}}"#));
    }
    // The first, which never had one, as well; and all of them at once.
    for member in 0..3 {
        cluster.kill(member);
    }
    for member in 0..3 {
        cluster.restart_with(member, |setup| setup.without_join());
    }
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
}

/// A member at another address is the same member.
#[test]
fn a_node_that_moves_is_found_at_its_new_address() {
    let mut cluster = Cluster::start(2);
    cluster.terminate(1);
    let address = bare_setup().listening_at();
    cluster.restart_with(1, |setup| setup.without_join().listen(&address));
    cluster.wait_until_ready_and_linked();
    cluster[0].put("/t/key/a", r#"{"value":1}"#).expect(200);
    wait_for_body(&cluster[1], "/t/key/a", r#"{"value":1}"#);
    let members = cluster[0].view()["members"].as_array().expect("members").len();
    assert_eq!(members, 2, "{}", cluster[0].view());
}
