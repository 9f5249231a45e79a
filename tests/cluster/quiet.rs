//! What a cluster does not do: compare what is only on its way, talk more than it has to, write where nothing changed.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime},
};

use crate::harness::{
    DEADLINE, Node,
    cluster::{Cluster, member},
    http::Request,
    wait_until,
};

const WRITES_PER_SECOND: u32 = 170;
const WRITING: Duration = Duration::from_secs(10);
/// Of a write that takes longer, the row may arrive at another node after the two seconds in which nodes expect it.
const STALL: Duration = Duration::from_secs(1);
/// What one round costs one way, with all its encryption and framing, whatever there are of tables.
const ROUND_BYTES_MAX: u64 = 256;

#[test]
fn constant_writing_on_all_nodes_starts_no_comparison() {
    let cluster = Cluster::start(3);
    cluster[0].put("/t/key/first?w=all", r#"{"value":1}"#).expect(200);
    cluster.wait_until_equal();
    let before = cluster.sum("sessions");
    let written: Vec<_> = thread::scope(|scope| {
        let writers: Vec<_> = cluster.running().map(|node| scope.spawn(|| write_steadily(node))).collect();
        writers.into_iter().map(|writer| writer.join().expect("writes are taken")).collect()
    });
    let sum: u32 = written.iter().map(|(written, _)| written).sum();
    let slowest = written.iter().map(|(_, slowest)| *slowest).max().unwrap_or_default();
    eprintln!("{:.0} writes a second, the slowest took {slowest:?}", f64::from(sum) / WRITING.as_secs_f64());
    cluster.wait_until_equal();
    let rounds = cluster.sum("rounds");
    wait_until("rounds go on", DEADLINE, || cluster.sum("rounds") > rounds + 60);
    cluster.wait_until_equal();
    assert_eq!(cluster.sum("false_sessions"), 0, "comparisons of equal nodes");
    if slowest > STALL {
        eprintln!(
            "NOT TESTED: the machine stood still, so rows may have been later than nodes wait for them"
        );
        return;
    }
    assert_eq!(cluster.sum("sessions"), before, "comparisons");
}

/// Puts and deletes at a steady rate, or as fast as the machine goes where that is slower. Returns how many, and how long the slowest took.
fn write_steadily(node: &Node) -> (u32, Duration) {
    let mut connection = node.connect();
    let begun = Instant::now();
    let (mut written, mut slowest) = (0, Duration::ZERO);
    while begun.elapsed() < WRITING {
        let path = format!("/t/key/k{}", written % 500);
        let request = if written % 7 == 6 {
            Request::new("DELETE", &format!("{path}?force=true"))
        } else {
            Request::new("PUT", &path).body(format!(r#"{{"value":{written}}}"#))
        };
        let sent = Instant::now();
        connection.send(&request).expect(200);
        slowest = slowest.max(sent.elapsed());
        written += 1;
        let due = begun + Duration::from_secs(1) * written / WRITES_PER_SECOND;
        while Instant::now() < due {
            thread::park_timeout(due.saturating_duration_since(Instant::now()));
        }
    }
    (written, slowest)
}

#[test]
fn an_idle_cluster_says_little_and_writes_nothing_to_its_disks() {
    let cluster = Cluster::start(3);
    for table in 0..5 {
        let lines: Vec<_> =
            (0..100).map(|row| format!(r#"{{"op":"put","key":"k{row}","value":{row}}}"#)).collect();
        cluster[table % 3].post(&format!("/table{table}/batch"), lines.join("\n")).expect(200);
    }
    cluster.wait_until_equal();
    // The clock's bound is kept up for a while after the last write, and the engine tidies up behind it.
    let disks = || {
        cluster.running().flat_map(|node| files(&node.home().join("storage.db"))).collect::<BTreeMap<_, _>>()
    };
    let (mut seen, mut since) = (disks(), Instant::now());
    wait_until("the disks are at rest", 3 * DEADLINE, || {
        let now = disks();
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(3)
    });
    let figures = |name: &str| member(&cluster[0], &cluster.address(1))[name].as_u64().expect("a figure");
    let (rounds, received, sent) = (figures("rounds"), figures("bytes_received"), figures("bytes_sent"));
    let sessions = cluster.sum("sessions");
    wait_until("rounds go on", DEADLINE, || figures("rounds") >= rounds + 30);
    let (received, sent) = (figures("bytes_received") - received, figures("bytes_sent") - sent);
    let rounds = figures("rounds") - rounds;
    eprintln!("{} bytes a round in, {} out", received / rounds, sent / rounds);
    assert!(received < rounds * ROUND_BYTES_MAX, "{received} bytes received in {rounds} rounds");
    assert!(sent < (rounds + 1) * ROUND_BYTES_MAX, "{sent} bytes sent in {rounds} rounds");
    assert_eq!(disks(), seen, "an idle cluster wrote to its disks");
    assert_eq!(cluster.sum("sessions"), sessions);
}

/// Every file below a directory, its length, and when it was written to last.
fn files(directory: &Path) -> BTreeMap<String, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().filter_map(Result::ok) {
            let path = entry.path();
            match entry.metadata() {
                Ok(data) if data.is_dir() => left.push(path),
                Ok(data) => {
                    let modified = data.modified().expect("the time of the last write");
                    found.insert(path.to_string_lossy().into_owned(), (data.len(), modified));
                }
                // A file of the engine that is gone by now.
                Err(_) => {}
            }
        }
    }
    found
}
