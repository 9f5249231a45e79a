//! A page of Markdown: its blocks of code, its tables, its links and chapters.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Pages outside of `docs`, of which all are read.
const OTHERS: [&str; 4] =
    ["README.md", "CONTRIBUTING.md", "clients/javascript/README.md", "clients/python/README.md"];

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// A page.
pub struct Page {
    /// Its path in the repository.
    pub name: String,
    pub text: String,
}

/// A block of code.
pub struct Fence {
    /// What stands behind the backticks.
    pub kind: String,
    pub lines: Vec<String>,
    /// Whether nothing but blank lines is between it and the block before.
    pub follows: bool,
}

impl Page {
    pub fn read(name: &str) -> Self {
        let text = fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name: name.to_owned(), text }
    }

    /// All there are.
    pub fn all() -> Vec<Self> {
        let docs = fs::read_dir(root().join("docs")).expect("there is a folder docs");
        let mut names: Vec<String> = docs
            .map(|entry| entry.expect("an entry can be read").file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".md"))
            .map(|name| format!("docs/{name}"))
            .collect();
        names.extend(OTHERS.map(str::to_owned));
        names.sort();
        names.iter().map(|name| Self::read(name)).collect()
    }

    pub fn fences(&self) -> Vec<Fence> {
        let mut fences: Vec<Fence> = Vec::new();
        let mut open: Option<Fence> = None;
        let mut follows = false;
        for line in self.text.lines() {
            match (&mut open, line.trim_start().strip_prefix("```")) {
                (Some(_), Some(_)) => {
                    fences.extend(open.take());
                    follows = true;
                }
                (Some(fence), None) => fence.lines.push(line.to_owned()),
                (None, Some(kind)) => {
                    open = Some(Fence { kind: kind.trim().to_owned(), lines: Vec::new(), follows });
                }
                (None, None) => follows &= line.trim().is_empty(),
            }
        }
        assert!(open.is_none(), "{}: a block that does not end", self.name);
        fences
    }

    /// The text outside of blocks of code.
    pub fn prose(&self) -> String {
        let mut is_code = false;
        let is_prose = |line: &&str| {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            !is_code && !is_fence
        };
        self.text.lines().filter(is_prose).collect::<Vec<_>>().join("\n")
    }

    /// What stands between single backticks.
    pub fn inline_code(&self) -> Vec<String> {
        in_backticks(&self.prose()).into_iter().map(str::to_owned).collect()
    }

    /// Every word in code, inline or in a block.
    pub fn words_of_code(&self) -> BTreeSet<String> {
        let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let blocks = self.fences().into_iter().flat_map(|fence| fence.lines);
        let code = blocks.chain(self.inline_code());
        code.flat_map(|code| code.split(|letter| !is_word(letter)).map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    /// What stands below `## {title}`, up to the next heading of that level.
    #[track_caller]
    pub fn chapter(&self, title: &str) -> Self {
        let lines = self.text.lines().skip_while(|line| *line != format!("## {title}")).skip(1);
        let lines: Vec<_> = lines.take_while(|line| !line.starts_with("## ")).collect();
        assert!(!lines.is_empty(), "{}: no chapter {title:?}", self.name);
        Self { name: self.name.clone(), text: lines.join("\n") }
    }

    /// All tables, each with the name of its first column and its rows, cell by cell.
    fn tables(&self) -> Vec<(&str, Vec<Vec<&str>>)> {
        let mut tables = Vec::new();
        let mut lines = self.text.lines().peekable();
        while let Some(line) = lines.next() {
            if lines.next_if(|next| next.starts_with("|--") || next.starts_with("| --")).is_some() {
                let rows = std::iter::from_fn(|| lines.next_if(|line| line.starts_with('|')).map(cells));
                tables.push((cells(line)[0], rows.collect()));
            }
        }
        tables
    }

    /// The rows of all tables, without their heads.
    pub fn rows(&self) -> Vec<Vec<&str>> {
        self.tables().into_iter().flat_map(|(_, rows)| rows).collect()
    }

    /// Whether a table's first column is called so.
    pub fn has_table(&self, first_column: &str) -> bool {
        self.tables().iter().any(|(first, _)| *first == first_column)
    }

    /// The rows, without their heads, of all tables whose first column is called so.
    #[track_caller]
    pub fn rows_of(&self, first_column: &str) -> Vec<Vec<&str>> {
        assert!(self.has_table(first_column), "{}: no table of {first_column:?}", self.name);
        let tables = self.tables().into_iter().filter(|(first, _)| *first == first_column);
        tables.flat_map(|(_, rows)| rows).collect()
    }

    /// All names in the first column of those tables.
    #[track_caller]
    pub fn names(&self, first_column: &str) -> BTreeSet<&str> {
        self.rows_of(first_column).into_iter().flat_map(|row| in_backticks(row[0])).collect()
    }

    /// Links to other pages and chapters.
    pub fn links(&self) -> Vec<String> {
        let prose = self.prose();
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        let targets = targets.map(|(target, _)| target.to_owned());
        targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:")).collect()
    }

    /// The path in the repository of what this page calls `path`.
    pub fn beside(&self, path: &str) -> String {
        let mut parts: Vec<&str> = self.name.split('/').collect();
        parts.pop();
        for part in path.split('/') {
            match part {
                "." | "" => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        parts.join("/")
    }

    /// The names under which its chapters can be linked to, as GitHub makes them.
    pub fn anchors(&self) -> BTreeSet<String> {
        let prose = self.prose();
        let headings = prose.lines().filter(|line| line.starts_with('#'));
        let anchor = |heading: &str| {
            let text = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = text.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
            kept.collect::<String>().replace(' ', "-")
        };
        headings.map(anchor).collect()
    }
}

/// The cells of a row of a table. A bar in code parts nothing.
fn cells(row: &str) -> Vec<&str> {
    let row = row.trim().trim_start_matches('|').trim_end_matches('|');
    let mut is_code = false;
    let parts = row.split(move |letter| {
        is_code ^= letter == '`';
        letter == '|' && !is_code
    });
    parts.map(str::trim).collect()
}

/// What stands between single backticks.
pub fn in_backticks(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}
