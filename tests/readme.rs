//! Every curl line of the README is run, in order, and does what the README says: those of the chapter on clusters against the
//! nodes that its lines start, on other ports, and the rest against one node.
//!
//! What a line prints is given below it in lines that start with `# -> `; `...` in them stands for anything. A line without
//! them has only to succeed, and one with them may show an error on purpose. A stream (`curl -N`) runs beside the
//! lines that follow it in its block, until it has printed what it is to print.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use crate::harness::{DEADLINE, Node, Setup, http::Request, wait_until};

const EXPECTED: &str = "# -> ";
/// How the README calls the binary where it runs it.
const BINARY: &str = "./target/release/DynaRust";
/// The chapter whose lines start nodes of their own.
const CLUSTER: &str = "\n## A cluster\n";
/// The nodes of that chapter.
const NODES: [&str; 3] = ["127.0.0.1:6660", "127.0.0.1:6661", "127.0.0.1:6662"];

#[test]
fn every_curl_line_of_the_readme_does_what_it_says() {
    let (before, _, after) = chapters(&readme());
    let blocks: Vec<_> = [before, after].iter().flat_map(|text| blocks(text)).collect();
    let count: usize = blocks.iter().map(Vec::len).sum();
    assert!(count > 0, "a README without a curl line");

    let node = Node::start();
    let place = Place::new(&node.home(), vec![("127.0.0.1:6660", node.address().to_string())]);
    for block in blocks {
        let mut streams = Vec::new();
        for line in block {
            match line.command.contains(" -N") {
                true => streams.push(Stream::start(&place, line)),
                false => line.check(&place),
            }
        }
        streams.into_iter().for_each(Stream::check);
    }
}

#[test]
fn the_cluster_of_the_readme_comes_up_and_does_what_it_says() {
    let (_, cluster, _) = chapters(&readme());
    let lines: Vec<_> = blocks(&cluster).into_iter().flatten().collect();
    let (starts, lines): (Vec<_>, Vec<_>) = lines.into_iter().partition(Line::starts_a_node);
    assert_eq!(starts.len(), NODES.len(), "a line for each node");

    let addresses = free_addresses();
    // As in the README, all is done in one directory.
    let home = tempfile::tempdir().expect("a directory");
    let nodes: Vec<Node> = starts.iter().map(|line| line.start(&addresses, home.path())).collect();
    for node in &nodes {
        wait_until("each node knows all", DEADLINE, || {
            let members = node.send(&Request::new("GET", "/membership")).text().to_owned();
            addresses.iter().all(|(_, address)| members.contains(&**address))
        });
    }
    let place = Place::new(home.path(), addresses);
    lines.iter().for_each(|line| line.check(&place));
}

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    fs::read_to_string(path).expect("there is a README.md")
}

/// What stands before the chapter on clusters, the chapter, and what follows it.
fn chapters(readme: &str) -> (String, String, String) {
    let (before, rest) = readme.split_once(CLUSTER).expect("a chapter on clusters");
    let end = rest.find("\n## ").expect("a chapter that follows");
    (before.to_owned(), rest[..end].to_owned(), rest[end..].to_owned())
}

/// A free address for each node of the README, in the same order as text.
fn free_addresses() -> Vec<(&'static str, String)> {
    let listeners = NODES.map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let mut addresses = listeners.map(|it| it.local_addr().expect("it is bound").to_string());
    addresses.sort();
    NODES.into_iter().zip(addresses).collect()
}

