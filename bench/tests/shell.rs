//! `dynarust-bench shell`: it imports, and calls, the DynaRust binary beside the bench's own. `cargo test` in the root builds both.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long the start of the node may take before the test fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// A node. Dropping it ends it.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn start(binary: &Path, data: &Path) -> (Node, String) {
    let mut command = Command::new(binary);
    command.args(["127.0.0.1:0", "--data"]).arg(data);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let node =
        Node(command.spawn().expect("there is a DynaRust beside this program: see the head of this file"));
    let begun = Instant::now();
    loop {
        match fs::read_to_string(data.join("dynarust.address")) {
            Ok(address) if address.ends_with('\n') => return (node, address.trim().to_owned()),
            _ => assert!(begun.elapsed() < DEADLINE, "the node starts"),
        }
        thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn an_import_is_measured_beside_batches_and_processes_are_timed() {
    let program = Path::new(env!("CARGO_BIN_EXE_dynarust-bench"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (_node, address) = start(&program.with_file_name("DynaRust"), &directory.path().join("data"));
    let mut command = Command::new(program);
    command.args(["shell", "--json", "--runs=2", "--keys=300", "--processes=2", "--address", &address]);
    let output = command.env("TMPDIR", directory.path()).output().expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    for name in ["import_rows_per_s", "import_to_batch", "put_process_p50_ms", "get_process_p50_ms"] {
        assert!(report["median"][name].as_f64().is_some_and(|figure| figure > 0.0), "{name}: {report}");
    }
    assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1, "its file is removed");
}
