//! What the properties are tried on: names, timestamps, JSON texts, registers, bytes.

use dynarust::core::{
    clock::{NodeId, Timestamp},
    json::Value,
    register::{Payload, Register},
};
use proptest::{collection::vec, prelude::*};

/// Any timestamp; often one that is equal to another or next to it.
pub fn timestamp() -> impl Strategy<Value = Timestamp> {
    let hlc = prop_oneof![0..4u64, any::<u64>(), Just(u64::MAX)];
    let node = prop_oneof![0..3u64, any::<u64>()];
    (hlc, node).prop_map(|(hlc, node)| Timestamp { hlc, node: NodeId(node) })
}

/// A tombstone or a value, with or without an expiry.
pub fn payload() -> impl Strategy<Value = Payload> {
    let live = (json_text(), proptest::option::of(any::<u64>()));
    prop_oneof![
        1 => Just(Payload::Deleted),
        4 => live.prop_map(|(text, expires_at_ms)| Payload::Live { value: value(&text), expires_at_ms }),
    ]
}

/// Any register.
pub fn register() -> impl Strategy<Value = Register> {
    (payload(), timestamp()).prop_map(|(payload, timestamp)| Register::new(payload, timestamp))
}

/// The value of text that is JSON.
#[track_caller]
pub fn value(text: &str) -> Value {
    Value::parse(text).expect("JSON")
}

/// JSON text as `serde_json` would not write it: white space, escapes, odd numbers, members in any order.
pub fn json_text() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|truth| truth.to_string()),
        number(),
        string(),
    ];
    scalar.prop_recursive(4, 48, 6, |inner| {
        let items = vec((space(), inner.clone()), 0..6);
        let members = vec((space(), string(), space(), inner), 0..6);
        prop_oneof![
            (items, space()).prop_map(|(items, space)| {
                let items: Vec<String> = items.iter().map(|(space, item)| format!("{space}{item}")).collect();
                format!("[{}{space}]", items.join(","))
            }),
            (members, space()).prop_map(|(members, space)| {
                let mut names = std::collections::HashSet::new();
                let members: Vec<String> = members
                    .iter()
                    .filter(|(_, name, ..)| names.insert(decoded(name)))
                    .map(|(before, name, between, member)| {
                        format!("{before}{name}{between}:{between}{member}")
                    })
                    .collect();
                format!("{{{}{space}}}", members.join(","))
            }),
        ]
    })
}

/// Bytes, short and long.
pub fn bytes(length_max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..64), vec(any::<u8>(), 0..=length_max)]
}

fn decoded(string: &str) -> String {
    serde_json::from_str(string).expect("a JSON string")
}

fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just(""), 1 => Just(" "), 1 => Just("\n\t\r ")]
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?",
    ]
}

/// A JSON string, quotes included: few names, so that members meet, and any text, raw or escaped.
fn string() -> impl Strategy<Value = String> {
    let text = prop_oneof!["[ab]", r#"[ "\\a-c{}\[\]:,/\n\u{7f}é🦀]{0,12}"#, ".{0,12}"];
    (text, any::<bool>()).prop_map(|(text, escaped)| match escaped {
        false => serde_json::Value::from(text).to_string(),
        true => {
            let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            format!("\"{units}\"")
        }
    })
}
