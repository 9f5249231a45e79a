//! House rules that a test can hold: which layer may name which, who may name which crate, sizes, heads, and what lies at the
//! top of the repository.

mod rooms;
pub mod source;

use std::{collections::BTreeSet, fs, path::Path};

use source::Source;

/// Each layer, and the layers it may name besides itself. Imports point one way.
const LAYERS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("core", &["error"]),
    ("storage", &["error", "core"]),
    ("replication", &["error", "core", "storage"]),
    ("node", &["error", "core", "storage", "replication"]),
    ("http", &["error", "core", "node"]),
    ("grpc", &["error", "core", "node", "http"]),
    ("config", &["error", "core", "storage", "replication", "node", "http"]),
    ("cli", &["error", "core", "storage", "node", "http", "grpc", "config"]),
    ("main", &["error", "core", "storage", "replication", "node", "http", "grpc", "config", "cli"]),
    ("distributed_kv", &["cli"]),
    ("gui", &["cli"]),
];

/// The same for the load generator: the parts of its `src`, and what each may name besides itself.
const BENCH_LAYERS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("options", &[]),
    ("progress", &[]),
    ("report", &[]),
    ("binary", &["error"]),
    ("instructions", &["error"]),
    ("process", &["error"]),
    ("client", &["error", "progress", "report"]),
    ("workload", &["error", "options", "progress", "report", "binary", "process", "client"]),
    ("cluster", &["error", "options", "progress", "report", "binary", "process", "client", "workload"]),
    (
        "strong",
        &["error", "options", "progress", "report", "binary", "process", "client", "workload", "cluster"],
    ),
    (
        "backup",
        &["error", "options", "progress", "report", "binary", "process", "client", "workload", "cluster"],
    ),
    (
        "compare",
        &[
            "error", "options", "progress", "report", "binary", "process", "client", "workload", "cluster",
            "bare",
        ],
    ),
    (
        "growth",
        &["error", "options", "progress", "report", "binary", "process", "client", "workload", "cluster"],
    ),
    ("bare", &["error", "client"]),
    ("main", &[]),
];

/// The same for the window.
const GUI_LAYERS: &[(&str, &[&str])] = &[
    ("settings", &[]),
    ("message", &["settings"]),
    ("model", &["message", "settings"]),
    ("arguments", &["settings"]),
    ("client", &["message", "settings", "model"]),
    ("views", &["message", "settings", "model"]),
    ("app", &["client", "message", "model", "settings", "views"]),
    ("desktop", &["app", "arguments", "client", "model", "settings"]),
    ("main", &["desktop"]),
];

/// What the model of the window is free of, besides what the core is: the screen, and calls.
const MODEL_FREE_OF: &[&[&str]] = &[&["eframe"], &["egui"], &["tonic"]];

/// Names, and where alone they may stand: a file, or a folder with all below it.
const CONFINED: &[(&str, &[&str])] = &[
    ("sled", &["src/storage/engine/", "src/storage/changes/hub.rs"]),
    ("warp", &["src/http/"]),
    ("tonic", &["src/grpc/"]),
    ("hyper", &["src/http/", "src/grpc/", "src/replication/strong/etcd/gateway.rs", "src/cli/otlp.rs"]),
    ("snow", &["src/replication/link/noise.rs"]),
    ("foca", &["src/replication/"]),
    ("tokio_tungstenite", &["src/replication/", "src/http/websocket/", "src/http/request/upgrade.rs"]),
    ("crdts", &["src/core/"]),
    ("clap", &["src/config.rs", "src/cli/", "src/main.rs"]),
];

/// What the core is free of: time, chance, files, sockets, threads, logs.
const IMPURE: &[&[&str]] = &[
    &["tokio"],
    &["std", "fs"],
    &["std", "net"],
    &["std", "thread"],
    &["std", "process"],
    &["std", "env"],
    &["std", "time", "SystemTime"],
    &["std", "time", "Instant"],
    &["SystemTime"],
    &["Instant"],
    &["getrandom"],
    &["tracing"],
];

const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;

