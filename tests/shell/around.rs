//! Contexts, completions, manual pages, the screen, and the examples of the help texts.

use std::{fs, process::Command};

use super::{Shell, USAGE};
use crate::harness::{
    Node,
    fake::{Asked, Fake, Reply},
};

#[test]
fn contexts_are_kept_used_listed_and_removed() {
    let node = Node::start();
    let address = node.address().to_string();
    let shell = Shell::with_endpoint(None);
    assert!(shell.run(&["context", "list"]).printed().contains("there are no contexts"));
    shell.run(&["context", "add", "wrong", "127.0.0.1:1"]).printed();
    shell.run(&["context", "add", "home", &address, "--token", "secret"]).printed();
    let list = shell.run(&["context", "list"]).printed();
    assert!(list.lines().any(|line| line.starts_with("*  wrong")), "the first is in use: {list}");
    assert!(list.contains(&address) && !list.contains("secret"), "{list}");
    shell.run(&["put", "t", "k", "1", "--context", "home"]).printed();
    shell.run(&["context", "use", "home"]).printed();
    assert_eq!(shell.run(&["get", "t", "k"]).printed(), "1\n");
    assert!(shell.run(&["status"]).printed().contains(&address));
    shell.run(&["get", "t", "k", "--context", "hoem"]).expect(USAGE, &["did you mean \"home\"?"]);
    shell.run(&["context", "use", "other"]).expect(USAGE, &["other"]);
    shell.run(&["context", "add", "bad", "ftp://x"]).expect(USAGE, &["ftp://x"]);
    shell.run(&["context", "remove", "home"]).printed();
    shell.run(&["context", "remove", "home"]).expect(USAGE, &["home"]);
}

