//! A disk that loses bytes under a running node: what can be read is served, what cannot is said, and in a cluster it heals.
//!
//! `DYNARUST_DAMAGE_TRIALS=100 cargo test --test tests crash::live` tries that often; a few times is what runs always. `DYNARUST_DAMAGE_SEED=n`
//! begins with the n-th trial.

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use super::ledger::{Chance, text};
use crate::harness::{
    DEADLINE, Node, Setup,
    cluster::{CONVERGENCE, Cluster, wait_until_ready},
    http::Request,
    sse::Events,
    wait_until,
};

/// So many rows, so long, are several times the cache that these nodes have.
const KEYS: u64 = 5_000;
const VALUE_BYTES: usize = 6_000;
const IMPORTED_AT_ONCE: usize = 250;
const SEGMENT_BYTES: u64 = 2 * 1024 * 1024;
/// How long so many rows may take to be on all members.
const FILLED: Duration = Duration::from_secs(180);
/// How long a member may take to find all that is damaged, copy it and be given back what was lost.
const HEALED: Duration = Duration::from_secs(120);
/// Trials in one cluster, whose file grows with each repair.
const TRIALS_IN_A_CLUSTER: u64 = 5;

fn small(setup: Setup) -> Setup {
    setup.flag("--cache", "8MiB").flag("--scrub-rate", "256MiB")
}