/// What lies at the top of the repository, hidden files and what git ignores aside.
const TOP_LEVEL: &[&str] = &[
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "Dockerfile",
    "LICENSE",
    "README.md",
    "bench",
    "build.rs",
    "clients",
    "compose.yaml",
    "deploy",
    "docs",
    "gui",
    "proptests",
    "proto",
    "src",
    "storage.db.example",
    "tests",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn all_code() -> Vec<Source> {
    ["src", "tests", "proptests", "bench", "clients", "gui"]
        .iter()
        .flat_map(|folder| Source::all_below(root(), folder))
        .collect()
}

/// Fails with all that is wrong at once.
#[track_caller]
fn assert_none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

#[test]
fn layers_name_only_those_below_them() {
    assert_none("imports point from http down to error", &broken_layers("src", LAYERS));
    assert_none("imports point from workloads down to the client", &broken_layers("bench/src", BENCH_LAYERS));
    assert_none("imports point from the app down to messages", &broken_layers("gui/src", GUI_LAYERS));
}

/// What the sources below a folder name although their layer may not.
fn broken_layers(folder: &str, layers: &[(&str, &[&str])]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in Source::all_below(root(), folder) {
        let layer = source.layer();
        // lib.rs declares all of them.
        if layer == "lib" {
            continue;
        }
        let Some((_, may_name)) = layers.iter().find(|(known, _)| *known == layer) else {
            broken.push(format!("{}: no layer is named {layer}", source.path));
            continue;
        };
        for path in source.paths() {
            let named = match path.as_slice() {
                ["crate" | "dynarust" | "dynarust_gui", named, ..] => *named,
                ["super", "super", ..] => "super::super",
                _ => continue,
            };
            let is_layer = named == "super::super" || layers.iter().any(|(known, _)| *known == named);
            if is_layer && named != layer && !may_name.contains(&named) {
                broken.push(format!("{}: {layer} names {}", source.path, path.join("::")));
            }
        }
    }
    broken
}

#[test]
fn crates_are_named_only_where_they_belong() {
    let mut broken = Vec::new();
    for source in Source::all_below(root(), "src") {
        for (name, homes) in CONFINED {
            let at_home = homes
                .iter()
                .any(|home| source.path == *home || home.ends_with('/') && source.path.starts_with(home));
            if !at_home && source.paths().iter().any(|path| path[0] == *name) {
                broken.push(format!("{}: names {name}, which belongs to {homes:?}", source.path));
            }
        }
    }
    assert_none("a crate has a home", &broken);
}

#[test]
fn the_core_is_pure() {
    let mut broken = Vec::new();
    for source in Source::all_below(root(), "src/core") {
        for path in source.paths() {
            if IMPURE.iter().any(|impure| path.starts_with(impure)) {
                broken.push(format!("{}: {}", source.path, path.join("::")));
            }
        }
    }
    assert_none("the core gets time and chance as arguments and does nothing itself", &broken);
}

#[test]
fn the_model_of_the_window_is_pure() {
    let mut broken = Vec::new();
    for source in Source::all_below(root(), "gui/src/model") {
        for path in source.paths() {
            if IMPURE.iter().chain(MODEL_FREE_OF).any(|impure| path.starts_with(impure)) {
                broken.push(format!("{}: {}", source.path, path.join("::")));
            }
        }
    }
    assert_none("the model is tested without a screen, a clock and a connection", &broken);
}

#[test]
fn files_start_by_saying_what_they_are() {
    let headless =
        all_code().into_iter().filter(|source| !source.text.starts_with("//! ")).map(|source| source.path);
    assert_none("the first line is //! and says what the file is for", &headless.collect::<Vec<_>>());
}

#[test]
fn files_are_short_above_their_tests() {
    let mut broken = Vec::new();
    for source in all_code() {
        let lines = source.lines_above_tests();
        if lines > FILE_LINES_MAX {
            broken.push(format!("{}: {lines} lines", source.path));
        }
    }
    assert_none("at most 400 lines above the tests", &broken);
}

#[test]
fn functions_are_short() {
    let mut broken = Vec::new();
    for source in all_code() {
        for (name, lines) in source.functions() {
            if lines > FUNCTION_LINES_MAX {
                broken.push(format!("{}: {name} has {lines} lines", source.path));
            }
        }
    }
    assert_none("at most 70 lines a function", &broken);
}

#[test]
fn no_test_sleeps() {
    let mut broken = Vec::new();
    for folder in ["tests", "proptests", "bench/tests", "bench/benches", "gui/tests"] {
        for source in Source::all_below(root(), folder) {
            if source.paths().iter().any(|path| path.contains(&"sleep")) {
                broken.push(source.path);
            }
        }
    }
    assert_none("tests wait for a condition, never for a guess", &broken);
}

/// Whoever writes to a watch channel waits for all who look at it, and whoever looks then waits for the writer: one who looks a second time meanwhile
/// waits for itself. So a leader stood still for ever.
#[test]
fn nobody_holds_what_a_watch_channel_shows() {
    let is_held = |line: &str| {
        let line = line.trim();
        let is_bound = (line.starts_with("let ") || line.starts_with('.'))
            && [".borrow();", ".borrow_and_update();"].iter().any(|end| line.ends_with(end));
        let is_looked_into = ["match ", "if let ", "while let "].iter().any(|begin| line.contains(begin));
        is_bound || (is_looked_into && line.contains(".borrow()"))
    };
    let mut broken = Vec::new();
    for source in Source::all_below(root(), "src") {
        broken.extend(
            source
                .lines_of_code()
                .filter(|line| is_held(line))
                .map(|line| format!("{}: {line}", source.path)),
        );
    }
    assert_none("what a watch channel shows is copied or cloned in the statement that asks for it", &broken);
}

#[test]
fn the_top_of_the_repository_has_just_what_belongs_there() {
    let ignored = fs::read_to_string(root().join(".gitignore")).expect("there is a .gitignore");
    let ignored: Vec<&str> = ignored.lines().filter_map(|line| line.trim().strip_prefix('/')).collect();
    let is_ignored = |name: &str| {
        ignored.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => pattern.trim_end_matches('/') == name,
        })
    };
    let present: BTreeSet<String> = fs::read_dir(root())
        .expect("the repository can be read")
        .map(|entry| entry.expect("an entry can be read").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && !is_ignored(name))
        .collect();
    let expected: BTreeSet<String> = TOP_LEVEL.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(present, expected);
}
