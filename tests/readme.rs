//! Every curl line of the README is run, in order, against one node, and does what the README says.
//!
//! What a line prints is given below it in lines that start with `# -> `; `...` in them stands for anything. A line without
//! them has only to succeed, and one with them may show an error on purpose. A stream (`curl -N`) runs beside the
//! lines that follow it in its block, until it has printed what it is to print.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use crate::harness::{DEADLINE, Node, wait_until};

const EXPECTED: &str = "# -> ";

#[test]
fn every_curl_line_of_the_readme_does_what_it_says() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).expect("there is a README.md");
    let blocks = blocks(&readme);
    let count: usize = blocks.iter().map(Vec::len).sum();
    assert!(count > 0, "a README without a curl line");

    let node = Node::start();
    // Whatever is an HTTP error is a failure; no progress on stderr.
    fs::write(node.home().join(".curlrc"), "fail-with-body\nsilent\nshow-error\n")
        .expect("a file can be written");
    for block in blocks {
        let mut streams = Vec::new();
        for line in block {
            match line.command.contains(" -N") {
                true => streams.push(Stream::start(&node, line)),
                false => line.check(&node),
            }
        }
        streams.into_iter().for_each(Stream::check);
    }
}

/// A command line and what it prints.
struct Line {
    command: String,
    expected: Vec<String>,
}

impl Line {
    fn shell(&self, node: &Node) -> Command {
        let address = node.address().to_string();
        let command = self.command.replace("127.0.0.1:6660", &address).replace("localhost:6660", &address);
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(command)
            .current_dir(node.home())
            .env("CURL_HOME", node.home())
            .stdin(Stdio::null());
        shell
    }

    fn check(&self, node: &Node) {
        let output = self.shell(node).output().expect("sh runs");
        let said = |output: &Output| {
            let errors = String::from_utf8_lossy(&output.stderr);
            format!("{}\n{}{errors}", self.command, String::from_utf8_lossy(&output.stdout))
        };
        if self.expected.is_empty() {
            assert!(output.status.success(), "{}: {}", output.status, said(&output));
            return;
        }
        let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        assert!(matches(&self.expected.join("\n"), text.trim_end()), "{}", said(&output));
    }
}

/// A command that goes on printing.
struct Stream {
    line: Line,
    child: Child,
    output: tempfile::NamedTempFile,
}

impl Stream {
    fn start(node: &Node, mut line: Line) -> Self {
        line.command = format!("exec {}", line.command.trim_end_matches('&').trim_end());
        let output = tempfile::NamedTempFile::new().expect("a temporary file");
        let child =
            line.shell(node).stdout(output.reopen().expect("a temporary file")).spawn().expect("sh runs");
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

/// The curl lines of each block of shell code.
fn blocks(readme: &str) -> Vec<Vec<Line>> {
    let mut blocks = Vec::new();
    let mut lines = readme.lines();
    while let Some(fence) = lines.by_ref().find(|line| line.trim_start().starts_with("```")) {
        let code: Vec<&str> =
            lines.by_ref().take_while(|line| !line.trim_start().starts_with("```")).collect();
        if matches!(fence.trim().trim_start_matches('`'), "" | "sh" | "shell" | "bash" | "console") {
            blocks.push(curl_lines(&code));
        }
    }
    blocks
}

fn curl_lines(code: &[&str]) -> Vec<Line> {
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
        if !command.starts_with('#') && command.split_whitespace().any(|word| word == "curl") {
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
