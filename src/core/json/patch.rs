//! JSON Merge Patch (RFC 7396) and JSON Patch (RFC 6902). Both change only the text they name. Everything else is kept
//! as it was written: numbers, escapes, member order and duplicate names.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    DEPTH_MAX,
    object::{Member, Object},
    tree::{self, Tree},
};
use crate::error::{Error, Result};

/// Most operations of a JSON Patch. Each may move all items of an array.
pub const OPERATIONS_MAX: usize = 1000;
/// Most bytes of JSON text that the `copy` operations of one patch may add: thirty of them can double a value thirty
/// times.
const COPIED_BYTES_MAX: usize = 1024 * 1024;

/// Merges `patch` into `target` (RFC 7396). If the patch has several members with one name, the last counts. If the
/// target has, the last is patched and takes the place of the first.
pub fn merge<'a>(target: Tree<'a>, patch: Tree<'a>) -> Tree<'a> {
    let Tree::Object(patch) = patch else { return patch };
    let members = match target {
        Tree::Object(members) => members,
        Tree::Scalar(_) | Tree::Array(_) => Object::default(),
    };
    let (mut order, mut patches) = (Vec::new(), HashMap::new());
    for member in patch {
        let name = owned_name(&member);
        if patches.insert(name.clone(), member).is_none() {
            order.push(name);
        }
    }
    let mut merged: Vec<Member<'a>> = Vec::new();
    let mut places = HashMap::new();
    for member in members {
        let name = tree::decode(&member.name);
        if !patches.contains_key(name.as_ref()) {
            merged.push(member);
            continue;
        }
        let place = *places.entry(name.into_owned()).or_insert(merged.len());
        match merged.get_mut(place) {
            Some(first) => first.value = member.value,
            None => merged.push(member),
        }
    }
    let mut removed = HashSet::new();
    for name in order {
        let Member { name: text, value: patch } = patches.remove(&name).expect("a name is listed once");
        let place = places.get(&name).copied();
        match (place, is_null(&patch)) {
            (Some(place), true) => {
                removed.insert(place);
            }
            (Some(place), false) => {
                let before = std::mem::replace(&mut merged[place].value, Tree::Scalar("null"));
                merged[place].value = merge(before, patch);
            }
            (None, true) => {}
            (None, false) => {
                merged.push(Member { name: text, value: merge(Tree::Scalar("null"), patch) });
            }
        }
    }
    let kept = merged.into_iter().enumerate().filter(|(place, _)| !removed.contains(place));
    Tree::Object(kept.map(|(_, member)| member).collect())
}

fn owned_name(member: &Member<'_>) -> Vec<u8> {
    tree::decode(&member.name).into_owned()
}

fn is_null(tree: &Tree<'_>) -> bool {
    matches!(tree, Tree::Scalar("null"))
}

/// An operation of a JSON Patch, as sent. Other members are ignored, as RFC 6902, section 4, requires.
#[derive(Deserialize)]
#[serde(expecting = "an operation, an object with \"op\" and \"path\"")]
struct Operation<'a> {
    op: Op,
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow)]
    from: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Op {
    Add,
    Remove,
    Replace,
    Move,
    Copy,
    Test,
}

/// For a member that may be `null`, which differs from absent.
fn present<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// What is known of a well-formed JSON patch before it is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Whether it has a `test`: whether it applies tells something of the value.
    pub tests: bool,
}

/// Checks that `patch`, the text of a list, is a JSON patch (RFC 6902). Whether it applies depends on the value.
///
/// # Errors
/// `BadJson` if `patch` is not a list of operations or has more than `OPERATIONS_MAX`.
pub fn check(patch: &str) -> Result<Summary> {
    let steps = steps(patch)?;
    Ok(Summary { tests: steps.iter().any(|step| matches!(step, Step::Test(..))) })
}

