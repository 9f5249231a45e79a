//! A JSON value, kept as the text it arrived as without insignificant white space. No digit and no member order is ever
//! lost. It is parsed only to patch it.

mod number;
mod object;
pub mod patch;
pub mod scan;
mod tree;

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use self::tree::Tree;
use crate::error::Error;

/// Deepest nesting of arrays and objects in a value. Many clients parse recursively and stop at about this depth.
pub const DEPTH_MAX: usize = 128;

/// One JSON value, as compact text. Clones share it.
///
/// Nodes send each other this text. The receiver checks the register's fingerprint, and that the value `is_valid`.
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
    /// Takes JSON text that `serde_json` has found well-formed.
    ///
    /// # Errors
    /// `BadJson` for nesting deeper than `DEPTH_MAX`, and for a lone surrogate: strict parsers refuse those, so some
    /// clients could not read what others wrote.
    pub fn from_raw(raw: &RawValue) -> Result<Self, Error> {
        if let Some(lone) = tree::lone_surrogate(raw.get()) {
            return Err(Error::BadJson(format!(
                "the string has the lone surrogate {lone}, which is half a character: send both halves of the pair, \
                the character itself, or \\ufffd in its place"
            )));
        }
        Self::from_stored(raw)
    }

    /// Like `from_raw`, but accepts lone surrogates, for values that were stored before they were refused.
    ///
    /// # Errors
    /// `BadJson` for nesting deeper than `DEPTH_MAX`.
    pub fn from_stored(raw: &RawValue) -> Result<Self, Error> {
        Ok(Self(compact(raw.get())?.into()))
    }

    /// Parses JSON text.
    ///
    /// # Errors
    /// `BadJson`, which says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let raw: &RawValue = serde_json::from_str(text).map_err(|e| Error::BadJson(e.to_string()))?;
        Self::from_raw(raw)
    }

    /// Takes text that is known to be a `Value`: it was read from storage and its checksum matched.
    pub fn trusted(text: String) -> Self {
        Self(text.into())
    }

    /// Whether the text is valid, compact JSON that is not nested too deep. Values made here always are; a peer may
    /// send anything. A raw line end would break formats that write one value per line.
    pub fn is_valid(&self) -> bool {
        let parsed: Result<&RawValue, _> = serde_json::from_str(&self.0);
        parsed.is_ok_and(|raw| compact(raw.get()).is_ok_and(|text| text == *self.0))
    }

    /// Like `trusted`, for text that is shared.
    pub fn shared(text: Arc<str>) -> Self {
        Self(text)
    }

    /// The compact JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Merges `patch` into this value (RFC 7396). Everything the patch does not name keeps its text.
    ///
    /// # Errors
    /// `Conflict` if one of the two does not parse again. `from_raw` lets no such value pass.
    pub fn merge_patch(&self, patch: &Value) -> Result<Self, Error> {
        Ok(Self::trusted(patch::merge(self.tree()?, patch.tree()?).text()))
    }

    /// Applies the operations of `patch` to this value (RFC 6902), all or none. Everything they do not name keeps its
    /// text.
    ///
    /// # Errors
    /// As `patch::apply`: `BadJson` if `patch` is not a list of operations, `Conflict` if an operation does not apply.
    pub fn json_patch(&self, patch: &Value) -> Result<Self, Error> {
        let mut target = self.tree()?;
        patch::apply(&mut target, patch.as_str())?;
        Ok(Self::trusted(target.text()))
    }

    /// What this is as a JSON patch (RFC 6902).
    ///
    /// # Errors
    /// `BadJson` if it is none.
    pub fn as_json_patch(&self) -> Result<patch::Summary, Error> {
        patch::check(&self.0)
    }

    /// Whether both mean the same: members may be in another order, and numbers and strings written otherwise.
    pub fn is_same_as(&self, other: &Value) -> bool {
        matches!((self.tree(), other.tree()), (Ok(here), Ok(there)) if here.equals(&there))
    }

    /// Whether this is an object whose only member is `name`, and that member is an object.
    pub fn only_wraps_an_object(&self, name: &str) -> bool {
        let Ok(Tree::Object(members)) = self.tree() else { return false };
        let mut members = members.iter();
        let (Some(member), None) = (members.next(), members.next()) else { return false };
        matches!(member.value, Tree::Object(_)) && tree::decode(&member.name).as_ref() == name.as_bytes()
    }

    fn tree(&self) -> Result<Tree<'_>, Error> {
        Tree::parse(&self.0).ok_or_else(|| {
            Error::Conflict(
                "the patch does not apply: the stored value is not JSON: replace it with PUT".into(),
            )
        })
    }
}

