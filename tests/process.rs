//! The process: how it starts, refuses to, and ends.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::harness::{
    DEADLINE, Node, Setup,
    http::Request,
    sse::Events,
    wait_until,
    ws::{Incoming, Socket},
};

/// Exit codes of the contract, section 6.
const FAILED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);

#[test]
fn the_storage_lies_in_the_working_directory_unless_told_otherwise() {
    let node = Node::start();
    assert!(node.home().join("storage.db").is_dir());

    let node = Setup::new().flag("--data", "elsewhere").start();
    assert!(node.home().join("elsewhere").is_dir());
    assert!(!node.home().join("storage.db").exists());

    let node = Setup::new().environment("DYNARUST_DATA", "from-environment").start();
    assert!(node.home().join("from-environment").is_dir());
}

#[test]
fn a_flag_beats_the_environment_and_that_beats_the_file() {
    let setup = || {
        let setup = Setup::new().flag("--config", "node.toml");
        fs::write(setup.home().join("node.toml"), "data = \"from-file\"\n").expect("a file can be written");
        setup
    };
    let data = |node: &Node, name: &str| node.home().join(name).is_dir();
    assert!(data(&setup().start(), "from-file"));
    assert!(data(&setup().environment("DYNARUST_DATA", "from-environment").start(), "from-environment"));
    let node = setup().environment("DYNARUST_DATA", "from-environment").flag("--data", "from-flag").start();
    assert!(data(&node, "from-flag"));
    assert!(!data(&node, "from-environment") && !data(&node, "from-file"));
}

