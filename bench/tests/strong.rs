//! `dynarust-bench strong`: each measurement has its figures. As in `cluster.rs`, the nodes are the DynaRust binary beside the bench's
//! own. The machine's etcd, if it has one, is left out: what is measured here says nothing.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

/// Everything, so small that the times say nothing.
const TINY: &[&str] = &[
    "--json",
    "--runs=1",
    "--duration=500ms",
    "--warmup=50ms",
    "--keys=100",
    "--connections=4",
    "--kills=1",
    "--idle=1s",
    "--watch-streams=120",
    "--table-rows=500",
    "--missed-rows=20",
    "--missed-writes=40",
];

/// Makes measurements, and returns their reports.
fn measure(measurements: &[&str]) -> Vec<Value> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_dynarust-bench")));
    command.args(["strong", "--directory"]).arg(directory.path()).args(measurements).args(TINY);
    let output = command.env("PATH", "").stdin(Stdio::null()).output().expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let reports: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let made: Vec<_> = reports.iter().map(|report| report["workload"].as_str().expect("a name")).collect();
    assert_eq!(made, measurements);
    assert!(
        std::fs::read_dir(directory.path()).expect("a directory").next().is_none(),
        "the data is removed"
    );
    reports
}

fn figure(report: &Value, name: &str) -> f64 {
    report["median"][name].as_f64().unwrap_or_else(|| panic!("no {name} in {report}"))
}

#[test]
fn all_measurements_have_their_figures() {
    let reports = measure(&["rates", "hot-key", "failover", "idle", "etcd-grpc", "catch-up"]);
    let [rates, hot_key, failover, idle, etcd_grpc, catch_up] = &reports[..] else { panic!("{reports:?}") };
    for name in ["leader_put_per_s", "follower_put_per_s", "one_node_put_to_eventual", "follower_get_p99_ms"]
    {
        assert!(figure(rates, name) > 0.0, "{name}");
    }
    assert!(figure(hot_key, "won_per_s") > 0.0 && figure(hot_key, "won_percent") <= 100.0);
    assert!(figure(failover, "without_writes_ms") > 1.0, "an election takes time");
    assert!(figure(idle, "awake_cpu_percent_per_node") >= 0.0);
    for name in ["leader_put_per_s", "leader_put_asked_cpu_us", "follower_get_per_s", "follower_get_p99_ms"] {
        assert!(figure(etcd_grpc, &format!("dynarust_{name}")) > 0.0, "{name}");
    }
    // Its log has all it missed: nothing but these entries, and some rounds.
    assert!(figure(catch_up, "sent_bytes") > 40.0 * 350.0);
}

#[test]
fn an_etcd_that_is_not_there_is_named() {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_dynarust-bench")));
    let output = command.args(["strong", "--etcd", "/nowhere/etcd"]).output().expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("/nowhere/etcd"), "{said}");
}
