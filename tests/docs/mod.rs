//! docs/api.md, events.md, websocket.md and errors.md name what clients can send and get: every route, parameter, header, body field,
//! event, operation, code and status there is, and none that is not.

mod code;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use dynarust::{http::request::accepts::OPERATIONS, node::MemberState};
use hyper::StatusCode;
use serde_json::Value;

use self::code::{Code, literals};
use crate::{
    harness::Node,
    pages::page::{Page, in_backticks},
};

const HTTP: &str = "src/http";

/// Fails with what only one of them has.
#[track_caller]
fn assert_same<T: Ord + Debug>(what: &str, documented: &BTreeSet<T>, known: &BTreeSet<T>) {
    let missing: Vec<_> = known.difference(documented).collect();
    let unknown: Vec<_> = documented.difference(known).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "{what}: the docs lack {missing:?}, and have {unknown:?}, which the code does not"
    );
}

/// A request, and what it may carry: its parameters and its conditions.
type Route = (String, BTreeSet<String>, BTreeSet<String>);

#[test]
fn every_route_is_there_with_its_parameters_and_conditions() {
    let names = |cell: &str| in_backticks(cell).into_iter().map(str::to_lowercase).collect::<BTreeSet<_>>();
    let api = Page::read("docs/api.md").chapter("Routes");
    let documented: BTreeSet<Route> = api
        .rows_of("request")
        .into_iter()
        .flat_map(|row| in_backticks(row[0]).into_iter().map(move |request| (request, row[2], row[3])))
        .map(|(request, parameters, conditions)| (request.to_owned(), names(parameters), names(conditions)))
        .collect();
    let known: BTreeSet<Route> = OPERATIONS
        .iter()
        .flat_map(|operation| operation.paths.iter().map(move |path| (operation, path)))
        .map(|(operation, path)| {
            let parameters = operation.parameters.iter().map(|parameter| parameter.name.to_owned());
            let conditions = operation.conditions.iter().map(|name| (*name).to_owned());
            (format!("{} {path}", operation.method), parameters.collect(), conditions.collect())
        })
        .collect();
    assert_same("routes", &documented, &known);
}

#[test]
fn every_parameter_is_there_and_no_other() {
    let known = OPERATIONS.iter().flat_map(|operation| operation.parameters).map(|it| it.name).collect();
    let api = Page::read("docs/api.md");
    assert_same("parameters", &api.chapter("Parameters").names("parameter"), &known);
    // Those of single routes too: `mode=new`.
    let all = api.names("parameter");
    let all = all.iter().map(|name| name.split('=').next().unwrap_or_default()).collect();
    assert_same("parameters", &all, &known);
}

#[test]
fn every_header_is_there_and_no_other() {
    let code = Code::below(HTTP);
    let standard = code.constants("header::").into_iter().map(|name| name.to_lowercase().replace('_', "-"));
    let own = code.between(&["HeaderName::from_static(\""], "\"").into_iter().map(str::to_owned);
    let known = standard.chain(own).collect();
    let api = Page::read("docs/api.md");
    let documented = api.names("header").into_iter().map(str::to_lowercase).collect();
    assert_same("headers", &documented, &known);
}

/// Each body that a client sends: its struct, and the chapter that says what it may have.
const BODIES: [(&str, &str, &str); 14] = [
    ("PutBody", "api.md", "Write a key"),
    ("Operation", "api.md", "Write many keys"),
    ("MultiGetBody", "api.md", "Read many keys"),
    ("ModeBody", "api.md", "Strong tables"),
    ("TransactionBody", "api.md", "Transactions"),
    ("CompareBody", "api.md", "Transactions"),
    ("OperationBody", "api.md", "Transactions"),
    ("Line", "api.md", "Import"),
    ("ForgetBody", "api.md", "Administration"),
    ("InitBody", "api.md", "Administration"),
    ("RoleBody", "api.md", "Administration"),
    ("Fields", "websocket.md", "Operations"),
    ("TokenEntry", "access.md", "The token file"),
    ("GrantClaim", "access.md", "JWTs"),
];

