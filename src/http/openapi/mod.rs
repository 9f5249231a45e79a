//! The description of this API as an OpenAPI 3.1 document. The paths, methods, parameters and conditions come from [`OPERATIONS`], the table
//! that requests are checked against. The words and schemas are kept in the JSON files beside this one: `operations.json`, `parameters.json`,
//! `schemas.json` and `problems.json`.
//!
//! The tests below hold the two together: an operation or parameter without a description fails them, and so does a description of one that
//! is gone. `tests/docs` holds the codes of problems to those of the code.

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::request::accepts::{Access, OPERATIONS, Operation, Parameter};

const TITLE: &str = "DynaRust";
const ABOUT: &str = "A replicated, real-time key-value store. JSON values under keys, and keys in tables; every node holds everything and \
     takes every request. HEAD is served wherever GET is.";
/// The name of the scheme by which clients say who they are.
const ACCESS_TOKEN: &str = "accessToken";
/// The name of the scheme by which operators prove who they are.
const ADMIN_TOKEN: &str = "adminToken";

/// The document. It is made once.
pub fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| Sources::read().document())
}

/// The words and schemas.
struct Sources {
    operations: Value,
    parameters: Value,
    schemas: Value,
    problems: Value,
}

impl Sources {
    fn read() -> Self {
        let parse = |text| serde_json::from_str(text).expect("a test parses each of these files");
        Self {
            operations: parse(include_str!("operations.json")),
            parameters: parse(include_str!("parameters.json")),
            schemas: parse(include_str!("schemas.json")),
            problems: parse(include_str!("problems.json")),
        }
    }

    fn document(&self) -> Value {
        let tags = self.operations["tags"].as_object().into_iter().flatten();
        let tags: Vec<_> = tags.map(|(name, about)| json!({ "name": name, "description": about })).collect();
        let mut paths = Map::new();
        for operation in OPERATIONS {
            for path in operation.paths {
                let parameters: Vec<_> = names_in(path)
                    .map(|name| parameter("path", name, &self.parameters["path"][name]))
                    .collect();
                let item = paths.entry(*path).or_insert_with(|| json!({}));
                if !parameters.is_empty() {
                    item["parameters"] = parameters.into();
                }
                item[operation.method.to_lowercase()] = self.operation(operation, path);
            }
        }
        json!({
            "openapi": "3.1.0",
            "info": { "title": TITLE, "version": env!("CARGO_PKG_VERSION"), "description": ABOUT },
            "servers": [{ "url": "/" }],
            "tags": tags,
            "paths": paths,
            "components": {
                "schemas": self.schemas,
                "headers": self.parameters["answer"],
                "securitySchemes": { ACCESS_TOKEN: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of the node's `--tokens`, or a JWT. A node without either needs none.",
                }, ADMIN_TOKEN: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The text of `dynarust.admin-token`, which lies in the node's data directory.",
                } },
            },
        })
    }

    /// The description of a request, by its method and path. A path that is short for another has what that has, and its own `id` and
    /// `summary`.
    fn described(&self, request: &str) -> Value {
        let own = &self.operations["operations"][request];
        let Some(whole) = own["as"].as_str() else { return own.clone() };
        let mut described = self.operations["operations"][whole].clone();
        described["id"] = own["id"].clone();
        described["summary"] = own["summary"].clone();
        described
    }

    fn operation(&self, operation: &Operation, path: &str) -> Value {
        let described = self.described(&format!("{} {path}", operation.method));
        let mut result = json!({
            "operationId": described["id"],
            "tags": [described["tag"]],
            "summary": described["summary"],
            "responses": self.responses(&described, operation.access),
        });
        if let Some(text) = described.get("text") {
            result["description"] = text.clone();
        }
        let headers = described["headers"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let headers =
            headers.map(str::to_lowercase).chain(operation.conditions.iter().map(|name| (*name).to_owned()));
        let headers = headers.map(|name| {
            let described = &self.parameters["header"][&name];
            parameter("header", described["name"].as_str().unwrap_or(&name), described)
        });
        let query = operation.parameters.iter().map(|parameter| self.query_parameter(parameter));
        let parameters: Vec<_> = query.chain(headers).collect();
        if !parameters.is_empty() {
            result["parameters"] = parameters.into();
        }
        if let Some(body) = described.get("body") {
            result["requestBody"] =
                json!({ "required": body["required"], "content": content(&body["content"]) });
        }
        match operation.access {
            Access::Open | Access::Peer => {}
            Access::Admin | Access::AdminAndRead => {
                result["security"] = json!([{ ADMIN_TOKEN: [] }, { ACCESS_TOKEN: [] }])
            }
            Access::Node(_) | Access::Path(_) | Access::Prefix(_) | Access::Each(_) | Access::Mixed => {
                result["security"] = json!([{ ACCESS_TOKEN: [] }, {}]);
            }
        }
        result
    }

    fn query_parameter(&self, Parameter { name, repeatable, about }: &Parameter) -> Value {
        let schema = &self.parameters["query"][*name]["schema"];
        let mut result = json!({ "name": name, "in": "query", "description": about, "schema": schema });
        if *repeatable {
            result["schema"] = json!({ "type": "array", "items": schema });
            result["explode"] = true.into();
        }
        result
    }

    /// The answers of a request, with the problems it may come to.
    fn responses(&self, described: &Value, access: Access) -> Value {
        let mut responses = Map::new();
        for (status, answer) in described["answers"].as_object().into_iter().flatten() {
            let names = answer["headers"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let headers = header_references(std::iter::once("X-Request-Id").chain(names));
            let mut response = json!({ "description": answer["text"], "headers": headers });
            if let Some(media) = answer.get("content") {
                response["content"] = content(media);
            }
            responses.insert(status.clone(), response);
        }
        let is_guarded = !matches!(access, Access::Open | Access::Peer);
        let codes = self.errors(&described["errors"]).into_iter();
        for code in codes.chain(is_guarded.then_some("unauthorized")) {
            for status in self.problems[code].as_array().into_iter().flatten() {
                let response = responses
                    .entry(status.to_string())
                    .or_insert_with(|| json!({ "description": "", "headers": problem_headers(status) }));
                add_problem(response, code);
            }
        }
        responses.sort_keys();
        responses.into()
    }

    /// The codes in a list of codes and `@sets`.
    fn errors<'a>(&'a self, list: &'a Value) -> Vec<&'a str> {
        let mut codes = Vec::new();
        for name in list.as_array().into_iter().flatten().filter_map(Value::as_str) {
            match name.strip_prefix('@') {
                Some(set) => codes.extend(self.errors(&self.operations["errors"][set])),
                None => codes.push(name),
            }
        }
        codes
    }
}

/// The names in braces.
fn names_in(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|step| step.strip_prefix('{')?.strip_suffix('}'))
}

