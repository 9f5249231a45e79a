//! Rust source as far as the house rules need it: comments and literals blanked out, paths expanded, functions measured. Not a
//! parser: it sees tokens and braces, which is enough for what `rustfmt` has been over.

use std::{fs, path::Path};

/// A source file.
pub struct Source {
    /// From the top of the repository, with `/`.
    pub path: String,
    pub text: String,
    /// The text with every comment and literal blanked out, line for line.
    code: String,
}

impl Source {
    /// All Rust files of a folder of the repository and below, or one file; in the order of their paths.
    pub fn all_below(root: &Path, folder: &str) -> Vec<Self> {
        let mut sources = Vec::new();
        let mut left = vec![root.join(folder)];
        while let Some(path) = left.pop() {
            if let Ok(entries) = fs::read_dir(&path) {
                left.extend(entries.map(|entry| entry.expect("an entry can be read").path()));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("source is UTF-8");
                let path =
                    path.strip_prefix(root).expect("it lies below").to_string_lossy().replace('\\', "/");
                sources.push(Self::new(path, text));
            }
        }
        sources.sort_by(|one, other| one.path.cmp(&other.path));
        sources
    }

    fn new(path: String, text: String) -> Self {
        let code = blank(&text);
        Self { path, text, code }
    }

    /// The layer it belongs to: the first part of its path below src.
    pub fn layer(&self) -> &str {
        let below = self.path.split_once("src/").map_or(&*self.path, |(_, below)| below);
        let first = below.split('/').next().unwrap_or(below);
        first.trim_end_matches(".rs")
    }

    /// The module that it is, from the top of the crate.
    pub fn module(&self) -> Vec<String> {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path).trim_end_matches(".rs");
        let mut parts: Vec<String> = below.split('/').map(str::to_owned).collect();
        if ["lib", "main", "mod"].contains(&parts[parts.len() - 1].as_str()) {
            parts.pop();
        }
        parts
    }

    /// Whether all that is in it is tests.
    pub fn is_of_tests(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// How many lines stand above its tests.
    pub fn lines_above_tests(&self) -> usize {
        self.code_above_tests().lines().count()
    }

    /// Every path in the code above the tests, groups expanded: `std::{fs, io::Read}` is `std::fs` and `std::io::Read`.
    pub fn paths(&self) -> Vec<Vec<&str>> {
        let tokens = tokens(self.code_above_tests());
        let mut paths = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            at = read_path(&tokens, at, &[], &mut paths);
        }
        paths
    }

    /// Every function that has a body, and how many lines it has from its name to its last brace.
    pub fn functions(&self) -> Vec<(String, usize)> {
        let mut functions = Vec::new();
        let lines: Vec<&str> = self.code.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let words = tokens(line);
            let Some(at) = words.iter().position(|word| *word == "fn") else { continue };
            let Some(name) = words.get(at + 1) else { continue };
            if let Some(length) = body_lines(&lines[start..]) {
                functions.push(((*name).to_owned(), length));
            }
        }
        functions
    }

    /// The text above its tests, comments and literals included.
    pub fn text_above_tests(&self) -> &str {
        above_tests(&self.text)
    }

    /// Its lines, comments and literals blanked out.
    pub fn lines_of_code(&self) -> impl Iterator<Item = &str> {
        self.code.lines()
    }

    fn code_above_tests(&self) -> &str {
        above_tests(&self.code)
    }
}

fn above_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

/// Lines up to the brace that closes the first one opened; `None` where a semicolon comes first.
fn body_lines(lines: &[&str]) -> Option<usize> {
    let mut depth = 0;
    // An array type has a semicolon too: `fn bytes() -> [u8; 8]`.
    let mut brackets = 0;
    for (index, line) in lines.iter().enumerate() {
        for letter in line.chars() {
            match letter {
                '[' | '(' => brackets += 1,
                ']' | ')' => brackets -= 1,
                ';' if depth == 0 && brackets == 0 => return None,
                '{' => depth += 1,
                '}' => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(index + 1);
                    }
                }
                _ => {}
            }
        }
    }
    None
}