#[test]
fn every_field_of_a_body_is_there_and_no_other() {
    let code = Code::below(HTTP);
    let bodies = code.bodies();
    let documented = BODIES.iter().map(|(body, ..)| *body).collect();
    assert_same("bodies", &documented, &bodies.keys().copied().collect());
    for (body, page, chapter) in BODIES {
        let (page, known) = (Page::read(&format!("docs/{page}")).chapter(chapter), &bodies[body]);
        let words = page.words_of_code();
        let missing: Vec<_> = known.iter().filter(|field| !words.contains(**field)).collect();
        assert!(missing.is_empty(), "{body}: the chapter {chapter:?} lacks {missing:?}");
        let named = if page.has_table("field") { page.names("field") } else { BTreeSet::new() };
        let unknown: Vec<_> = named.difference(known).collect();
        assert!(
            unknown.is_empty(),
            "{body}: the chapter {chapter:?} has {unknown:?}, which it does not take"
        );
    }
}

/// The status that a constant of `StatusCode` stands for.
fn status(constant: &str) -> u16 {
    let named = |status: &StatusCode| {
        status.canonical_reason().is_some_and(|reason| reason.to_uppercase().replace(' ', "_") == constant)
    };
    let found = (100..600).filter_map(|number| StatusCode::from_u16(number).ok()).find(named);
    found.unwrap_or_else(|| panic!("no status {constant}")).as_u16()
}

fn numbers(cell: &str) -> BTreeSet<u16> {
    cell.split(", ").map(|number| number.parse().expect("a number")).collect()
}

#[test]
fn every_error_code_is_there_with_its_statuses() {
    let code = Code::below(HTTP);
    let mut known: BTreeMap<&str, BTreeSet<u16>> = BTreeMap::new();
    for pair in code.block("pub fn status_and_code(").split("StatusCode::").skip(1) {
        let Some((constant, rest)) = pair.split_once(',') else { continue };
        let Some(code) = literals(rest).first().copied() else { continue };
        known.entry(code).or_default().insert(status(constant));
    }
    assert!(known.len() > 20, "{known:?}");
    let errors = Page::read("docs/errors.md");
    let rows = errors.rows_of("code").into_iter().map(|row| (in_backticks(row[0])[0], numbers(row[1])));
    assert_same("error codes", &rows.collect(), &known.into_iter().collect());
}

/// The OpenAPI document has its statuses of problems from a file.
#[test]
fn the_description_has_every_error_code_with_its_statuses() {
    let described: BTreeMap<String, BTreeSet<u16>> =
        serde_json::from_str(include_str!("../../src/http/openapi/problems.json")).expect("JSON");
    let errors = Page::read("docs/errors.md");
    let documented =
        errors.rows_of("code").into_iter().map(|row| (in_backticks(row[0])[0].to_owned(), numbers(row[1])));
    assert_same("described error codes", &described.into_iter().collect(), &documented.collect());
}

#[test]
fn every_status_is_there_and_no_other() {
    let code = Code::below(HTTP);
    let known = code.constants("StatusCode::").into_iter().map(status).collect();
    let errors = Page::read("docs/errors.md");
    let of_codes = errors.rows_of("code").into_iter().map(|row| numbers(row[1]));
    let of_others = errors.rows_of("status").into_iter().map(|row| numbers(row[0]));
    assert_same("statuses", &of_codes.chain(of_others).flatten().collect(), &known);
}

