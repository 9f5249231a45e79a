//! docs/operations.md against the program: it names every setting, metric and command there is, and none that is not; and what other
//! pages call a flag, a variable or a metric is one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use dynarust::config::{COMMAND_VARIABLES, SETTINGS, SettingSpec};

use super::page::{self, Page};
use crate::{
    grpc::client::{Served, get},
    harness::{Setup, wait_until},
};

const PAGE: &str = "docs/operations.md";
/// Flags of cargo, of the test harness, of the load generator and of etcd that the pages name.
const FOREIGN: [&str; 11] = [
    "--release",
    "--watch-streams",
    "--nocapture",
    "--target",
    "--spin",
    "--calls",
    "--features",
    "--max-txn-ops",
    "--max-request-bytes",
    "--appendonly",
    "--appendfsync",
];

/// A name in a cell, without its backticks.
fn name(cell: &str) -> String {
    cell.trim_matches('`').to_owned()
}

#[track_caller]
fn assert_same(what: &str, named: &BTreeSet<String>, known: &BTreeSet<String>) {
    let missing: Vec<_> = known.difference(named).collect();
    let unknown: Vec<_> = named.difference(known).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "{PAGE}, {what}: missing {missing:?}, unknown {unknown:?}"
    );
}

/// How the page calls a setting: the secret has no flag.
fn title(spec: &SettingSpec) -> String {
    if spec.secret { spec.variable.clone() } else { spec.flag.clone() }
}

#[test]
fn every_setting_is_there_with_its_value_default_and_limits() {
    let chapter = Page::read(PAGE).chapter("Settings");
    let rows: BTreeMap<String, Vec<&str>> =
        chapter.rows().into_iter().map(|row| (name(row[0]), row)).collect();
    let known: BTreeSet<String> = SETTINGS.iter().map(title).chain(["--config".to_owned()]).collect();
    assert_same("settings", &rows.keys().cloned().collect(), &known);

    let mut broken = Vec::new();
    for spec in SETTINGS.iter() {
        let [_, value, default, limits, about] = rows[&title(spec)].as_slice() else {
            panic!("{PAGE}: a row of five cells for {}", spec.name);
        };
        let has_value = spec.placeholder.split('|').all(|part| value.contains(part));
        let has_default = spec.default.is_empty() || name(default) == spec.default;
        let has_limits = spec.limits.is_none_or(|(least, most)| *limits == format!("{least} to {most}"));
        if !(has_value && has_default && has_limits && !about.is_empty()) {
            broken.push(format!("{}: {} {:?} {:?}", spec.name, spec.placeholder, spec.default, spec.limits));
        }
    }
    assert!(
        broken.is_empty(),
        "{PAGE} says another value, default or limit than the program:\n{}",
        broken.join("\n")
    );
}

/// Far longer than two rounds.
const DEADLINE: Duration = Duration::from_secs(20);

/// The names of the series of a node: a counter's with `_total`.
fn metrics() -> BTreeSet<String> {
    let served = Served::start();
    let node = &served.node;
    // Without a call there are no series of gRPC.
    served.with_client(|mut client| async move { client.get(get("t", "a")).await.expect_err("absent") });
    // Without a strong table there are no series of their group.
    node.put("/_/tables/s", r#"{"mode":"strong"}"#).expect(201);
    let mut page = String::new();
    wait_until("all have everything up to some instant", DEADLINE, || {
        page = node.get("/metrics").expect(200).text().to_owned();
        page.contains("dynarust_floor_age_seconds")
    });
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let names = families
        .map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() });
    let names: BTreeSet<String> = names.collect();
    assert!(names.len() > 20, "metrics: {names:?}");
    names
}

