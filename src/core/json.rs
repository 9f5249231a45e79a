//! A value: JSON, kept as the text that came in less its insignificant white space, so that no digit and no order of members
//! is ever lost. Parsed only to patch.

use std::{collections::HashMap, mem, slice, sync::Arc};

use json_patch::{PatchOperation, jsonptr::Pointer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::Error;

/// Deepest nesting of arrays and objects in a value. Readers of our answers recurse, and stop at about this.
pub const DEPTH_MAX: usize = 128;

/// Longest JSON patch, in operations: each may move all items of an array.
const OPERATIONS_MAX: usize = 1000;
/// Most bytes of JSON text that the `copy` operations of one patch add: thirty of them can double a value thirty times.
const COPIED_BYTES_MAX: usize = 1024 * 1024;

/// What the names begin with under which `serde_json` hands numbers and raw text on within itself, as objects of one member.
const RESERVED_NAME: &str = "$serde_json::private::";

/// One JSON value, as compact text. Clones share it.
///
/// Between nodes it travels as that text; who receives it tests the register's fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "Arc<str>")]
pub struct Value(Arc<str>);

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::trusted(text)
    }
}

impl From<Value> for Arc<str> {
    fn from(value: Value) -> Self {
        value.0
    }
}

impl Value {
    /// Takes in JSON text that `serde_json` has found well-formed.
    ///
    /// # Errors
    /// `BadJson` where arrays and objects nest deeper than `DEPTH_MAX`.
    pub fn from_raw(raw: &RawValue) -> Result<Self, Error> {
        Ok(Self(compact(raw.get())?.into()))
    }

    /// Parses JSON text.
    ///
    /// # Errors
    /// `BadJson` with what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let raw: &RawValue = serde_json::from_str(text).map_err(|e| Error::BadJson(e.to_string()))?;
        Self::from_raw(raw)
    }

    /// Takes text that was a `Value` before: read back from storage, its checksum tested.
    pub fn trusted(text: String) -> Self {
        Self(text.into())
    }

    /// The compact JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// RFC 7396: `patch` merged into this value.
    ///
    /// # Errors
    /// `Conflict` where this value does not parse again, which `from_raw` lets pass for lone surrogates and reserved names only.
    pub fn merge_patch(&self, patch: &Value) -> Result<Self, Error> {
        let before = self.tree()?;
        let mut target = before.clone();
        let patch = patch.tree()?;
        json_patch::merge(&mut target, &patch);
        keep_order(&mut target, &before, &patch);
        Self::from_tree(&target)
    }

    /// RFC 6902: the operations of `patch` applied to this value, all or none.
    ///
    /// # Errors
    /// `BadJson` where `patch` is no list of operations or a longer one than `OPERATIONS_MAX`, `Conflict` where one does not
    /// apply or a `test` fails, or where they copy more than `COPIED_BYTES_MAX` or nest deeper than `DEPTH_MAX`.
    pub fn json_patch(&self, patch: &Value) -> Result<Self, Error> {
        if has_reserved_name(patch.as_str()) {
            return Err(reserved());
        }
        let patch: json_patch::Patch = serde_json::from_str(patch.as_str())
            .map_err(|e| Error::BadJson(format!("not a JSON patch: {e}")))?;
        let mut target = self.tree()?;
        if patch.len() > OPERATIONS_MAX {
            return Err(Error::BadJson(format!("a JSON patch of more than {OPERATIONS_MAX} operations")));
        }
        let mut copied_bytes_left = COPIED_BYTES_MAX;
        for operation in patch.iter() {
            admit(&target, operation, &mut copied_bytes_left)?;
            match operation {
                PatchOperation::Remove(remove) => put_last(&mut target, &remove.path),
                PatchOperation::Move(move_) => put_last(&mut target, &move_.from),
                PatchOperation::Add(_)
                | PatchOperation::Replace(_)
                | PatchOperation::Copy(_)
                | PatchOperation::Test(_) => {}
            }
            // Not `patch`, which panics where it cannot undo a move: what is left of a tree that failed is dropped.
            json_patch::patch_unsafe(&mut target, slice::from_ref(operation))
                .map_err(|e| Error::Conflict(e.to_string()))?;
        }
        Self::from_tree(&target)
    }

    fn tree(&self) -> Result<serde_json::Value, Error> {
        if has_reserved_name(&self.0) {
            return Err(reserved());
        }
        let mut deserializer = serde_json::Deserializer::from_str(&self.0);
        // The depth was checked when the value came in, against a limit of our own.
        deserializer.disable_recursion_limit();
        serde::Deserialize::deserialize(&mut deserializer).map_err(|e| Error::Conflict(e.to_string()))
    }

    fn from_tree(tree: &serde_json::Value) -> Result<Self, Error> {
        Ok(Self(compact(&tree.to_string())?.into()))
    }
}

