//! Each metric and label in the alerts and the dashboard is one that nodes have.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::read;
use crate::{
    harness::cluster::Cluster,
    strong::{make, wait_until_whole},
};

/// Labels that Prometheus gives to every series.
const OF_PROMETHEUS: [&str; 2] = ["instance", "job"];

/// Each metric of a node, with its labels and their values.
type Metrics = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// A query with what its legend or texts name of its labels.
struct Query {
    text: String,
    shown: Vec<String>,
}

/// The metrics of a query with their matchers, and the labels that it groups by.
#[derive(Debug, Default, PartialEq)]
struct Names {
    metrics: Vec<(String, Vec<(String, String)>)>,
    labels: Vec<String>,
}

impl Names {
    fn of(query: &str) -> Self {
        let mut names = Self::default();
        let mut rest = query;
        while let Some(begin) = rest.find(|letter: char| letter.is_ascii_alphabetic()) {
            rest = &rest[begin..];
            let end = rest.find(|letter: char| !is_of_name(letter)).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            rest = after;
            let inside = |open, close| after.trim_start().strip_prefix(open)?.split_once(close);
            if name.starts_with("dynarust_") {
                let matchers = inside('{', '}').map(|(matchers, after)| {
                    rest = after;
                    matchers.split("\",").filter_map(matcher).collect()
                });
                names.metrics.push((name.to_owned(), matchers.unwrap_or_default()));
            } else if ["by", "without", "on", "ignoring"].contains(&name) {
                let (labels, after) = inside('(', ')').expect("labels in brackets");
                rest = after;
                names.labels.extend(labels.split(',').map(|label| label.trim().to_owned()));
            }
        }
        names
    }

    /// What nodes with these metrics do not have.
    fn unknown_to(&self, metrics: &Metrics, shown: &[String]) -> Vec<String> {
        let mut unknown = Vec::new();
        let mut labels: BTreeSet<&str> = OF_PROMETHEUS.into();
        for (name, matchers) in &self.metrics {
            let Some(own) = metrics.get(name) else {
                unknown.push(format!("the metric {name}"));
                continue;
            };
            labels.extend(own.keys().map(String::as_str));
            for (label, values) in matchers.iter().filter(|(label, _)| !OF_PROMETHEUS.contains(&&**label)) {
                let known = own.get(label);
                let is_known = |value: &str| known.is_some_and(|known| known.contains(value));
                if !values.split('|').all(is_known) {
                    unknown.push(format!("{name}{{{label}={values:?}}}: there is {known:?}"));
                }
            }
        }
        let named = self.labels.iter().chain(shown).filter(|label| !labels.contains(&***label));
        unknown.extend(named.map(|label| format!("the label {label}")));
        unknown
    }
}

fn is_of_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// A label and its value, or several values with bars between them.
fn matcher(text: &str) -> Option<(String, String)> {
    let (label, value) = text.split_once('"')?;
    let label = label.trim().trim_end_matches(['=', '~', '!']);
    Some((label.to_owned(), value.trim_end_matches('"').to_owned()))
}

/// What `{{ $labels.NAME }}` and `{{NAME}}` name in a text.
fn shown_labels(text: &str) -> Vec<String> {
    let parts = text.split("{{").skip(1).filter_map(|part| part.split("}}").next());
    let parts = parts.map(|part| part.trim().trim_start_matches("$labels.").to_owned());
    parts.filter(|name| name.chars().all(is_of_name)).collect()
}

/// The rules of a file, with the texts that belong to them.
fn rules(file: &str) -> Vec<Query> {
    let mut queries = Vec::new();
    for rule in file.split("- alert: ").skip(1) {
        let (_, after) = rule.split_once("expr:").expect("a rule has an expression");
        let (text, texts) = after.split_once("labels:").expect("labels come after it");
        let text = text.split("for:").next().unwrap_or_default();
        queries.push(Query { text: text.to_owned(), shown: shown_labels(texts) });
    }
    queries
}

/// The queries of a dashboard, wherever they are.
fn of_dashboard(value: &Value, queries: &mut Vec<Query>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(text)) = fields.get("expr").or_else(|| fields.get("definition")) {
                let legend = fields.get("legendFormat").and_then(Value::as_str).unwrap_or_default();
                queries.push(Query { text: text.clone(), shown: shown_labels(legend) });
            }
            fields.values().for_each(|field| of_dashboard(field, queries));
        }
        Value::Array(list) => list.iter().for_each(|one| of_dashboard(one, queries)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Adds the series of a page of metrics.
fn add(metrics: &mut Metrics, page: &str) {
    for line in page.lines().filter(|line| line.starts_with("dynarust_")) {
        let (series, _) = line.rsplit_once(' ').expect("a series and its value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let own = metrics.entry(name.to_owned()).or_default();
        for (label, value) in labels.trim_end_matches('}').split("\",").filter_map(matcher) {
            own.entry(label).or_default().insert(value);
        }
    }
}

#[test]
fn alerts_and_dashboard_ask_for_what_nodes_have() {
    let cluster = Cluster::start(2);
    make(&cluster[0], "stock");
    wait_until_whole(&cluster, "stock");
    for node in cluster.running() {
        node.put("/users/key/alice", r#"{"value":1}"#).expect(200);
    }
    // Up to when all have everything is shown once that is known.
    cluster.wait_until_agreed();
    let mut metrics = Metrics::new();
    cluster.running().for_each(|node| add(&mut metrics, node.get("/metrics").expect(200).text()));

    let mut queries = rules(&read("prometheus/alerts.yaml"));
    let alerts = queries.len();
    let dashboard = serde_json::from_str(&read("grafana/dynarust.json")).expect("the dashboard is JSON");
    of_dashboard(&dashboard, &mut queries);
    assert!(alerts > 10 && queries.len() > alerts + 30, "{alerts} of {}: some are not found", queries.len());
    let mut unknown = Vec::new();
    for Query { text, shown } in &queries {
        let names = Names::of(text);
        assert!(!names.metrics.is_empty() || text.contains("up{"), "no metric in {text}");
        let missing = names.unknown_to(&metrics, shown);
        unknown.extend(missing.into_iter().map(|missing| format!("{missing}, in {}", text.trim())));
    }
    assert!(unknown.is_empty(), "no node has\n{}", unknown.join("\n"));
}

#[test]
fn what_nodes_do_not_have_is_noticed() {
    let mut metrics = Metrics::new();
    add(
        &mut metrics,
        "dynarust_a_total{route=\"key\",status=\"2xx\"} 3\ndynarust_a_total{route=\"all\",status=\"5xx\"} 0\ndynarust_b 1\n",
    );
    let unknown = |query: &str, legend: &str| Names::of(query).unknown_to(&metrics, &shown_labels(legend));
    for (query, legend, count) in [
        ("sum by (route) (rate(dynarust_a_total{job=\"$job\",status=~\"2xx|5xx\"}[5m])) > 0", "{{route}}", 0),
        ("abs(dynarust_b) > 0 or dynarust_a_total == 0", "{{ $labels.instance }}", 0),
        ("dynarust_a", "", 1),
        ("dynarust_a_total{rout=\"key\"}", "", 1),
        ("dynarust_a_total{status=~\"2xx|9xx\"}", "", 1),
        ("sum by (table) (dynarust_b)", "{{table}}", 2),
    ] {
        assert_eq!(unknown(query, legend).len(), count, "{query}: {:?}", unknown(query, legend));
    }
}