fn parameter(place: &str, name: &str, described: &Value) -> Value {
    json!({
        "name": name,
        "in": place,
        "required": place == "path",
        "description": described["description"],
        "schema": described["schema"],
    })
}

/// Content types with their schemas.
fn content(schemas: &Value) -> Value {
    let one = |(media, name): (&String, &Value)| {
        let name = name.as_str().unwrap_or_default();
        (media.clone(), json!({ "schema": { "$ref": format!("#/components/schemas/{name}") } }))
    };
    schemas.as_object().into_iter().flatten().map(one).collect::<Map<_, _>>().into()
}

fn header_references<'a>(names: impl Iterator<Item = &'a str>) -> Value {
    let reference = |name: &str| json!({ "$ref": format!("#/components/headers/{name}") });
    names.map(|name| (name.to_owned(), reference(name))).collect::<Map<_, _>>().into()
}

fn problem_headers(status: &Value) -> Value {
    let further = match status.as_u64() {
        Some(401) => Some("WWW-Authenticate"),
        Some(405) => Some("Allow"),
        Some(429 | 503) => Some("Retry-After"),
        _ => None,
    };
    header_references(std::iter::once("X-Request-Id").chain(further))
}

/// Adds a problem's code to a response, and the content type of problems if it is the first.
fn add_problem(response: &mut Value, code: &str) {
    let said = response["description"].as_str().unwrap_or_default();
    let separator = if said.is_empty() { "" } else { ", " };
    response["description"] = format!("{said}{separator}`{code}`").into();
    let schema = &mut response["content"]["application/problem+json"]["schema"];
    if schema.is_null() {
        *schema = json!({
            "allOf": [
                { "$ref": "#/components/schemas/Problem" },
                { "properties": { "error": { "enum": [] } } },
            ],
        });
    }
    if let Some(codes) = schema["allOf"][1]["properties"]["error"]["enum"].as_array_mut()
        && !codes.iter().any(|known| known == code)
    {
        codes.push(code.into());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::error::Error;

    fn keys(value: &Value) -> BTreeSet<&str> {
        value.as_object().expect("an object").keys().map(String::as_str).collect()
    }

    fn requests() -> BTreeSet<String> {
        let of = |operation: &'static Operation| {
            operation.paths.iter().map(move |path| format!("{} {path}", operation.method))
        };
        OPERATIONS.iter().flat_map(of).collect()
    }

    #[test]
    fn every_operation_is_described_and_no_other() {
        let sources = Sources::read();
        let described: BTreeSet<_> =
            keys(&sources.operations["operations"]).into_iter().map(str::to_owned).collect();
        assert_eq!(described, requests());
        let tags = keys(&sources.operations["tags"]);
        let mut ids = BTreeSet::new();
        for request in requests() {
            let described = sources.described(&request);
            for field in ["id", "summary"] {
                assert!(described[field].as_str().is_some_and(|text| !text.is_empty()), "{request}: {field}");
            }
            assert!(tags.contains(described["tag"].as_str().unwrap_or_default()), "{request}: its tag");
            assert!(ids.insert(described["id"].to_string()), "{request}: its id is another's too");
            let takes_body = ["PUT", "POST", "PATCH"].iter().any(|method| request.starts_with(method));
            assert_eq!(described["body"].is_object(), takes_body, "{request}: its body");
            for (status, answer) in described["answers"].as_object().expect("answers") {
                let needs_content = !matches!(status.as_str(), "101" | "304");
                assert_eq!(answer["content"].is_object(), needs_content, "{request}: {status}");
            }
            for code in sources.errors(&described["errors"]) {
                assert!(sources.problems[code].is_array(), "{request}: no such problem: {code}");
            }
        }
    }

    #[test]
    fn every_parameter_and_condition_is_described_and_no_other() {
        let sources = Sources::read();
        let parameters: BTreeSet<_> =
            OPERATIONS.iter().flat_map(|operation| operation.parameters).map(|it| it.name).collect();
        assert_eq!(keys(&sources.parameters["query"]), parameters);
        let in_paths: BTreeSet<_> =
            OPERATIONS.iter().flat_map(|operation| operation.paths).flat_map(|path| names_in(path)).collect();
        assert_eq!(keys(&sources.parameters["path"]), in_paths);
        for condition in OPERATIONS.iter().flat_map(|operation| operation.conditions) {
            assert!(sources.parameters["header"][condition].is_object(), "{condition}");
        }
    }

    /// Every `$ref` of the document, collected from all its depth.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                    found.insert(reference.to_owned());
                }
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        let mut found = BTreeSet::new();
        references(document(), &mut found);
        for reference in &found {
            assert!(document().pointer(&reference[1..]).is_some(), "{reference}");
        }
        for (kind, names) in [
            ("schemas", keys(&document()["components"]["schemas"])),
            ("headers", keys(&document()["components"]["headers"])),
        ] {
            for name in names {
                let reference = format!("#/components/{kind}/{name}");
                assert!(found.contains(&reference), "nothing uses {reference}");
            }
        }
    }

    #[test]
    fn a_problem_has_the_status_that_it_is_answered_with() {
        for error in [
            Error::BadJson(String::new()),
            Error::NotFound(String::new()),
            Error::precondition_failed(None::<&str>),
            Error::Draining,
            Error::StorageFull(String::new()),
        ] {
            let (status, code) = crate::http::response::status_and_code(&error);
            let statuses = Sources::read().problems[code].clone();
            assert!(
                statuses.as_array().is_some_and(|all| all.iter().any(|one| *one == status.as_u16())),
                "{code}"
            );
        }
    }

    #[test]
    fn a_short_path_is_described_like_the_path_it_stands_for() {
        let paths = &document()["paths"];
        let (short, whole) = (&paths["/key/{key}"]["put"], &paths["/{table}/key/{key}"]["put"]);
        assert_ne!(short["operationId"], whole["operationId"]);
        assert_eq!(short["responses"], whole["responses"]);
        assert_eq!(short["requestBody"], whole["requestBody"]);
        assert_eq!(
            whole["responses"]["412"]["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]
                ["error"]["enum"],
            json!(["precondition-failed"])
        );
        assert_eq!(
            paths["/_/admin/sync"]["post"]["security"],
            json!([{ "adminToken": [] }, { "accessToken": [] }])
        );
        assert_eq!(whole["security"], json!([{ "accessToken": [] }, {}]));
        assert!(paths["/healthz"]["get"]["security"].is_null() && whole["responses"]["401"].is_object());
    }
}