/// `members` sent the token of the context in use to every address that a foreign node named.
#[test]
fn the_token_of_a_context_goes_to_members_of_its_own_cluster_only() {
    let member = Fake::start(|_, _| Reply::json(200, r#"{"node":"b","keys":1}"#));
    let view = format!(r#"{{"members":[{{"node":"b","address":"{}","state":"alive"}}]}}"#, member.address());
    let node = Fake::start(move |_, _| Reply::json(200, &view));
    let has_token =
        |asked: &Asked| asked.headers.iter().any(|header| header == "authorization: bearer secret");
    let shell = Shell::with_endpoint(None);
    shell.run(&["context", "add", "home", node.address(), "--token", "secret"]).printed();
    shell.run(&["members", node.address()]).printed();
    let (of_node, of_member) = (node.asked(), member.asked());
    assert!(!of_member.is_empty() && !of_node.iter().chain(&of_member).any(has_token), "{of_member:?}");
    shell.run(&["members"]).printed();
    let of_member = member.asked().split_off(of_member.len());
    assert!(!of_member.is_empty() && of_member.iter().all(has_token), "{of_member:?}");
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let shell = Shell::with_endpoint(None);
    for name in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = shell.run(&["completions", name]).printed();
        assert!(script.contains("import") && script.contains("context"), "{name}");
    }
    let page = shell.run(&["man", "get"]).printed();
    assert!(
        page.contains(".TH") && page.contains("DynaRust") && page.contains("Reads the value of a key"),
        "{page}"
    );
    shell.run(&["man", "--dir", "pages"]).printed();
    let pages = fs::read_dir(shell.home().join("pages")).expect("a folder").count();
    assert!(pages > 25, "{pages} pages");
    shell.run(&["man", "gte"]).expect(USAGE, &["\"get\""]);
}

#[test]
fn top_prints_one_measurement_where_there_is_no_terminal() {
    let node = Node::start();
    let shell = Shell::at(&node);
    shell.run(&["put", "t", "k", "1"]).printed();
    let text = shell.run(&["top"]).printed();
    assert!(text.contains("WRITES/S") && text.contains(&node.address().to_string()), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&shell.run(&["top", "--json"]).printed()).expect("JSON");
    assert_eq!(
        (&json["nodes"][0]["state"], &json["nodes"][0]["keys"]),
        (&"self".into(), &1.into()),
        "{json}"
    );
}

/// The commands that a help text lists.
fn commands_of(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = lines.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Each command of the shell has examples in its help, and each example works, in this order.
#[test]
fn the_examples_of_the_help_texts_work() {
    // Those of others need a stopped node, a cluster, or end the node.
    const TRIED: [&str; 21] = [
        "put",
        "create",
        "get",
        "patch",
        "keys",
        "store",
        "count",
        "tables",
        "batch",
        "txn",
        "watch",
        "export",
        "import",
        "top",
        "context",
        "context add",
        "context use",
        "context list",
        "completions",
        "man",
        "del",
    ];
    let node = Node::start();
    let shell = Shell::at(&node);
    // It looked for a node on its working directory only, whatever DYNARUST_ENDPOINT said.
    assert!(shell.run(&["health"]).printed().contains("answers"));
    let binary = env!("CARGO_BIN_EXE_DynaRust");
    fs::create_dir(shell.home().join("bin")).expect("a folder");
    std::os::unix::fs::symlink(binary, shell.home().join("bin/DynaRust")).expect("a link");
    for (name, text) in [
        ("value.json", "{\"a\": 1}"),
        ("operations.json", "[{\"op\": \"put\", \"key\": \"erin\", \"value\": 1}]"),
        (
            "transaction.json",
            "{\"success\": [{\"op\": \"put\", \"table\": \"stock\", \"key\": \"apples\", \"value\": 10}]}",
        ),
        ("people.csv", "name,age\nAnn,31\n"),
    ] {
        fs::write(shell.home().join(name), text).expect("written");
    }
    let known = commands_of(&shell.run(&["--help"]).printed());
    for name in TRIED {
        let words: Vec<&str> = name.split(' ').collect();
        assert!(known.iter().any(|known| known == words[0]), "{name}");
        let help = shell.run(&[&words[..], &["--help"]].concat()).printed();
        let examples: Vec<_> = help
            .lines()
            .skip_while(|line| *line != "Examples:")
            .skip(1)
            .take_while(|line| !line.is_empty())
            .map(str::trim)
            .collect();
        assert!(!examples.is_empty(), "{name} has no example:\n{help}");
        for example in examples {
            run_example(&shell, &node, example);
        }
    }
}

fn run_example(shell: &Shell, node: &Node, example: &str) {
    if example == "DynaRust watch --count 1" && !super::follows_all_tables(node) {
        return;
    }
    if example.starts_with("DynaRust watch") && !example.contains("--snapshot") {
        // It waits for a change.
        let mut child = sh(shell, example).spawn().expect("sh runs");
        crate::harness::wait_until(example, crate::harness::DEADLINE, || {
            node.get("/stats").json()["subscriptions"] == 1
        });
        shell.run(&["put", "users", "alice", "{\"name\": \"Alice\", \"visits\": 1}"]).printed();
        assert!(child.wait().expect("it ends").success(), "{example}");
        return;
    }
    // What the examples take to be there.
    if example.contains("@value.json --if-absent") {
        shell.run(&["del", "users", "carol"]);
    }
    let output = sh(shell, example).output().expect("sh runs");
    assert!(output.status.success(), "{example}: {output:?}");
}

fn sh(shell: &Shell, line: &str) -> Command {
    let like = shell.command(&[]);
    let mut command = Command::new("sh");
    command.arg("-c").arg(line).current_dir(shell.home());
    for (name, value) in like.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", shell.home().join("bin").display()));
    command.stdin(std::process::Stdio::null());
    command
}

/// `DynaRust`, `DynaRust 6660` and `DynaRust :6660` are nodes; a word that is no address is a mistake that names the command.
#[test]
fn what_is_no_command_is_an_address_or_a_mistake() {
    let shell = Shell::with_endpoint(None);
    for port in ["0", ":0"] {
        let node = crate::harness::Setup::new().listen(port).start();
        assert!(node.address().ip().is_loopback(), "{port}");
    }
    shell.run(&["wacth"]).expect(USAGE, &["command watch"]);
    shell.run(&["get", "t"]).expect(USAGE, &["<KEY>"]);
    let absent = Shell::at(&Node::start());
    // Its node is gone.
    absent.run(&["get", "t", "k"]).expect(super::UNREACHABLE, &["no node answers"]);
}
