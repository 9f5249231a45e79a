//! Shell lines of a page, run.
//!
//! Each line is a command of its own; one that ends in `\`, or inside of quotes, goes on in the next. `DynaRust ADDRESS` and `cargo run
//! --release -- ADDRESS` start a node that runs to the end of the page. `curl -N` is a stream: it runs beside the lines that follow in its
//! block, until all that the block is to print is there. What a block prints stands in the block of text right below it; `...` in that stands for
//! anything in a line, and on a line of its own for any lines. Where something is expected, a command may fail.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::page::{self, Fence};
use crate::harness::{DEADLINE, Node, Setup, cluster::free_address, wait_until};

/// How the pages call the binary.
const BINARY: &str = "./target/release/DynaRust";
/// The same, from the sources.
const FROM_SOURCE: &str = "cargo run --release -- ";
/// What a block is not run for: builds, containers, and what sets the reader's own shell.
const NOT_RUN: [&str; 9] = [
    "cargo",
    "docker",
    "DYNARUST_STRONG_BACKEND=etcd",
    "export",
    "git",
    "openssl",
    "RUSTDOCFLAGS=-Dwarnings",
    "sudo",
    "taskset",
];
/// What may stand in a block that is run, beside the binary.
const RUN: [&str; 5] = ["curl", "cp", "mkdir", "mv", "printf"];
/// Where the nodes of a page listen.
const NODES: [&str; 4] = ["127.0.0.1:6660", "127.0.0.1:6661", "127.0.0.1:6662", "127.0.0.1:50051"];

/// Where the lines of a page are run: a directory, and addresses instead of those of the page.
pub struct Place {
    home: tempfile::TempDir,
    addresses: Vec<(&'static str, String)>,
    nodes: Vec<Node>,
    cluster: usize,
}

impl Place {
    /// A new one. Where no line starts the first node, it runs already.
    pub fn new(blocks: &[Block]) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        // Whatever is an HTTP error is a failure; no progress on stderr.
        let settings = "fail-with-body\nsilent\nshow-error\n";
        fs::write(home.path().join(".curlrc"), settings).expect("a file can be written");
        copy(&page::root().join("storage.db.example"), &home.path().join("storage.db.example"));
        let mut place = Self { home, addresses: free_addresses(), nodes: Vec::new(), cluster: 0 };
        let starts = blocks.iter().flat_map(|block| &block.lines).filter_map(Line::node_started);
        if !starts.into_iter().any(|words| words.contains(&NODES[0].to_owned())) {
            place.start(&[NODES[0].to_owned()]);
        }
        place
    }

    /// Starts a node with these arguments, and waits until all know each other.
    fn start(&mut self, words: &[String]) {
        let (variables, words): (Vec<_>, Vec<_>) = words.iter().partition(|word| is_variable(word));
        let mut words = words.into_iter().map(|word| self.moved(word)).collect::<Vec<_>>().into_iter();
        let mut setup = Setup::new().listen(&words.next().expect("where to listen"));
        for variable in variables {
            let (name, value) = variable.split_once('=').expect("it is a variable");
            setup = setup.environment(name, value);
        }
        // It joins nobody, and begins another cluster.
        if !words.clone().any(|word| is_address(&word)) {
            self.cluster = self.nodes.len();
        }
        let mut has_data = false;
        let mut is_path = false;
        for word in words {
            has_data |= word == "--data";
            let is_flag = ["--data", "--config", "--tokens"].contains(&&*word);
            setup = match std::mem::replace(&mut is_path, is_flag) {
                true => setup.argument(self.home.path().join(word)),
                false => setup.argument(word),
            };
        }
        if !has_data {
            setup = setup.flag("--data", self.home.path().join("storage.db"));
        }
        self.nodes.push(setup.start());
        self.wait_until_joined();
    }

    fn wait_until_joined(&self) {
        let addresses: Vec<_> = self.nodes.iter().map(|node| node.address().to_string()).collect();
        for node in &self.nodes[self.cluster..] {
            wait_until("each node is ready and knows all", DEADLINE, || {
                let members = node.get("/membership").text().to_owned();
                // A node that asks for a token does not tell; the pages have it alone.
                node.get("/readyz").status == 200
                    && (self.nodes.len() == 1 && node.get("/membership").status == 401
                        || addresses[self.cluster..].iter().all(|address| members.contains(&**address)))
            });
        }
    }

    /// `text` with the addresses that are there instead of those of the page.
    fn moved(&self, text: &str) -> String {
        self.addresses.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }
}