/// Words, `::`, and single signs.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
        let length = if is_word(first) {
            rest.find(|letter| !is_word(letter)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

/// Reads the path that starts at a token, if one does, below `prefix`; where to go on.
fn read_path<'a>(
    tokens: &[&'a str],
    mut at: usize,
    prefix: &[&'a str],
    paths: &mut Vec<Vec<&'a str>>,
) -> usize {
    let is_word = |token: &str| token.starts_with(|letter: char| letter.is_alphabetic() || letter == '_');
    let mut path = prefix.to_vec();
    if !tokens.get(at).is_some_and(|token| is_word(token)) {
        return at + 1;
    }
    loop {
        path.push(tokens[at]);
        at += 1;
        if tokens.get(at) != Some(&"::") {
            break;
        }
        match tokens.get(at + 1) {
            Some(next) if is_word(next) => at += 1,
            Some(&"{") => return read_group(tokens, at + 2, &path, paths),
            // A turbofish or a glob ends it.
            _ => break,
        }
    }
    paths.push(path);
    at
}

/// Reads the paths of a group up to its closing brace; where to go on.
fn read_group<'a>(
    tokens: &[&'a str],
    mut at: usize,
    prefix: &[&'a str],
    paths: &mut Vec<Vec<&'a str>>,
) -> usize {
    while tokens.get(at).is_some_and(|token| *token != "}") {
        at = read_path(tokens, at, prefix, paths);
    }
    at + 1
}

/// Blanks out comments and the insides of literals; lines stay where they are.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (kept, length) = next_piece(rest);
        let (piece, after) = rest.split_at(length);
        if kept {
            code.push_str(piece);
        } else {
            code.extend(piece.chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }));
        }
        rest = after;
    }
    code
}

/// Whether the text starts with code or with what is to be blanked out, and how long that is.
fn next_piece(text: &str) -> (bool, usize) {
    if text.starts_with("//") {
        return (false, text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return (false, text.find("*/").map_or(text.len(), |at| at + 2));
    }
    if text.starts_with('"') {
        return (false, string_length(text));
    }
    if let Some(length) = raw_string_length(text) {
        return (false, length);
    }
    if text.starts_with('\'') {
        return character_length(text).map_or((true, 1), |length| (false, length));
    }
    // A word as a whole, so that the r of `for"` or `br` is not taken for the start of a raw string.
    let word = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len());
    let first = text.chars().next().map_or(1, char::len_utf8);
    (true, word.max(first))
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string_length(text: &str) -> Option<usize> {
    let start = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = start.len() - start.trim_start_matches('#').len();
    if !start[hashes..].starts_with('"') {
        return None;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let opening = text.len() - start.len() + hashes + 1;
    Some(text[opening..].find(&end).map_or(text.len(), |at| opening + at + end.len()))
}

/// The length of a character literal; `None` for a lifetime.
fn character_length(text: &str) -> Option<usize> {
    let mut letters = text.char_indices().skip(1);
    let (_, first) = letters.next()?;
    if first == '\\' {
        letters.next()?;
        return letters.find(|(_, letter)| *letter == '\'').map(|(at, _)| at + 1);
    }
    letters.next().filter(|(_, letter)| *letter == '\'').map(|(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("src/core/x.rs".to_owned(), text.to_owned())
    }

    #[test]
    fn groups_are_expanded_and_comments_and_literals_are_not_code() {
        let text = "// warp\nuse std::{fs, io::{self, Read}};\n/* sled */ let a = \"tokio::x\"; let b = r#\"hyper \"q\" \"#;\n\
            let c = '\"'; let d: &'static str = tokio::spawn::<u8>();";
        let source = source(text);
        let paths: Vec<String> = source.paths().iter().map(|path| path.join("::")).collect();
        for expected in ["std::fs", "std::io::self", "std::io::Read", "tokio::spawn", "static"] {
            assert!(paths.iter().any(|path| path == expected), "{expected} in {paths:?}");
        }
        for hidden in ["warp", "sled", "hyper", "tokio::x"] {
            assert!(!paths.iter().any(|path| path == hidden), "{hidden} in {paths:?}");
        }
    }

    #[test]
    fn functions_are_measured_to_their_last_brace() {
        let source = source(
            "fn a() {\n  if x {\n  }\n}\ntrait T {\n  fn b() -> [u8; 4];\n}\nfn c() -> [u8; 4] {\n  \"}\"\n}\n",
        );
        assert_eq!(source.functions(), [("a".to_owned(), 4), ("c".to_owned(), 3)]);
    }

    #[test]
    fn what_stands_below_the_tests_is_left_out() {
        let source = source("use std::io;\n\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n");
        assert_eq!(source.lines_above_tests(), 1);
        assert!(!source.paths().contains(&vec!["std", "fs"]));
    }
}
