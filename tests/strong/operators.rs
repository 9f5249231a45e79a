//! What an operator does with the group: who votes, who leads, and how it starts where it cannot by itself.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    RECOVERY, make,
    roles::{FAILED, TABLE, cluster_of, done, group, leader, refused, strong, those, wait_for_voters},
    wait_for, wait_until_same, wait_until_strong, wait_until_writable,
};
use crate::harness::{
    Node,
    cluster::{Cluster, setup},
    http::Request,
    wait_until,
};

const NOT_FOUND: Option<i32> = Some(3);
/// A lease of the leader and an election, on a machine with much else to do. On an idle one it is 0.7 s.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Writes without a pause while something is done. Returns the longest time without an answer, and how many were answered.
fn longest_silence(node: &Node, action: impl FnOnce() + Send) -> (Duration, u64) {
    std::thread::scope(|scope| {
        let acting = scope.spawn(action);
        let mut connection = node.connect();
        let (mut longest, mut answered) = (Duration::ZERO, 0);
        while !acting.is_finished() || answered < 10 {
            let began = Instant::now();
            let put = Request::new("PUT", "/stock/key/n").body(format!(r#"{{"value":{answered}}}"#));
            connection.send(&put).expect(200);
            answered += 1;
            longest = longest.max(began.elapsed());
        }
        acting.join().expect("it is done");
        (longest, answered)
    })
}

#[test]
fn an_operator_says_who_leads_and_no_write_is_refused_meanwhile() {
    let cluster = cluster_of(3, 3);
    let first = leader(&cluster, 0..3);
    let successor = (first + 1) % 3;
    let to = cluster.address(successor);
    // A node that neither leads nor will is told.
    let (silence, answered) = longest_silence(&cluster[first], || {
        assert_eq!(done(&cluster[(first + 2) % 3], &["transfer", &to])["changed"], true);
    });
    eprintln!("no answer for {silence:?}, {answered} writes answered");
    assert!(silence < SILENCE_MAX, "{silence:?}");
    assert_eq!(leader(&cluster, 0..3), successor);
    assert_eq!(done(&cluster[first], &["transfer", &to])["changed"], false);
    cluster[first].get("/stock/key/n").expect_body(&format!(r#"{{"value":{}}}"#, answered - 1));
    // And back, as the one that led before may lead again.
    done(&cluster[successor], &["transfer", &cluster.address(first)]);
    assert_eq!(leader(&cluster, 0..3), first);
    wait_until_writable(&cluster[successor], TABLE);
}

/// The lead of a leader that was to vote no longer ended in the middle of writes, which were answered 504.
#[test]
fn a_leader_that_is_demoted_or_leaves_hands_over_first_and_no_write_is_refused_meanwhile() {
    let mut cluster = cluster_of(4, 3);
    let first = leader(&cluster, 0..4);
    let other = (first + 1) % 4;
    let address = cluster.address(first);
    let (silence, _) = longest_silence(&cluster[other], || {
        assert_eq!(done(&cluster[other], &["demote", &address])["changed"], true);
    });
    eprintln!("no answer for {silence:?} while the leader was demoted");
    assert!(!those(&group(&cluster[other]), "voters").contains(&address));
    let second = leader(&cluster, 0..4);
    assert_ne!(second, first);
    let address = cluster.address(second);
    let (silence, answered) = longest_silence(&cluster[first], || {
        let left = setup().run(&["leave", &address]).1;
        assert_eq!(left.code(), Some(0), "{left:?}");
    });
    eprintln!("no answer for {silence:?} while the leader left");
    assert_eq!(cluster.wait(second).code(), Some(0));
    cluster[first].get("/stock/key/n").expect_body(&format!(r#"{{"value":{}}}"#, answered - 1));
}

/// The roster makes voters of all three by itself; what an operator has demoted it leaves alone, over a restart and under another leader.
#[test]
fn a_demoted_voter_stays_a_learner_until_it_is_promoted() {
    let mut cluster = cluster_of(3, 3);
    let first = leader(&cluster, 0..3);
    let (demoted, other) = ((first + 1) % 3, (first + 2) % 3);
    let addresses: Vec<_> = (0..3).map(|member| cluster.address(member)).collect();
    let address = addresses[demoted].as_str();
    let rest = [addresses[first].as_str(), addresses[other].as_str()];
    assert_eq!(done(&cluster[demoted], &["demote", address])["changed"], true);
    assert_eq!(done(&cluster[other], &["demote", address])["changed"], false);
    cluster.running().for_each(|node| wait_for_voters(node, &rest));
    assert!(refused(&cluster[first], &["transfer", address]).contains("promote it first"));
    let (_, members) = setup().run(&["members", address]);
    assert!(members.stdout.contains(&format!("{address} (demoted)")), "{members:?}");

    // The leader itself: writes go on, and only one voter is left.
    done(&cluster[first], &["demote", &addresses[first]]);
    wait_for_voters(&cluster[other], &[&addresses[other]]);
    wait_until_writable(&cluster[first], TABLE);
    assert!(refused(&cluster[other], &["demote", &addresses[other]]).contains("only voter"));
    // It may lead no more: it is a follower once more.
    assert_eq!(done(&cluster[demoted], &["promote", &addresses[first]])["changed"], true);

    (0..3).for_each(|member| cluster.kill(member));
    [first, other].into_iter().for_each(|member| cluster.restart(member));
    wait_until_writable(&cluster[other], TABLE);
    let down = refused(&cluster[other], &["promote", address]);
    assert!(down.contains("is down") && down.contains("nothing was changed"), "{down}");
    cluster.restart(demoted);
    wait_until_writable(&cluster[demoted], TABLE);
    let leads = leader(&cluster, [first, other]);
    // It has the log by now, and the leader looks twice a second.
    wait_until("the leader knows that it has the log", RECOVERY, || {
        let group = group(&cluster[leads]);
        group["learners"][0]["matched_index"] == group["log_index"]
    });
    done(&cluster[leads], &["transfer", &addresses[first + other - leads]]);
    wait_until_writable(&cluster[leads], TABLE);
    let learner = group(&cluster[demoted])["learners"][0].clone();
    assert_eq!((&learner["address"], &learner["demoted"]), (&json!(address), &json!(true)));

    wait_until("it is promoted", RECOVERY, || {
        strong(&cluster[first], &["promote", address]).code() == Some(0)
    });
    let all: Vec<_> = addresses.iter().map(String::as_str).collect();
    cluster.running().for_each(|node| wait_for_voters(node, &all));
    assert_eq!(done(&cluster[first], &["promote", address])["changed"], false);
    let unknown = strong(&cluster[first], &["promote", "nowhere:1"]);
    assert_eq!(unknown.code(), NOT_FOUND, "{unknown:?}");
}

/// Voters that are lost for good take the group with them, unless an operator starts another from what is left.
#[test]
fn of_four_members_that_lost_two_voters_the_rest_starts_a_new_group_by_force() {
    let mut cluster = cluster_of(4, 3);
    let learners = those(&group(&cluster[0]), "learners");
    let learner = (0..4).find(|member| learners[0] == cluster.address(*member)).expect("one of four");
    let voters: Vec<_> = (0..4).filter(|member| *member != learner).collect();
    let [kept, lost, gone] = voters[..] else { panic!("{voters:?}") };
    cluster[lost].put("/stock/key/a", r#"{"value":1}"#).expect(200);
    for node in cluster.running() {
        wait_for(node, "/stock/key/a", r#"{"value":1}"#);
    }
    let has_leader = refused(&cluster[kept], &["init", "--force"]);
    assert!(has_leader.contains("have a leader"), "{has_leader}");
    cluster.kill(lost);
    // A change that those who remain cannot confirm held up every write that followed.
    let down = cluster.address(lost);
    for node in cluster.running() {
        wait_until("the link is known to be lost", RECOVERY, || {
            let members = node.view()["members"].clone();
            members
                .as_array()
                .is_some_and(|all| all.iter().any(|it| it["address"] == down && it["linked"] == false))
        });
    }
    let leaver = cluster.address(gone);
    wait_until_writable(&cluster[kept], TABLE);
    assert!(refused(&cluster[kept], &["demote", &leaver]).contains("1 of 2 can be reached"));
    let left = setup().run(&["leave", &leaver]).1;
    assert_eq!(left.code(), FAILED, "{left:?}");
    assert!(left.log.contains("1 of 2 can be reached"), "{left:?}");
    wait_until_writable(&cluster[gone], TABLE);
    cluster.kill(gone);
    let mut unforced = String::new();
    // A leader does not notice at once.
    wait_until("the majority is missed", RECOVERY, || {
        unforced = refused(&cluster[kept], &["init"]);
        unforced.contains("--force")
    });
    assert!(unforced.contains("1 of 3 voters") && unforced.contains("lost"), "{unforced}");
    let before = group(&cluster[kept])["group"].clone();
    let started = done(&cluster[kept], &["init", "--force"]);
    assert_eq!((&started["forced"], started["others"].as_array().map(Vec::len)), (&json!(true), Some(1)));
    assert_ne!(started["group"], before);
    for member in [kept, learner] {
        wait_until_writable(&cluster[member], TABLE);
        cluster[member].get("/stock/key/a").expect_body(r#"{"value":1}"#);
    }
    cluster[learner].put("/stock/key/b", r#"{"value":2}"#).expect(200);

    // One that was lost comes back, with what it had.
    cluster.restart(lost);
    let address = cluster.address(lost);
    wait_until("the leader finds that it belongs to another group", RECOVERY, || {
        those(&group(&cluster[kept]), "foreign") == [address.clone()]
            || those(&group(&cluster[learner]), "foreign") == [address.clone()]
    });
    cluster[lost].get("/stock/key/b?read=stale").expect_problem(404, "not-found");
    let other_leads = refused(&cluster[lost], &["init", "--force"]);
    assert!(
        other_leads.contains("have a leader") && other_leads.contains("empty data directory"),
        "{other_leads}"
    );
    // The remedy.
    cluster.kill(lost);
    std::fs::remove_dir_all(cluster.setup(lost).home().join("storage.db"))
        .expect("its directory can be removed");
    cluster.restart(lost);
    wait_until_strong(&cluster[lost], TABLE);
    wait_for(&cluster[lost], "/stock/key/b", r#"{"value":2}"#);
    wait_until_same(&cluster, TABLE);
}

/// The lost majority was not lost, and goes on by itself: both sides must say that there is another. The leader looks every ten seconds, so
/// this takes a quarter of a minute: `DYNARUST_LONG_OPERATORS=1 cargo test --test tests strong::operators`.
#[test]
fn a_lost_majority_that_comes_back_shows_the_group_that_was_started_meanwhile() {
    if std::env::var_os("DYNARUST_LONG_OPERATORS").is_none() {
        return;
    }
    let mut cluster = cluster_of(3, 3);
    [1, 2].into_iter().for_each(|member| cluster.kill(member));
    wait_until("the majority is missed", RECOVERY, || {
        strong(&cluster[0], &["init", "--force"]).code() == Some(0)
    });
    [1, 2].into_iter().for_each(|member| cluster.restart(member));
    let addresses: Vec<_> = (0..3).map(|member| cluster.address(member)).collect();
    for (members, foreign) in [(0..1, &addresses[1..]), (1..3, &addresses[..1])] {
        wait_until("the other group is seen", RECOVERY, || {
            members.clone().any(|member| those(&group(&cluster[member]), "foreign") == foreign)
        });
    }
    // Nothing is mixed.
    cluster[0].put("/stock/key/a", r#"{"value":1}"#).expect(200);
    cluster[1].put("/stock/key/a", r#"{"value":2}"#).expect(200);
    cluster[2].get("/stock/key/a").expect_body(r#"{"value":2}"#);
    cluster[0].get("/stock/key/a").expect_body(r#"{"value":1}"#);
}

/// Without a majority nobody starts the group, as the others may start one. An operator knows whether they will.
#[test]
fn the_first_group_is_started_by_force_where_the_majority_is_gone() {
    let mut cluster = Cluster::start(3);
    [1, 2].into_iter().for_each(|member| cluster.kill(member));
    let mut unforced = String::new();
    wait_until("the majority is missed", RECOVERY, || {
        unforced = refused(&cluster[0], &["init"]);
        unforced.contains("--force")
    });
    assert!(unforced.contains("1 of 3"), "{unforced}");
    let outcome = strong(&cluster[0], &["init", "--force"]);
    assert_eq!(outcome.code(), Some(0), "{outcome:?}");
    assert!(
        outcome.stdout.contains("without a majority") && outcome.stdout.contains("0 other"),
        "{outcome:?}"
    );
    make(&cluster[0], TABLE);
    cluster[0].put("/stock/key/a", r#"{"value":1}"#).expect(200);
    // They never had a group.
    [1, 2].into_iter().for_each(|member| cluster.restart(member));
    for node in cluster.running() {
        wait_until_strong(node, TABLE);
        wait_for(node, "/stock/key/a", r#"{"value":1}"#);
    }
    let again = refused(&cluster[1], &["init"]);
    assert!(again.contains("have a leader"), "{again}");
}

/// The log of a node that is alone is damaged: it takes no part with it, and nobody else has the rows. Before, the advice was to forget
/// the node on another one, and to delete the log alone, which the next start refuses.
#[test]
fn a_node_alone_with_a_damaged_log_starts_a_new_group_by_force_with_its_rows() {
    let mut cluster = cluster_of(1, 1);
    for key in 0..5 {
        cluster[0].put(&format!("/stock/key/k{key}"), r#"{"value":1}"#).expect(200);
    }
    assert_eq!(cluster.terminate(0).code(), Some(0));
    let log = cluster.setup(0).home().join("storage.db/raft/00000000000000000000.log");
    let mut bytes = std::fs::read(&log).expect("a log can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&log, bytes).expect("a log can be written");
    cluster.restart_with(0, |setup| {
        let (setup, check) = setup.run(&["check"]);
        assert_eq!(check.code(), FAILED, "{check:?}");
        assert!(check.stdout.contains("0.log, byte ") && check.stdout.contains("5 keys"), "{check:?}");
        setup
    });
    let failure = cluster[0].view()["strong_failure"].as_str().expect("it says why").to_owned();
    assert!(failure.contains("damaged") && failure.contains("DynaRust strong init --force"), "{failure}");
    let put = cluster[0].put("/stock/key/k0", r#"{"value":2}"#);
    put.expect_problem(503, "not-ready");
    cluster[0].put("/eventual/key/a", r#"{"value":1}"#).expect(200);
    assert!(refused(&cluster[0], &["init"]).contains("0 of 1 voters"));
    done(&cluster[0], &["init", "--force"]);
    cluster[0].put("/stock/key/k0", r#"{"value":2}"#).expect(200);
    cluster[0].get("/stock/store").expect_body(r#"{"k0":2,"k1":1,"k2":1,"k3":1,"k4":1}"#);
    assert_eq!(cluster[0].view()["strong_failure"], Value::Null);
    // What is salvaged has the rows, and no log.
    cluster.kill(0);
    cluster.restart_with(0, |setup| {
        let (setup, salvage) = setup.run(&["salvage", "storage.db", "--into", "salvaged.db"]);
        assert_eq!(salvage.code(), Some(0), "{salvage:?}");
        let (setup, check) = setup.run(&["check", "--data", "salvaged.db"]);
        assert!(check.stdout.contains("log of the strong tables is missing"), "{check:?}");
        setup.flag("--data", "salvaged.db")
    });
    cluster[0].get("/stock/count").expect_problem(503, "not-ready");
    done(&cluster[0], &["init", "--force"]);
    wait_for(&cluster[0], "/stock/count", r#"{"count":5}"#);
    // Whoever joins is sent what is here, which is in no log.
    let joined = cluster.add(setup());
    wait_until_strong(&cluster[joined], TABLE);
    wait_for(&cluster[joined], "/stock/key/k0", r#"{"value":2}"#);
    wait_for(&cluster[joined], "/stock/count", r#"{"count":5}"#);
}