/// A free address for each node, in the same order as text.
fn free_addresses() -> Vec<(&'static str, String)> {
    let mut addresses = NODES.map(|_| free_address());
    addresses.sort();
    NODES.into_iter().zip(addresses).collect()
}

fn copy(source: &Path, target: &Path) {
    fs::create_dir(target).expect("a directory can be made");
    for entry in fs::read_dir(source).expect("a directory can be read") {
        let entry = entry.expect("an entry can be read");
        fs::copy(entry.path(), target.join(entry.file_name())).expect("a file can be copied");
    }
}

/// The blocks of shell lines that are run.
pub fn blocks(fences: &[Fence]) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_shell = false;
    for fence in fences {
        if is_shell && fence.follows && fence.kind == "text" {
            blocks.last_mut().expect("a shell block came before").expected = Some(fence.lines.clone());
        }
        is_shell = Block::is_shell(fence);
        if is_shell {
            blocks.push(Block { lines: lines(&fence.lines), expected: None });
        }
    }
    blocks.retain(Block::is_run);
    blocks
}

/// Some commands, and what they print together, where that is said.
pub struct Block {
    lines: Vec<Line>,
    expected: Option<Vec<String>>,
}

impl Block {
    pub fn is_shell(fence: &Fence) -> bool {
        fence.kind == "sh"
    }

    /// How many lines it has.
    pub fn lines(&self) -> usize {
        self.lines.len()
    }

    fn is_run(&self) -> bool {
        let is_not_run = |line: &Line| line.node_started().is_none() && NOT_RUN.contains(&line.first_word());
        !self.lines.iter().any(is_not_run)
    }

    /// Runs it, and looks at what it prints.
    pub fn check(&self, page: &str, place: &mut Place) {
        let mut streams = Vec::new();
        let mut printed = String::new();
        for line in &self.lines {
            if let Some(words) = line.node_started() {
                place.start(&words);
            } else if line.command.contains(" -N") {
                streams.push(Stream::start(place, line));
            } else {
                let program = line.first_word();
                assert!(program == BINARY || RUN.contains(&program), "{page}: {program} is not run here");
                printed.push_str(&line.run(page, place, self.expected.is_some()));
            }
        }
        if let Some(expected) = &self.expected {
            let expected: Vec<_> = expected.iter().map(|line| place.moved(line)).collect();
            check_printed(page, &expected, &printed, &streams);
        }
    }
}

/// In order; beside streams, whose lines may come between any others, in any order.
fn check_printed(page: &str, expected: &[String], printed: &str, streams: &[Stream]) {
    if streams.is_empty() {
        let lines: Vec<_> = printed.lines().collect();
        let wanted: Vec<_> = expected.iter().map(String::as_str).collect();
        let wanted_text = expected.join("\n");
        assert!(all_match(&wanted, &lines), "{page}: expected\n{wanted_text}\nbut it printed\n{printed}");
        return;
    }
    for wanted in expected.iter().filter(|line| !line.trim().is_empty()) {
        wait_until(&format!("{page}: a line `{wanted}`"), DEADLINE, || {
            let of_streams = streams.iter().map(Stream::printed).collect::<String>();
            printed.lines().chain(of_streams.lines()).any(|line| matches(wanted, line))
        });
    }
}

/// A command line.
struct Line {
    command: String,
}

impl Line {
    /// The program, without variables that are set for it.
    fn first_word(&self) -> &str {
        let mut words = self.command.split_whitespace();
        words.find(|word| !is_variable(word) || NOT_RUN.contains(word)).unwrap_or_default()
    }

    /// The variables and arguments of a line that starts a node.
    fn node_started(&self) -> Option<Vec<String>> {
        let command = self.command.replace(FROM_SOURCE, &format!("{BINARY} "));
        let words: Vec<String> =
            command.trim_end_matches('&').split_whitespace().map(str::to_owned).collect();
        let at = words.iter().position(|word| word == BINARY)?;
        let starts = words[..at].iter().all(|word| is_variable(word))
            && words.get(at + 1).is_some_and(|word| is_address(word));
        starts.then(|| words.into_iter().filter(|word| word != BINARY).collect())
    }

    fn shell(&self, place: &Place) -> Command {
        let command = place.moved(&self.command.replace(BINARY, env!("CARGO_BIN_EXE_DynaRust")));
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(command).current_dir(place.home.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DYNARUST_") {
                shell.env_remove(name);
            }
        }
        shell.env("CURL_HOME", place.home.path());
        // Commands that name no node ask the first one, and no context of the developer's.
        shell.env("DYNARUST_ENDPOINT", place.moved(NODES[0])).env("XDG_CONFIG_HOME", place.home.path());
        shell.env_remove("CLUSTER_SECRET").env_remove("CLUSTER_SECRET_FILE");
        shell
    }

    /// Runs it; what it printed. Where that is looked at it may fail.
    fn run(&self, page: &str, place: &Place, is_expected: bool) -> String {
        let output = self.shell(place).output().expect("sh runs");
        let printed = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        let errors = String::from_utf8_lossy(&output.stderr);
        let is_good = is_expected || output.status.success();
        assert!(is_good, "{page}: {}: {}\n{printed}{errors}", self.command, output.status);
        if printed.is_empty() || printed.ends_with('\n') { printed } else { printed + "\n" }
    }
}

