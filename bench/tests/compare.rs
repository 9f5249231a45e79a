//! `dynarust-bench compare`: every row has its figures, and its place in the table. As in `cluster.rs`,
//! the nodes are the DynaRust binary beside the bench's own. A Redis of the machine is loaded like any, so briefly that it says nothing.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// Everything, so small that the figures say nothing.
const TINY: &[&str] = &["--duration=200ms", "--warmup=50ms", "--connections=4"];

fn bench(arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_dynarust-bench")));
    command.args(arguments).arg("--directory").arg(directory.path()).args(TINY);
    let output = command.stdin(Stdio::null()).output().expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let left = std::fs::read_dir(directory.path()).expect("a directory").next();
    assert!(left.is_none(), "the data is removed");
    output
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// Each row, its figures that have a target or a rival, and nothing else to compare with a target.
#[test]
fn every_row_has_the_figures_of_both_sides() {
    let expected: &[(&str, &[&str])] = &[
        ("get", &["node_get_per_s", "hyper_get_per_s", "get_to_hyper"]),
        ("put", &["node_put_per_s"]),
        ("batch", &["node_rows_per_s", "sled_rows_per_s", "batch_to_sled"]),
        ("fanout", &["node_last_p50_ms", "loop_last_p50_ms", "last_to_loop"]),
        ("streams", &["sse_kib", "websocket_kib"]),
        ("many", &["each_p99_ms"]),
        ("million", &["loaded_mib", "after_reads_mib", "restarted_mib", "first_read_s", "ready_s"]),
        ("disk", &["loaded_mib", "overwritten_mib"]),
        ("replicas", &["following_to_alone", "hung_to_alone"]),
        ("first-sync", &["synced_s"]),
        ("idle", &["cpu_percent_per_node"]),
    ];
    let rows: Vec<_> = expected.iter().map(|(row, _)| *row).collect();
    let reports = lines(&bench(
        &[&["compare", "--json", "--runs=1", "--keys=200", "--divide-by=1000"], &rows[..]].concat(),
    ));
    assert_eq!(reports.len(), expected.len(), "{reports:?}");
    for (report, (row, figures)) in reports.iter().zip(expected) {
        assert_eq!(report["workload"], *row);
        for name in *figures {
            let figure = report["median"][name].as_f64();
            // Of a few streams the memory may shrink, and of an idle node the time may be none.
            assert!(figure.is_some(), "no {name} in {report}");
        }
    }
}

#[test]
fn the_table_says_of_each_target_what_became_of_it() {
    let output = bench(&["compare", "disk", "--runs=2", "--divide-by=1000"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.contains("overwritten_mib") && line.contains("<= 45"));
    assert!(line.is_some_and(|line| line.ends_with("sizes divided")), "{text}");
}

#[test]
fn what_cannot_be_compared_is_named() {
    for (arguments, said) in [
        (&["compare", "--spin"][..], "--spin"),
        (&["compare", "nonsense"], "nonsense"),
        (&["compare", "--binary=/nowhere/DynaRust"], "/nowhere/DynaRust"),
    ] {
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_dynarust-bench")));
        let output = command.args(arguments).stdin(Stdio::null()).output().expect("the binary starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(said), "{arguments:?}: {stderr}");
    }
}