#[test]
fn terminate_and_interrupt_both_end_it_with_0_and_keep_everything() {
    let mut node = Node::start();
    for (round, signal) in ["TERM", "INT"].into_iter().enumerate() {
        node.put(&format!("/t/key/{round}"), r#"{"value":1}"#).expect(200);
        node.signal(signal);
        let (setup, outcome) = node.wait();
        assert_eq!(outcome.code(), Some(0), "after SIG{signal}: {outcome:?}");
        node = setup.start();
    }
    node.get("/t/keys").expect_body(r#"["0","1"]"#);
}

#[test]
fn it_ends_at_once_with_streams_and_idle_connections_open() {
    let node = Node::start();
    let (mut events, _) = Events::open(node.address(), "/t/subscribe/a");
    let mut socket = Socket::open(node.address(), "/_/ws");
    let mut idle = node.connect();
    idle.send(&Request::new("GET", "/healthz")).expect(200);

    let begun = Instant::now();
    let (_, outcome) = node.terminate();
    assert_eq!(outcome.code(), Some(0), "{outcome:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());

    assert!(events.event().is_control("shutdown"));
    assert_eq!(events.event_or_end(), None);
    let mut closed = socket.next();
    while let Incoming::Json(message) = closed {
        assert_eq!(message["event"], "shutdown");
        closed = socket.next();
    }
    assert_eq!(closed, Incoming::Close(1001));
    assert!(idle.read_to_close(DEADLINE).is_empty());
}

/// `docker stop` gives ten seconds, and then kills.
#[test]
fn half_a_head_does_not_hold_up_the_end() {
    let node = Node::start();
    let mut slow = node.connect();
    slow.write(b"GET /healthz HTTP/1.1\r\nHost:").expect("half a head can be sent");
    node.get("/healthz").expect(200);
    let begun = Instant::now();
    let (_, outcome) = node.terminate();
    assert_eq!(outcome.code(), Some(0), "{outcome:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_request_in_flight_is_finished_before_the_end() {
    let node = Node::start();
    let mut slow = node.connect();
    let put = Request::new("PUT", "/t/key/a").body(r#"{"value":"late"}"#).to_bytes();
    let (head, tail) = put.split_at(put.len() - 4);
    slow.write(head).expect("bytes can be sent");
    // Answered on another connection only after the node has taken what came before it from the first.
    node.get("/healthz").expect(200);
    node.signal("TERM");
    wait_until("it takes no new connection, or says it is leaving", DEADLINE, || {
        std::net::TcpStream::connect(node.address()).is_err() || node.log().contains("shutting down")
    });
    slow.write(tail).expect("bytes can be sent");
    let answer = slow.receive("PUT").expect("an answer");
    assert!(matches!(answer.status, 200 | 503), "{answer}");
    let (setup, outcome) = node.wait();
    assert_eq!(outcome.code(), Some(0), "{outcome:?}");
    let node = setup.start();
    assert_eq!(node.get("/t/key/a").status == 200, answer.status == 200, "kept as it was answered");
}

#[test]
fn a_port_in_use_is_said_plainly() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("an address").to_string();
    let Err(outcome) = Setup::new().listen(&address).try_start() else { panic!("two listen on {address}") };
    assert_eq!(outcome.code(), FAILED, "{outcome:?}");
    assert!(outcome.log.contains(&address) && outcome.log.contains("port is in use"), "{outcome:?}");
    assert!(!outcome.log.contains("panicked"), "{outcome:?}");
}

#[test]
fn a_second_process_on_the_same_storage_is_refused_and_the_first_goes_on() {
    let first = Node::start();
    first.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let storage = first.home().join("storage.db");
    let Err(outcome) = Setup::new().flag("--data", &storage).try_start() else {
        panic!("two share {storage:?}")
    };
    assert_eq!(outcome.code(), FAILED, "{outcome:?}");
    assert!(outcome.log.contains("storage.db") && outcome.log.contains("in use"), "{outcome:?}");
    first.put("/t/key/b", r#"{"value":2}"#).expect(200);
    let first = first.kill().start();
    first.get("/t/keys").expect_body(r#"["a","b"]"#);
}

#[test]
fn a_storage_path_that_cannot_be_one_is_said_plainly() {
    let setup = Setup::new();
    fs::write(setup.home().join("file"), "not a directory").expect("a file can be written");
    let home = setup.home();
    for path in [home.join("file"), home.join("file/below"), "/proc/dynarust-cannot-be-made".into()] {
        let Err(outcome) = Setup::new().flag("--data", &path).try_start() else {
            panic!("{path:?} became a storage")
        };
        assert_eq!(outcome.code(), FAILED, "{outcome:?}");
        assert!(outcome.log.contains(&*path.to_string_lossy()), "the path is named: {outcome:?}");
        assert!(!outcome.log.contains("panicked"), "{outcome:?}");
    }
    assert_eq!(fs::read_to_string(home.join("file")).expect("the file is still there"), "not a directory");
}

#[test]
fn a_directory_that_is_no_storage_is_left_alone() {
    let setup = Setup::new().flag("--data", "photos");
    let photos = setup.home().join("photos");
    fs::create_dir(&photos).expect("a directory can be made");
    fs::write(photos.join("db"), b"this is no database").expect("a file can be written");
    let Err(outcome) = setup.try_start() else { panic!("a foreign directory became a storage") };
    assert_eq!(outcome.code(), FAILED, "{outcome:?}");
    assert!(!outcome.log.contains("panicked at"), "{outcome:?}");
}

#[test]
fn wrong_usage_is_exit_code_2_and_names_what_is_wrong() {
    for (arguments, named) in [
        (&["--no-such-flag"][..], "--no-such-flag"),
        (&["127.0.0.1:0", "--durability", "sometimes"], "durability"),
        (&["127.0.0.1:0", "--max-value", "huge"], "max-value"),
        (&["127.0.0.1:0", "--header-timeout=-1"], "header-timeout"),
        (&["not-an-address"], "not-an-address"),
    ] {
        let (_, outcome) = Setup::new().run(arguments);
        assert_eq!(outcome.code(), USAGE, "{arguments:?}: {outcome:?}");
        assert!(outcome.log.contains(named), "{arguments:?}: {outcome:?}");
    }
}

#[test]
fn config_prints_each_value_and_where_it_came_from() {
    let setup = Setup::new().environment("DYNARUST_MAX_VALUE", "2MiB");
    let (_, outcome) = setup.run(&["config", "--data", "over-there"]);
    assert_eq!(outcome.code(), Some(0), "{outcome:?}");
    let line = |name: &str| {
        let found = outcome.stdout.lines().find(|line| line.contains(name));
        found.unwrap_or_else(|| panic!("no {name} in {}", outcome.stdout)).to_ascii_lowercase()
    };
    assert!(line("data").contains("over-there") && line("data").contains("--data"), "{}", outcome.stdout);
    assert!(line("max-value").contains("dynarust_max_value"), "{}", outcome.stdout);
    assert!(
        line("durability").contains("always") && line("durability").contains("default"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn rust_log_says_how_much_is_logged_and_no_value_ever_is() {
    let node = Setup::new().environment("RUST_LOG", "debug").start();
    node.put("/t/key/a", r#"{"value":"a-secret-value"}"#).expect(200);
    node.get("/t/key/a").expect(200);
    let (_, debug) = node.terminate();
    let (_, error) = Setup::new().environment("RUST_LOG", "error").start().terminate();
    assert!(debug.log.len() > error.log.len(), "debug: {:?}, error: {:?}", debug.log, error.log);
    assert!(!debug.log.contains("a-secret-value"), "{}", debug.log);
}

#[test]
fn a_store_that_is_whole_passes_the_check_and_is_the_same_after_compaction() {
    let node = Node::start();
    let rows: Vec<String> =
        (0..300).map(|row| format!(r#"{{"op":"put","key":"k{row}","value":[{row}]}}"#)).collect();
    node.post("/t/batch", rows.join("\n")).expect(200);
    node.put("/t/key/big", format!(r#"{{"value":"{}"}}"#, "v".repeat(100_000))).expect(200);
    node.delete("/t/key/k7").expect(200);
    let before = node.get("/_/export").expect(200).body;
    let (setup, _) = node.terminate();
    let (setup, check) = setup.run(&["check"]);
    assert_eq!(check.code(), Some(0), "{check:?}");
    assert!((check.stdout + &check.log).contains("300"), "it says how many records it read");
    let (setup, compact) = setup.run(&["compact"]);
    assert_eq!(compact.code(), Some(0), "{compact:?}");
    let node = setup.start();
    assert!(node.get("/_/export").expect(200).body == before);
}

#[test]
fn every_durability_keeps_what_was_written_before_a_proper_end() {
    for durability in ["always", "interval:100ms", "none"] {
        let node = Setup::new().flag("--durability", durability).start();
        node.put("/t/key/a", r#"{"value":1}"#).expect(200);
        let node = node.terminate().0.start();
        node.get("/t/key/a").expect_body(r#"{"value":1}"#);
    }
}

/// `cp -r storage.db.example storage.db`, and then `DynaRust 127.0.0.1:6660`, as the README says. The directory was written by an earlier
/// build: that it opens is the test of the format on disk.
#[test]
fn the_example_directory_is_served() {
    let setup = Setup::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("storage.db.example");
    copy_directory(&example, &setup.home().join("storage.db"));
    let node = setup.start();
    let exported = node.get("/_/export").expect(200);
    let tables: BTreeSet<String> = exported
        .text()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"))
        .filter_map(|line| Some(line.get("table")?.to_string()))
        .collect();
    assert!(tables.len() >= 2, "a few small tables, but {tables:?}");
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let (_, check) = node.terminate().0.run(&["check"]);
    assert_eq!(check.code(), Some(0), "{check:?}");
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("a directory can be read") {
        let path = entry.expect("an entry can be read").path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy_directory(&path, &target);
        } else {
            fs::copy(&path, &target).expect("a file can be copied");
        }
    }
}
