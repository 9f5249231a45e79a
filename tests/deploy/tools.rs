//! What the tools of those systems say of the files, where they are installed: `promtool` (Debian's `prometheus`) and `kubernetes-validate`
//! (from PyPI). Elsewhere these tests say that they are skipped.

use std::{
    io,
    process::{Command, Stdio},
};

use crate::pages::page;

/// Runs a tool on a file below `deploy`, unless it is not there.
#[track_caller]
fn expect_accepted(program: &str, arguments: &[&str], file: &str) {
    let path = page::root().join("deploy").join(file);
    match Command::new(program).args(arguments).arg(&path).stdin(Stdio::null()).output() {
        Ok(outcome) => assert!(outcome.status.success(), "{program} refuses {file}: {outcome:?}"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: no {program} to look at deploy/{file} with");
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

#[test]
fn prometheus_accepts_the_alerts() {
    expect_accepted("promtool", &["check", "rules"], "prometheus/alerts.yaml");
}

#[test]
fn the_schema_of_kubernetes_accepts_the_manifest() {
    expect_accepted("kubernetes-validate", &["--strict"], "kubernetes/dynarust.yaml");
}
