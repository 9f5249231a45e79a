//! A page of docs/ as far as the tests need it: its tables, and what it has in backticks.

use std::{collections::BTreeSet, fs, path::Path};

/// A page, or a chapter of one.
pub struct Page {
    name: String,
    text: String,
}

impl Page {
    pub fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("docs/{name}: {error}"));
        Self { name: name.to_owned(), text }
    }

    /// What stands below `## {title}`, up to the next heading of that level.
    pub fn chapter(&self, title: &str) -> Self {
        let lines = self.text.lines().skip_while(|line| *line != format!("## {title}")).skip(1);
        let lines: Vec<_> = lines.take_while(|line| !line.starts_with("## ")).collect();
        assert!(!lines.is_empty(), "docs/{}: no chapter {title:?}", self.name);
        Self { name: self.name.clone(), text: lines.join("\n") }
    }

    /// Whether a table's first column is called so.
    pub fn has_table(&self, first_column: &str) -> bool {
        !self.rows_of(first_column).is_empty()
    }

    /// The rows, without their heads, of all tables whose first column is called so.
    #[track_caller]
    pub fn rows(&self, first_column: &str) -> Vec<Vec<&str>> {
        let rows = self.rows_of(first_column);
        assert!(!rows.is_empty(), "docs/{}: no table of {first_column:?}", self.name);
        rows
    }

    fn rows_of(&self, first_column: &str) -> Vec<Vec<&str>> {
        let mut rows = Vec::new();
        let mut lines = self.text.lines().peekable();
        while let Some(line) = lines.next() {
            let is_head = lines.peek().is_some_and(|next| next.starts_with("|---"));
            if is_head && cells(line)[0] == first_column {
                lines.next();
                while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                    rows.push(cells(row));
                }
            }
        }
        rows
    }

    /// All names in the first column of those tables.
    pub fn names(&self, first_column: &str) -> BTreeSet<&str> {
        self.rows(first_column).into_iter().flat_map(|row| in_backticks(row[0])).collect()
    }

    /// Every word in code, inline or in a block.
    pub fn words_of_code(&self) -> BTreeSet<&str> {
        let blocks = self.text.split("```").skip(1).step_by(2);
        let prose = self.text.split("```").step_by(2);
        let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let code = blocks.chain(prose.flat_map(in_backticks));
        code.flat_map(|code| code.split(|letter| !is_word(letter))).collect()
    }
}

fn cells(row: &str) -> Vec<&str> {
    row.trim().trim_start_matches('|').trim_end_matches('|').split('|').map(str::trim).collect()
}

/// What stands between single backticks.
pub fn in_backticks(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}
