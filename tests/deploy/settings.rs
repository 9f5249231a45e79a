//! The settings, names and paths in the service and the manifests, tried on a real node.

use std::collections::BTreeMap;

use super::read;
use crate::harness::{Node, Setup};

/// The settings of dynarust.env, those in comments too, and of the unit.
fn of_the_service() -> BTreeMap<String, String> {
    let file = read("systemd/dynarust.env");
    let lines = file.lines().map(|line| line.trim_start_matches('#'));
    let unit = read("systemd/dynarust.service");
    let inline =
        unit.lines().filter_map(|line| line.strip_prefix("Environment=")).flat_map(str::split_whitespace);
    let pairs = lines.chain(inline).filter_map(|line| line.split_once('='));
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let pairs = pairs.filter(|(name, value)| is_name(name) && !value.is_empty());
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The settings of the manifest, as they are in the pod `dynarust-0` of the namespace `shop`.
fn of_the_manifest() -> BTreeMap<String, String> {
    let manifest = read("kubernetes/dynarust.yaml");
    let lines: Vec<_> = manifest.lines().map(str::trim).collect();
    let pairs = lines.windows(2).filter_map(|pair| {
        let name = pair[0].strip_prefix("- name: ")?;
        let value = pair[1].strip_prefix("value: ")?.trim_matches('"');
        Some((name, value.replace("$(POD_NAME)", "dynarust-0").replace("$(POD_NAMESPACE)", "shop")))
    });
    pairs.map(|(name, value)| (name.to_owned(), value)).collect()
}

fn with(settings: &BTreeMap<String, String>, setup: Setup) -> Setup {
    settings.iter().fold(setup, |setup, (name, value)| setup.environment(name, value))
}

#[track_caller]
fn expect_known(settings: &BTreeMap<String, String>, arguments: &[&str]) {
    let own: Vec<_> = settings.keys().filter(|name| name.starts_with("DYNARUST_")).collect();
    assert!(own.len() > 2, "hardly a setting: {settings:?}");
    let setup = with(settings, Setup::new())
        .environment("CLUSTER_SECRET", "a secret of more than sixteen characters");
    let (_, outcome) = setup.run(&[&["config"], arguments].concat());
    assert_eq!(outcome.code(), Some(0), "{outcome:?}");
    for name in own {
        let shown = outcome.stdout.lines().any(|line| line.contains(&**name));
        assert!(shown, "{name} is no setting:\n{}", outcome.stdout);
    }
}

#[test]
fn the_settings_of_the_service_are_known() {
    expect_known(&of_the_service(), &[]);
}

#[test]
fn the_settings_of_the_manifest_are_known() {
    let manifest = read("kubernetes/dynarust.yaml");
    let arguments = manifest.lines().find_map(|line| line.trim().strip_prefix("args: "));
    let arguments: Vec<String> =
        serde_json::from_str(arguments.expect("arguments")).expect("a list of words");
    expect_known(&of_the_manifest(), &arguments.iter().map(String::as_str).collect::<Vec<_>>());
}

/// The names by which clients, other nodes and probes call a node, which the node must take for its own.
#[test]
fn a_node_of_the_manifest_answers_to_its_names_and_probes() {
    let mut settings = of_the_manifest();
    // It has no port here that others could know before it runs, and its log is read by the harness.
    for name in ["DYNARUST_ADVERTISE", "DYNARUST_LOG_FORMAT"] {
        settings.remove(name).expect("the manifest sets it");
    }
    let node: Node = with(&settings, Setup::new()).start();
    let ask = |path: &str, host: &str| {
        let mut connection = node.connect();
        let get = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        connection.write(get.as_bytes()).expect("bytes can be sent");
        connection.receive("GET").expect("an answer").status
    };
    for host in [
        "dynarust:6660",
        "dynarust.shop",
        "dynarust.shop.svc.cluster.local:6660",
        "dynarust-nodes:6660",
        "dynarust-2.dynarust-nodes:6660",
        "dynarust-2.dynarust-nodes.shop.svc.cluster.local:6660",
        "10.1.2.3:6660",
    ] {
        assert_eq!(ask("/t/keys", host), 200, "{host}");
    }
    assert_eq!(ask("/t/keys", "evil.example"), 421);
    let manifest = read("kubernetes/dynarust.yaml");
    let probes: Vec<_> =
        manifest.lines().filter_map(|line| line.trim().strip_prefix("httpGet: {path: ")).collect();
    assert_eq!(probes.len(), 3, "{probes:?}");
    for probe in probes {
        let path = probe.split(',').next().expect("a path");
        assert_eq!(ask(path, "10.1.2.3:6660"), 200, "{path}");
    }
}
