//! `export` and `import`: formats, going on after an interruption, and what is refused.

use std::{fs, io::Write};

use serde_json::Value;

use super::{FAILED, NOT_FOUND, Shell, USAGE};
use crate::harness::Node;

fn write(shell: &Shell, name: &str, text: &str) {
    fs::write(shell.home().join(name), text).expect("a file can be written");
}

#[test]
fn what_is_exported_is_imported_unchanged() {
    let (one, other) = (Node::start(), Node::start());
    let (source, target) = (Shell::at(&one), Shell::at(&other));
    for (table, key, value) in [("t", "a", "1.10"), ("t", "b\"c", "{\"x\": [1, \"2\"]}"), ("u", "k", "null")]
    {
        source.run(&["put", table, key, value]).printed();
    }
    let file = source.home().join("all.ndjson.gz");
    let path = file.to_str().expect("text");
    let said = source.run(&["export", path, "--json"]).printed();
    assert!(said.contains("\"rows\":3"), "{said}");
    assert!(fs::read(&file).expect("a file").starts_with(b"\x1f\x8b"), "it is compressed");
    let said: Value = serde_json::from_str(&target.run(&["import", path, "--json"]).printed()).expect("JSON");
    assert_eq!((&said["written"], &said["skipped"]), (&3.into(), &0.into()), "{said}");
    let export = |shell: &Shell| shell.run(&["export"]).printed();
    assert_eq!(export(&source), export(&target), "versions and all");
    let again = target.run(&["import", path]);
    assert!(again.stderr.contains("imported 0 rows, 3 skipped"), "{again:?}");

    let json = source.run(&["export", "--table", "t", "--format", "json"]).printed();
    assert_eq!(json, "{\n\"a\":1.10,\n\"b\\\"c\":{\"x\":[1,\"2\"]}\n}\n");
    let csv = source.run(&["export", "--table", "t", "--format", "csv"]).printed();
    assert_eq!(csv, "key,value\na,1.10\n\"b\"\"c\",\"{\"\"x\"\":[1,\"\"2\"\"]}\"\n");
    for (text, format) in [(&json, "json"), (&csv, "csv")] {
        let table = format!("of_{format}");
        target
            .run_with_input(&["import", "--table", &table, "-", "--format", format], text.as_bytes())
            .printed();
        let taken = target.run(&["export", "--table", &table, "--format", "json"]).printed();
        assert_eq!(taken, json, "{format}");
    }
    source.run(&["export", "--format", "csv"]).expect(USAGE, &["--table"]);
    // A misspelled table was exported as 0 rows, and all was well.
    let misspelled = target.home().join("misspelled.ndjson");
    let path = misspelled.to_str().expect("text");
    target
        .run(&["export", "--table", "of_jsn", path])
        .expect(NOT_FOUND, &["no table \"of_jsn\"", "did you mean \"of_json\""]);
    target.run(&["export", "--table", "unlike", path]).expect(NOT_FOUND, &["DynaRust tables"]);
    assert!(!misspelled.exists());
    source.run(&["export", "/no/such/folder/file"]).expect(FAILED, &["/no/such/folder"]);
}

#[test]
fn documents_get_their_key_from_a_field_and_what_is_wrong_has_its_row() {
    let node = Node::start();
    let shell = Shell::at(&node);
    write(&shell, "people.csv", "name,age,zip\nAnn,31,007\n\"B, C\",true,\n");
    shell.run(&["import", "--table", "people", "people.csv", "--key", "name"]).printed();
    assert_eq!(
        shell.run(&["get", "people", "Ann"]).printed(),
        "{\"name\":\"Ann\",\"age\":31,\"zip\":\"007\"}\n"
    );
    shell.run(&["import", "--table", "people", "people.csv"]).expect(FAILED, &["no column", "--key", "name"]);
    let misspelt = ["import", "--table", "people", "people.csv", "--key", "nmae"];
    shell.run(&misspelt).expect(FAILED, &["\"nmae\"", "did you mean \"name\"?"]);
    write(&shell, "docs.json", "[{\"id\": 7, \"x\": 1},\n{\"id\": \"eight\"}]");
    shell.run(&["import", "--table", "docs", "docs.json", "--key", "id"]).printed();
    assert_eq!(shell.run(&["keys", "docs"]).printed(), "7\neight\n");

    let rows: String = (0..5).map(|n| format!("{{\"key\":\"k{n}\",\"value\":{n}}}\n")).collect();
    write(&shell, "rows.ndjson", &rows);
    shell.run(&["import", "rows.ndjson"]).expect(FAILED, &["row 1 of rows.ndjson", "table"]);
    write(&shell, "bad.ndjson", &format!("{rows}{{\"key\":\"k5\"}}\n"));
    shell
        .run(&["import", "--table", "t", "bad.ndjson"])
        .expect(FAILED, &["row 6 of bad.ndjson", "0 rows are imported"]);
    shell.run(&["import", "--table", "t", "rows.ndjson"]).printed();
    assert_eq!(shell.run(&["count", "t"]).printed(), "5\n");
    let export = shell.run(&["export", "--table", "t"]).printed();
    let cut: String = export.lines().take(3).map(|line| format!("{line}\n")).collect();
    write(&shell, "cut.ndjson", &cut);
    shell.run(&["import", "cut.ndjson"]).expect(FAILED, &["cut off", "--partial"]);
    shell.run(&["import", "cut.ndjson", "--partial"]).printed();
    shell.run(&["import", "absent.ndjson"]).expect(FAILED, &["absent.ndjson"]);
}

/// An import of a long file is killed, and the same command does the rest.
#[test]
fn an_interrupted_import_goes_on_where_it_stopped() {
    const ROWS: usize = 40_000;
    let node = Node::start();
    let shell = Shell::at(&node);
    let path = shell.home().join("rows.ndjson");
    let mut file = fs::File::create(&path).expect("a file");
    for n in 0..ROWS {
        writeln!(file, "{{\"key\":\"k{n:06}\",\"value\":{n}}}").expect("written");
    }
    let arguments = ["import", "--table", "t", "rows.ndjson", "--json"];
    let mut first = shell.command(&arguments).spawn().expect("it starts");
    let noted = shell.home().join(".local/state/dynarust/imports");
    crate::harness::wait_until("some rows are noted", crate::harness::DEADLINE, || {
        fs::read_dir(&noted).is_ok_and(|mut entries| {
            entries
                .any(|entry| entry.is_ok_and(|entry| entry.path().extension().is_some_and(|it| it == "json")))
        })
    });
    first.kill().expect("it can be ended");
    let ended = first.wait().expect("it ends");
    let done = shell.run(&arguments);
    let said: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"));
    assert_eq!(said["rows"], ROWS, "{done:?}");
    // On a machine where the first was done before it was ended there is nothing to go on with.
    if !ended.success() {
        assert!(done.stderr.contains("going on after row"), "{done:?}");
        assert!(said["written"].as_u64().is_some_and(|written| written < ROWS as u64), "{said}");
    }
    assert_eq!(shell.run(&["count", "t"]).printed(), format!("{ROWS}\n"));
    let last = shell.run(&["get", "t", &format!("k{:06}", ROWS - 1)]).printed();
    assert_eq!(last, format!("{}\n", ROWS - 1));
    let again: Value = serde_json::from_str(&shell.run(&arguments).printed()).expect("JSON");
    assert_eq!(again["written"], ROWS, "a file that is done begins anew");
}
