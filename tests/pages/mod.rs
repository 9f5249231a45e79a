//! The pages that people read (README.md, CONTRIBUTING.md and docs/), held to what the program does.
//!
//! Each block of ```` ```sh ```` is run, from the top of its page to the end, against nodes of that page alone: those that its lines start,
//! or one at 127.0.0.1:6660. Every address is replaced by a free one. A ```` ```text ```` block right below shows what the block prints,
//! where `...` stands for anything; without one, each line must succeed. See `shell` for the rest.

mod operations;
pub mod page;
pub mod shell;

use std::{collections::BTreeSet, panic::resume_unwind, thread};

use page::{Fence, Page};
use shell::{Block, Place};

/// A README that is read to its end. Code counts as well.
const README_WORDS_MAX: usize = 700;

#[test]
fn every_shell_line_of_the_pages_does_what_it_says() {
    thread::scope(|scope| {
        let runs: Vec<_> = Page::all()
            .into_iter()
            .map(|page| (page.name.clone(), scope.spawn(move || run_page(&page))))
            .collect();
        let counts: Vec<(String, usize)> = runs
            .into_iter()
            .map(|(name, run)| (name, run.join().unwrap_or_else(|failure| resume_unwind(failure))))
            .collect();
        for name in ["README.md", "docs/cluster.md", "docs/operations.md"] {
            assert!(
                counts.iter().any(|(page, count)| page == name && *count > 0),
                "no line in {name}: {counts:?}"
            );
        }
    });
}

/// Runs all blocks of a page; how many lines they have.
fn run_page(page: &Page) -> usize {
    let blocks: Vec<Block> = shell::blocks(&page.fences());
    let count = blocks.iter().map(Block::lines).sum();
    if count > 0 {
        let mut place = Place::new(&blocks);
        blocks.iter().for_each(|block| block.check(&page.name, &mut place));
    }
    count
}

#[test]
fn the_readme_is_short() {
    let words = Page::read("README.md").text.split_whitespace().count();
    assert!(words <= README_WORDS_MAX, "{words} words, of {README_WORDS_MAX}");
}

/// zsh takes a bare `?`, `*` or `[` for a pattern, finds no such file, and runs nothing; `# -> x` it takes for a command that writes to
/// a file `x`.
#[test]
fn a_pasted_line_means_the_same_in_zsh() {
    let mut broken = Vec::new();
    for page in Page::all() {
        for fence in page.fences().iter().filter(|fence| Block::is_shell(fence)) {
            for line in &fence.lines {
                if shell::outside_quotes(line).contains(['?', '*', '[', '#']) {
                    broken.push(format!("{}: {line}", page.name));
                }
            }
        }
    }
    assert!(broken.is_empty(), "quote patterns, and put comments elsewhere:\n{}", broken.join("\n"));
}

#[test]
fn links_lead_to_pages_and_chapters_that_are_there() {
    let pages = Page::all();
    let mut broken = Vec::new();
    for page in &pages {
        for link in page.links() {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { page.name.clone() } else { page.beside(path) };
            let is_there = page::root().join(&target).exists();
            let anchors: Option<BTreeSet<String>> =
                pages.iter().find(|other| other.name == target).map(Page::anchors);
            let has_anchor = anchor.is_empty() || anchors.is_some_and(|anchors| anchors.contains(anchor));
            if !is_there || !has_anchor {
                broken.push(format!("{}: {link}", page.name));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

/// A block marked `bash`, or not at all, looks the same to a reader, and would never be run.
#[test]
fn fences_are_of_a_known_kind() {
    let mut broken = Vec::new();
    for page in Page::all() {
        for Fence { kind, lines, .. } in page.fences() {
            if !["sh", "text", "json", "js", "python", "rust", "toml", "yaml", "mermaid", "html", "http"]
                .contains(&&*kind)
            {
                broken.push(format!(
                    "{}: ```{kind} {}",
                    page.name,
                    lines.first().cloned().unwrap_or_default()
                ));
            }
        }
    }
    assert!(broken.is_empty(), "blocks of no known kind:\n{}", broken.join("\n"));
}
