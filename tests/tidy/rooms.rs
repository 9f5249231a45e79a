//! No two rooms of a layer name each other, not even by way of others. A room is a folder or a file right below a layer; the layer's own
//! `mod.rs`, which holds what all of its rooms share, is none.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, assert_none, root};

/// The rooms that each room names, all as `layer::room`.
fn named_rooms() -> BTreeMap<String, BTreeSet<String>> {
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
    let named = named_rooms();
    assert!(named.values().any(|rooms| !rooms.is_empty()), "no room names another: nothing was looked at");
    let circles: Vec<String> = named
        .keys()
        .filter_map(|room| reached(&named, room).remove(room.as_str()).map(|way| way.join(" -> ")))
        .collect();
    assert_none("a room is named only by those above it", &circles);
}
