//! The commands against a node that serves HTTPS: which certificates they trust, and how they report others.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::harness::{Node, Outcome, Setup};

/// Exit codes of the contract, section 6.
const USAGE: Option<i32> = Some(2);
const UNREACHABLE: Option<i32> = Some(5);

const SECRET: &str = "correct horse battery staple";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A setup configured through the environment, as in a container. The certificate is for `localhost` only, and signed by `authority.pem`.
fn secured() -> Setup {
    Setup::new()
        .environment("DYNARUST_TLS_CERT", fixture("signed.pem"))
        .environment("DYNARUST_TLS_KEY", fixture("signed-key.pem"))
        .environment("CLUSTER_SECRET", SECRET)
}

fn run(arguments: &[&str]) -> Outcome {
    Setup::new().run(arguments).1
}

#[track_caller]
fn expect(outcome: &Outcome, code: Option<i32>, words: &[&str]) {
    assert_eq!(outcome.code(), code, "{outcome:?}");
    for word in words {
        assert!((outcome.stdout.clone() + &outcome.log).contains(word), "{word}: {outcome:?}");
    }
}

/// The image's health check.
fn health_check() -> Vec<String> {
    let image = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile"));
    let image = image.expect("the image's recipe can be read");
    let line = image.lines().find(|line| line.contains(r#"CMD ["DynaRust", "health""#));
    let line = line.expect("a health check").trim().trim_start_matches("CMD ");
    let words: Vec<String> = serde_json::from_str(line).expect("an array of words");
    words.into_iter().skip(1).collect()
}

/// No command spoke TLS, so the health check of a container that served HTTPS reported that nobody was there, and the container was
/// restarted. The same happened to a node on another port, or with its certificate given by flags. The check runs in the node's directory
/// and asks 127.0.0.1, which few certificates contain.
#[test]
fn the_health_check_finds_a_node_whatever_its_port_data_and_certificate() {
    let check = health_check();
    let check: Vec<&str> = check.iter().map(String::as_str).collect();
    for setup in [
        Setup::new(),
        Setup::new().listen("0.0.0.0:0"),
        Setup::new().flag("--tls-cert", fixture("signed.pem")).flag("--tls-key", fixture("signed-key.pem")),
        // It is alive and waits for others.
        Setup::new().join("127.0.0.1:1"),
    ] {
        let node = setup.start();
        let in_its_home = |arguments: &[&str]| {
            Setup::new().flag("--data", node.home().join("storage.db")).run_with(arguments)
        };
        expect(&in_its_home(&check), Some(0), &[&node.address().port().to_string()]);
        let storage = node.home().join("storage.db");
        let setup = node.kill();
        let dead = Setup::new().flag("--data", &storage).run_with(&check);
        expect(&dead, UNREACHABLE, &["no node answers"]);
        let node = setup.start();
        expect(&Setup::new().flag("--data", &storage).run_with(&check), Some(0), &[]);
        let (_setup, _) = node.terminate();
        expect(
            &Setup::new().flag("--data", &storage).run_with(&check),
            UNREACHABLE,
            &["no node runs on", "storage.db"],
        );
    }
}

#[test]
fn commands_use_tls_if_the_environment_names_the_certificate() {
    let node = secured().start();
    let address = node.address().to_string();
    let status = secured().run(&["status", &address]).1;
    expect(&status, Some(0), &["phase", "ready", &format!("https://{address}")]);
    for command in [&["members", &address][..], &["sync", &address]] {
        expect(&secured().run(command).1, Some(0), &[]);
    }
    let unknown = secured().run(&["forget", "nowhere:1", "--at", &address]).1;
    expect(&unknown, Some(3), &["nowhere:1"]);
    let told = secured().run(&["leave", &address]).1;
    expect(&told, Some(0), &[&format!("https://{address}")]);
    assert_eq!(node.wait().1.code(), Some(0));
}

#[test]
fn commands_in_a_container_configured_by_a_file_read_that_file() {
    let by_file = || {
        let setup = Setup::new().environment("DYNARUST_CONFIG", "node.toml");
        let text = format!(
            "tls-cert = {:?}\ntls-key = {:?}\ncluster-secret = {SECRET:?}\n",
            fixture("certificate.pem"),
            fixture("key.pem")
        );
        fs::write(setup.home().join("node.toml"), text).expect("a file can be written");
        setup
    };
    let node = by_file().start();
    let address = node.address().to_string();
    expect(&by_file().run(&["status", &address]).1, Some(0), &["ready"]);
    expect(&by_file().run(&["sync", &address]).1, Some(0), &[]);
}

#[test]
fn a_node_is_trusted_by_its_certificate_or_by_its_name_and_issuer() {
    let node = secured().start();
    let status = |url: &str, certificate: &str| {
        let certificate = fixture(certificate);
        run(&["status", url, "--tls-cert", certificate.to_str().expect("a path in text")])
    };
    let by_address = format!("https://{}", node.address());
    let by_name = format!("https://localhost:{}/", node.address().port());
    for (url, certificate) in
        [(&by_address, "signed.pem"), (&by_name, "signed.pem"), (&by_name, "authority.pem")]
    {
        expect(&status(url, certificate), Some(0), &["ready", url.trim_end_matches('/')]);
    }
    for (url, certificate) in
        [(&by_address, "authority.pem"), (&by_name, "certificate.pem"), (&by_address, "certificate.pem")]
    {
        expect(&status(url, certificate), UNREACHABLE, &[url.trim_end_matches('/'), "--tls-cert"]);
    }
    let file = fixture("key.pem");
    let no_certificate = run(&["status", &by_name, "--tls-cert", file.to_str().expect("a path in text")]);
    expect(&no_certificate, USAGE, &["key.pem", "CERTIFICATE"]);
}

/// A shell on a system that trusts this authority and no other.
fn trusting(authority: &str) -> Setup {
    // A directory of authorities counts beside the file.
    Setup::new().environment("SSL_CERT_FILE", fixture(authority)).environment("SSL_CERT_DIR", "")
}

#[test]
fn a_node_is_trusted_by_an_authority_of_the_system_for_its_name() {
    let node = secured().start();
    let by_name = format!("https://localhost:{}", node.address().port());
    for command in ["status", "members", "health"] {
        expect(&trusting("authority.pem").run(&[command, &by_name]).1, Some(0), &[]);
    }
    let by_address = format!("https://{}", node.address());
    expect(&trusting("authority.pem").run(&["status", &by_address]).1, UNREACHABLE, &["this system"]);
    // What is named counts alone.
    let named = fixture("certificate.pem");
    let named = ["status", &by_name, "--tls-cert", named.to_str().expect("a path in text")];
    expect(&trusting("authority.pem").run(&named).1, UNREACHABLE, &["--tls-cert"]);
}

#[test]
fn a_command_without_a_trusted_certificate_says_what_it_needs() {
    let node = secured().start();
    let address = node.address().to_string();
    let url = format!("https://{address}");
    for command in [&["members"][..], &["sync"], &["leave"], &["status"], &["forget", "a:1", "--at"]] {
        let without = trusting("certificate.pem").run(&[command, &[url.as_str()]].concat()).1;
        expect(&without, UNREACHABLE, &[&url, "this system", "--tls-cert", "DYNARUST_TLS_CERT"]);
        let nobody = trusting("none.pem").run(&[command, &[url.as_str()]].concat()).1;
        expect(&nobody, USAGE, &["127.0.0.1", "--tls-cert", "DYNARUST_TLS_CERT"]);
        let plainly = run(&[command, &[address.as_str()]].concat());
        expect(&plainly, UNREACHABLE, &[&address, "serves HTTPS", "--tls-cert", "DYNARUST_TLS_CERT"]);
    }
    node.terminate();
}

#[test]
fn a_command_with_an_http_url_does_not_use_tls() {
    let node = Node::start();
    let plain = format!("http://{}", node.address());
    expect(&secured().run(&["status", &plain]).1, Some(0), &["ready"]);
    expect(&run(&["members", &plain]), Some(0), &["self"]);
    // The same shell without `http://`: the error says what to do.
    let refused = secured().run(&["status", &node.address().to_string()]).1;
    expect(&refused, UNREACHABLE, &["does not speak TLS", "http://"]);
}
