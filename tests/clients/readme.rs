//! The blocks of code of the READMEs, those of each page run as one program from the top to the end. A block of text right below one shows what it prints,
//! where `...` stands for anything.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use super::{JAVASCRIPT, Language, PYTHON};
use crate::{
    harness::{DEADLINE, cluster::Cluster},
    pages::{
        page::{self, Page},
        shell,
    },
};

/// A line that parts what one block prints from what the next does.
const MARK: &str = "=== next block ===";
/// The nodes of the pages.
const NODES: [&str; 2] = ["127.0.0.1:6660", "127.0.0.1:6661"];

/// A block of code, and what it is to print.
struct Block {
    code: String,
    expected: Option<Vec<String>>,
}

fn blocks(page: &Page, language: &Language) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_ours = false;
    for fence in page.fences() {
        if is_ours && fence.follows && fence.kind == "text" {
            blocks.last_mut().expect("a block of code came before").expected = Some(fence.lines.clone());
        }
        is_ours = fence.kind == language.fence;
        if is_ours {
            blocks.push(Block { code: fence.lines.join("\n"), expected: None });
        }
    }
    blocks
}

/// Runs the blocks of a page, and compares what they print.
fn check(page_name: &str, language: &Language, command: &mut Command, cluster: &Cluster) {
    let blocks = blocks(&Page::read(page_name), language);
    assert!(blocks.len() > 5, "{page_name}: hardly a block of {}", language.fence);
    let output = start(command, &program(&blocks, language, cluster)).wait_with_output();
    let output = output.expect("the program ends");
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{page_name}: {}\n{printed}\n{errors}", output.status);
    let mut parts = printed.split(MARK);
    for Block { code, expected } in &blocks {
        let printed = parts.next().unwrap_or_default().trim();
        if let Some(expected) = expected {
            let wanted: Vec<_> = expected.iter().map(String::as_str).collect();
            let lines: Vec<_> = printed.lines().collect();
            assert!(shell::all_match(&wanted, &lines), "{page_name}:\n{code}\nprinted\n{printed}");
        }
    }
}

/// The five lines in the README of the project: they print what they read, and then what they see, without an end.
fn check_first_lines(language: &Language, command: &mut Command, cluster: &Cluster) {
    let blocks = blocks(&Page::read("README.md"), language);
    assert_eq!(blocks.len(), 1, "README.md: one block of {}", language.fence);
    let mut child = start(command, &program(&blocks, language, cluster));
    let stdout = child.stdout.take().expect("stdout is piped");
    let (tell, told) = mpsc::channel();
    let reader = thread::spawn(move || {
        let names = BufReader::new(stdout).lines().map_while(Result::ok).filter(|line| line.contains("Bob"));
        names.for_each(|line| drop(tell.send(line)));
    });
    for what in ["the value", "an event with it"] {
        told.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("README.md: it prints {what}"));
    }
    child.kill().expect("it goes on");
    child.wait().expect("it ends");
    reader.join().expect("its output was read");
}

/// One program of the blocks, for these nodes.
fn program(blocks: &[Block], language: &Language, cluster: &Cluster) -> String {
    let mark = language.print.replace("{}", MARK);
    let code = blocks.iter().map(|block| format!("{}\n{mark}\n", block.code)).collect::<String>();
    (0..NODES.len()).fold(code, |code, at| code.replace(NODES[at], &cluster.address(at)))
}

fn start(command: &mut Command, code: &str) -> Child {
    let mut child = command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(code.as_bytes()).expect("the program reads its code");
    child
}

fn check_readmes(language: &Language) {
    let Some(mut command) = language.command() else { return };
    let cluster = Cluster::start(NODES.len());
    let name = format!("clients/{}/README.md", language.name);
    command.args(language.from_stdin).current_dir(language.folder());
    check(&name, language, &mut command, &cluster);
    // What the README of the project shows of it.
    let mut command = language.command().expect("it was there just now");
    command.args(language.from_stdin).current_dir(page::root()).env("PYTHONPATH", PYTHON.folder());
    check_first_lines(language, &mut command, &cluster);
}

/// That one is compiled and run: see `rust_client`.
#[test]
fn the_readme_of_the_project_shows_what_that_of_the_rust_client_does() {
    let first = |page: &str| Page::read(page).fences().into_iter().find(|fence| fence.kind == "rust");
    let lines = |page: &str| first(page).expect("a block of Rust").lines;
    assert_eq!(lines("README.md"), lines("clients/rust/README.md"));
}

#[test]
fn the_readme_for_javascript_does_what_it_says() {
    check_readmes(&JAVASCRIPT);
}

#[test]
fn the_readme_for_python_does_what_it_says() {
    check_readmes(&PYTHON);
}
