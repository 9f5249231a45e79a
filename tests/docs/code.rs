//! The names that src has in its text and in no table: found where `rustfmt` has put them. A test compares what is found here with
//! what the docs say, both ways, so that a change which hides a name from this file fails as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::tidy::source::Source;

/// The source above its tests, without comments.
pub struct Code(String);

impl Code {
    /// That of a folder or a file of the repository.
    pub fn below(folder: &str) -> Self {
        Self::of(&Source::all_below(Path::new(env!("CARGO_MANIFEST_DIR")), folder))
    }

    fn of(sources: &[Source]) -> Self {
        let lines = sources.iter().flat_map(|source| source.text_above_tests().lines());
        let code = lines.filter(|line| !line.trim_start().starts_with("//"));
        Self(code.collect::<Vec<_>>().join("\n"))
    }

    /// From a line that begins so to the one that closes its brace.
    #[track_caller]
    pub fn block(&self, beginning: &str) -> &str {
        let at = self.0.find(beginning).unwrap_or_else(|| panic!("src has no {beginning:?}"));
        let line = self.0[..at].rfind('\n').map_or(0, |end| end + 1);
        let indent = &self.0[line..at];
        let end = self.0[at..].find(&format!("\n{indent}}}")).expect("its brace is closed");
        &self.0[at..at + end]
    }

    /// Each text that stands between one of the beginnings and the end that follows.
    pub fn between<'a>(&'a self, beginnings: &[&str], end: &str) -> Vec<&'a str> {
        let found = |beginning: &&str| {
            let rests = self.0.split(beginning).skip(1);
            rests.map(|rest| rest.split(end).next().unwrap_or_default()).collect::<Vec<_>>()
        };
        beginnings.iter().flat_map(found).collect()
    }

    /// Constants named behind `path`, such as `StatusCode::`.
    pub fn constants<'a>(&'a self, path: &str) -> BTreeSet<&'a str> {
        let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let words =
            self.0.split(path).skip(1).filter_map(|rest| rest.split(|letter| !is_word(letter)).next());
        words
            .filter(|word| word.len() > 1 && !word.contains(|letter: char| letter.is_ascii_lowercase()))
            .collect()
    }

    /// The structs that refuse unknown fields, which are the bodies of requests, and the fields of each. Not those that have none.
    pub fn bodies(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let structs = self.0.split("deny_unknown_fields").skip(1);
        let structs = structs.filter_map(|rest| rest.split_once("struct ")?.1.split_once('{'));
        let bodies = structs.map(|(name, rest)| {
            let name = name.split(['<', ' ']).next().unwrap_or_default();
            let lines = rest.split('}').next().unwrap_or_default().lines().map(str::trim);
            let fields = lines.filter(|line| line.ends_with(',')).filter_map(|line| line.split_once(": "));
            (name, fields.map(|(field, _)| field.trim_start_matches("pub ")).collect::<BTreeSet<_>>())
        });
        bodies.filter(|(_, fields)| !fields.is_empty()).collect()
    }
}

/// The string literals in `text`.
pub fn literals(text: &str) -> Vec<&str> {
    text.split('"').skip(1).step_by(2).collect()
}
