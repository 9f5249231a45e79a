//! `DynaRust compact`: keeps everything, gives space back, and cut short anywhere costs nothing.

use std::{fs, path::Path};

use super::ledger::text;
use crate::harness::{Node, Setup};

const FAILED: Option<i32> = Some(1);

/// A store of which most was deleted, stopped, and what it exports.
fn mostly_deleted() -> (Setup, Vec<u8>) {
    let node = Node::start();
    // Digits that no compression shortens by more than half: megabytes, so that there is something to give back.
    let value = text(1, 200_000);
    for row in 0..60 {
        node.put(&format!("/t/key/{row}"), format!(r#"{{"value":"{row}{value}"}}"#)).expect(200);
    }
    for row in 4..60 {
        node.delete(&format!("/t/key/{row}")).expect(200);
    }
    node.put("/t/key/expiring?ttl=1h", r#"{"value":[1]}"#).expect(200);
    node.put("/other/key/a", r#"{"value":1.10}"#).expect(200);
    let exported = node.get("/_/export").expect(200).body;
    (node.terminate().0, exported)
}

#[test]
fn compaction_keeps_every_row_and_gives_the_space_of_others_back() {
    let (setup, exported) = mostly_deleted();
    let data = setup.home().join("storage.db");
    let before = size(&data);
    let (setup, outcome) = setup.run(&["compact"]);
    assert_eq!(outcome.code(), Some(0), "{outcome:?}");
    let after = size(&data);
    assert!(after * 2 < before, "{before} bytes before, {after} after");
    assert_eq!(entries(&setup.home()), ["storage.db"], "nothing is left beside the store");
    let (setup, check) = setup.run(&["check"]);
    assert_eq!(check.code(), Some(0), "{check:?}");
    let node = setup.start();
    assert!(node.get("/_/export").expect(200).body == exported, "rows, versions and expiries are as before");
    let tables = node.get("/_/tables").expect(200).text().to_owned();
    assert!(tables.contains(r#""tombstones":56"#), "{tables}");
}

/// The steps of a compaction are: build beside, rename the old away, rename the new into place, remove the old.
#[test]
fn a_compaction_cut_short_between_any_two_steps_costs_nothing() {
    type Cut = fn(&Path);
    let cuts: [(&str, Cut); 3] = [
        ("while the new store was built", |home| {
            fs::create_dir(home.join("storage.db.compacting")).expect("a directory can be made");
            fs::write(home.join("storage.db.compacting/db"), "half").expect("a file can be written");
        }),
        ("between the renames", |home| {
            fs::rename(home.join("storage.db"), home.join("storage.db.before-compact")).expect("a rename");
            fs::create_dir(home.join("storage.db.compacting")).expect("a directory can be made");
        }),
        ("before the old store was removed", |home| {
            fs::create_dir(home.join("storage.db.before-compact")).expect("a directory can be made");
            fs::write(home.join("storage.db.before-compact/db"), "old").expect("a file can be written");
        }),
    ];
    for (when, cut) in cuts {
        for compacts_first in [false, true] {
            let node = Node::start();
            node.put("/t/key/a", r#"{"value":1}"#).expect(200);
            let mut setup = node.terminate().0;
            cut(&setup.home());
            if compacts_first {
                let (next, outcome) = setup.run(&["compact"]);
                assert_eq!(outcome.code(), Some(0), "cut short {when}: {outcome:?}");
                assert_eq!(entries(&next.home()), ["storage.db"], "cut short {when}");
                setup = next;
            }
            let node = setup.start();
            node.get("/t/key/a").expect_body(r#"{"value":1}"#);
        }
    }
}

#[test]
fn maintenance_needs_a_store_that_is_there_and_stopped() {
    let node = Node::start();
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let data = node.home().join("storage.db").to_str().expect("a temporary path is text").to_owned();
    for command in ["check", "compact"] {
        let (_, outcome) = Setup::new().run(&[command, "--data", &data]);
        assert_eq!(outcome.code(), FAILED, "{command}: {outcome:?}");
        assert!(outcome.log.contains("in use") && outcome.log.contains(&data), "{command}: {outcome:?}");

        let (setup, outcome) = Setup::new().run(&[command, "--data", "nothing-here"]);
        assert_eq!(outcome.code(), FAILED, "{command}: {outcome:?}");
        assert!(outcome.log.contains("nothing-here"), "{command}: {outcome:?}");
        assert!(!setup.home().join("nothing-here").exists(), "{command} made what it was to look at");
    }
    node.get("/t/key/a").expect_body(r#"{"value":1}"#);
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory can be read");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

fn size(data: &Path) -> u64 {
    dynarust::storage::engine::disk_bytes(data)
}
