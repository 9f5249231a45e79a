//! Clocks that are wrong. What a node with such a clock writes would win over all that others write for as long as it is wrong,
//! so it is kept out, and both sides say why.

use std::{fs, path::PathBuf};

use super::{wait_for_body, wait_until_logged};
use crate::harness::{
    DEADLINE, Setup,
    cluster::{Cluster, setup},
    network, wait_until,
};

const AHEAD: &str = "+600s";
const BEHIND: &str = "-600s";

/// A setup whose node sees another time of day. `None` where that cannot be had; says so.
fn with_clock(setup: Setup, offset: &str) -> Option<Setup> {
    let library = faketime()?;
    let setup = setup.environment("LD_PRELOAD", library).environment("FAKETIME", offset);
    // Only the time of day: how fast time passes is not in question.
    Some(setup.environment("FAKETIME_DONT_FAKE_MONOTONIC", "1"))
}

fn with_right_clock(setup: Setup) -> Setup {
    setup.without_environment("LD_PRELOAD").without_environment("FAKETIME")
}

fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().filter_map(Result::ok);
    let mut libraries = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    let found = libraries.find(|library| library.exists());
    if found.is_none() {
        network::say("a wrong clock needs libfaketime");
    }
    found
}

#[test]
fn a_node_whose_clock_is_wrong_is_refused_and_both_sides_say_why() {
    for offset in [AHEAD, BEHIND] {
        let mut cluster = Cluster::start(2);
        cluster[0].put("/t/key/a", r#"{"value":1}"#).expect(200);
        let Some(wrong) = with_clock(setup(), offset) else { return };
        let added = cluster.add(wrong);
        wait_until_logged(&cluster[0], "clock");
        wait_until_logged(&cluster[added], "clock");
        let said = cluster[added].log();
        assert!(said.contains("NTP"), "the log names no remedy:\n{said}");
        cluster[added].get("/readyz").expect(503);
        cluster[added].get("/t/key/a").expect_problem(404, "not-found");

        // The others go on, and nothing of it reaches them.
        let _ = cluster[added].put("/t/key/wrong", r#"{"value":1}"#);
        cluster[0].put("/t/key/b?w=2", r#"{"value":1}"#).expect(200);
        wait_for_body(&cluster[1], "/t/key/b", r#"{"value":1}"#);
        for node in 0..2 {
            cluster[node].get("/t/key/wrong").expect_problem(404, "not-found");
            assert_eq!(cluster[node].get("/t/keys").expect(200).json(), serde_json::json!(["a", "b"]));
        }
        // Set right, one whose clock was behind is welcome, with what it wrote. One that was ahead has timestamps of a time to come.
        if offset == BEHIND {
            cluster.terminate(added);
            cluster.restart_with(added, with_right_clock);
            cluster.wait_until_whole();
            cluster.wait_until_equal();
            wait_for_body(&cluster[added], "/t/key/b", r#"{"value":1}"#);
        }
    }
}

#[test]
fn a_member_whose_clock_leaps_ahead_is_kept_out_until_it_is_set_right() {
    let mut cluster = Cluster::start(3);
    cluster[0].put("/t/key/a?w=all", r#"{"value":1}"#).expect(200);
    cluster.terminate(2);
    let mut possible = true;
    cluster.restart_with(2, |setup| match faketime() {
        Some(library) => setup
            .environment("LD_PRELOAD", library)
            .environment("FAKETIME", AHEAD)
            .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        None => {
            possible = false;
            setup
        }
    });
    if !possible {
        return;
    }
    wait_until_logged(&cluster[2], "clock");
    wait_until_logged(&cluster[0], "clock");
    // It has what it had, and the others do without it.
    cluster[2].get("/t/key/a").expect_body(r#"{"value":1}"#);
    cluster[0].put("/t/key/a?w=majority", r#"{"value":2}"#).expect(200);
    cluster[2].get("/t/key/a").expect_body(r#"{"value":1}"#);
    cluster.terminate(2);
    cluster.restart_with(2, with_right_clock);
    cluster.wait_until_whole();
    wait_for_body(&cluster[2], "/t/key/a", r#"{"value":2}"#);
    wait_until("it takes part", DEADLINE, || {
        cluster[2].put("/t/key/c?w=all", r#"{"value":1}"#).status == 200
    });
    cluster.wait_until_equal();
}