/// Removes the white space between tokens of well-formed JSON, and checks the nesting.
fn compact(text: &str) -> Result<Cow<'_, str>, Error> {
    let (mut out, mut kept_from) = (String::new(), 0);
    scan::scan(text.as_bytes(), DEPTH_MAX, |at| {
        if kept_from == 0 {
            out.reserve(text.len());
        }
        out.push_str(&text[kept_from..at]);
        kept_from = at + 1;
    })?;
    if kept_from == 0 {
        return Ok(Cow::Borrowed(text));
    }
    out.push_str(&text[kept_from..]);
    Ok(Cow::Owned(out))
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
    fn text_that_is_not_compact_json_is_not_valid() {
        for sound in ["1", r#"{"a b":[1,"\n"]}"#, r#""\ud800""#, "null"] {
            assert!(Value::trusted(sound.into()).is_valid(), "{sound}");
        }
        let deep = "[".repeat(DEPTH_MAX + 1) + &"]".repeat(DEPTH_MAX + 1);
        for other in ["", "x", " 1", "1\n", "{\"a\": 1}", "1}\n\ndata: {}", "\"\n\"", "1 2", &deep] {
            assert!(!Value::trusted(other.into()).is_valid(), "{other}");
        }
    }

    #[test]
    fn white_space_is_removed_between_tokens_and_kept_in_strings() {
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

    /// `json_patch::patch` rolls back after a failed operation, and panicked if it had to roll back a move into the
    /// member's own parent. A request could end its task this way. Nothing is rolled back now: the tree is dropped.
    #[test]
    fn a_patch_that_fails_after_a_move_to_its_parent_is_a_conflict() {
        let value = Value::parse(r#"{"a":{"b":1}}"#).expect("json");
        let patch = r#"[{"op":"move","from":"/a/b","path":"/a"},{"op":"test","path":"/a","value":2}]"#;
        assert!(matches!(value.json_patch(&Value::parse(patch).expect("json")), Err(Error::Conflict(_))));
    }

    /// `serde_json` removes a member by moving the last one into its place.
    #[test]
    fn removing_a_member_keeps_the_order_of_the_others() {
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

    /// `serde_json` represents numbers as objects with one specially named member. A patch, even an empty one, turned
    /// the first of these values into the number 1; later, patches refused them all. Patches now work on the text,
    /// where no name is special.
    #[test]
    fn a_member_with_a_name_that_serde_json_uses_is_patched_like_any_other() {
        let nothing = Value::parse("{}").expect("json");
        for text in [
            r#"{"a":{"$serde_json::private::Number":"1"}}"#,
            r#"{"a":{"\u0024serde_json::private::Number":"no"}}"#,
            r#"{"a":{"$serde_json::private::RawValue":"[1"}}"#,
        ] {
            let value = Value::parse(text).expect("json");
            assert_eq!(value.as_str(), text);
            assert_eq!(value.merge_patch(&nothing).as_ref(), Ok(&value));
            assert_eq!(nothing.merge_patch(&value).as_ref(), Ok(&value));
            let patch = Value::parse(&format!(r#"[{{"op":"add","path":"","value":{text}}}]"#)).expect("json");
            assert_eq!(nothing.json_patch(&patch).as_ref(), Ok(&value), "{text}");
        }
    }

    /// `{"s":"\ud800"}` was stored, could never be patched (always 409), and strict clients could not read it.
    #[test]
    fn a_lone_surrogate_is_refused_and_stored_ones_survive_a_patch() {
        for lone in [r#"{"s":"\ud800"}"#, r#"{"\udc00":1}"#, r#"["\ud83e x"]"#] {
            assert!(
                matches!(Value::parse(lone), Err(Error::BadJson(why)) if why.contains("lone surrogate")),
                "{lone}"
            );
        }
        let raw: Box<RawValue> = serde_json::from_str(r#"{"s": "\ud800", "n": 1}"#).expect("json");
        let old = Value::from_stored(&raw).expect("an old value");
        let patched = old.merge_patch(&Value::parse(r#"{"n":2}"#).expect("json")).expect("merges");
        assert_eq!(patched.as_str(), r#"{"s":"\ud800","n":2}"#);
    }

    /// A patch rewrote the whole value: `1E+2` became `1e+2`, and one of two members with the same name was lost.
    #[test]
    fn a_patch_keeps_the_text_of_everything_it_does_not_name() {
        let kept = r#""b":1E+2,"a":1e400,"\u0041":"\u0041\/","d":1,"d":2.0,"list":[1E+2,{"x":-0}]"#;
        let value = Value::parse(&format!(r#"{{{kept},"n":{{"y":1.50,"z":1}}}}"#)).expect("json");
        let merged = value.merge_patch(&Value::parse(r#"{"n":{"z":2E0}}"#).expect("json")).expect("merges");
        assert_eq!(merged.as_str(), format!(r#"{{{kept},"n":{{"y":1.50,"z":2E0}}}}"#));
        let patch = r#"[{"op":"replace","path":"/n/z","value":2E0},{"op":"test","path":"/A","value":"A/"}]"#;
        let patched = value.json_patch(&Value::parse(patch).expect("json")).expect("applies");
        assert_eq!(patched, merged);
    }

    #[test]
    fn a_patch_changes_the_last_of_several_members_with_one_name() {
        let value = Value::parse(r#"{"a":1,"x":0,"a":{"b":2}}"#).expect("json");
        let merged = |patch| value.merge_patch(&Value::parse(patch).expect("json")).expect("merges");
        assert_eq!(merged(r#"{"\u0061":{"c":3}}"#).as_str(), r#"{"a":{"b":2,"c":3},"x":0}"#);
        assert_eq!(merged(r#"{"a":null}"#).as_str(), r#"{"x":0}"#);
        assert_eq!(merged(r#"{"n":1,"n":2}"#).as_str(), r#"{"a":1,"x":0,"a":{"b":2},"n":2}"#);
        let patch =
            Value::parse(r#"[{"op":"remove","path":"/a/b"},{"op":"remove","path":"/a"}]"#).expect("json");
        assert_eq!(value.json_patch(&patch).expect("applies").as_str(), r#"{"x":0}"#);
    }

    #[test]
    fn a_pointer_finds_a_member_however_its_name_is_escaped() {
        let value = Value::parse(r#"{"a\\b":1,"a\nb":2,"\u0061b":3,"ab~/":4,"":5,"é":6}"#).expect("json");
        for (path, number) in
            [(r"/a\\b", 1), (r"/a\nb", 2), ("/ab", 3), ("/ab~0~1", 4), ("/", 5), ("/é", 6), (r"/\u00e9", 6)]
        {
            let patch = format!(r#"[{{"op":"test","path":"{path}","value":{number}}}]"#);
            let patched = value.json_patch(&Value::parse(&patch).expect("json"));
            assert_eq!(patched.as_ref(), Ok(&value), "{path}");
        }
        for path in ["/a", "/b", "/abc", "/a~0", r"/\\u0061b"] {
            let patch = format!(r#"[{{"op":"remove","path":"{path}"}}]"#);
            let patched = value.json_patch(&Value::parse(&patch).expect("json"));
            assert!(matches!(patched, Err(Error::Conflict(_))), "{path}");
        }
    }

    /// `test` compared numbers as text. RFC 6902, section 4.6, compares them by value.
    #[test]
    fn a_test_compares_numbers_by_value() {
        let value = Value::parse(r#"{"a":1.0,"b":100,"c":-0,"huge":1e999999999}"#).expect("json");
        let test = |path: &str, number: &str| {
            let patch = format!(r#"[{{"op":"test","path":"{path}","value":{number}}}]"#);
            value.json_patch(&Value::parse(&patch).expect("json")).is_ok()
        };
        assert!(test("/a", "1") && test("/b", "1E2") && test("/c", "0") && test("/huge", "10E999999998"));
        assert!(!test("/a", "1.1") && !test("/b", "1E3") && !test("/huge", "1") && !test("/c", "false"));
    }

    /// A two-kilobyte patch that copies a value into itself forty times would need a terabyte.
    #[test]
    fn the_cost_of_a_patch_is_limited() {
        let value = Value::parse("[1]").expect("json");
        let patch_of =
            |operations: Vec<&str>| Value::parse(&format!("[{}]", operations.join(","))).expect("json");
        let copies = patch_of(vec![r#"{"op":"copy","from":"","path":"/-"}"#; 40]);
        assert!(matches!(value.json_patch(&copies), Err(Error::Conflict(_))));
        let tests = |count| patch_of(vec![r#"{"op":"test","path":"/0","value":1}"#; count]);
        assert_eq!(value.json_patch(&tests(patch::OPERATIONS_MAX)).as_ref(), Ok(&value));
        assert!(matches!(value.json_patch(&tests(patch::OPERATIONS_MAX + 1)), Err(Error::BadJson(_))));
    }

    /// If each operation searches all members, this takes more than ten seconds while the key is locked.
    #[test]
    fn a_long_patch_of_a_large_object_is_applied_in_order() {
        let members: Vec<_> = (0..40_000).map(|number| format!(r#""k{number:05}":{number}"#)).collect();
        let value = Value::parse(&format!("{{{}}}", members.join(","))).expect("json");
        let operations = (0..patch::OPERATIONS_MAX / 2).map(|number| {
            format!(
                r#"{{"op":"remove","path":"/k{number:05}"}},{{"op":"add","path":"/k{number:05}","value":"{number}"}}"#
            )
        });
        let patch = Value::parse(&format!("[{}]", operations.collect::<Vec<_>>().join(","))).expect("json");
        let patched = value.json_patch(&patch).expect("applies");
        assert!(
            patched.as_str().starts_with(r#"{"k00500":500,"#)
                && patched.as_str().ends_with(r#","k00499":"499"}"#)
        );
    }

    /// Each copy into the deepest place doubled the depth, until the recursion that prints the result overflowed the
    /// stack and the process died.
    #[test]
    fn no_patch_operation_nests_deeper_than_the_limit() {
        let value = Value::parse("[]").expect("json");
        let copies = (0..17).map(|step| {
            let deepest = "/0".repeat((1 << step) - 1);
            format!(r#"{{"op":"copy","from":"","path":"{deepest}/0"}}"#)
        });
        let patch = Value::parse(&format!("[{}]", copies.collect::<Vec<_>>().join(","))).expect("json");
        assert!(matches!(value.json_patch(&patch), Err(Error::Conflict(why)) if why.contains("deeper")));
    }
}
