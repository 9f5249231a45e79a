//! `dynarust-bench compare` and `growth`: every row has its figures, and its place in the table; every point is a line. As in `cluster.rs`,
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

/// Rows that take seconds, and their figures that have a target or a rival. The others measure what `cluster` and the workloads do.
#[test]
fn a_row_has_the_figures_of_both_sides() {
    let expected: &[(&str, &[&str])] = &[
        ("get", &["node_get_per_s", "hyper_get_per_s", "get_to_hyper"]),
        ("put", &["node_put_per_s"]),
        ("batch", &["node_rows_per_s", "sled_rows_per_s", "batch_to_sled"]),
        ("fanout", &["node_last_p50_ms", "loop_last_p50_ms", "last_to_loop"]),
        ("disk", &["loaded_mib", "overwritten_mib"]),
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
            assert!(figure.is_some_and(|figure| figure > 0.0), "no {name} in {report}");
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
        (&["growth", "--from=/nowhere/lines"], "--svg"),
        (&["growth", "--rows=10"], "10"),
    ] {
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_dynarust-bench")));
        let output = command.args(arguments).stdin(Stdio::null()).output().expect("the binary starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(said), "{arguments:?}: {stderr}");
    }
}

#[test]
fn growth_is_a_line_for_each_point_and_is_drawn() {
    let drawn = tempfile::tempdir().expect("a temporary directory");
    let (svg, file) = (drawn.path().join("growth.svg"), drawn.path().join("lines"));
    let svg_option = format!("--svg={}", svg.display());
    let output = bench(&["growth", "--rows=1000", "--nodes=1,2", &svg_option]);
    let points = lines(&output);
    let places: Vec<_> =
        points.iter().map(|point| (point["rows"].as_u64(), point["nodes"].as_u64())).collect();
    assert_eq!(places, [1, 1, 2].map(|nodes| (Some(1000), Some(nodes))));
    let [alone, comparison, cluster] = &points[..] else { panic!("three lines: {points:?}") };
    for point in [alone, cluster] {
        for name in ["put_per_s", "get_per_s", "put_cpu_us", "get_cpu_us", "import_rows_per_s"] {
            assert!(point["figures"][name].as_f64().is_some(), "{name}: {point}");
        }
    }
    for name in ["memory_bytes_per_row", "disk_bytes_per_row", "first_read_s", "ready_s"] {
        assert!(alone["figures"][name].as_f64().is_some(), "{name}: {alone}");
    }
    for name in ["comparison_bytes", "comparison_round_trips"] {
        assert!(comparison["figures"][name].as_f64().is_some(), "{name}: {comparison}");
    }
    assert!(cluster["figures"]["put_replica_cpu_us"].is_number(), "{cluster}");

    // What was measured is drawn alike from its lines.
    let from_points = std::fs::read_to_string(&svg).expect("drawn");
    std::fs::write(&file, &output.stdout).expect("written");
    bench(&["growth", &format!("--from={}", file.display()), &svg_option]);
    assert_eq!(std::fs::read_to_string(&svg).expect("drawn"), from_points);
}
