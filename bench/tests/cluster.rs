//! `dynarust-bench cluster`: each measurement has its figures, and those that are the same on every machine hold: bytes, messages,
//! rows. The nodes are the DynaRust binary beside the bench's own. `cargo test` in the root builds both first; for this package
//! alone, build DynaRust yourself.

use std::{
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long anything but a measurement may take before the test fails. Far longer than it takes, as machines differ.
const DEADLINE: Duration = Duration::from_secs(20);

/// Everything, so small that the times say nothing.
const TINY: &[&str] = &[
    "--json",
    "--runs=1",
    "--duration=2s",
    "--warmup=100ms",
    "--keys=200",
    "--connections=4",
    "--lag-rate=50",
    "--diverge-rows=4000",
    "--idle=3s",
    "--steady=3s",
    "--steady-rate=100",
    "--sync-rows=2000",
    "--conflicts=400",
    "--cut=2s",
];

fn bench(directory: &Path) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_dynarust-bench"));
    let node = program.with_file_name("DynaRust");
    assert!(
        node.is_file(),
        "these tests start nodes, and there is no DynaRust at {}: run plain `cargo test` in the root of the repository, which \
         builds it, or `cargo build --bin DynaRust` before",
        node.display()
    );
    let mut command = Command::new(program);
    command.args(["cluster", "--directory"]).arg(directory).stdin(Stdio::null());
    command
}

/// Makes one measurement, and returns its report.
fn measure(measurement: &str) -> Value {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = bench(directory.path()).arg(measurement).args(TINY).output().expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    assert_eq!(report["workload"], measurement);
    assert!(is_empty(directory.path()), "the nodes' data is removed with them");
    report
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).expect("a directory").next().is_none()
}

/// Waits for `condition`; panics once `DEADLINE` has passed without it.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// The figure of this name.
fn figure(report: &Value, name: &str) -> f64 {
    report["median"][name].as_f64().unwrap_or_else(|| panic!("a figure {name} in {report}"))
}

#[test]
fn lag_is_that_of_every_event() {
    let lag = measure("lag");
    for name in ["events", "lag_p50_ms", "lag_p99_ms", "lag_max_ms"] {
        assert!(figure(&lag, name) > 0.0, "{name} in {lag}");
    }
    assert_eq!(figure(&lag, "lost"), 0.0, "{lag}");
}

#[test]
fn replicas_have_rates_and_processor_times() {
    let replicas = measure("replicas");
    for name in
        ["alone_put_per_s", "following_put_per_s", "hung_put_per_s", "following_to_alone", "hung_to_alone"]
    {
        assert!(figure(&replicas, name) > 0.0, "{name} in {replicas}");
    }
    for name in ["alone_writer", "following_writer", "following_replica2", "hung_replica1"] {
        assert!(figure(&replicas, &format!("{name}_cpu_s_per_1000")) >= 0.0, "{name} in {replicas}");
    }
}

/// The bounds are those for a million rows: fewer cost less.
#[test]
fn comparisons_are_small() {
    let diverge = measure("diverge");
    for (diverged, bytes_max) in [(1.0, 1_500.0), (10.0, 10_000.0), (1000.0, 460_000.0)] {
        let figure = |name| figure(&diverge, &format!("d{diverged}_{name}"));
        // Where the machine is slow to answer, a second comparison is opened.
        let sessions = figure("sessions");
        assert!(sessions >= 1.0, "nothing but a comparison can have found them: {diverge}");
        let bytes = figure("metadata_bytes");
        assert!(bytes > 0.0 && bytes <= bytes_max * sessions, "{bytes} bytes for {diverged}: {diverge}");
        assert!((1.0..=5.0).contains(&figure("round_trips")), "{diverge}");
        let rows_sent = figure("rows_sent");
        assert!(rows_sent >= diverged && rows_sent <= diverged * sessions, "{rows_sent} rows: {diverge}");
        assert!(figure("link_bytes") > bytes, "{diverge}");
    }
}

#[test]
fn idle_nodes_compare_nothing_and_say_little() {
    let idle = measure("idle");
    assert_eq!(figure(&idle, "sessions"), 0.0, "{idle}");
    assert!(figure(&idle, "rounds") > 0.0, "{idle}");
    // The round itself has 64 bytes; the rest is its encryption, and membership.
    let idle_bytes = figure(&idle, "bytes_per_peer_and_round");
    assert!((64.0..256.0).contains(&idle_bytes), "{idle}");
    assert!(figure(&idle, "cpu_percent_per_node") < 50.0, "{idle}");
}

#[test]
fn steady_writes_lead_to_no_needless_comparison() {
    let steady = measure("steady");
    assert!(figure(&steady, "writes_per_s") > 0.0, "{steady}");
    assert_eq!(figure(&steady, "false_sessions"), 0.0, "{steady}");
}

#[test]
fn a_first_sync_has_times_and_memory() {
    let first_sync = measure("first-sync");
    for name in ["ready_s", "synced_s", "source_rss_mib", "empty_rss_mib"] {
        assert!(figure(&first_sync, name) > 0.0, "{name} in {first_sync}");
    }
}

#[test]
fn a_cut_that_heals_loses_nothing() {
    let heal = measure("heal");
    assert_eq!(figure(&heal, "keys") + figure(&heal, "deleted"), 400.0, "nothing is lost: {heal}");
    assert!(figure(&heal, "in_sync_s") >= figure(&heal, "linked_s"), "{heal}");
    // Each side has written every key, and sends no more than that; where a comparison was needed it may name some twice.
    let rows_sent = figure(&heal, "rows_sent");
    assert!(rows_sent > 0.0 && rows_sent <= 800.0 * (1.0 + figure(&heal, "sessions")), "{heal}");
}

#[test]
fn an_interrupted_bench_leaves_no_node_and_no_file_behind() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = bench(directory.path());
    command.args(["idle", "--idle=60s", "--keys=10"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = command.spawn().expect("the binary starts");
    wait_until("a node has its data below the directory", || !nodes_below(directory.path()).is_empty());
    let status = Command::new("kill").arg(running.id().to_string()).status().expect("kill runs");
    assert!(status.success());
    let mut ended = None;
    wait_until("it ends", || {
        ended = running.try_wait().expect("a child can be waited for");
        ended.is_some()
    });
    assert_eq!(ended.and_then(|status| status.code()), Some(1));
    assert!(is_empty(directory.path()));
    assert_eq!(nodes_below(directory.path()), [0; 0], "no node runs on");
}

/// Ids of the processes whose data lies below a directory.
fn nodes_below(directory: &Path) -> Vec<u32> {
    let directory = directory.to_str().expect("text");
    let is_node = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains(directory) && line.contains("storage.db")
    };
    let processes = std::fs::read_dir("/proc").expect("a list of processes");
    processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(is_node).collect()
}

#[test]
fn a_bench_names_what_it_cannot_do() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let missing = directory.path().join("missing");
    let output = bench(&missing).arg("idle").output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains(missing.to_str().expect("text")), "{stderr}");

    let output = bench(directory.path()).arg("--binary").arg(&missing).output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains(missing.to_str().expect("text")) && stderr.contains("cargo build"), "{stderr}");

    for wrong in [&["--diverge-rows=10"][..], &["nonsense"], &["--cut=soon"], &["--address=127.0.0.1:1"]] {
        let output = bench(directory.path()).args(wrong).output().expect("the binary starts");
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}
