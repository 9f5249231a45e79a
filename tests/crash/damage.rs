//! Damaged bytes on disk: whatever they are, the node serves what was written or says that it cannot, never something else.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

use super::ledger::{Chance, text};
use crate::harness::{
    DEADLINE, Node, Outcome, Setup,
    http::{Connection, Request},
    wait_until,
};

const FAILED: Option<i32> = Some(1);
const KEYS: u64 = 200;
/// Digits; on disk they take half of that, and all of them several segments of sled's log.
const VALUE_BYTES: usize = 20_000;

/// What is done to a file, and where.
#[derive(Clone, Copy, Debug)]
enum Damage {
    FlipBit(u64),
    ZeroPage(u64),
    CutTo(u64),
}

impl Damage {
    fn inflict(self, path: &Path) {
        let file = OpenOptions::new().read(true).write(true).open(path).expect("the file can be opened");
        match self {
            Self::FlipBit(at) => {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).expect("the position is in the file");
                file.write_all_at(&[byte[0] ^ 0x10], at).expect("the file can be written");
            }
            Self::ZeroPage(at) => {
                file.write_all_at(&[0; 4096], at & !4095).expect("the file can be written");
            }
            Self::CutTo(length) => file.set_len(length).expect("the file can be cut"),
        }
    }
}

/// The files of a store whose rows were all written twice, `KEYS` of them, and whose node was killed.
struct Pristine(BTreeMap<String, Vec<u8>>);

impl Pristine {
    /// One that was opened once more after that, so that sled knows its pages from a snapshot, and reads nothing again to find
    /// them.
    fn settled() -> Self {
        Self::written(VALUE_BYTES, |setup| setup.start().kill())
    }

    /// One whose rows sled finds by reading its log, all of it in one segment.
    fn unsettled() -> Self {
        Self::written(1_000, |setup| setup)
    }

