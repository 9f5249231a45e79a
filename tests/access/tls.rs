//! Certificates: those that `DynaRust certs` makes, those that change under a running node, and those that clients show.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::harness::{DEADLINE, Node, Outcome, Setup, wait_until};

/// A directory of certificates that the command made, and what it printed.
struct Made {
    folder: tempfile::TempDir,
    printed: String,
}

impl Made {
    fn new(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let made = Self { folder, printed: String::new() };
        let outcome = made.run(arguments);
        assert_eq!(outcome.code(), Some(0), "{outcome:?}");
        Self { printed: outcome.stdout, ..made }
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        let directory = self.file("");
        let directory = directory.to_str().expect("text").trim_end_matches('/');
        Setup::new().run(&[&["certs", directory][..], arguments].concat()).1
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("certs").join(name)
    }

    /// A node with these certificates.
    fn setup(&self) -> Setup {
        Setup::new()
            .flag("--tls-cert", self.file("server.pem"))
            .flag("--tls-key", self.file("server-key.pem"))
    }

    /// The line that begins so, of those that the command printed, with the address of the node.
    fn line(&self, begin: &str, node: &Node) -> String {
        let line = self.printed.lines().find(|line| line.starts_with(begin));
        let line = line.unwrap_or_else(|| panic!("no line {begin} in {}", self.printed));
        line.replace("127.0.0.1:6660", &node.address().to_string())
    }
}

/// Runs a line of a shell. `DynaRust` is the binary.
fn sh(line: &str) -> std::process::Output {
    let binary = env!("CARGO_BIN_EXE_DynaRust");
    let line = line.replacen("DynaRust ", &format!("{binary} "), usize::from(line.starts_with("DynaRust ")));
    Command::new("sh").args(["-c", &line]).stdin(Stdio::null()).output().expect("sh runs")
}

/// What curl gets of a node by this authority; `None` if it does not trust the node, or the node not the client.
fn curl(node: &Node, authority: &Path, arguments: &[&str], path: &str) -> Option<String> {
    let output = Command::new("curl")
        .args(["--silent", "--fail-with-body", "--cacert"])
        .arg(authority)
        .args(arguments)
        .arg(format!("https://{}{path}", node.address()))
        .output()
        .expect("curl runs");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

const OK: &str = r#"{"status":"ok"}"#;

#[test]
fn the_lines_that_certs_prints_start_a_node_and_ask_it() {
    let help = Setup::new().run(&["certs", "--help"]).1.stdout;
    assert!(help.contains("Example:\n  DynaRust certs certs\n"), "{help}");
    let made = Made::new(&[]);
    let node = made.setup().start();
    let start = made.line("DynaRust 127.0.0.1:", &node);
    let flags: Vec<&str> = start.split(' ').skip(2).collect();
    assert_eq!(
        flags,
        [
            "--tls-cert",
            made.file("server.pem").to_str().expect("text"),
            "--tls-key",
            made.file("server-key.pem").to_str().expect("text")
        ]
    );
    let answer = sh(&made.line("curl ", &node));
    assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), OK, "{answer:?}");
    let status = sh(&made.line("DynaRust status ", &node));
    assert!(status.status.success(), "{status:?}");
    // As the banner has it, which knows only this file.
    assert_eq!(curl(&node, &made.file("server.pem"), &[], "/healthz").as_deref().map(str::trim), Some(OK));

    let before = fs::read(made.file("server.pem")).expect("a file");
    let again = made.run(&["--host", "db.example.com"]);
    assert_eq!(again.code(), Some(2), "{again:?}");
    assert!(again.log.contains("ca.pem exists, and certificates are never overwritten"), "{again:?}");
    assert_eq!(fs::read(made.file("server.pem")).expect("a file"), before);
}

