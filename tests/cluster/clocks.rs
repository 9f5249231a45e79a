//! Clocks that are wrong. What a node with such a clock writes would win over all that others write for as long as it is wrong,
//! so it is kept out, and both sides say why.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{wait_for_body, wait_until_logged};
use crate::harness::{
    DEADLINE, Node, Setup,
    cluster::{Cluster, member, setup},
    http::Response,
    network, wait_until,
};

const AHEAD: &str = "+600s";
const BEHIND: &str = "-600s";

/// A setup whose node sees another time of day. `None` where that cannot be had; says so.
pub fn with_clock(setup: Setup, offset: &str) -> Option<Setup> {
    let library = faketime()?;
    let setup = setup.environment("LD_PRELOAD", library).environment("FAKETIME", offset);
    // Only the time of day: how fast time passes is not in question.
    Some(setup.environment("FAKETIME_DONT_FAKE_MONOTONIC", "1"))
}

/// A setup whose node sees another time of day, as the file beside its data says: `set_clock`. `None` where that cannot be had; says so.
fn with_clock_to_set(setup: Setup) -> Option<Setup> {
    let library = faketime()?;
    let file = clock_file(&setup.home());
    set_clock(&setup.home(), "+0s");
    let setup = setup.environment("LD_PRELOAD", library).environment("FAKETIME_TIMESTAMP_FILE", file);
    let setup = setup.environment("FAKETIME_NO_CACHE", "1");
    // The clock that says how much time has passed is the system's: the node asks the kernel for it, not the library.
    Some(setup.environment("FAKETIME_DONT_FAKE_MONOTONIC", "1"))
}

fn clock_file(home: &Path) -> PathBuf {
    home.join("clock")
}

/// Sets the clock of a node that runs, or will, so far off. In one step: it may be read meanwhile.
fn set_clock(home: &Path, offset: &str) {
    let next = home.join("clock.next");
    fs::write(&next, offset).expect("a file can be written");
    fs::rename(next, clock_file(home)).expect("a file can be renamed");
}

fn with_right_clock(setup: Setup) -> Setup {
    let setup = setup.without_environment("LD_PRELOAD").without_environment("FAKETIME");
    setup.without_environment("FAKETIME_TIMESTAMP_FILE")
}

/// How far the version of an answer is ahead of the true time, in milliseconds.
fn ahead_ms(answer: &Response) -> i64 {
    let version = answer.expect_header("dynarust-version");
    let hlc = u64::from_str_radix(&version[..16], 16).expect("a version begins with 16 hexadecimal digits");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    (hlc >> 16) as i64 - now.as_millis() as i64
}

fn clock_of(node: &Node) -> serde_json::Value {
    node.view()["clock"].clone()
}

