//! No two layers name each other, and no two rooms of a layer, not even by way of others. A layer is a folder or a file of `src`, a room
//! a folder or a file of a layer. The layer's own `mod.rs` has what all of its rooms share, and is no room.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, assert_none, root};

/// What each layer names (with `room` for [`layer`]), or each room.
fn named(room: fn(&[String]) -> Option<String>) -> BTreeMap<String, BTreeSet<String>> {
    let sources = Source::all_below(root(), "src");
    let rooms: BTreeSet<String> = sources.iter().filter_map(|source| room(&source.module())).collect();
    let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.is_of_tests()) {
        let module = source.module();
        let Some(home) = room(&module) else { continue };
        for path in source.paths() {
            let target = absolute(&module, &path).and_then(|path| room(&path));
            let other = target.filter(|target| *target != home && rooms.contains(target));
            named.entry(home.clone()).or_default().extend(other);
        }
    }
    named
}

/// The layer of a path.
fn layer(path: &[String]) -> Option<String> {
    path.first().cloned()
}

/// The room of a path, as `layer::room`.
fn room(path: &[String]) -> Option<String> {
    path.get(..2).map(|parts| parts.join("::"))
}

/// A path from the top of the crate; `None` where it does not start in this crate.
fn absolute(module: &[String], path: &[&str]) -> Option<Vec<String>> {
    let mut base = match *path.first()? {
        "crate" | "dynarust" => Vec::new(),
        "self" | "super" => module.to_vec(),
        _ => return None,
    };
    let is_base = |part: &&&str| ["crate", "dynarust", "self", "super"].contains(*part);
    for part in path.iter().take_while(is_base) {
        if *part == "super" {
            base.pop();
        }
    }
    base.extend(path.iter().skip_while(is_base).map(|part| (*part).to_owned()));
    Some(base)
}

/// All rooms that are reached from one, with the way there.
fn reached<'a>(
    named: &'a BTreeMap<String, BTreeSet<String>>,
    from: &'a str,
) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut ways: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut left = vec![(from, vec![from])];
    while let Some((at, way)) = left.pop() {
        for next in named.get(at).into_iter().flatten() {
            let way = [way.as_slice(), &[next.as_str()]].concat();
            if !ways.contains_key(next.as_str()) {
                ways.insert(next, way.clone());
                left.push((next, way));
            }
        }
    }
    ways
}

#[test]
fn rooms_do_not_name_each_other_in_a_circle() {
    assert_no_circle("a room is named only by those above it", &named(room));
}

/// `error` and `core` named each other: the error quoted timestamps and names of tables.
#[test]
fn layers_do_not_name_each_other_in_a_circle() {
    assert_no_circle("a layer is named only by those above it", &named(layer));
}

#[track_caller]
fn assert_no_circle(rule: &str, named: &BTreeMap<String, BTreeSet<String>>) {
    assert!(named.values().any(|others| !others.is_empty()), "nothing names another: nothing was looked at");
    let circles: Vec<String> = named
        .keys()
        .filter_map(|from| reached(named, from).remove(from.as_str()).map(|way| way.join(" -> ")))
        .collect();
    assert_none(rule, &circles);
}
