//! `watch`: what a program reads, what a command gets, and that it goes on over a restart of the node.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Stdio},
};

use serde_json::Value;

use super::{Done, Shell, USAGE};
use crate::harness::{DEADLINE, Node, wait_until};

/// A `watch` that runs, and its lines. Dropping it ends it.
struct Watch {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Watch {
    /// Starts it with the current values, and waits until it is there.
    fn start(shell: &Shell, arguments: &[&str]) -> Self {
        let arguments = [arguments, &["--snapshot"]].concat();
        let mut child = shell.command(&arguments).stderr(Stdio::null()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let mut watch = Self { child, lines };
        while watch.next()["event"] != "sync" {}
        watch
    }

    fn next(&mut self) -> Value {
        let line = self.lines.next().expect("it goes on").expect("text");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn changes_are_objects_and_go_on_over_a_restart_of_the_node() {
    let node = Node::start();
    let shell = Shell::at(&node);
    let mut all_of_table = Watch::start(&shell, &["watch", "t"]);
    let mut prefix = Watch::start(&shell, &["watch", "t", "--prefix", "b"]);
    let mut key = Watch::start(&shell, &["watch", "t", "b1"]);
    shell.run(&["put", "t", "a", "1.10"]).printed();
    shell.run(&["put", "t", "b1", "null"]).printed();
    shell.run(&["del", "t", "a"]).printed();
    for (event, member) in [("Updated", "a"), ("Updated", "b1"), ("Deleted", "a")] {
        let change = all_of_table.next();
        assert_eq!((&change["event"], &change["key"]), (&event.into(), &member.into()), "{change}");
    }
    let change = key.next();
    assert_eq!(prefix.next(), change);
    assert!(change["value"].is_null() && change["key"] == "b1" && change["version"].is_string(), "{change}");
    let cursor = change["cursor"].as_str().expect("a position").to_owned();

    let (setup, _) = {
        let address = node.address().to_string();
        let (setup, outcome) = node.terminate();
        (setup.listen(&address), outcome)
    };
    let node = setup.start();
    shell.run(&["put", "t", "b1", "2"]).printed();
    let mut next = key.next();
    // A node that cannot tell what was missed sends the current values.
    while next["event"] != "Updated" || next["value"].is_null() {
        next = key.next();
    }
    assert_eq!(next["value"], 2);
    // Any other text was taken for a cursor that the node does not know any more.
    shell.run(&["watch", "t", "--since", "yesterday"]).expect(USAGE, &["no cursor"]);
    let since = shell.run(&["watch", "t", "--since", &cursor, "--count", "1"]).printed();
    assert!(since.contains("\"b1\""), "{since}");
    drop(node);
}

#[test]
fn a_command_is_run_for_each_change() {
    let node = Node::start();
    let shell = Shell::at(&node);
    shell.run(&["put", "t", "k;rm", "{\"a\": 1}"]).printed();
    let command = "echo \"$DYNARUST_EVENT $DYNARUST_TABLE $DYNARUST_KEY\" >> seen; cat >> seen; exit 3";
    let done = shell.run(&["watch", "t", "--snapshot", "--exec", command, "--count", "1"]);
    assert!(done.stderr.contains("ended with"), "{done:?}");
    assert_eq!(done.printed(), "");
    let seen = fs::read_to_string(shell.home().join("seen")).expect("the command ran");
    let (first, second) = seen.split_once('\n').expect("two lines");
    assert_eq!(first, "Updated t k;rm");
    assert!(second.contains("\"value\":{\"a\":1}"), "{second}");
    shell.run(&["watch", "t", "k", "--prefix", "a"]).expect(USAGE, &["--prefix"]);
    shell.run(&["watch", "*", "k"]).expect(USAGE, &["table"]);
}

#[test]
fn watch_follows_all_tables_those_to_come_included() {
    let node = Node::start();
    let shell = Shell::at(&node);
    if !super::follows_all_tables(&node) {
        return;
    }
    let child = shell.command(&["watch", "--count", "2"]).spawn().expect("it starts");
    wait_until("it follows", DEADLINE, || node.get("/stats").json()["subscriptions"] == 1);
    shell.run(&["put", "one", "k", "1"]).printed();
    shell.run(&["put", "two", "k", "2"]).printed();
    let printed = Done::of(child).printed();
    assert!(printed.contains("\"one\"") && printed.contains("\"two\""), "{printed}");
}