fn line(key: u64) -> String {
    format!(r#"{{"table":"t","key":"k{key}","value":"{}"}}"#, text(key, VALUE_BYTES))
}

/// Writes all rows, piece by piece, so that a slow machine has to hold few of them at a time.
fn fill(node: &Node) {
    for first in (0..KEYS).step_by(IMPORTED_AT_ONCE) {
        let keys = first..KEYS.min(first + IMPORTED_AT_ONCE as u64);
        let lines: String = keys.map(|key| line(key) + "\n").collect();
        wait_until("rows are imported", FILLED, || node.post("/_/import", lines.clone()).status == 200);
    }
}

/// Flips bits, or makes a page of the file zeros, anywhere in what is written of the log.
fn damage(data: &Path, chance: &mut Chance, places: u64) {
    let log = OpenOptions::new().read(true).write(true).open(data.join("db")).expect("the log opens");
    let length = log.metadata().expect("a file").len().saturating_sub(SEGMENT_BYTES).max(SEGMENT_BYTES);
    for _ in 0..places {
        let at = chance.below(length - 4096);
        if chance.below(8) == 0 {
            log.write_all_at(&[0; 4096], at & !4095).expect("the log can be written");
        } else {
            let mut byte = [0];
            log.read_exact_at(&mut byte, at).expect("the log can be read");
            log.write_all_at(&[byte[0] ^ (1 << chance.below(8))], at).expect("the log can be written");
        }
    }
}

/// All that a node answers, head and chunks, until it closes the connection; and whether it ended the body.
fn listed(node: &Node, path: &str) -> (String, bool) {
    let mut connection = node.connect();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", node.address());
    connection.write(request.as_bytes()).expect("sends");
    let answer = connection.read_to_close(CONVERGENCE);
    let whole = answer.ends_with(b"\r\n0\r\n\r\n")
        || String::from_utf8_lossy(&answer).to_ascii_lowercase().contains("content-length:");
    (String::from_utf8_lossy(&answer).into_owned(), whole)
}

/// The keys that an answer has, whose values are digits.
fn keys_in(answer: &str) -> BTreeSet<u64> {
    let named = answer.split("\"k").skip(1);
    named.filter_map(|rest| rest.split('"').next()?.parse().ok()).collect()
}

/// The keys that a node says it cannot read. All others are what was written, and none is absent.
fn unreadable(node: &Node) -> BTreeSet<u64> {
    let mut connection = node.connect();
    let is_unreadable = |key: &u64| {
        let answer = connection.send(&Request::new("GET", &format!("/t/key/k{key}")));
        if answer.status == 200 {
            assert!(answer.json()["value"] == text(*key, VALUE_BYTES), "k{key} is not what was written");
            return false;
        }
        let problem = answer.expect(500).json();
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(problem["error"] == "corrupt" && detail.contains(&format!("\"k{key}\"")), "{problem}");
        true
    };
    (0..KEYS).filter(is_unreadable).collect()
}

fn figure(node: &Node, name: &str) -> u64 {
    let stats = node.get("/stats").expect(200).json();
    stats[name].as_u64().unwrap_or_else(|| panic!("no {name} in {stats}"))
}

/// Waits until nobody finds anything more to repair: by then a node has read all of its log twice.
fn wait_until_settled(node: &Node) {
    let begun = figure(node, "scrubbed_bytes");
    let log_bytes = node.home().join("storage.db/db").metadata().expect("a log").len();
    wait_until("the log was scrubbed", CONVERGENCE, || figure(node, "scrubbed_bytes") > begun + log_bytes);
}

/// One damaged page made listings break off in the middle without a word of why, its keys unwritable for ever, and the sweep's thread
/// panic, with the node `ready` all the while.
#[test]
fn a_node_that_is_alone_says_what_it_lost_and_serves_the_rest() {
    let node = small(Setup::new()).start();
    fill(&node);
    let mut chance = Chance::new(88);
    let mut lost = BTreeSet::new();
    // Whatever is in memory is no worse for it.
    for _ in 0..10 {
        damage(&node.home().join("storage.db"), &mut chance, 30);
        if !unreadable(&node).is_empty() {
            wait_until("it is copied", CONVERGENCE, || node.log().contains("are lost here"));
            wait_until_settled(&node);
            lost = unreadable(&node);
            break;
        }
    }
    assert!(!lost.is_empty() && lost.len() < KEYS as usize / 10, "{} keys are lost", lost.len());
    for path in ["/t/keys", "/t/store", "/_/export"] {
        let (answer, whole) = listed(&node, path);
        assert!(
            !whole,
            "{path} looks like all there is: {} ... {}",
            &answer[..600],
            &answer[answer.len() - 100..]
        );
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("dynarust-incomplete: "), "{path}");
        let missing: BTreeSet<u64> =
            (0..KEYS).collect::<BTreeSet<_>>().difference(&keys_in(&answer)).copied().collect();
        assert_eq!(missing, lost, "{path}");
        assert_eq!(answer.contains(r#"{"error":"corrupt""#), path == "/_/export", "{path}");
    }
    let problem = node.get("/t/count").expect(500).json();
    assert_eq!(problem["count"].as_u64(), Some(KEYS - lost.len() as u64), "{problem}");
    let (mut snapshot, _) = Events::open(node.address(), "/t/subscribe?snapshot=true");
    let mut seen = 0;
    let incomplete = loop {
        let block = snapshot.event();
        if block.is_data() {
            seen += 1;
        } else if block.is_control("incomplete") || block.is_control("sync") {
            break block.is_control("incomplete");
        }
    };
    assert!(incomplete && seen == KEYS - lost.len() as u64, "{seen} values");
    assert!(snapshot.event().is_control("sync"));

    let ready = node.get("/readyz").expect(200).json();
    assert!(ready["unreadable_ranges"].as_u64() > Some(0), "{ready}");
    let tables = node.get("/_/tables").expect(200).json();
    assert!(tables[0]["unreadable_ranges"].as_u64() > Some(0), "{tables}");
    let metrics = node.get("/metrics").expect(200);
    assert!(!metrics.text().contains("dynarust_unreadable_ranges 0\n"), "{}", metrics.text());

    // A lost key is neither there nor absent; but it can be written.
    let key = lost.first().expect("one is lost");
    let path = format!("/t/key/k{key}");
    let absent = Request::new("PUT", &path).header("If-None-Match", "*").body(r#"{"value":1}"#);
    assert_eq!(node.send(&absent).expect(500).json()["error"], "corrupt");
    assert_eq!(node.delete(&path).expect(500).json()["error"], "corrupt");
    for key in &lost {
        let body = format!(r#"{{"value":"{}"}}"#, text(*key, VALUE_BYTES));
        node.put(&format!("/t/key/k{key}"), body).expect(200);
    }
    assert_eq!(unreadable(&node), BTreeSet::new());
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

/// The comparison of a table with a damaged page stopped: none of the rows that came to a peer afterwards arrived, for ever.
#[test]
fn a_member_whose_disk_loses_bytes_heals() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let trials: u64 = number("DYNARUST_DAMAGE_TRIALS", 5);
    let begin: u64 = number("DYNARUST_DAMAGE_SEED", 0);
    let mut copied = 0;
    for first in (begin..begin + trials).step_by(TRIALS_IN_A_CLUSTER as usize) {
        let cluster = Cluster::start_with(3, small);
        fill(&cluster[0]);
        for node in cluster.running() {
            wait_until("all rows have come", FILLED, || figure(node, "keys") == KEYS);
        }
        cluster.wait_until_equal();
        for trial in first..(begin + trials).min(first + TRIALS_IN_A_CLUSTER) {
            let begun = Instant::now();
            trial_of(&cluster, trial);
            eprintln!("trial {trial}: {:?}", begun.elapsed());
        }
        copied += cluster[2].log().matches("its readable rows are copied").count();
        for node in cluster.running() {
            assert!(!node.log().contains("panicked"), "{}", node.log());
        }
    }
    assert!(copied as u64 >= trials / 5, "only {copied} of {trials} trials hit what matters");
}

fn trial_of(cluster: &Cluster, trial: u64) {
    let mut chance = Chance::new(1000 + trial);
    let node = &cluster[2];
    let places = 1 + chance.below(6);
    damage(&node.home().join("storage.db"), &mut chance, places);
    // Whoever reads meets it, and so does the scrub. What others write meanwhile has to come.
    let _ = listed(node, "/t/store");
    cluster[0].put(&format!("/u/key/{trial}"), r#"{"value":1}"#).expect(200);
    wait_until_settled(node);
    // Whatever was in memory when the disk was damaged may be met later: until all was read twice, and nothing was.
    wait_until(&format!("trial {trial} is healed"), HEALED, || {
        let is_whole = || listed(node, "/_/export").1 && listed(node, "/_/export").1;
        figure(node, "unreadable_ranges") == 0 && is_whole() && figure(node, "unreadable_ranges") == 0
    });
    wait_until_ready(node);
    cluster.wait_until_equal();
    for node in cluster.running() {
        let count = node.get("/t/count").expect(200).json();
        assert_eq!(count["count"].as_u64(), Some(KEYS), "{count} on {}", node.address());
    }
    let export = node.get("/_/export?table=t").expect(200);
    let mut exported = vec![""; KEYS as usize];
    for line in export.text().lines().filter(|line| line.starts_with(r#"{"table""#)) {
        let key = *keys_in(line).first().expect("a row has a key");
        exported[key as usize] = line;
    }
    for (key, exported) in (0..).zip(exported) {
        let row = line(key);
        assert!(exported.starts_with(row.strip_suffix('}').expect("an object")), "k{key} in trial {trial}");
    }
    wait_until("the write came", DEADLINE, || node.get(&format!("/u/key/{trial}")).status == 200);
}
