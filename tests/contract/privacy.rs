//! Other users of the machine see nothing of a node's data and secrets, and the node warns if they could.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::harness::Setup;

/// Everything below `path`, including itself.
fn all_below(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a directory can be read") {
            found.extend(all_below(&entry.expect("an entry").path()));
        }
    }
    found
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

#[track_caller]
fn expect_private(data: &Path) {
    let all = all_below(data);
    assert!(all.len() > 3, "{all:?}");
    for path in all {
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), wanted, "{}", path.display());
    }
}

#[test]
fn only_the_owner_can_read_data_even_of_an_earlier_version() {
    let node = Setup::new().start();
    let data = node.home().join("storage.db");
    // A long value has files of its own.
    let long = format!(r#"{{"value":"{}"}}"#, "x".repeat(900_000));
    node.put("/t/key/long", long.clone()).expect(200);
    expect_private(&data);
    let (setup, _) = node.terminate();
    expect_private(&data);
    for path in all_below(&data) {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("permissions can be set");
    }
    let node = setup.start();
    expect_private(&data);
    node.get("/t/key/long").expect_body(&long);
}

#[test]
fn the_node_warns_of_secrets_that_others_can_read() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let setup = Setup::new();
    let (secret, key) = (setup.home().join("secret"), setup.home().join("key.pem"));
    fs::write(&secret, "a secret that nobody knows\n").expect("a file can be written");
    fs::copy(fixtures.join("key.pem"), &key).expect("a file can be copied");
    let all = |mode| {
        for file in [&secret, &key] {
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("permissions can be set");
        }
    };
    all(0o644);
    let node = setup
        .environment("CLUSTER_SECRET_FILE", &secret)
        .flag("--tls-cert", fixtures.join("certificate.pem"))
        .flag("--tls-key", &key)
        .start();
    let warnings = |log: &str| log.lines().filter(|line| line.contains("chmod 600")).count();
    let log = node.log();
    assert_eq!(warnings(&log), 2, "{log}");
    assert!(log.contains("key.pem") && !log.contains("nobody knows"), "{log}");
    let (setup, _) = node.terminate();
    all(0o600);
    let log = setup.start().log();
    assert_eq!(warnings(&log), 2, "none was added: {log}");
}