#[test]
fn clients_without_a_certificate_of_the_authority_are_turned_away_and_others_are_named() {
    let (made, strange) = (Made::new(&["--client", "alice"]), Made::new(&["--client", "alice"]));
    let text = |file: PathBuf| file.to_str().expect("text").to_owned();
    let shown = |of: &Made| [text(of.file("alice.pem")), text(of.file("alice-key.pem"))];
    let (own, other) = (shown(&made), shown(&strange));
    let (own, other) = (["--cert", &own[0], "--key", &own[1]], ["--cert", &other[0], "--key", &other[1]]);
    let node = made.setup().flag("--tls-client-ca", made.file("ca.pem")).start();
    let ca = made.file("ca.pem");
    assert_eq!(curl(&node, &ca, &own, "/healthz").as_deref().map(str::trim), Some(OK));
    assert_eq!(curl(&node, &ca, &[], "/healthz"), None);
    assert_eq!(curl(&node, &ca, &other, "/healthz"), None);
    for begin in ["curl ", "DynaRust status "] {
        let answer = sh(&made.line(begin, &node));
        assert!(answer.status.success(), "{answer:?}");
    }
    let token = fs::read_to_string(node.home().join("storage.db/dynarust.admin-token")).expect("a token");
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let sync = [&own[..], &["-X", "POST", "-H", &bearer]].concat();
    assert!(curl(&node, &ca, &sync, "/_/admin/sync").is_some());
    let log = node.log();
    let audit =
        log.lines().find(|line| line.contains("admin action ended")).unwrap_or_else(|| panic!("{log}"));
    assert!(audit.contains("by=\"operator\"") && audit.contains("certificate=\"alice\""), "{audit}");
    // Links need none.
    let second = made.setup().flag("--tls-client-ca", &ca).join(&node.address().to_string()).start();
    wait_until("the second node is ready", DEADLINE, || curl(&second, &ca, &own, "/readyz").is_some());

    let node = made.setup().flag("--tls-client-ca", &ca).flag("--tls-client-auth", "optional").start();
    assert!(curl(&node, &ca, &[], "/healthz").is_some() && curl(&node, &ca, &own, "/healthz").is_some());
    assert_eq!(curl(&node, &ca, &other, "/healthz"), None);
    for (arguments, words) in [
        (&["127.0.0.1:0", "--tls-client-ca", "ca.pem"][..], "tls-client-ca needs tls-cert"),
        (&["127.0.0.1:0", "--tls-client-auth", "optional"], "tls-client-auth needs tls-client-ca"),
        (&["127.0.0.1:0", "--tls-client-auth", "sometimes"], "not one of: required, optional"),
        (&["status", "http://127.0.0.1:1", "--tls-client-cert", "a.pem"], "belong together"),
    ] {
        let outcome = Setup::new().run(arguments).1;
        assert_eq!(outcome.code(), Some(2), "{outcome:?}");
        assert!((outcome.stdout + &outcome.log).contains(words), "{arguments:?} {words}");
    }
}

/// An open stream, and where curl writes what it gets.
fn stream(node: &Node, made: &Made, to: &Path) -> Child {
    Command::new("curl")
        .args(["--silent", "--no-buffer", "--cacert"])
        .arg(made.file("ca.pem"))
        .arg(format!("https://{}/t/subscribe/a", node.address()))
        .stdout(File::create(to).expect("a file"))
        .spawn()
        .expect("curl runs")
}

/// To renew a certificate a node had to be restarted.
#[test]
fn a_certificate_that_changes_is_used_for_new_connections_and_a_broken_one_is_not() {
    let (first, second) = (Made::new(&[]), Made::new(&[]));
    let node = first.setup().start();
    let serves = |made: &Made| curl(&node, &made.file("ca.pem"), &[], "/healthz").is_some();
    assert!(serves(&first) && !serves(&second));
    let told = first.folder.path().join("told");
    let mut open = stream(&node, &first, &told);
    let reads = |words: &str| fs::read_to_string(&told).unwrap_or_default().contains(words);
    wait_until("the stream is open", DEADLINE, || reads("id:"));

    let ca = first.folder.path().join("ca-before.pem");
    fs::copy(first.file("ca.pem"), &ca).expect("copied");
    fs::write(first.file("server.pem"), "-----BEGIN CERTIFICATE-----\nnonsense\n").expect("written");
    wait_until("the node says that the file is broken", DEADLINE, || {
        node.log().contains("CERTIFICATE NOT CHANGED: --tls-cert")
    });
    assert!(serves(&first), "the old one stays");
    for name in ["server-key.pem", "server.pem"] {
        fs::copy(second.file(name), first.file(name)).expect("copied");
    }
    node.signal("HUP");
    wait_until("new connections get the new certificate", DEADLINE, || serves(&second));
    assert!(!serves(&first) && node.log().contains("certificate reloaded"));
    // It failed from the first renewal on, and the container was restarted for it.
    let data = node.home().join("storage.db");
    let data = data.to_str().expect("text");
    wait_until("the health check trusts the new certificate", DEADLINE, || {
        Setup::new().run(&["health", "--data", data]).1.code() == Some(0)
    });
    let put = ["-X", "PUT", "-d", r#"{"value":"still here"}"#];
    assert!(curl(&node, &second.file("ca.pem"), &put, "/t/key/a").is_some());
    wait_until("the open stream goes on", DEADLINE, || reads("still here"));
    open.kill().expect("it can be ended");
    open.wait().expect("it ends");
}
