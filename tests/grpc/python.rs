//! Python's `grpcio`, which is not ours, on a node: the script beside this file, and the block of docs/grpc.md. Where it is not installed, the
//! tests say so and are skipped; `.ci/run` installs it.

use std::{path::Path, process::Command};

use super::client::Served;
use crate::pages::page::{Page, root};

/// What the script and the page need. `grpc_tools` has the compiler for `.proto` files.
const MODULES: &str =
    "import grpc, grpc_tools.protoc, grpc_health.v1.health_pb2, grpc_reflection.v1alpha.reflection_pb2";

/// Python in a directory with the generated code of the protocol, if there is grpcio.
fn python(directory: &Path) -> Option<Command> {
    let there = Command::new("python3").args(["-c", MODULES]).output();
    if !there.is_ok_and(|outcome| outcome.status.success()) {
        eprintln!(
            "SKIPPED: python3 has no grpcio, grpcio-tools, grpcio-health-checking and grpcio-reflection (see .ci/run)"
        );
        return None;
    }
    let made = Command::new("python3")
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(root().join("proto"))
        .args(["--python_out=.", "--grpc_python_out=.", "dynarust/v1/kv.proto"])
        .current_dir(directory)
        .output()
        .expect("python3 starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut command = Command::new("python3");
    command.current_dir(directory).env("PYTHONPATH", directory).env("PYTHONDONTWRITEBYTECODE", "1");
    Some(command)
}

fn fixture(name: &str) -> std::path::PathBuf {
    root().join("tests/fixtures").join(name)
}

#[test]
fn a_foreign_client_uses_every_method_health_and_reflection_also_over_tls() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(mut command) = python(directory.path()) else { return };
    let (plain, secured) = (
        Served::start(),
        Served::start_with(|setup| {
            setup.flag("--tls-cert", fixture("signed.pem")).flag("--tls-key", fixture("signed-key.pem"))
        }),
    );
    let outcome = command
        .arg(root().join("tests/grpc/client.py"))
        .args([plain.address.to_string(), secured.address.to_string()])
        .arg(fixture("authority.pem"))
        .arg(plain.node.pid().to_string())
        .output()
        .expect("python3 starts");
    let said =
        String::from_utf8_lossy(&outcome.stdout).into_owned() + &String::from_utf8_lossy(&outcome.stderr);
    assert!(outcome.status.success() && said.contains("all ok"), "{said}");
}

#[test]
fn the_block_of_python_in_the_page_prints_what_it_says() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(mut command) = python(directory.path()) else { return };
    let served = Served::start();
    let page = Page::read("docs/grpc.md");
    let fences = page.fences();
    let place = fences.iter().position(|fence| fence.kind == "python").expect("a block of Python");
    let code = fences[place].lines.join("\n").replace("127.0.0.1:50051", &served.address.to_string());
    let expected = fences[place + 1].lines.join("\n");
    let outcome = command.args(["-c", &code]).output().expect("python3 starts");
    let said = String::from_utf8_lossy(&outcome.stdout);
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
    assert_eq!(said.trim_end(), expected);
}
