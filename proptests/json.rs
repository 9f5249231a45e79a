//! Values as text: nothing but white space is lost, nothing panics, and patches do what their standards say.

use dynarust::{core::json::Value, error::Error};
use proptest::prelude::*;
use serde_json::Value as Tree;

use crate::{
    cases,
    generators::{bytes, json_text, value},
};

fn tree(text: &str) -> Tree {
    serde_json::from_str(text).expect("JSON")
}

/// RFC 7396, section 2, as it stands there.
fn merge_patch_as_written(target: Tree, patch: &Tree) -> Tree {
    let Tree::Object(patch) = patch else { return patch.clone() };
    let mut members = match target {
        Tree::Object(members) => members,
        _ => serde_json::Map::new(),
    };
    for (name, patch) in patch {
        if patch.is_null() {
            members.shift_remove(name);
        } else {
            let member = members.get(name).cloned().unwrap_or_default();
            members.insert(name.clone(), merge_patch_as_written(member, patch));
        }
    }
    Tree::Object(members)
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn compaction_drops_white_space_and_nothing_else(text in json_text()) {
        let compact = value(&text);
        prop_assert_eq!(tree(compact.as_str()), tree(&text));
        prop_assert_eq!(value(compact.as_str()), compact.clone(), "twice is once");
        // Where nothing could be written otherwise, escapes and exponents, this is what serde_json itself writes.
        if !text.contains(['\\', 'e', 'E']) {
            prop_assert_eq!(compact.as_str(), tree(&text).to_string());
        }
    }

    #[test]
    fn no_text_panics_the_parser(bytes in bytes(300)) {
        let text = String::from_utf8_lossy(&bytes);
        prop_assert_eq!(Value::parse(&text).is_ok(), serde_json::from_str::<Tree>(&text).is_ok());
        let trusted = Value::trusted(text.into_owned());
        let _ = trusted.merge_patch(&trusted);
        let _ = trusted.json_patch(&trusted);
    }

    #[test]
    fn text_that_is_nearly_json_does_not_panic(text in r#"[\[\]{}",:\\ue0-9a\-.+ tf]{0,40}"#) {
        if let Ok(value) = Value::parse(&text) {
            prop_assert_eq!(Value::parse(value.as_str()), Ok(value.clone()));
            let _ = value.merge_patch(&value);
            let _ = value.json_patch(&value);
        }
    }

    #[test]
    fn a_merge_patch_is_what_the_standard_says(target in json_text(), patch in json_text()) {
        let expected = merge_patch_as_written(tree(&target), &tree(&patch));
        let merged = value(&target).merge_patch(&value(&patch));
        let merged = merged.map(|merged| tree(merged.as_str()).to_string());
        prop_assert_eq!(merged, Ok(expected.to_string()));
    }

    #[test]
    fn a_json_patch_that_fails_is_an_error_and_no_panic(
        target in json_text(),
        operations in proptest::collection::vec(operation(), 0..8),
    ) {
        let target = value(&target);
        let patch = value(&format!("[{}]", operations.join(",")));
        match target.json_patch(&patch) {
            Ok(patched) => prop_assert_eq!(value(patched.as_str()), patched),
            Err(Error::Conflict(_)) => {}
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }
}

/// A member of an object: its name with its quotes, and its value, as compact text.
fn member() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![Just("\"a\"".to_owned()), Just("\"\\u0061\"".to_owned()), "\"[b-e]{1,3}\""];
    (name, json_text()).prop_map(|(name, text)| (name, value(&text).as_str().to_owned()))
}

fn object(members: &[(String, String)]) -> String {
    let members: Vec<_> = members.iter().map(|(name, value)| format!("{name}:{value}")).collect();
    format!("{{{}}}", members.join(","))
}