    fn written(value_bytes: usize, then: impl FnOnce(Setup) -> Setup) -> Self {
        let node = Node::start();
        let mut connection = node.connect();
        for number in 0..2 * KEYS {
            let request = Request::new("PUT", &format!("/t/key/k{}", number % KEYS));
            let body = format!(r#"{{"value":"{}"}}"#, text(number, value_bytes));
            connection.send(&request.body(body)).expect(200);
        }
        Self(read_files(&then(node.kill()).home().join("storage.db")))
    }

    /// A fresh setup over a copy, after `harm` was done to that.
    fn harmed(&self, harm: impl FnOnce(&Path)) -> Setup {
        let setup = Setup::new();
        let data = setup.home().join("storage.db");
        fs::create_dir(&data).expect("a directory can be made");
        for (name, bytes) in &self.0 {
            fs::write(data.join(name), bytes).expect("a file can be written");
        }
        harm(&data);
        setup
    }

    fn log_bytes(&self) -> u64 {
        self.0["db"].len() as u64
    }

    fn snapshot(&self) -> &str {
        self.0.keys().find(|name| name.starts_with("snap.")).expect("a settled store has a snapshot")
    }
}

#[test]
fn damage_is_an_error_and_never_a_value() {
    let pristine = Pristine::settled();
    let mut chance = Chance::new(13);
    let log_bytes = pristine.log_bytes();
    let mut damages: Vec<Damage> = (0..24).map(|_| Damage::FlipBit(chance.below(log_bytes))).collect();
    damages.extend((0..2).map(|_| Damage::ZeroPage(chance.below(log_bytes - 4096))));
    damages.extend([Damage::CutTo(log_bytes / 2), Damage::CutTo(log_bytes - 1), Damage::CutTo(0)]);
    let mut found = 0;
    for damage in damages {
        eprintln!("{damage:?} of {log_bytes}");
        match pristine.harmed(|data| damage.inflict(&data.join("db"))).try_start() {
            Ok(node) => {
                let errors = survey(&node);
                let (_, check) = node.kill().run(&["check"]);
                assert!(errors == 0 || check.code() == FAILED, "{errors} errors, and {check:?}");
                assert!(errors == 0 || check.stdout.contains("found damage"), "{check:?}");
                found += u64::from(errors > 0);
            }
            Err(outcome) => {
                assert_refused_with_advice(&outcome);
                found += 1;
            }
        }
    }
    assert!(found >= 5, "most damage hits something that matters, but only {found} did");
}

/// sled takes the first damaged byte of what was logged since the last start for the end of the log, and opens without a word.
/// Here one flipped byte made up to all of the acknowledged rows vanish or become what they were before, and `check` found every
/// record sound. Now how far the log was durable is known, and a log that ends before that is refused.
#[test]
fn a_log_that_lost_its_end_is_refused() {
    let pristine = Pristine::unsettled();
    let tenth = pristine.log_bytes() / 10;
    let flips = [1, 4, 7, 9].map(|tenths| Damage::FlipBit(tenths * tenth));
    for damage in flips.into_iter().chain([Damage::CutTo(5 * tenth), Damage::CutTo(0)]) {
        let harm = |data: &Path| damage.inflict(&data.join("db"));
        let (setup, check) = pristine.harmed(harm).run(&["check"]);
        assert_eq!(check.code(), FAILED, "{check:?}");
        assert!(check.stdout.contains("deleted keys") && check.stdout.contains("found damage"), "{check:?}");
        // It is not forgotten by the next open either.
        let data = setup.home().join("storage.db");
        let Err(outcome) = Setup::new().flag("--data", &data).try_start() else {
            panic!("served in spite of {damage:?}")
        };
        assert_refused_with_advice(&outcome);
        if matches!(damage, Damage::CutTo(0)) {
            continue;
        }
        // What is left can be had, by who asks for it, and does not look whole.
        let before = read_files(&data);
        let (setup, compact) = setup.run(&["compact"]);
        assert_eq!(compact.code(), FAILED, "{compact:?}");
        assert!(compact.log.contains("--accept-loss") && compact.log.contains("deleted keys"), "{compact:?}");
        assert!(read_files(&data) == before, "a compaction that was refused changed the store");
        let (setup, compact) = setup.run(&["compact", "--accept-loss"]);
        assert_eq!(compact.code(), Some(0), "{compact:?}");
        assert!(compact.stdout.contains("deleted keys"), "{compact:?}");
        let node = setup.start();
        let left = node.get("/t/count").expect(200).json()["count"].as_u64();
        assert!(left.is_some_and(|left| left <= KEYS), "{left:?}");
        assert!(node.log().contains("acknowledged writes may be missing"), "{}", node.log());
    }
}

#[test]
fn a_lost_configuration_of_the_engine_costs_nothing() {
    let pristine = Pristine::settled();
    let node = pristine.harmed(|data| fs::remove_file(data.join("conf")).expect("sled has a conf")).start();
    assert_eq!(survey(&node), 0);
    assert_eq!(survey(&node.kill().start()), 0);
}

#[test]
fn a_damaged_store_is_refused_as_it_is_or_set_aside_as_it_is() {
    let pristine = Pristine::settled();
    let harm = |data: &Path| Damage::FlipBit(100).inflict(&data.join(pristine.snapshot()));
    let setup = pristine.harmed(harm);
    let data = setup.home().join("storage.db");
    let damaged = read_files(&data);
    let start = || Setup::new().flag("--data", &data);

    let Err(outcome) = start().try_start() else { panic!("a damaged store was served") };
    assert_refused_with_advice(&outcome);
    assert!(read_files(&data) == damaged, "a refused store was changed");

    let node = start().argument("--set-aside-damaged").start();
    let ready = node.get("/readyz").expect(200).json();
    let aside = ready["set_aside"].as_str().unwrap_or_else(|| panic!("no word of it: {ready}")).to_owned();
    assert!(aside.contains("storage.db.damaged-"), "{aside}");
    assert!(node.log().contains(&aside), "the log says where it went: {}", node.log());
    assert!(read_files(Path::new(&aside)) == damaged, "what was set aside was changed");
    node.get("/t/keys").expect_body("[]");
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    drop(node);

    let node = start().start();
    node.get("/t/key/a").expect_body(r#"{"value":1}"#);
    assert_eq!(node.get("/readyz").expect(200).json().get("set_aside"), None);
}

/// One byte of one member's log made rows vanish there or become older, and the node said `ready`. Now it starts in doubt, says so,
/// and gets all of them back.
#[test]
fn a_member_with_a_damaged_log_starts_in_doubt_and_heals() {
    let first = Node::start();
    let joins = |setup: Setup| setup.join(&first.address().to_string());
    let second = joins(Setup::new()).start();
    wait_until("the second is whole", DEADLINE, || second.get("/readyz").status == 200);
    let mut connection = first.connect();
    for number in 0..2 * KEYS {
        let body = format!(r#"{{"value":"{}"}}"#, text(number, VALUE_BYTES));
        let request = Request::new("PUT", &format!("/t/key/k{}?w=all&w_timeout=15s", number % KEYS));
        connection.send(&request.body(body)).expect(200);
    }
    let setup = second.kill();
    let log = setup.home().join("storage.db/db");
    let at = fs::metadata(&log).expect("a log").len() / 3;
    Damage::FlipBit(at).inflict(&log);
    let second = setup.start();
    let log = second.log();
    assert!(log.contains("acknowledged writes may be missing") && log.contains("deleted keys"), "{log}");
    let doubtful = |node: &Node| {
        let metrics = node.get("/metrics").expect(200).text().to_owned();
        metrics.lines().any(|line| line.starts_with("dynarust_storage_doubtful"))
    };
    assert!(doubtful(&second));
    let mut connection = second.connect();
    wait_until("the rows are back", DEADLINE, || {
        (0..KEYS).all(|key| {
            let answer = connection.send(&Request::new("GET", &format!("/t/key/k{key}")));
            answer.status == 200 && answer.json()["value"] == text(KEYS + key, VALUE_BYTES)
        })
    });
    let whole = first.get("/t/count").expect(200).text().to_owned();
    assert_eq!(second.get("/t/count").expect(200).text(), whole);
}

#[test]
fn a_newer_format_is_refused() {
    let setup = Node::start().terminate().0;
    let data = setup.home().join("storage.db");
    fs::write(data.join("dynarust.format"), "2\n").expect("a file can be written");
    for aside in [None, Some("--set-aside-damaged")] {
        let setup = Setup::new().flag("--data", &data);
        let setup = aside.into_iter().fold(setup, Setup::argument);
        let Err(outcome) = setup.try_start() else { panic!("a newer format was served") };
        assert_eq!(outcome.code(), FAILED, "{outcome:?}");
        assert!(outcome.log.contains("format \"2\"") && outcome.log.contains("version"), "{outcome:?}");
    }
    for command in ["check", "compact"] {
        let (_, outcome) = Setup::new().run(&[command, "--data", &data.to_string_lossy()]);
        assert_eq!(outcome.code(), FAILED, "{outcome:?}");
        assert!(outcome.log.contains("format \"2\""), "{outcome:?}");
    }
}

/// Reads every key: what was written last, or an error that names it. How many errors there were.
fn survey(node: &Node) -> u64 {
    let mut connection: Connection = node.connect();
    let mut errors = 0;
    for key in 0..KEYS {
        let answer = connection.send(&Request::new("GET", &format!("/t/key/k{key}")));
        if answer.status == 200 {
            assert!(
                answer.json()["value"] == text(KEYS + key, VALUE_BYTES),
                "k{key} is not what was written"
            );
        } else {
            let problem = answer.expect(500).json();
            assert_eq!(problem["error"], "corrupt", "{problem}");
            let detail = problem["detail"].as_str().unwrap_or_default();
            assert!(detail.contains(&format!("\"k{key}\"")) && detail.contains("table t"), "{problem}");
            errors += 1;
        }
    }
    let counted = node.get("/stats").expect(200).json()["corrupt_records"].as_u64();
    assert!(counted.is_some_and(|counted| counted >= errors), "{counted:?} counted of {errors}");
    errors
}

fn assert_refused_with_advice(outcome: &Outcome) {
    assert_eq!(outcome.code(), FAILED, "{outcome:?}");
    for part in ["storage.db", "backup", "--set-aside-damaged", "DynaRust salvage"] {
        assert!(outcome.log.contains(part), "no {part} in {outcome:?}");
    }
}

/// The files of a store, but for the lock, by name.
fn read_files(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(data).expect("a directory can be read").map(|entry| entry.expect("an entry"));
    let files = entries.filter(|entry| entry.path().is_file() && entry.file_name() != "dynarust.lock");
    let read = |path: &Path| fs::read(path).expect("a file can be read");
    files.map(|entry| (entry.file_name().to_string_lossy().into_owned(), read(&entry.path()))).collect()
}
