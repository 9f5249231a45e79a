//! `dynarust-bench backup` has its figures, and that of them which is the same on every machine holds. As in `cluster.rs`, the node is the
//! DynaRust binary beside the bench's own.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

/// Everything, so small that the times say nothing.
const TINY: &[&str] =
    &["--json", "--runs=1", "--duration=200ms", "--keys=3000", "--disk-mib=1", "--write-rate=50"];

#[test]
fn a_backup_has_its_figures_and_the_second_one_writes_what_changed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_dynarust-bench")));
    command.args(["backup", "--directory"]).arg(directory.path()).args(TINY);
    let output = command.stdin(Stdio::null()).output().expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a line of JSON");
    for name in ["disk_mib_per_s", "backup_mib_per_s", "backup_rows_per_s", "p99_beside_to_alone"] {
        assert!(report["median"][name].as_f64().expect("a figure") > 0.0, "{name}: {report}");
    }
    let percent = report["second_backup_written_percent"].as_f64().expect("a figure");
    // A few of its bytes are the manifest, which counts at 3000 rows.
    assert!((0.1..10.0).contains(&percent), "{report}");
    assert!(
        std::fs::read_dir(directory.path()).expect("a directory").next().is_none(),
        "the data is removed"
    );
}