/// Applies the operations of `patch`, the text of a list, to `target` (RFC 6902).
///
/// # Errors
/// As `check`; `Conflict` if an operation does not apply, a `test` fails, the copies exceed `COPIED_BYTES_MAX`, or the result nests deeper than `DEPTH_MAX`.
pub fn apply<'a>(target: &mut Tree<'a>, patch: &'a str) -> Result<()> {
    let mut copied_bytes_left = COPIED_BYTES_MAX;
    for (place, step) in steps(patch)?.into_iter().enumerate() {
        step.apply(target, &mut copied_bytes_left)
            .map_err(|why| Error::Conflict(format!("operation {}: {why}", place + 1)))?;
    }
    Ok(())
}

fn steps(patch: &str) -> Result<Vec<Step<'_>>> {
    let operations: Vec<Operation<'_>> =
        serde_json::from_str(patch).map_err(|error| Error::BadJson(format!("not a JSON patch: {error}")))?;
    if operations.len() > OPERATIONS_MAX {
        return Err(Error::BadJson(format!("a JSON patch of more than {OPERATIONS_MAX} operations")));
    }
    operations
        .iter()
        .enumerate()
        .map(|(place, operation)| {
            Step::of(operation).map_err(|why| {
                Error::BadJson(format!("the patch does not apply: operation {}: {why}", place + 1))
            })
        })
        .collect()
}

/// The steps of a JSON pointer (RFC 6901).
type Pointer = Vec<String>;