/// The names of the events that this code sends.
fn events(code: &Code) -> BTreeSet<&str> {
    let fixed = code.between(&[r#""event":""#, r#""event": ""#, ".done(\"", ".open(\""], "\"");
    let chosen = code.between(&["let event = "], ";").into_iter().flat_map(literals);
    // The templates are not names: `"event":"{event}"`.
    fixed.into_iter().chain(chosen).filter(|name| !name.starts_with('{')).collect()
}

#[test]
fn every_event_is_there_and_no_other() {
    let pages = [("src/http/events/", "events.md"), (HTTP, "websocket.md")];
    for (folder, page) in pages {
        assert_same(page, &Page::read(&format!("docs/{page}")).names("event"), &events(&Code::below(folder)));
    }
}

#[test]
fn every_operation_of_a_websocket_is_there_with_its_fields() {
    let code = Code::below(HTTP);
    let arms = |block: &'static str| {
        code.block(block)
            .lines()
            .filter_map(|line| line.trim().split_once(" => "))
            .filter(|(name, _)| name.starts_with('"'))
    };
    let page = Page::read("docs/websocket.md");
    let rows = page.rows_of("`op`");
    let documented: BTreeMap<_, BTreeSet<_>> = rows
        .iter()
        .map(|row| (in_backticks(row[0])[0], in_backticks(row[1]).into_iter().collect()))
        .collect();
    let known = arms("fn request(self, sub").flat_map(|(names, _)| literals(names)).collect();
    assert_same("operations", &documented.keys().copied().collect(), &known);
    let mut checked = 0;
    for (names, fields) in arms("let allowed: &[&str] = match self.op") {
        for name in literals(names) {
            assert_same(name, &documented[name], &literals(fields).into_iter().collect());
            checked += 1;
        }
    }
    // Of `auth` nothing is read.
    assert_eq!(checked, documented.len() - 1);
}

#[test]
fn every_close_code_is_there_and_no_other() {
    let code = Code::below(HTTP);
    let number = |name: &str| match name {
        "Away" => 1001,
        "Protocol" => 1002,
        "Invalid" => 1007,
        "Policy" => 1008,
        "Size" => 1009,
        "Error" => 1011,
        "Again" => 1013,
        other => panic!("CloseCode::{other}: give it its number here"),
    };
    let known = code.between(&["Close(CloseCode::"], ",").into_iter().map(number).collect();
    let page = Page::read("docs/websocket.md");
    assert_same(
        "close codes",
        &page.rows_of("code").iter().flat_map(|row| numbers(row[0])).collect(),
        &known,
    );
}

#[test]
fn every_phase_and_state_is_there_and_no_other() {
    let code = Code::below("src");
    let phases = literals(code.block("pub fn phase(&self)")).into_iter().collect();
    let api = Page::read("docs/api.md");
    assert_same("phases", &api.names("phase"), &phases);
    let states = api.chapter("Cluster");
    let states =
        states.rows_of("field of a member").into_iter().find(|row| row[0] == "`state`").expect("a row");
    let known = MemberState::ALL.iter().map(|state| state.name()).collect();
    assert_same("states of a member", &in_backticks(states[1]).into_iter().collect(), &known);
}

/// The names of all members in `value`, at any depth.
fn members(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(object) => {
            object.iter().flat_map(|(name, value)| members(value).into_iter().chain([name.clone()])).collect()
        }
        Value::Array(items) => items.iter().flat_map(members).collect(),
        _ => BTreeSet::new(),
    }
}

#[test]
fn every_field_of_what_a_node_says_of_itself_is_there_and_no_other() {
    let node = Node::start();
    node.put("/_/tables/s", r#"{"mode":"strong"}"#).expect(201);
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let api = Page::read("docs/api.md");
    for (chapter, paths) in [("Tables and stats", &["/_/tables", "/stats"][..]), ("Cluster", &["/_/cluster"])]
    {
        let page = api.chapter(chapter);
        let known: BTreeSet<_> =
            paths.iter().flat_map(|path| members(&node.get(path).expect(200).json())).collect();
        assert!(known.len() > 10, "{known:?}");
        let words = page.words_of_code();
        let missing: Vec<_> = known.iter().filter(|name| !words.contains(&***name)).collect();
        assert!(missing.is_empty(), "{chapter}: the docs lack {missing:?}");
        let tables =
            ["field", "field of a member", "field of `strong`"].iter().filter(|head| page.has_table(head));
        let named: Vec<_> = tables.flat_map(|head| page.names(head)).collect();
        let unknown: Vec<_> = named.iter().filter(|name| !known.contains(**name)).collect();
        assert!(unknown.is_empty(), "{chapter}: the docs have {unknown:?}, which no answer has");
    }
}