#[test]
fn every_metric_is_there() {
    let chapter = Page::read(PAGE).chapter("Metrics");
    let named = chapter.rows().iter().map(|row| name(row[0])).collect();
    let known = metrics();
    assert_same("metrics", &named, &known);

    let mut unknown = Vec::new();
    for page in Page::all() {
        let words = page.text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
        // Those of an etcd are compared in `strong::etcd`: a node has them only with one.
        let of_node =
            |word: &&str| word.starts_with("dynarust_") && !word.starts_with("dynarust_strong_etcd_");
        for word in words.filter(of_node) {
            if !known.contains(word) {
                unknown.push(format!("{}: {word}", page.name));
            }
        }
    }
    assert!(unknown.is_empty(), "metrics that no node has:\n{}", unknown.join("\n"));
}

/// What `DynaRust ARGUMENTS --help` prints.
fn help(arguments: &[&str]) -> String {
    let arguments: Vec<_> = arguments.iter().copied().chain(["--help"]).collect();
    Setup::new().run(&arguments).1.stdout
}

/// The commands that a help text lists.
fn commands_of(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = lines.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Every command, with those below it, and its help text.
fn commands() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for name in commands_of(&help(&[])) {
        let text = help(&[&name]);
        let below = commands_of(&text);
        for inner in &below {
            found.insert(format!("{name} {inner}"), help(&[&name, inner]));
        }
        if below.is_empty() {
            found.insert(name, text);
        }
    }
    assert!(found.len() > 5, "commands: {:?}", found.keys());
    found
}

#[test]
fn every_command_is_there_with_its_flags() {
    let chapter = Page::read(PAGE).chapter("Commands");
    let rows = chapter.rows();
    let commands = commands();
    // The first cell is the line to type: a name is in lower case, what one fills in is not.
    let called = |cell: &str| {
        let line = name(cell).strip_prefix("DynaRust ").unwrap_or_default().to_owned();
        let is_name = |word: &&str| {
            !word.starts_with('-') && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
        };
        let words = line.split_whitespace().take_while(is_name);
        words.take(2).collect::<Vec<_>>().join(" ")
    };
    let named = rows.iter().map(|row| called(row[0])).filter(|name| !name.is_empty()).collect();
    assert_same("commands", &named, &commands.keys().cloned().collect());
}

/// Every flag of the program, whichever command takes it.
fn flags() -> BTreeSet<String> {
    let helps = commands().into_values().chain([help(&[])]).collect::<Vec<_>>().join("\n");
    let words = helps.split(|letter: char| !(letter.is_ascii_lowercase() || letter == '-'));
    words.filter(|word| word.starts_with("--") && word.len() > 2).map(str::to_owned).collect()
}

#[test]
fn flags_and_variables_that_the_pages_name_are_there() {
    let flags = flags();
    let mut variables: BTreeSet<String> = SETTINGS.iter().map(|spec| spec.variable.clone()).collect();
    variables.extend(COMMAND_VARIABLES.map(str::to_owned));
    let of_tests = ["tests", "proptests"].map(|folder| code_below(&page::root().join(folder))).concat();
    let mut unknown = Vec::new();
    for page in Page::all() {
        for code in
            page.inline_code().iter().filter(|code| code.starts_with("--") || code.starts_with("DynaRust "))
        {
            let words = code.split_whitespace().filter(|word| word.starts_with("--"));
            let names = words.map(|word| word.split(['=', '[']).next().unwrap_or_default());
            let foreign = names.filter(|name| !flags.contains(*name) && !FOREIGN.contains(name));
            unknown.extend(foreign.map(|name| format!("{}: {name}", page.name)));
        }
        let words = page.text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
        for word in words.filter(|word| word.starts_with("DYNARUST_") && word.len() > "DYNARUST_".len()) {
            let is_of_tests = page.name == "CONTRIBUTING.md" && of_tests.contains(&format!("\"{word}\""));
            if !variables.contains(word) && !is_of_tests {
                unknown.push(format!("{}: {word}", page.name));
            }
        }
    }
    assert!(
        unknown.is_empty(),
        "flags and variables that the program does not know:\n{}",
        unknown.join("\n")
    );
}

/// All Rust code below a folder.
fn code_below(folder: &std::path::Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).expect("a folder can be read") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() {
            text.push_str(&code_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).expect("code is text"));
        }
    }
    text
}