/// A parsed operation.
enum Step<'a> {
    Add(Pointer, Tree<'a>),
    Remove(Pointer),
    Replace(Pointer, Tree<'a>),
    Move { from: Pointer, path: Pointer },
    Copy { from: Pointer, path: Pointer },
    Test(Pointer, Tree<'a>),
}

impl<'a> Step<'a> {
    fn of(operation: &Operation<'a>) -> std::result::Result<Self, String> {
        let path = parse_pointer(&operation.path)?;
        let value = || -> std::result::Result<Tree<'a>, String> {
            let raw = operation.value.ok_or("it has no \"value\"")?;
            Tree::parse(raw.get()).ok_or_else(|| format!("its value nests deeper than {DEPTH_MAX}"))
        };
        let from = || parse_pointer(operation.from.as_deref().ok_or("it has no \"from\"")?);
        Ok(match operation.op {
            Op::Add => Self::Add(path, value()?),
            Op::Remove => Self::Remove(path),
            Op::Replace => Self::Replace(path, value()?),
            Op::Move => Self::Move { from: from()?, path },
            Op::Copy => Self::Copy { from: from()?, path },
            Op::Test => Self::Test(path, value()?),
        })
    }

    fn apply(self, target: &mut Tree<'a>, copied_bytes_left: &mut usize) -> std::result::Result<(), String> {
        match self {
            Self::Add(path, value) => add(target, &path, value),
            Self::Remove(path) => remove(target, &path).map(|_| ()),
            Self::Replace(path, value) => {
                check_depth(&path, &value)?;
                *find(target, &path)? = value;
                Ok(())
            }
            Self::Move { from, path } => {
                if path.len() > from.len() && path.starts_with(&from) {
                    return Err(format!("{} cannot be moved into itself", pointer_text(&from)));
                }
                // Checked before anything is removed, so that a tree that is too deep is never made.
                check_depth(&path, find(target, &from)?)?;
                let value = if from.is_empty() { target.clone() } else { remove(target, &from)? };
                add(target, &path, value)
            }
            Self::Copy { from, path } => {
                let value = find(target, &from)?;
                *copied_bytes_left = copied_bytes_left
                    .checked_sub(value.text_bytes())
                    .ok_or(format!("the operations copy more than {COPIED_BYTES_MAX} bytes"))?;
                let value = value.clone();
                add(target, &path, value)
            }
            Self::Test(path, value) => match find(target, &path)?.equals(&value) {
                true => Ok(()),
                false => Err(format!("the test failed: {} has another value", pointer_text(&path))),
            },
        }
    }
}

fn parse_pointer(text: &str) -> std::result::Result<Pointer, String> {
    let wrong =
        || format!("{text:?} is not a JSON pointer (RFC 6901): it is empty, or each step begins with /");
    let mut steps = text.split('/');
    if !steps.next().is_some_and(str::is_empty) {
        return Err(wrong());
    }
    steps
        .map(|step| match step.replace("~0", "").replace("~1", "").contains('~') {
            true => Err(format!("{text:?} is not a JSON pointer: write ~0 for ~ and ~1 for /")),
            false => Ok(step.replace("~1", "/").replace("~0", "~")),
        })
        .collect()
}

fn pointer_text(pointer: &[String]) -> String {
    let steps = pointer.iter().map(|step| format!("/{}", step.replace('~', "~0").replace('/', "~1")));
    format!("{:?}", steps.collect::<String>())
}

fn missing(pointer: &[String]) -> String {
    format!("there is nothing at {}", pointer_text(pointer))
}

fn check_depth(path: &[String], value: &Tree<'_>) -> std::result::Result<(), String> {
    if path.len() + value.depth() > DEPTH_MAX {
        return Err(format!("the result nests deeper than {DEPTH_MAX}"));
    }
    Ok(())
}

/// The value that a pointer refers to.
fn find<'t, 'a>(tree: &'t mut Tree<'a>, pointer: &[String]) -> std::result::Result<&'t mut Tree<'a>, String> {
    let mut found = tree;
    for step in pointer {
        let next = match found {
            Tree::Object(members) => members.get_mut(step),
            Tree::Array(items) => parse_index(step).and_then(|index| items.get_mut(index)),
            Tree::Scalar(_) => None,
        };
        found = next.ok_or_else(|| missing(pointer))?;
    }
    Ok(found)
}

fn add<'a>(tree: &mut Tree<'a>, path: &[String], value: Tree<'a>) -> std::result::Result<(), String> {
    check_depth(path, &value)?;
    let Some((step, parent)) = path.split_last() else {
        *tree = value;
        return Ok(());
    };
    match find(tree, parent)? {
        Tree::Object(members) => match members.get_mut(step) {
            Some(before) => *before = value,
            None => {
                let name = serde_json::to_string(step).map_err(|error| error.to_string())?;
                members.push(Member { name: Cow::Owned(name), value });
            }
        },
        Tree::Array(items) => {
            let index = if step == "-" { Some(items.len()) } else { parse_index(step) };
            let index = index.filter(|index| *index <= items.len()).ok_or_else(|| {
                format!(
                    "{}: the array has {} items, and - stands for its end",
                    pointer_text(path),
                    items.len()
                )
            })?;
            items.insert(index, value);
        }
        Tree::Scalar(_) => return Err(format!("{} is neither an object nor an array", pointer_text(parent))),
    }
    Ok(())
}

/// Removes the value that a pointer refers to, with all members of that name: otherwise the name would still exist.
fn remove<'a>(tree: &mut Tree<'a>, path: &[String]) -> std::result::Result<Tree<'a>, String> {
    let Some((step, parent)) = path.split_last() else {
        return Err("a patch cannot remove the whole value: send DELETE".into());
    };
    match find(tree, parent)? {
        Tree::Object(members) => members.remove(step).ok_or_else(|| missing(path)),
        Tree::Array(items) => match parse_index(step).filter(|index| *index < items.len()) {
            Some(index) => Ok(items.remove(index)),
            None => Err(missing(path)),
        },
        Tree::Scalar(_) => Err(missing(path)),
    }
}

/// An array index: digits without a leading zero (RFC 6901, section 4).
fn parse_index(step: &str) -> Option<usize> {
    let is_index = step == "0" || !step.starts_with('0') && step.bytes().all(|byte| byte.is_ascii_digit());
    is_index.then(|| step.parse().ok()).flatten()
}
