//! etcdctl, of Debian's `etcd-client`: what people type.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use super::Served;

/// A command; `None` where etcdctl is not installed, which is said.
fn etcdctl(address: SocketAddr, arguments: &[&str]) -> Option<Command> {
    let version =
        Command::new("etcdctl").arg("version").env("ETCDCTL_API", "3").stdout(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        eprintln!("skipped: it needs etcd-client installed");
        return None;
    }
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").arg(format!("--endpoints={address}")).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(command)
}

/// What a command prints, which must succeed.
fn run(address: SocketAddr, arguments: &[&str]) -> Option<String> {
    let output = etcdctl(address, arguments)?.output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    Some(text(&output.stdout) + &text(&output.stderr))
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a command that goes on, and returns the first lines that it prints.
fn begin(address: SocketAddr, arguments: &[&str], lines: usize) -> Option<(Ended, Vec<String>)> {
    let mut child = etcdctl(address, arguments)?.stderr(Stdio::null()).spawn().expect("it runs");
    let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let lines = stdout.lines().take(lines).map(|line| line.expect("it prints")).collect();
    Some((Ended(child), lines))
}

#[test]
fn keys_transactions_and_leases() {
    let served = Served::start();
    let run = |arguments: &[&str]| run(served.address, arguments);
    let Some(put) = run(&["put", "app/a", "1"]) else { return };
    assert_eq!(put, "OK\n");
    run(&["put", "app/b", "2"]);
    assert_eq!(run(&["get", "app/", "--prefix"]).as_deref(), Some("app/a\n1\napp/b\n2\n"));
    assert_eq!(run(&["get", "app/a", "--print-value-only"]).as_deref(), Some("1\n"));
    let mut txn = etcdctl(served.address, &["txn", "-i"]).expect("is installed");
    let mut child = txn.stdin(Stdio::piped()).spawn().expect("it runs");
    let script =
        "value(\"app/a\") = \"1\"\nver(\"app/c\") = \"0\"\n\nput app/c 3\nget app/c\n\nput app/d 4\n\n";
    child.stdin.take().expect("stdin is piped").write_all(script.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("SUCCESS") && text.ends_with("app/c\n3\n"), "{text}");
    assert_eq!(run(&["del", "app/", "--prefix"]).as_deref(), Some("3\n"));
    let granted = run(&["lease", "grant", "60"]).expect("is installed");
    let id = granted.split_whitespace().nth(1).expect("an id").to_owned();
    run(&["put", "leased", "1", &format!("--lease={id}")]);
    let left = run(&["lease", "timetolive", &id, "--keys"]).expect("is installed");
    assert!(left.contains("granted with TTL(60s)") && left.contains("attached keys([leased])"), "{left}");
    assert!(run(&["lease", "list"]).expect("is installed").contains(&id));
    assert!(
        run(&["lease", "keep-alive", "--once", &id])
            .expect("is installed")
            .contains("keepalived with TTL(60)")
    );
    assert!(run(&["lease", "revoke", &id]).expect("is installed").contains("revoked"));
    assert_eq!(run(&["get", "leased"]).as_deref(), Some(""));
}

#[test]
fn watches_locks_and_elections() {
    let served = Served::start();
    if run(served.address, &["put", "w", "1"]).is_none() {
        return;
    }
    run(served.address, &["put", "w", "2"]);
    let watched = begin(served.address, &["watch", "w", "--rev=2", "--prev-kv"], 8);
    let (_watch, lines) = watched.expect("is installed");
    // Before the second one is what it replaced.
    assert_eq!(lines, ["PUT", "w", "1", "PUT", "w", "1", "w", "2"]);
    let (_lock, lines) = begin(served.address, &["lock", "mutex"], 1).expect("is installed");
    let key = lines[0].clone();
    assert!(key.starts_with("mutex/"), "{key}");
    // Whoever waits for it gets it once it is free.
    let mut waiting = etcdctl(served.address, &["lock", "mutex"]).expect("is installed");
    let mut waiting = Ended(waiting.spawn().expect("it runs"));
    run(served.address, &["del", &key]);
    let mut line = String::new();
    BufReader::new(waiting.0.stdout.take().expect("stdout is piped"))
        .read_line(&mut line)
        .expect("it prints");
    assert!(line.starts_with("mutex/") && line.trim() != key, "{line}");
    let (_leader, lines) = begin(served.address, &["elect", "office", "me"], 2).expect("is installed");
    assert!(lines[0].starts_with("office/") && lines[1] == "me", "{lines:?}");
    let listening = begin(served.address, &["elect", "--listen", "office"], 2);
    assert_eq!(listening.expect("is installed").1[1], "me");
}

#[test]
fn operators_see_the_cluster() {
    let served = Served::start();
    let run = |arguments: &[&str]| run(served.address, arguments);
    if run(&["put", "a", "1"]).is_none() {
        return;
    }
    let status = run(&["endpoint", "status", "-w", "json"]).expect("is installed");
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let status = &status[0]["Status"];
    assert_eq!(
        (&status["header"]["revision"], &status["leader"]),
        (&2.into(), &status["header"]["member_id"])
    );
    assert!(run(&["endpoint", "health"]).expect("is installed").contains("is healthy"));
    let members = run(&["member", "list"]).expect("is installed");
    assert!(
        members.contains(&format!("http://{}", served.address)) && members.contains("started"),
        "{members}"
    );
    assert!(run(&["endpoint", "hashkv"]).expect("is installed").contains(&served.address.to_string()));
    assert_eq!(run(&["alarm", "list"]).as_deref(), Some(""));
    assert!(run(&["defrag"]).expect("is installed").contains("Finished defragmenting"));
    assert_eq!(run(&["compaction", "2"]).as_deref(), Some("compacted revision 2\n"));
    let mut text = String::new();
    let mut refused = etcdctl(served.address, &["member", "remove", "1"]).expect("is installed");
    let mut refused = refused.spawn().expect("it runs");
    refused.stderr.take().expect("stderr is piped").read_to_string(&mut text).expect("it prints");
    refused.wait().expect("it ends");
    assert!(text.contains("DynaRust leave"), "{text}");
}

/// `etcdctl check perf` writes for a minute: `DYNARUST_ETCD_PERF=1 cargo test --test tests etcd_api::etcdctl::check_perf`.
#[test]
fn check_perf_passes() {
    if std::env::var_os("DYNARUST_ETCD_PERF").is_none() {
        return;
    }
    let served = Served::start();
    let checked = run(served.address, &["check", "perf", "--load=s"]).expect("is installed");
    assert!(checked.contains("PASS"), "{checked}");
}