/// A command that goes on printing.
struct Stream {
    child: Child,
    output: tempfile::NamedTempFile,
}

impl Stream {
    fn start(place: &Place, line: &Line) -> Self {
        let line = Line { command: format!("exec {}", line.command.trim_end_matches('&').trim_end()) };
        let output = tempfile::NamedTempFile::new().expect("a temporary file");
        let child =
            line.shell(place).stdout(output.reopen().expect("a temporary file")).spawn().expect("sh runs");
        let stream = Self { child, output };
        wait_until("the stream has begun", DEADLINE, || !stream.printed().is_empty());
        stream
    }

    fn printed(&self) -> String {
        fs::read_to_string(self.output.path()).expect("the output is UTF-8")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(code: &[String]) -> Vec<Line> {
    let mut found: Vec<Line> = Vec::new();
    let mut code = code.iter().map(|line| line.trim());
    while let Some(line) = code.next() {
        let mut command = line.to_owned();
        loop {
            if let Some(start) = command.strip_suffix('\\') {
                command = format!("{start}{}", code.next().unwrap_or_default());
            } else if command.matches('\'').count() % 2 == 1 {
                command = format!("{command}\n{}", code.next().expect("quotes end"));
            } else {
                break;
            }
        }
        if !command.is_empty() {
            found.push(Line { command });
        }
    }
    found
}

fn is_address(word: &str) -> bool {
    word.contains(':') && !word.starts_with('-')
}

/// Whether it sets a variable for the command behind it.
fn is_variable(word: &str) -> bool {
    let name = word.split_once('=').map_or("", |(name, _)| name);
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

/// What the shell would look for patterns in.
pub fn outside_quotes(line: &str) -> String {
    let mut quote = None;
    let mut found = String::new();
    for letter in line.chars() {
        match quote {
            Some(open) if open == letter => quote = None,
            Some(_) => {}
            None if ['\'', '"'].contains(&letter) => quote = Some(letter),
            None => found.push(letter),
        }
    }
    found
}

/// Whether the lines are those wanted, where a line `...` stands for any lines.
pub fn all_match(wanted: &[&str], lines: &[&str]) -> bool {
    match (wanted, lines) {
        ([], []) => true,
        (["...", rest @ ..], _) => (0..=lines.len()).any(|at| all_match(rest, &lines[at..])),
        ([first, rest @ ..], [line, lines @ ..]) => matches(first, line) && all_match(rest, lines),
        ([], _) | (_, []) => false,
    }
}

/// Whether `text` is `wanted`, where `...` in `wanted` stands for anything, and spaces for any number of them.
fn matches(wanted: &str, text: &str) -> bool {
    let spaced = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (wanted, text) = (spaced(wanted).replace(" ...", "...").replace("... ", "..."), spaced(text));
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
        ("a   b ... c", "a b x   c", true),
        ("a ... c", "a   c", true),
        (r#"{"version":"...","timestamp":...}"#, r#"{"version":"1-2","timestamp":3}"#, true),
    ] {
        assert_eq!(matches(wanted, text), is_match, "{wanted} {text}");
    }
}

#[test]
fn a_line_of_dots_stands_for_any_lines() {
    for (wanted, lines, is_match) in [
        (&["a", "...", "c"][..], &["a", "b", "b", "c"][..], true),
        (&["a", "...", "c"], &["a", "c"], true),
        (&["a", "...", "c"], &["a", "b"], false),
        (&["a"], &["a", "b"], false),
        (&["a", "b"], &["a"], false),
    ] {
        assert_eq!(all_match(wanted, lines), is_match, "{wanted:?} {lines:?}");
    }
}

#[test]
fn lines_go_on_behind_a_backslash_and_inside_of_quotes() {
    let code = ["curl a \\", "  b", "", "curl -d '[1,", "2]' c"].map(str::to_owned);
    let lines = lines(&code);
    let commands: Vec<_> = lines.iter().map(|line| line.command.as_str()).collect();
    assert_eq!(commands, ["curl a b", "curl -d '[1,\n2]' c"]);
}