/// Waits until a node is not ready for its clock, and why holds that.
fn wait_until_unready(node: &Node, why: &str) {
    wait_until(&format!("{} is unready: {why}", node.address()), DEADLINE, || {
        let answer = node.get("/readyz");
        answer.status == 503
            && answer.json()["phase"] == "clock"
            && answer.json()["detail"].as_str().is_some_and(|detail| detail.contains(why))
    });
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
            cluster.wait_until_ready_and_linked();
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
    cluster.wait_until_ready_and_linked();
    wait_for_body(&cluster[2], "/t/key/a", r#"{"value":2}"#);
    wait_until("it takes part", DEADLINE, || {
        cluster[2].put("/t/key/c?w=all", r#"{"value":1}"#).status == 200
    });
    cluster.wait_until_equal();
}

/// A clock that was an hour ahead for 6 s, while nothing was written, put all later timestamps an hour ahead: each round raised the node's
/// hybrid clock to it. All links ended, and the node stayed alone for an hour, ready all the while. The same with 30 s for 0.4 s.
#[test]
fn a_clock_that_leaps_for_a_moment_leaves_no_trace() {
    let Some(jumping) = with_clock_to_set(setup()) else { return };
    let mut cluster = Cluster::start(2);
    let jumping = cluster.add(jumping);
    cluster.wait_until_ready_and_linked();
    let (home, peer) = (cluster[jumping].home(), cluster[0].address().to_string());
    let rounds = || member(&cluster[jumping], &peer)["rounds"].as_u64().expect("a count");
    for (round, (offset, jumped_ms, rounds_long)) in
        [("+3600s", 3_600_000, 60), ("+30s", 30_000, 4), ("-3600s", -3_600_000, 20)].into_iter().enumerate()
    {
        let before = rounds();
        set_clock(&home, offset);
        wait_until("the node sees the jump", DEADLINE, || {
            clock_of(&cluster[jumping])["system_leapt_ms"]
                .as_i64()
                .is_some_and(|ms| (ms - jumped_ms).abs() < 500)
        });
        // Ten a second.
        wait_until("rounds go on meanwhile", DEADLINE, || rounds() >= before + rounds_long);
        set_clock(&home, "+0s");
        wait_until("it is over", DEADLINE, || clock_of(&cluster[jumping])["system_leapt_ms"].is_null());
        let written = cluster[jumping].put(&format!("/t/key/{round}?w=all"), r#"{"value":1}"#).expect(200);
        assert!(ahead_ms(&written).abs() < 5_000, "{offset}: {} ms ahead", ahead_ms(&written));
        assert_eq!(cluster[jumping].get("/readyz").status, 200);
    }
    // Writes during that time get right timestamps too.
    set_clock(&home, "+3600s");
    let written = cluster[jumping].put("/t/key/meanwhile?w=all", r#"{"value":1}"#).expect(200);
    assert!(ahead_ms(&written).abs() < 5_000, "{} ms ahead", ahead_ms(&written));
    set_clock(&home, "+0s");
    cluster.wait_until_equal();
    for node in cluster.running() {
        let log = node.log();
        assert!(!log.contains("--max-clock-drift"), "a link was refused:\n{log}");
    }
    assert!(
        cluster[jumping].log().contains("clock jumped")
            && cluster[jumping].log().contains("back where it was")
    );
}

/// A node that was an hour ahead, and is right again, gave its writes timestamps an hour ahead and was refused for that for an hour, ready all the
/// while; its older writes then won over all newer ones.
#[test]
fn a_node_that_was_ahead_says_so_and_is_mended_by_the_repair() {
    let mut cluster = Cluster::start(3);
    for key in ["before", "kept"] {
        cluster[0].put(&format!("/t/key/{key}?w=all"), r#"{"value":0}"#).expect(200);
    }
    cluster.terminate(2);
    let Some(setup) = with_clock_to_set(setup()) else { return };
    // The clock file of the setup made above: only its variables are wanted.
    drop(setup);
    let mut home = PathBuf::new();
    cluster.restart_with(2, |setup| {
        let setup = with_clock_to_set(setup).expect("the library is there");
        home = setup.home();
        set_clock(&home, "+3600s");
        setup
    });
    // Cut off, it is not ready, and says which way its clock is off. The others, who agree with each other, are.
    wait_until_unready(&cluster[2], "ms ahead of that of 2 of the 2");
    assert_eq!(clock_of(&cluster[2])["trouble"], "ahead");
    wait_until_logged(&cluster[2], "links with other nodes are refused");
    for node in 0..2 {
        assert_eq!(cluster[node].get("/readyz").status, 200, "one bad clock makes no good node unready");
    }
    for key in ["one", "two"] {
        let written = cluster[2].put(&format!("/t/key/{key}"), r#"{"value":1}"#).expect(200);
        assert!(ahead_ms(&written) > 3_500_000);
    }
    cluster[2].delete("/t/key/before").expect(200);

    // Right again, it cannot write with true timestamps, says so, and what to do.
    set_clock(&home, "+0s");
    wait_until_unready(&cluster[2], "DynaRust clock repair");
    assert_eq!(clock_of(&cluster[2])["trouble"], "stamps-ahead");
    let why = cluster[2].put("/t/key/refused", r#"{"value":1}"#).expect_problem(503, "clock-drift");
    assert!(why.contains("DynaRust clock repair"), "{why}");
    cluster[2].get("/t/key/one").expect_body(r#"{"value":1}"#);

    cluster.terminate(2);
    cluster.restart_with(2, |setup| {
        let (setup, shown) = with_right_clock(setup).run(&["clock", "show"]);
        assert_eq!(shown.code(), Some(1), "{shown:?}");
        assert!(shown.stdout.contains("t: 3 rows ahead"), "{shown:?}");
        let (setup, repaired) = setup.run(&["clock", "repair"]);
        assert_eq!(repaired.code(), Some(0), "{repaired:?}");
        assert!(repaired.stdout.contains("3 rows now have the current time"), "{repaired:?}");
        let (setup, shown) = setup.run(&["clock", "show"]);
        assert_eq!(shown.code(), Some(0), "{shown:?}");
        setup
    });
    cluster.wait_until_ready_and_linked();
    for node in 0..3 {
        wait_for_body(&cluster[node], "/t/key/one", r#"{"value":1}"#);
        wait_for_body(&cluster[node], "/t/key/two", r#"{"value":1}"#);
        super::wait_for_absence(&cluster[node], "/t/key/before");
    }
    let written = cluster[2].put("/t/key/after?w=all", r#"{"value":1}"#).expect(200);
    assert!(ahead_ms(&written).abs() < 5_000, "{} ms ahead", ahead_ms(&written));
    cluster.wait_until_equal();
}

/// A jump that lasts for a minute, which nobody contradicts, is accepted; its return at once. Takes more than a minute: run with
/// DYNARUST_LONG_CLOCKS=1.
#[test]
fn a_lasting_jump_is_accepted_and_its_timestamps_are_repaired() {
    if std::env::var_os("DYNARUST_LONG_CLOCKS").is_none() {
        return network::say("a jump that lasts takes a minute: set DYNARUST_LONG_CLOCKS=1");
    }
    let Some(setup) = with_clock_to_set(setup()) else { return };
    let node = setup.start();
    let home = node.home();
    node.put("/t/key/before", r#"{"value":1}"#).expect(200);
    set_clock(&home, "+3600s");
    wait_until("the jump is accepted", 5 * DEADLINE, || node.log().contains("the node follows it"));
    // It was passed only: the way back is free.
    set_clock(&home, "+0s");
    wait_until("its return is accepted", DEADLINE, || node.log().matches("the node follows it").count() == 2);
    let written = node.put("/t/key/between", r#"{"value":1}"#).expect(200);
    assert!(ahead_ms(&written).abs() < 5_000, "{} ms ahead", ahead_ms(&written));

    set_clock(&home, "+3600s");
    wait_until("the jump is accepted", 5 * DEADLINE, || {
        node.log().matches("the node follows it").count() == 3
    });
    node.put("/t/key/ahead", r#"{"value":1}"#).expect(200);
    set_clock(&home, "+0s");
    wait_until_unready(&node, "DynaRust clock repair");
    node.put("/t/key/refused", r#"{"value":1}"#).expect_problem(503, "clock-drift");
    let (setup, repaired) = with_right_clock(node.terminate().0).run(&["clock", "repair"]);
    assert!(repaired.stdout.contains("1 rows now have the current time"), "{repaired:?}");
    let node = setup.start();
    node.get("/t/keys").expect_body(r#"["ahead","before","between"]"#);
    let written = node.put("/t/key/after", r#"{"value":1}"#).expect(200);
    assert!(ahead_ms(&written).abs() < 5_000, "{} ms ahead", ahead_ms(&written));
}
