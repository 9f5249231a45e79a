//! The tables of error codes in the libraries, against those of the pages, which `docs` holds to the node's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use crate::pages::page::{Page, root};

/// The pairs of texts in this part of a file, such as `"not-found": NotFoundError,`.
fn pairs(file: &str, begin: &str, end: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join("clients").join(file)).expect("a library");
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("{file}: no {begin}"));
    let (block, _) = rest.split_once(end).expect("an end");
    let lines = block.lines().map(str::trim).filter(|line| line.ends_with(',') && !line.starts_with('/'));
    let pair = |line: &str| {
        let (one, other) = line.trim_end_matches(',').split_once([':', '=']).expect("a pair");
        (one.trim().trim_matches('"').to_owned(), other.trim().trim_matches('"').to_owned())
    };
    lines.map(pair).collect()
}

/// Each code of the pages, and whether a write may have been made where it is the answer.
fn codes() -> BTreeMap<String, bool> {
    let errors = Page::read("docs/errors.md");
    let rows = errors.rows_of("code").into_iter();
    rows.map(|row| (row[0].trim_matches('`').to_owned(), row[2].trim() != "no")).collect()
}

/// A full disk was an `UnavailableError`, which says that a write was not made: it may have been.
#[test]
fn the_libraries_have_classes_for_the_same_codes_and_promise_nothing_wrong() {
    let javascript = pairs("javascript/dynarust.js", "const CLASSES = {", "};");
    let python = pairs("python/dynarust.py", "_CLASSES: Dict[str, Type[DynaRustError]] = {", "\n}");
    assert!(javascript.len() > 8, "{javascript:?}");
    assert_eq!(javascript, python);
    let codes = codes();
    for (code, class) in &javascript {
        let may_be_made = codes.get(code).unwrap_or_else(|| panic!("no node answers with {code}"));
        let says_not =
            !["NotEnoughReplicasError", "OutcomeUnknownError", "ServerError"].contains(&class.as_str());
        assert!(!(*may_be_made && says_not), "{code}: {class}");
    }
    assert_eq!(javascript["outcome-unknown"], "OutcomeUnknownError");
}

#[test]
fn the_rust_client_knows_every_code() {
    let known = pairs("rust/src/error.rs", "\ncodes! {", "\n}").into_values();
    assert_eq!(known.collect::<BTreeSet<_>>(), codes().into_keys().collect());
}
