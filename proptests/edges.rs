//! Whatever a client sends where a name, a path, a number or a message is expected: it parses as what it says, or is an error.

use dynarust::{
    core::{
        clock::{NodeId, Timestamp},
        name::{KEY_BYTES_MAX, Key, TABLE_BYTES_MAX, TableName},
    },
    error::Error,
    http::{
        events,
        request::{condition, expiry, path, value as request_value},
        websocket::request::{self, Operation, Request},
    },
    node::{Change, Cursor, Effect, Gone, Notice, Start},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use proptest::{collection::vec, prelude::*};

use crate::{
    cases,
    generators::{bytes, json_text, value},
};

const VALUE_BYTES_MAX: u64 = 1_000;
const LEAVE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'/').remove(b'.');

fn table_name() -> impl Strategy<Value = TableName> {
    "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
        .prop_filter("not a table", |name| name != "key")
        .prop_map(|name| TableName::parse(&name).expect("a table name"))
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof!["[a-c/%+ ]{1,6}", ".{1,40}", "(?s).{1,40}"].prop_map(|key| Key::parse(&key).expect("a key"))
}

fn message() -> impl Strategy<Value = String> {
    let op = prop_oneof!["sub|unsub|get|put|patch|delete|ping|auth", "[a-z]{0,4}"];
    let name =
        "rid|id|table|key|prefix|since|snapshot|value|patch|ttl|if_match|if_none_match|force|token|other";
    let member =
        prop_oneof![json_text(), Just(r#""t""#.to_owned()), Just("true".to_owned()), Just("7".to_owned())];
    (op, vec((name, member), 0..6)).prop_map(|(op, members)| {
        let members: String = members.iter().map(|(name, member)| format!(r#","{name}":{member}"#)).collect();
        format!(r#"{{"op":"{op}"{members}}}"#)
    })
}

/// What is answered is one JSON object, whatever the message was.
fn check_answers(text: &str) -> Result<(), TestCaseError> {
    let (reply_to, request) = request::parse(text, VALUE_BYTES_MAX, 0);
    let answers = match &request {
        Ok(_) => {
            [reply_to.done("subscribed", None), reply_to.result("{}"), reply_to.result(r#"{"version":"v"}"#)]
        }
        Err(error) => [(); 3].map(|()| reply_to.problem(error, "id")),
    };
    for answer in answers {
        let object: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_str(&answer);
        // A label is repeated as it came, and half a surrogate pair came as JSON that serde_json does not decode.
        prop_assert!(object.is_ok() || text.contains("\\ud") || text.contains("\\uD"), "{answer}");
    }
    if let Ok(Request::Call(Operation::Write(_, write))) = request {
        prop_assert!((1..=KEY_BYTES_MAX).contains(&write.key.as_str().len()));
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn a_table_name_is_what_the_rule_says(text in "[a-zA-Z0-9_.-]{0,70}|.{0,10}|key") {
        let plain = |c: char| c.is_ascii_alphanumeric();
        let fits = text.len() <= TABLE_BYTES_MAX
            && text.starts_with(plain)
            && text.chars().all(|c| plain(c) || "_.-".contains(c))
            && text != "key";
        match TableName::parse(&text) {
            Ok(name) => prop_assert!(fits && name.as_str() == text),
            Err(error) => prop_assert!(!fits && matches!(error, Error::BadName(_))),
        }
    }

    #[test]
    fn a_key_is_any_text_of_its_length(text in ".{0,1100}") {
        let fits = (1..=KEY_BYTES_MAX).contains(&text.len());
        match Key::parse(&text) {
            Ok(key) => prop_assert!(fits && key.as_str() == text),
            Err(error) => prop_assert!(!fits && matches!(error, Error::BadName(_))),
        }
    }

    #[test]
    fn every_key_has_a_path(table in table_name(), key in key()) {
        for escape in [NON_ALPHANUMERIC, LEAVE] {
            let segment = percent_encode(key.as_str().as_bytes(), escape);
            let address = path::keyed(&format!("/{table}/key/{segment}"), "key").expect("the path of a key");
            prop_assert_eq!(address.map(|it| (it.table, it.key)), Ok((table.clone(), key.clone())));
        }
    }

    #[test]
    fn no_path_panics(text in prop_oneof!["(/(key|keys|a|_|%2[Ff]|%|%zz|%FF|\\.\\.|é)?){0,6}", "/.{0,30}", ".{0,30}"]) {
        for noun in ["key", "keys", "subscribe"] {
            let _ = path::collection(&text, noun);
            if let Some(Err(error)) = path::keyed(&text, noun) {
                prop_assert!(matches!(error, Error::BadKey(_) | Error::BadName(_)), "{error:?}");
            }
        }
    }

    #[test]
    fn what_decodes_is_what_was_encoded(bytes in bytes(60)) {
        let encoded = percent_encode(&bytes, NON_ALPHANUMERIC).to_string();
        let decoded = path::decode(&encoded);
        prop_assert_eq!(decoded.ok(), std::str::from_utf8(&bytes).ok().map(Into::into));
        let _ = path::decode(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn an_event_id_comes_back(epoch: u32, sequence: u64, agreed_ms: u64, cluster: u32) {
        let cluster = if agreed_ms == 0 { 0 } else { cluster };
        let cursor = Cursor { epoch, sequence, agreed_ms, cluster };
        prop_assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor));
        prop_assert_eq!(request_value::start_at(Some(&cursor.to_string()), false), Start::After(cursor));
    }

    #[test]
    fn no_event_id_panics_and_one_that_is_none_resynchronises(text in "[0-9a-f+]{0,9}[.]?[0-9+]{0,22}|.{0,20}") {
        match Cursor::parse(&text) {
            Some(cursor) => prop_assert_eq!(cursor.to_string(), text),
            None if !text.is_empty() => prop_assert_eq!(request_value::start_at(Some(&text), false), Start::Resync),
            None => {}
        }
    }

    #[test]
    fn no_time_to_live_panics(text in r"-?[0-9]{0,25}(\.[0-9]{0,3})?(e[0-9]{1,4})?(ms|s|m|h|d| |y|us)?|inf|nan|.{0,20}") {
        if let Ok(ttl) = expiry::parse_ttl(&text) {
            prop_assert!(ttl.as_millis() >= 1);
        }
    }

    #[test]
    fn no_condition_panics(tags in r#"(W/|"|[0-9a-f]{16}-[0-9a-f]{16}|,|\*| |x){0,8}"#, weak: bool) {
        let (if_match, if_none_match) = if weak { (None, Some(&*tags)) } else { (Some(&*tags), None) };
        let _ = condition::condition(if_match, if_none_match);
    }

    #[test]
    fn every_message_has_an_answer_that_is_json(text in message()) {
        check_answers(&text)?;
    }

    #[test]
    fn no_bytes_break_a_conversation(bytes in bytes(200), text in r#"[{}\[\]":,\\a-z0-9 ]{0,60}"#) {
        check_answers(&String::from_utf8_lossy(&bytes))?;
        check_answers(&text)?;
    }

    #[test]
    fn an_event_is_one_frame_whatever_it_says(table in table_name(), key in key(), text in json_text(), gone: bool) {
        let effect = match gone {
            true => Effect::Deleted(Gone::Expired),
            false => Effect::Updated { value: value(&text), expires_at_ms: Some(1) },
        };
        let cursor = Some(Cursor { epoch: 1, sequence: 2, agreed_ms: 3, cluster: 4 });
        let timestamp = Timestamp { hlc: 3, node: NodeId(4) };
        let change = Change::new(cursor, table, key.clone(), timestamp, effect);
        let frame = events::frame(&Notice::Change(change.into()));
        let lines: Vec<&str> = frame.text().split(['\n', '\r']).collect();
        prop_assert_eq!(lines.len(), 4);
        let data = lines[1].strip_prefix("data: ").expect("the data is a line");
        let object: serde_json::Value = serde_json::from_str(data).expect("JSON");
        prop_assert_eq!(object["key"].as_str(), Some(key.as_str()));
        if !gone {
            prop_assert_eq!(&object["value"], &serde_json::from_str::<serde_json::Value>(&text).expect("JSON"));
        }
    }
}