/// Where lines are run: in which directory, and at which addresses instead of those of the README.
struct Place {
    home: PathBuf,
    addresses: Vec<(&'static str, String)>,
}

impl Place {
    fn new(home: &Path, addresses: Vec<(&'static str, String)>) -> Self {
        // Whatever is an HTTP error is a failure; no progress on stderr.
        fs::write(home.join(".curlrc"), "fail-with-body\nsilent\nshow-error\n")
            .expect("a file can be written");
        Self { home: home.to_owned(), addresses }
    }
}

/// `text` with the addresses that are there instead of those of the README.
fn moved(text: &str, addresses: &[(&'static str, String)]) -> String {
    addresses.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// A command line and what it prints.
struct Line {
    command: String,
    expected: Vec<String>,
}

impl Line {
    /// Whether it is `DynaRust <LISTEN> ...`.
    fn starts_a_node(&self) -> bool {
        let mut words = self.command.split_whitespace();
        words.next() == Some(BINARY) && words.next().is_some_and(|word| word.contains(':'))
    }

    /// Starts the node that it starts, with its data in `home`.
    fn start(&self, addresses: &[(&'static str, String)], home: &Path) -> Node {
        let command = moved(&self.command, addresses);
        let mut words = command.split_whitespace().skip(1);
        let setup = Setup::new().listen(words.next().expect("where to listen"));
        let mut is_data = false;
        let in_home = |word: &str| match std::mem::replace(&mut is_data, word == "--data") {
            true => home.join(word).into_os_string(),
            false => word.into(),
        };
        words.map(in_home).fold(setup, Setup::argument).start()
    }

    fn shell(&self, place: &Place) -> Command {
        let command = self.command.replace(BINARY, env!("CARGO_BIN_EXE_DynaRust"));
        let command = moved(&command, &place.addresses);
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(command)
            .current_dir(&place.home)
            .env("CURL_HOME", &place.home)
            .env_remove("CLUSTER_SECRET")
            .env_remove("CLUSTER_SECRET_FILE")
            .stdin(Stdio::null());
        shell
    }

    fn check(&self, place: &Place) {
        let output = self.shell(place).output().expect("sh runs");
        let said = |output: &Output| {
            let errors = String::from_utf8_lossy(&output.stderr);
            format!("{}\n{}{errors}", self.command, String::from_utf8_lossy(&output.stdout))
        };
        if self.expected.is_empty() {
            assert!(output.status.success(), "{}: {}", output.status, said(&output));
            return;
        }
        let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        let expected = self.expected.join("\n");
        // One node shows its own address, and the README says so.
        let expected = if place.addresses.len() > 1 { moved(&expected, &place.addresses) } else { expected };
        assert!(matches(&expected, text.trim_end()), "{}", said(&output));
    }
}

/// A command that goes on printing.
struct Stream {
    line: Line,
    child: Child,
    output: tempfile::NamedTempFile,
}

impl Stream {
    fn start(place: &Place, mut line: Line) -> Self {
        line.command = format!("exec {}", line.command.trim_end_matches('&').trim_end());
        let output = tempfile::NamedTempFile::new().expect("a temporary file");
        let child =
            line.shell(place).stdout(output.reopen().expect("a temporary file")).spawn().expect("sh runs");
        let stream = Self { line, child, output };
        wait_until("the stream has begun", DEADLINE, || !stream.printed().is_empty());
        stream
    }

    fn printed(&self) -> String {
        fs::read_to_string(self.output.path()).expect("the output is UTF-8")
    }

    fn check(self) {
        wait_until(&format!("what `{}` prints", self.line.command), DEADLINE, || {
            let printed = self.printed();
            self.line.expected.iter().all(|wanted| printed.lines().any(|line| matches(wanted, line)))
        });
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of each block of shell code that are run: curl's, and this program's where it lies after a build.
fn blocks(readme: &str) -> Vec<Vec<Line>> {
    let mut blocks = Vec::new();
    let mut lines = readme.lines();
    while let Some(fence) = lines.by_ref().find(|line| line.trim_start().starts_with("```")) {
        let code: Vec<&str> =
            lines.by_ref().take_while(|line| !line.trim_start().starts_with("```")).collect();
        if matches!(fence.trim().trim_start_matches('`'), "" | "sh" | "shell" | "bash" | "console") {
            blocks.push(run_lines(&code));
        }
    }
    blocks
}

fn run_lines(code: &[&str]) -> Vec<Line> {
    let mut found = Vec::new();
    let mut code = code.iter().map(|line| line.trim()).peekable();
    while let Some(line) = code.next() {
        let mut command = line.strip_prefix("$ ").unwrap_or(line).to_owned();
        while let Some(start) = command.strip_suffix('\\') {
            command = format!("{start}{}", code.next().unwrap_or_default());
        }
        let mut expected = Vec::new();
        while let Some(text) = code.peek().and_then(|next| next.strip_prefix(EXPECTED)) {
            expected.push(text.to_owned());
            code.next();
        }
        if command.split_whitespace().next().is_some_and(|word| ["curl", BINARY].contains(&word)) {
            found.push(Line { command, expected });
        }
    }
    found
}

/// Whether `text` is `wanted`, where `...` in `wanted` stands for anything.
fn matches(wanted: &str, text: &str) -> bool {
    let mut parts = wanted.split("...");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[test]
fn dots_stand_for_anything() {
    for (wanted, text, is_match) in [
        ("abc", "abc", true),
        ("abc", "abcd", false),
        ("a...c", "abbbc", true),
        ("a...c", "ac", true),
        ("a...c", "acd", false),
        ("...", "", true),
        ("a...b...", "axxbxx", true),
        ("a...b...", "axx", false),
        (r#"{"version":"...","timestamp":...}"#, r#"{"version":"1-2","timestamp":3}"#, true),
    ] {
        assert_eq!(matches(wanted, text), is_match, "{wanted} {text}");
    }
}
