//! How the binary is given its secret, and that it keeps it to itself.

use std::fs;

use super::{NEW, OLD};
use crate::harness::{Outcome, Setup};

const USAGE: Option<i32> = Some(2);

fn refused(setup: Setup) -> Outcome {
    match setup.try_start() {
        Err(outcome) => outcome,
        Ok(node) => panic!("it started, and logged {}", node.log()),
    }
}

#[test]
fn a_short_secret_starts_no_node_and_is_not_shown() {
    let by_file = Setup::new().environment("CLUSTER_SECRET_FILE", "secrets");
    fs::write(by_file.home().join("secrets"), format!("{OLD}\nhunter2\n")).expect("a file can be written");
    for setup in [
        Setup::new().environment("CLUSTER_SECRET", "hunter2"),
        Setup::new().environment("CLUSTER_SECRET", format!("{OLD},hunter2")),
        by_file,
    ] {
        let outcome = refused(setup);
        assert_eq!(outcome.code(), USAGE, "{outcome:?}");
        assert!(outcome.log.contains("at least 16 characters"), "{outcome:?}");
        assert!(outcome.log.contains("CLUSTER_SECRET"), "{outcome:?}");
        assert!(!outcome.log.contains("hunter2") && !outcome.log.contains(OLD), "{outcome:?}");
    }
}

#[test]
fn joining_another_machine_without_a_secret_starts_no_node_and_names_the_remedy() {
    for join in ["192.0.2.1:6660", "dynarust-node1:6660"] {
        let (setup, outcome) = Setup::new().run(&["127.0.0.1:0", "127.0.0.1:1", join]);
        assert_eq!(outcome.code(), USAGE, "{outcome:?}");
        for words in [join, "set CLUSTER_SECRET", "the same on all nodes", "at least 16 characters"] {
            assert!(outcome.log.contains(words), "{outcome:?}");
        }
        assert!(!setup.home().join("storage.db").exists(), "nothing was begun");
    }
}

#[test]
fn a_node_that_others_reach_says_who_may_join_unless_there_is_a_secret() {
    for (secret, is_said) in [("", true), (OLD, false)] {
        let node = Setup::new().listen("0.0.0.0:0").environment("CLUSTER_SECRET", secret).start();
        let (_, outcome) = node.terminate();
        assert_eq!(
            outcome.log.contains("without CLUSTER_SECRET only nodes of this machine"),
            is_said,
            "{outcome:?}"
        );
    }
}

#[test]
fn a_secret_on_the_command_line_is_refused_with_the_way_to_give_it() {
    let outcome = refused(Setup::new().flag("--cluster-secret", OLD));
    assert_eq!(outcome.code(), USAGE, "{outcome:?}");
    assert!(outcome.log.contains("set CLUSTER_SECRET in the environment"), "{outcome:?}");
    assert!(!outcome.log.contains(OLD), "{outcome:?}");
}

#[test]
fn the_configuration_shows_that_there_is_a_secret_and_not_which() {
    for arguments in [&["config"][..], &["config", "--json"]] {
        let setup = Setup::new().environment("CLUSTER_SECRET", format!("{NEW},{OLD}"));
        let (_, outcome) = setup.run(arguments);
        assert_eq!(outcome.code(), Some(0), "{outcome:?}");
        assert!(outcome.stdout.contains("CLUSTER_SECRET in the environment"), "{outcome:?}");
        for secret in [NEW, OLD] {
            assert!(!outcome.stdout.contains(secret), "{outcome:?}");
        }
    }
}

#[test]
fn a_node_with_a_secret_does_not_log_it() {
    let node = Setup::new().environment("CLUSTER_SECRET", OLD).environment("RUST_LOG", "trace").start();
    node.get("/t/keys").expect_body("[]");
    node.get("/_/link").expect_problem(400, "bad-request");
    let (_, outcome) = node.terminate();
    assert!(!outcome.log.contains(OLD) && !outcome.stdout.contains(OLD));
}