/// Checks what an operation is about to add to `tree`: how deep it would lie, and what is left for copies. A tree that is too
/// deep is not to be made at all, as whoever clones, prints or drops it recurses.
fn admit(
    tree: &serde_json::Value,
    operation: &PatchOperation,
    copied_bytes_left: &mut usize,
) -> Result<(), Error> {
    let added = match operation {
        PatchOperation::Add(add) => Some(&add.value),
        PatchOperation::Replace(replace) => Some(&replace.value),
        PatchOperation::Move(move_) => tree.pointer(move_.from.as_str()),
        PatchOperation::Copy(copy) => tree.pointer(copy.from.as_str()),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
    };
    // Where there is nothing to move or copy, `json_patch` says so.
    let Some(added) = added else { return Ok(()) };
    if operation.path().count() + depth(added) > DEPTH_MAX {
        return Err(Error::Conflict(format!("the result nests deeper than {DEPTH_MAX}")));
    }
    if let PatchOperation::Copy(_) = operation {
        let left = copied_bytes_left.checked_sub(added.to_string().len());
        *copied_bytes_left = left.ok_or_else(|| {
            Error::Conflict(format!("its operations copy more than {COPIED_BYTES_MAX} bytes"))
        })?;
    }
    Ok(())
}

fn depth(tree: &serde_json::Value) -> usize {
    match tree {
        serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => 0,
    }
}

fn reserved() -> Error {
    Error::Conflict(format!("a member's name begins with {RESERVED_NAME}, which no patch can handle"))
}

/// Whether compact JSON text has a member whose name would have `serde_json` take its object for something else.
fn has_reserved_name(text: &str) -> bool {
    let mut rest = text;
    while let Some(start) = rest.find('"') {
        let end = start + string_bytes(&rest[start..]);
        let (string, after) = (&rest[start..end], &rest[end..]);
        if after.starts_with(':') {
            let reserved = match string.contains('\\') {
                true => {
                    serde_json::from_str(string).is_ok_and(|name: String| name.starts_with(RESERVED_NAME))
                }
                false => string[1..].starts_with(RESERVED_NAME),
            };
            if reserved {
                return true;
            }
        }
        rest = after;
    }
    false
}