/// A number, exactly: as whole units of the smallest that the tests have. `None` for zero, which has no sign.
fn exactly(text: &str) -> Option<(bool, String)> {
    const SMALLEST_EXPONENT: i64 = -80;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let lower = text.to_ascii_lowercase();
    let (mantissa, exponent) = lower.split_once('e').unwrap_or((&lower, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent = exponent.parse::<i64>().expect("an exponent") - fraction.len() as i64;
    let zeros = usize::try_from(exponent - SMALLEST_EXPONENT).expect("not below the smallest");
    let units = format!("{whole}{fraction}{}", "0".repeat(zeros));
    let units = units.trim_start_matches('0');
    (!units.is_empty()).then(|| (negative, units.to_owned()))
}

/// The same number written otherwise: zeros at the end of its fraction, and its point moved.
fn rewritten(text: &str, zeros: usize, shift: i64) -> String {
    let lower = text.to_ascii_lowercase();
    let (mantissa, exponent) = lower.split_once('e').unwrap_or((&lower, "0"));
    let exponent: i64 = exponent.parse().expect("an exponent");
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |mantissa| ("-", mantissa));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}").trim_start_matches('0').to_owned();
    if digits.is_empty() {
        return format!("{sign}0.0E{shift}");
    }
    let exponent = exponent - fraction.len() as i64;
    // DIGITS e EXPONENT is DIGITS000 e (EXPONENT - 3).
    let padded = format!("{digits}{}", "0".repeat(shift.unsigned_abs() as usize));
    let point = if zeros == 0 { String::new() } else { format!(".{}", "0".repeat(zeros)) };
    format!("{sign}{padded}{point}E{:+}", exponent - shift)
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn a_test_is_as_exact_as_rational_numbers(
        a in r"-?(0|[1-9][0-9]{0,6})(\.[0-9]{1,6})?([eE][+-]?[0-9])?",
        b in r"-?(0|[1-9]|[1-9]0{1,4})(\.[0-9]0{0,3})?([eE][+-]?[0-4])?",
        c in r"-?(0|[1-9]|[1-9]0{1,4})(\.[0-9]0{0,3})?([eE][+-]?[0-4])?",
        zeros in 0usize..4,
        shift in 0i64..20,
    ) {
        for (here, there) in [(&a, &b), (&b, &c), (&a, &rewritten(&a, zeros, shift)), (&b, &rewritten(&b, zeros, shift))] {
            let patch = value(&format!(r#"[{{"op":"test","path":"","value":{there}}}]"#));
            let equal = value(here).json_patch(&patch).is_ok();
            prop_assert_eq!(equal, exactly(here) == exactly(there), "{} and {}", here, there);
        }
    }

}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn a_merge_patch_leaves_the_text_that_it_does_not_name(
        mut members in proptest::collection::vec(member(), 0..6),
        place: prop::sample::Index,
        inner in proptest::collection::vec(member(), 0..4),
    ) {
        let place = place.index(members.len() + 1);
        let mut changed = inner.clone();
        members.insert(place, ("\"named\"".into(), object(&inner)));
        changed.push(("\"new\"".into(), "1E+2".into()));
        let before = object(&members);
        members[place].1 = object(&changed);
        let merged = value(&before).merge_patch(&value(r#"{"n\u0061med":{"new":1E+2,"absent":null}}"#));
        prop_assert_eq!(&merged, &Ok(value(&object(&members))));
        let patch = value(r#"[{"op":"add","path":"/named/new","value":1E+2},{"op":"test","path":"/named/new","value":100}]"#);
        prop_assert_eq!(value(&before).json_patch(&patch), merged);
        members.remove(place);
        let removed = value(&before).merge_patch(&value(r#"{"named":null}"#));
        prop_assert_eq!(&removed, &Ok(value(&object(&members))));
        prop_assert_eq!(value(&before).json_patch(&value(r#"[{"op":"remove","path":"/named"}]"#)), removed);
    }

    #[test]
    fn items_that_a_patch_does_not_name_stay_as_they_are_written(
        items in proptest::collection::vec(json_text(), 1..6),
        place: prop::sample::Index,
    ) {
        let mut items: Vec<String> = items.iter().map(|text| value(text).as_str().to_owned()).collect();
        let place = place.index(items.len());
        let before = value(&format!("[{}]", items.join(",")));
        items[place] = "-0.0".into();
        let patch = value(&format!(r#"[{{"op":"replace","path":"/{place}","value":-0.0}}]"#));
        let patched = before.json_patch(&patch);
        prop_assert_eq!(patched, Ok(value(&format!("[{}]", items.join(",")))));
    }
}

fn operation() -> impl Strategy<Value = String> {
    let pointer = "(/(a|b|0|1|-|)){0,3}";
    (
        prop_oneof![Just("add"), Just("remove"), Just("replace"), Just("move"), Just("copy"), Just("test")],
        pointer,
        pointer,
        json_text(),
    )
        .prop_map(|(op, path, from, value)| {
            format!(r#"{{"op":"{op}","path":"{path}","from":"{from}","value":{value}}}"#)
        })
}

/// RFC 7396, appendix A.
#[test]
fn merge_patches_of_the_standard() {
    for (target, patch, result) in [
        (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
        (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
        (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
        (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
        (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
        (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
        (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
        (r#"{"a":"foo"}"#, "null", "null"),
        (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
        (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
        ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
        ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
    ] {
        let merged = value(target).merge_patch(&value(patch));
        assert_eq!(merged.as_ref().map(Value::as_str), Ok(result), "{target} with {patch}");
    }
}

/// RFC 6902, appendix A; `None` where the patch is to be refused.
#[test]
fn json_patches_of_the_standard() {
    for (target, patch, result) in [
        (
            r#"{"foo":"bar"}"#,
            r#"[{"op":"add","path":"/baz","value":"qux"}]"#,
            Some(r#"{"foo":"bar","baz":"qux"}"#),
        ),
        (
            r#"{"foo":["bar","baz"]}"#,
            r#"[{"op":"add","path":"/foo/1","value":"qux"}]"#,
            Some(r#"{"foo":["bar","qux","baz"]}"#),
        ),
        (r#"{"baz":"qux","foo":"bar"}"#, r#"[{"op":"remove","path":"/baz"}]"#, Some(r#"{"foo":"bar"}"#)),
        (
            r#"{"foo":["bar","qux","baz"]}"#,
            r#"[{"op":"remove","path":"/foo/1"}]"#,
            Some(r#"{"foo":["bar","baz"]}"#),
        ),
        (
            r#"{"baz":"qux","foo":"bar"}"#,
            r#"[{"op":"replace","path":"/baz","value":"boo"}]"#,
            Some(r#"{"baz":"boo","foo":"bar"}"#),
        ),
        (
            r#"{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}"#,
            r#"[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]"#,
            Some(r#"{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}"#),
        ),
        (
            r#"{"foo":["all","grass","cows","eat"]}"#,
            r#"[{"op":"move","from":"/foo/1","path":"/foo/3"}]"#,
            Some(r#"{"foo":["all","cows","eat","grass"]}"#),
        ),
        (
            r#"{"baz":"qux","foo":["a",2,"c"]}"#,
            r#"[{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2}]"#,
            Some(r#"{"baz":"qux","foo":["a",2,"c"]}"#),
        ),
        (r#"{"baz":"qux"}"#, r#"[{"op":"test","path":"/baz","value":"bar"}]"#, None),
        (
            r#"{"foo":"bar"}"#,
            r#"[{"op":"add","path":"/child","value":{"grandchild":{}}}]"#,
            Some(r#"{"foo":"bar","child":{"grandchild":{}}}"#),
        ),
        (
            r#"{"foo":"bar"}"#,
            r#"[{"op":"add","path":"/baz","value":"qux","xyz":123}]"#,
            Some(r#"{"foo":"bar","baz":"qux"}"#),
        ),
        (r#"{"foo":"bar"}"#, r#"[{"op":"add","path":"/baz/bat","value":"qux"}]"#, None),
        (r#"{"/":9,"~1":10}"#, r#"[{"op":"test","path":"/~01","value":10}]"#, Some(r#"{"/":9,"~1":10}"#)),
        (r#"{"/":9,"~1":10}"#, r#"[{"op":"test","path":"/~01","value":"10"}]"#, None),
        (
            r#"{"foo":["bar"]}"#,
            r#"[{"op":"add","path":"/foo/-","value":["abc","def"]}]"#,
            Some(r#"{"foo":["bar",["abc","def"]]}"#),
        ),
    ] {
        let patched = value(target).json_patch(&value(patch));
        assert_eq!(patched.as_ref().map(Value::as_str).ok(), result, "{target} with {patch}");
    }
}

/// RFC 6902, section 4.6 and appendix A.13: what is no patch at all is not taken for one that does not apply.
#[test]
fn what_is_no_json_patch_is_said_to_be_none() {
    for patch in [
        "{}",
        "1",
        r#"[{"op":"spin","path":""}]"#,
        r#"[{"path":""}]"#,
        r#"[{"op":"add","path":"a","value":1}]"#,
    ] {
        assert!(matches!(value("{}").json_patch(&value(patch)), Err(Error::BadJson(_))), "{patch}");
    }
}
