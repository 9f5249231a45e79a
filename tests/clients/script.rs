//! What the scripts in this folder try with the libraries, on a cluster of two. A script asks for the end and the start of nodes, a line for
//! each on its stdout (`ask kill 0`), and goes on when it is told `done`.

use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use super::{JAVASCRIPT, Language, PYTHON};
use crate::{
    harness::cluster::{Cluster, wait_until_ready},
    pages::page,
};

fn check(language: &Language) {
    let Some(mut command) = language.command() else { return };
    let mut cluster = Cluster::start(2);
    let script = page::root().join("tests/clients").join(language.script);
    // It ends by itself, after 90 s at the latest.
    let mut child = command
        .arg(script)
        .args([cluster.address(0), cluster.address(1)])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let mut last = String::new();
    for line in BufReader::new(child.stdout.take().expect("stdout is piped")).lines() {
        last = line.expect("the program prints text");
        eprintln!("{}: {last}", language.script);
        if let Some(what) = last.strip_prefix("ask ") {
            obey(what, &mut cluster);
            stdin.write_all(b"done\n").expect("the program waits for it");
        }
    }
    let status = child.wait().expect("the program ends");
    assert!(status.success() && last == "all ok", "{}: {status}, after {last:?}", language.script);
}

fn obey(what: &str, cluster: &mut Cluster) {
    let (what, member) = what.split_once(' ').expect("what to do with which node");
    let member: usize = member.parse().expect("the number of a node");
    match what {
        "kill" => cluster.kill(member),
        "terminate" => drop(cluster.terminate(member)),
        "restart" => {
            cluster.restart(member);
            cluster.running().for_each(wait_until_ready);
        }
        other => panic!("nobody knows how to {other}"),
    }
}

/// Watches go on over a kill -9 and a restart, and over another node; calls fail over, time out and end when they are told to.
#[test]
fn the_client_for_javascript_survives_what_its_nodes_do() {
    check(&JAVASCRIPT);
}

/// The same, by threads and by asyncio.
#[test]
fn the_client_for_python_survives_what_its_nodes_do() {
    check(&PYTHON);
}