/// How long the JSON string is that `text` begins with, quotes included.
fn string_bytes(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let ends = !escaped && byte == b'"';
        escaped = !escaped && byte == b'\\';
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

/// Gives the members of objects that were there `before` a merge their order back, new ones last in the order of the `patch`: to
/// remove one, `json_patch` puts the last in its place. Lists come whole, with the order that the patch gave what is in them.
fn keep_order(tree: &mut serde_json::Value, before: &serde_json::Value, patch: &serde_json::Value) {
    use serde_json::Value::Object;
    let (Object(members), Object(before), Object(patch)) = (tree, before, patch) else { return };
    // Of a name that both have the place before counts: it is put in last.
    let places: HashMap<&String, usize> =
        patch.keys().zip(before.len()..).chain(before.keys().zip(0..)).collect();
    let mut ordered: Vec<_> = mem::take(members).into_iter().collect();
    ordered.sort_by_key(|(name, _)| places.get(name).copied());
    for (name, member) in &mut ordered {
        if let (Some(before), Some(patch)) = (before.get(name), patch.get(name)) {
            keep_order(member, before, patch);
        }
    }
    members.extend(ordered);
}

/// Puts a member after all others of its object, so that its removal does not move one of them; see `keep_order`.
fn put_last(tree: &mut serde_json::Value, pointer: &Pointer) {
    if let Some((parent, name)) = pointer.split_back()
        && let Some(serde_json::Value::Object(members)) = tree.pointer_mut(parent.as_str())
        && let Some(member) = members.shift_remove(name.decoded().as_ref())
    {
        members.insert(name.decoded().into_owned(), member);
    }
}

/// Drops the white space between the tokens of well-formed JSON, and counts its nesting.
fn compact(text: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    let mut depth = 0usize;
    let mut in_string = false;
    let mut escaped = false;
    let mut kept_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(Error::BadJson(format!("nested deeper than {DEPTH_MAX}")));
                }
            }
            b']' | b'}' => depth -= 1,
            b' ' | b'\t' | b'\n' | b'\r' => {
                out.push_str(&text[kept_from..at]);
                kept_from = at + 1;
            }
            _ => {}
        }
    }
    out.push_str(&text[kept_from..]);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compacted(text: &str) -> String {
        Value::parse(text).expect("well-formed").as_str().to_owned()
    }

    #[test]
    fn text_is_kept_to_the_digit() {
        for text in
            ["12345678901234567890", "1.10", "1e400", r#"{"b":1,"a":2}"#, r#""a b\" c\\""#, "null", "-0"]
        {
            assert_eq!(compacted(text), text);
        }
    }

    #[test]
    fn white_space_between_tokens_goes_and_in_strings_stays() {
        assert_eq!(
            compacted(" { \"a b\" : [ 1 ,\n\t2 ] , \"c\\\" \" : \" \\\\\" } "),
            r#"{"a b":[1,2],"c\" ":" \\"}"#
        );
    }

    #[test]
    fn nesting_has_a_limit() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Value::parse(&nested(DEPTH_MAX)).is_ok());
        assert!(matches!(Value::parse(&nested(DEPTH_MAX + 1)), Err(Error::BadJson(_))));
        assert!(matches!(Value::parse(&nested(100_000)), Err(Error::BadJson(_))));
    }

    #[test]
    fn patches_keep_digits_and_order() {
        let value = Value::parse(r#"{"z":1.10,"a":12345678901234567890,"gone":1}"#).expect("json");
        let merged =
            value.merge_patch(&Value::parse(r#"{"gone":null,"new":[1.0]}"#).expect("json")).expect("merges");
        assert_eq!(merged.as_str(), r#"{"z":1.10,"a":12345678901234567890,"new":[1.0]}"#);
        let patch = r#"[{"op":"test","path":"/z","value":1.10},{"op":"replace","path":"/a","value":2}]"#;
        let patched = value.json_patch(&Value::parse(patch).expect("json")).expect("applies");
        assert_eq!(patched.as_str(), r#"{"z":1.10,"a":2,"gone":1}"#);
    }

    #[test]
    fn a_patch_at_the_deepest_nesting_applies() {
        let deep = format!("{}1{}", r#"{"a":"#.repeat(DEPTH_MAX), "}".repeat(DEPTH_MAX));
        let value = Value::parse(&deep).expect("at the limit");
        assert_eq!(value.merge_patch(&Value::parse("{}").expect("json")).expect("merges"), value);
    }

    #[test]
    fn a_failed_test_changes_nothing() {
        let value = Value::parse(r#"{"a":1}"#).expect("json");
        let patch = r#"[{"op":"replace","path":"/a","value":2},{"op":"test","path":"/a","value":3}]"#;
        assert!(matches!(value.json_patch(&Value::parse(patch).expect("json")), Err(Error::Conflict(_))));
        assert!(matches!(value.json_patch(&Value::parse("{}").expect("json")), Err(Error::BadJson(_))));
    }

    /// `json_patch::patch` undoes what it did before the operation that failed, and panicked where that was a move into the
    /// member's own parent: a request could end its task so. Nothing is undone now, as the tree is dropped.
    #[test]
    fn a_patch_that_fails_after_a_move_to_its_parent_is_a_conflict() {
        let value = Value::parse(r#"{"a":{"b":1}}"#).expect("json");
        let patch = r#"[{"op":"move","from":"/a/b","path":"/a"},{"op":"test","path":"/a","value":2}]"#;
        assert!(matches!(value.json_patch(&Value::parse(patch).expect("json")), Err(Error::Conflict(_))));
    }

    /// `serde_json` removes a member by putting the last one in its place.
    #[test]
    fn a_removed_member_leaves_the_others_in_their_order() {
        let value = Value::parse(r#"{"gone":1,"b":{"gone":1,"y":2,"x":3},"a":4}"#).expect("json");
        let merged = value.merge_patch(&Value::parse(r#"{"gone":null,"b":{"gone":null}}"#).expect("json"));
        assert_eq!(merged.expect("merges").as_str(), r#"{"b":{"y":2,"x":3},"a":4}"#);
        let patch = r#"[{"op":"remove","path":"/gone"},{"op":"remove","path":"/b/gone"}]"#;
        let patched = value.json_patch(&Value::parse(patch).expect("json"));
        assert_eq!(patched.expect("applies").as_str(), r#"{"b":{"y":2,"x":3},"a":4}"#);
        let patch = r#"[{"op":"move","from":"/gone","path":"/new"},{"op":"replace","path":"/b","value":{"x":1,"y":2}}]"#;
        let patched = value.json_patch(&Value::parse(patch).expect("json"));
        assert_eq!(patched.expect("applies").as_str(), r#"{"b":{"x":1,"y":2},"a":4,"new":1}"#);
    }

    /// `serde_json` hands numbers on as objects of one member with a name of its own, so that a patch, even an empty one, made
    /// the number 1 of the first of these. Now no patch touches them; they are stored and read as any other value.
    #[test]
    fn a_member_with_a_name_that_serde_json_uses_is_not_patched() {
        let nothing = Value::parse("{}").expect("json");
        for text in [
            r#"{"a":{"$serde_json::private::Number":"1"}}"#,
            r#"{"a":{"\u0024serde_json::private::Number":"no"}}"#,
            r#"{"a":{"$serde_json::private::RawValue":"[1"}}"#,
        ] {
            let value = Value::parse(text).expect("json");
            assert_eq!(value.as_str(), text);
            assert!(matches!(value.merge_patch(&nothing), Err(Error::Conflict(_))), "{text}");
            assert!(matches!(nothing.merge_patch(&value), Err(Error::Conflict(_))), "{text}");
            let patch = Value::parse(&format!(r#"[{{"op":"add","path":"","value":{text}}}]"#)).expect("json");
            assert!(matches!(nothing.json_patch(&patch), Err(Error::Conflict(_))), "{text}");
        }
        let harmless = Value::parse(r#"{"a\"b":"$serde_json::private::Number","\\":1}"#).expect("json");
        assert_eq!(harmless.merge_patch(&nothing), Ok(harmless));
    }

    /// A patch of two kilobytes that copies a value into itself forty times would need a terabyte.
    #[test]
    fn what_a_patch_can_cost_has_a_limit() {
        let value = Value::parse("[1]").expect("json");
        let patch_of =
            |operations: Vec<&str>| Value::parse(&format!("[{}]", operations.join(","))).expect("json");
        let copies = patch_of(vec![r#"{"op":"copy","from":"","path":"/-"}"#; 40]);
        assert!(matches!(value.json_patch(&copies), Err(Error::Conflict(_))));
        let tests = |count| patch_of(vec![r#"{"op":"test","path":"/0","value":1}"#; count]);
        assert_eq!(value.json_patch(&tests(OPERATIONS_MAX)).as_ref(), Ok(&value));
        assert!(matches!(value.json_patch(&tests(OPERATIONS_MAX + 1)), Err(Error::BadJson(_))));
    }

    /// Each copy into the deepest place doubled the depth, until the recursion that prints the result overflowed the stack, which
    /// ended the process.
    #[test]
    fn no_step_of_a_patch_nests_deeper_than_the_limit() {
        let value = Value::parse("[]").expect("json");
        let copies = (0..17).map(|step| {
            let deepest = "/0".repeat((1 << step) - 1);
            format!(r#"{{"op":"copy","from":"","path":"{deepest}/0"}}"#)
        });
        let patch = Value::parse(&format!("[{}]", copies.collect::<Vec<_>>().join(","))).expect("json");
        assert!(matches!(value.json_patch(&patch), Err(Error::Conflict(why)) if why.contains("deeper")));
    }
}
