//! The strict readers: of queries, of objects, of messages. Whatever is sent, there is an answer, twice the same; what they take is
//! known and there once.

use std::collections::HashSet;

use dynarust::{
    core::nearest,
    error::Error,
    http::{
        request::{accepts::OPERATIONS, body, strict},
        websocket::request,
    },
};
use proptest::{collection::vec, prelude::*, sample::select};
use serde::Deserialize;

use crate::cases;

/// As long as no value in what is tried.
const VALUE_BYTES_MAX: u64 = 1_000;
const NOW_MS: u64 = 1_795_000_000_000;

/// What queries are made of: names that are known, nearly known and none, with what stands around them.
const QUERY_PIECES: &[&str] = &[
    "ttl",
    "tll",
    "expires_at",
    "w",
    "W",
    "w_timeout",
    "meta",
    "prefix",
    "key",
    "keys",
    "topic",
    "mode",
    "=",
    "&",
    "%74tl",
    "%",
    "%zz",
    "%FF",
    "+",
    "1",
    "true",
    "5s",
    "é",
    "",
    "&&",
    "ttl=1&",
    "w=all&",
    "prefix=a&",
    "key=a&",
    "meta&",
];

/// What objects are made of: members, and what breaks them.
const OBJECT_PIECES: &[&str] = &[
    r#""op":"put""#,
    r#""op":"patch""#,
    r#""op":"delete""#,
    r#""op":"sub""#,
    r#""op":"get""#,
    r#""key":"a""#,
    r#""table":"t""#,
    r#""id":"s""#,
    r#""value":1"#,
    r#""value":{"n":[1e400,"\ud800"]}"#,
    r#""value":"\u00e9""#,
    r#""vaule":1"#,
    r#""ttl":5"#,
    r#""ttl":"5s""#,
    r#""ttl":null"#,
    r#""tll":5"#,
    r#""expires_at":1795000000001"#,
    r#""expires_at":"x""#,
    r#""if_match":"*""#,
    r#""If-Match":"*""#,
    r#""if_none_match":"*""#,
    r#""force":true"#,
    r#""prefix":"p""#,
    r#""\u0076alue":2"#,
    r#""patch":[]"#,
    "1",
    "[[[[",
    "\"",
    "\\",
    "}",
    "{",
    "",
];

/// Members of every kind that a body has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "what is read of them is whether they are read")]
struct Body<'a> {
    #[serde(borrow)]
    value: Option<&'a serde_json::value::RawValue>,
    ttl: Option<u64>,
    key: Option<String>,
    force: Option<bool>,
}

fn pieces(of: &'static [&'static str], count: usize) -> impl Strategy<Value = Vec<&'static str>> {
    vec(select(of), 0..count)
}

proptest! {
    // Together with the two below 200,000 cases; each takes some microseconds.
    #![proptest_config(cases(80_000))]

    #[test]
    fn a_query_that_is_taken_has_known_names_once_each(pieces in pieces(QUERY_PIECES, 8), of in 0..OPERATIONS.len()) {
        let (query, operation) = (pieces.concat(), &OPERATIONS[of]);
        let answer = operation.check_query(&query);
        prop_assert_eq!(&answer, &operation.check_query(&query));
        let names: Vec<_> = form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name).collect();
        let known = |name: &str| operation.parameters.iter().find(|parameter| parameter.name == name);
        let mut seen = HashSet::new();
        let is_right = names.iter().all(|name| {
            known(name).is_some_and(|parameter| seen.insert(name.clone()) || parameter.repeatable)
        });
        prop_assert_eq!(answer.is_ok(), is_right, "{}", query);
        if let Err(error) = answer {
            let Error::BadRequest(why) = error else { return Err(TestCaseError::fail(format!("{error:?}"))) };
            prop_assert!(why.len() < 1_000, "{}", why);
        }
    }
}

proptest! {
    #![proptest_config(cases(60_000))]

    #[test]
    fn an_object_that_is_taken_has_known_members_only(pieces in pieces(OBJECT_PIECES, 6)) {
        let text = format!("{{{}}}", pieces.join(","));
        let answer = body::parse_object::<Body<'_>>(text.as_bytes()).map(|_| ());
        prop_assert_eq!(&answer, &body::parse_object::<Body<'_>>(text.as_bytes()).map(|_| ()));
        let fields = strict::fields_of::<Body<'_>>();
        let members = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text);
        let unknown = members.as_ref().ok().and_then(|members| members.keys().find(|name| !fields.contains(&name.as_str())));
        match (answer, unknown) {
            (Ok(()), unknown) => prop_assert_eq!(unknown, None),
            (Err(Error::BadRequest(why)), Some(_)) => prop_assert!(why.contains("unknown field"), "{}", why),
            (Err(Error::BadJson(_)), None) => {}
            // What serde_json does not decode, half a surrogate pair, is known by its names all the same.
            (Err(Error::BadRequest(why)), None) => prop_assert!(members.is_err() && why.contains("unknown field"), "{}", why),
            (answer, unknown) => prop_assert!(false, "{text}: {answer:?}, {unknown:?}"),
        }
    }

    #[test]
    fn a_message_has_one_answer(pieces in pieces(OBJECT_PIECES, 8)) {
        let text = format!("{{{}}}", pieces.join(","));
        let answer = request::parse(&text, VALUE_BYTES_MAX, NOW_MS);
        prop_assert_eq!(&answer, &request::parse(&text, VALUE_BYTES_MAX, NOW_MS));
        let misspelt = ["vaule", "tll", "If-Match"].iter().any(|name| text.contains(name));
        prop_assert!(answer.1.is_err() || !misspelt, "{}", text);
        let surrogate = text.contains(r#"\ud800"#);
        prop_assert!(answer.1.is_err() || !surrogate, "{}", text);
    }
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn a_known_name_is_the_nearest_to_itself_and_to_a_letter_less(of in 0..OPERATIONS.len(), letter in 0usize..20) {
        for parameter in OPERATIONS[of].parameters {
            let names = || OPERATIONS[of].parameters.iter().map(|parameter| parameter.name);
            prop_assert_eq!(nearest::nearest(parameter.name, names()), Some(parameter.name));
            let mut shorter = parameter.name.to_owned();
            shorter.remove(letter % shorter.len());
            prop_assert!(shorter.is_empty() || nearest::nearest(&shorter, names()).is_some(), "{}", shorter);
        }
    }

    #[test]
    fn no_name_is_too_long_or_too_strange(given in ".{0,200}", known in vec("[a-z_]{1,12}", 0..6)) {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let meant = nearest::nearest(&given, known.iter().copied());
        prop_assert!(meant.is_none_or(|meant| known.contains(&meant)));
        prop_assert!(!nearest::unknown("name", &given, &known).is_empty());
    }
}
