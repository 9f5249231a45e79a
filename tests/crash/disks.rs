//! Damaged disks under a node that is alone: bits, bytes, pages and tails of every file of its store, after stops and after kills.
//!
//! Whatever is damaged, a trial ends in one of three ways: the node refuses to start and says what to do, which then works; it
//! starts and answers with an error for exactly the rows that are lost; or it starts and all rows are there. No value is older than
//! what was acknowledged, none is missing and no deleted key is back without a word, and nothing panics.

mod of_three;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

use serde_json::{Value, json};

use super::ledger::{Chance, text};
use crate::harness::{
    DEADLINE, Node, Outcome, Setup,
    http::{Connection, Request},
    wait_until,
};

const FAILED: Option<i32> = Some(1);
/// Trials in a normal run. `DAMAGED_DISKS=200` asks for as many, and prints how they ended.
const TRIALS: u64 = 10;
const KEYS: u64 = 160;
const WRITES_AT_ONCE: usize = 20;
const PAGE_BYTES: u64 = 4096;

/// How a store came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum History {
    /// Written in one run, and stopped.
    Stopped,
    /// Written in one run, and killed.
    Killed,
    /// Written, stopped, opened again and stopped: the engine knows all pages from its snapshot.
    Settled,
    /// Written, opened again, written to again, and stopped: the engine knows some pages from its snapshot.
    AgainStopped,
    /// The same, and killed.
    AgainKilled,
}

const HISTORIES: [History; 5] =
    [History::Stopped, History::Killed, History::Settled, History::AgainStopped, History::AgainKilled];

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    Bit,
    Byte,
    Page,
    Tail,
}

const HARMS: [Harm; 4] = [Harm::Bit, Harm::Byte, Harm::Page, Harm::Tail];

impl Harm {
    fn inflict(self, path: &Path, at: u64, chance: &mut Chance) {
        let file = OpenOptions::new().read(true).write(true).open(path).expect("the file can be opened");
        let mut byte = [0];
        match self {
            Self::Bit => {
                file.read_exact_at(&mut byte, at).expect("the position is in the file");
                file.write_all_at(&[byte[0] ^ (1 << chance.below(8))], at).expect("the file can be written");
            }
            Self::Byte => {
                file.read_exact_at(&mut byte, at).expect("the position is in the file");
                let other = byte[0].wrapping_add(1 + chance.below(255) as u8);
                file.write_all_at(&[other], at).expect("the file can be written");
            }
            Self::Page => {
                let from = at - at % PAGE_BYTES;
                let length = PAGE_BYTES.min(file.metadata().expect("a length").len() - from);
                file.write_all_at(&vec![0; length as usize], from).expect("the file can be written");
            }
            Self::Tail => file.set_len(at).expect("the file can be cut"),
        }
    }
}

/// What a key may hold: every value it ever had, and what it has now.
#[derive(Clone, Default)]
struct Ledger {
    now: BTreeMap<String, Option<String>>,
    ever: BTreeMap<String, BTreeSet<String>>,
}

impl Ledger {
    fn send(&mut self, connection: &mut Connection, writes: Vec<(String, Option<String>)>) {
        for few in writes.chunks(WRITES_AT_ONCE) {
            let operation = |(key, value): &(String, Option<String>)| match value {
                Some(value) => json!({"op": "put", "key": key, "value": value}),
                None => json!({"op": "delete", "key": key}),
            };
            let body: Vec<Value> = few.iter().map(operation).collect();
            connection.send(&Request::new("POST", "/t/batch").body(json!(body).to_string())).expect(200);
        }
        for (key, value) in writes {
            self.ever.entry(key.clone()).or_default().extend(value.clone());
            self.now.insert(key, value);
        }
    }

    /// All keys, so often, and a few of them deleted.
    fn write(&mut self, node: &Node, round: u64, times: u64) {
        let mut connection = node.connect();
        let values = (0..times * KEYS).map(|number| {
            // Long values lie in chunks; short ones many to a page.
            let length = if number % 4 == 0 { 22_000 } else { 900 };
            (format!("k{}", number % KEYS), Some(text(round * 1_000 + number, length)))
        });
        self.send(&mut connection, values.collect());
        let deleted = (round..KEYS).step_by(7).map(|number| (format!("k{number}"), None));
        self.send(&mut connection, deleted.collect());
        let short = (0..200).map(|number: u64| (format!("r{round}-{number}"), Some(number.to_string())));
        self.send(&mut connection, short.collect());
    }
}

/// The files of a store, and what they hold.
struct Pristine {
    files: BTreeMap<String, Vec<u8>>,
    ledger: Ledger,
}

impl Pristine {
    fn of(history: History) -> Self {
        let mut ledger = Ledger::default();
        // So that what was deleted is gone from the disk, or nearly: what brings it back is damage.
        let mut node = Setup::new().flag("--tombstone-grace", "1s").start();
        // Once, so that what the snapshot knows is most of the log.
        ledger.write(&node, 1, if history == History::Settled { 1 } else { 2 });
        match history {
            History::Stopped | History::Killed => {}
            History::Settled => node = node.terminate().0.start(),
            History::AgainStopped | History::AgainKilled => {
                wait_until("tombstones are removed", DEADLINE, || {
                    node.get("/_/tables").expect(200).text().contains(r#""tombstones":0"#)
                });
                node = node.terminate().0.start();
                ledger.write(&node, 2, 2);
            }
        }
        let setup = match history {
            History::Stopped | History::Settled | History::AgainStopped => node.terminate().0,
            History::Killed | History::AgainKilled => node.kill(),
        };
        Self { files: read_files(&setup.home().join("storage.db")), ledger }
    }

    fn copy(&self) -> Setup {
        let setup = Setup::new();
        let data = setup.home().join("storage.db");
        fs::create_dir(&data).expect("a directory can be made");
        for (name, bytes) in &self.files {
            fs::write(data.join(name), bytes).expect("a file can be written");
        }
        setup
    }

    /// A file, the log nine times of ten.
    fn any_file(&self, chance: &mut Chance) -> &str {
        let others: Vec<&String> = self.files.keys().filter(|name| *name != "db").collect();
        match chance.below(10) {
            0 => others[chance.below(others.len() as u64) as usize],
            _ => "db",
        }
    }
}

/// How a trial ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// Everything is there.
    Whole,
    /// Some rows answer with an error.
    Errors,
    /// The node says that rows may be missing or older.
    Doubtful,
    /// The node refused, and the salvage got all rows.
    SalvagedWhole,
    /// The node refused, and the salvage got some rows and said so.
    SalvagedPart,
    /// The node refused, and nothing could be saved.
    Lost,
}

#[derive(Default)]
struct Ends {
    ends: BTreeMap<(History, Harm), BTreeMap<End, u64>>,
    lost: Vec<f64>,
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((history, harm), ends) in &self.ends {
            let ends: Vec<String> = ends.iter().map(|(end, count)| format!("{end:?} {count}")).collect();
            writeln!(f, "{:14} {:5} {}", format!("{history:?}"), format!("{harm:?}"), ends.join(", "))?;
        }
        let mean = self.lost.iter().sum::<f64>() / self.lost.len().max(1) as f64;
        writeln!(
            f,
            "salvages that lost rows: {}, on average {:.1} % of the keys",
            self.lost.len(),
            100.0 * mean
        )
    }
}

/// In 312 trials of this kind nodes served older values, missed rows and brought deleted keys back without a word; 26 of 49 single
/// bytes made a store useless, `check` and `compact` died of panics, and nothing could read what was left.
#[test]
fn a_damaged_disk_is_refused_with_a_remedy_or_costs_the_rows_that_it_held() {
    let trials = std::env::var("DAMAGED_DISKS").ok().map(|text| text.parse().expect("a number"));
    let seed = std::env::var("DAMAGED_DISKS_SEED").ok().map_or(8, |text| text.parse().expect("a number"));
    let mut pristines: BTreeMap<History, Pristine> = BTreeMap::new();
    let mut ends = Ends::default();
    for trial in 0..trials.unwrap_or(TRIALS) {
        let mut chance = Chance::new(seed * 1_000_000 + trial);
        // So that few trials have some of each.
        let history = HISTORIES[(trial % 5) as usize];
        let harm = HARMS[((trial / 5 + trial % 5) % 4) as usize];
        let pristine = pristines.entry(history).or_insert_with(|| Pristine::of(history));
        let file = pristine.any_file(&mut chance).to_owned();
        let at = chance.below(pristine.files[&file].len() as u64);
        eprintln!("trial {trial}: {history:?}, {harm:?} of {file} at {at}");
        let setup = pristine.copy();
        harm.inflict(&setup.home().join("storage.db").join(&file), at, &mut chance);
        let (end, lost) = outcome(setup, &pristine.ledger);
        eprintln!("  {end:?}");
        *ends.ends.entry((history, harm)).or_default().entry(end).or_default() += 1;
        ends.lost.extend(lost);
    }
    println!("{ends}");
    eprintln!("{ends}");
}

fn outcome(setup: Setup, ledger: &Ledger) -> (End, Option<f64>) {
    let data = setup.home().join("storage.db");
    let damaged = read_files(&data);
    let outcome = match Setup::new().flag("--data", &data).try_start() {
        Ok(node) => return (served(&node, ledger), None),
        Err(outcome) => outcome,
    };
    if is_token_removed(&data, &outcome) {
        return (served(&Setup::new().flag("--data", &data).start(), ledger), None);
    }
    let is_unknown_format = outcome.log.contains("dynarust.format is damaged");
    if !is_unknown_format {
        assert_refused(&outcome);
    }
    // An engine that does not open may have begun to write.
    let (setup, check) = setup.run(&["check"]);
    assert_eq!(check.code(), FAILED, "{check:?}");
    assert!(is_unknown_format || check.stdout.contains("found damage"), "{check:?}");
    assert_no_panic(&check);
    let before = read_files(&data);
    let (setup, salvage) = setup.run(&["salvage", "storage.db", "--into", "salvaged.db"]);
    assert_no_panic(&salvage);
    assert!(read_files(&data) == before, "the salvage changed what it read");
    if salvage.code() == FAILED {
        assert!(salvage.log.contains("no row can be saved") || salvage.log.contains("no log"), "{salvage:?}");
        return (End::Lost, None);
    }
    assert_eq!(salvage.code(), Some(0), "{salvage:?}");
    let is_whole = salvage.stdout.contains("nothing was lost");
    assert!(is_whole != salvage.stdout.contains("deleted keys"), "{salvage:?}");
    let salvaged = setup.home().join("salvaged.db");
    let node = Setup::new().flag("--data", &salvaged).start();
    let told = node.log().contains("acknowledged writes may be missing");
    assert_eq!(told, !is_whole, "{}", node.log());
    let wrong = survey(&node, ledger, !is_whole);
    drop((setup, damaged));
    if wrong == 0 {
        (End::SalvagedWhole, None)
    } else {
        (End::SalvagedPart, Some(wrong as f64 / ledger.now.len() as f64))
    }
}

/// Of a node that started.
fn served(node: &Node, ledger: &Ledger) -> End {
    // Answers when the rows are counted, so that what is known of the last stop was compared.
    let metrics = node.get("/metrics").expect(200).text().to_owned();
    let is_doubtful = metrics.lines().any(|line| line == "dynarust_storage_doubtful 1");
    let wrong = survey(node, ledger, is_doubtful);
    assert!(!node.log().contains("panicked at"), "{}", node.log());
    match (is_doubtful, wrong) {
        (true, _) => End::Doubtful,
        (false, 0) => End::Whole,
        (false, _) => End::Errors,
    }
}

/// Reads every key. How many are not as they should be: by an error that names them, or, where the node doubts, as they were before.
fn survey(node: &Node, ledger: &Ledger, is_doubtful: bool) -> u64 {
    let mut connection = node.connect();
    let mut wrong = 0;
    for (key, now) in &ledger.now {
        let answer = connection.send(&Request::new("GET", &format!("/t/key/{key}")));
        match (answer.status, now) {
            (200, now) => {
                let value = answer.json()["value"].as_str().expect("a text").to_owned();
                if Some(&value) != now.as_ref() {
                    assert!(is_doubtful, "{key} is not what was acknowledged, without a word");
                    assert!(ledger.ever[key].contains(&value), "{key} never had that value");
                    wrong += 1;
                }
            }
            (404, None) => {}
            (404, Some(_)) => {
                assert!(is_doubtful, "{key} is missing, without a word");
                wrong += 1;
            }
            (500, _) => {
                let problem = answer.expect(500).json();
                assert_eq!(problem["error"], "corrupt", "{problem}");
                let detail = problem["detail"].as_str().unwrap_or_default();
                assert!(detail.contains(&format!("\"{key}\"")), "{problem}");
                wrong += 1;
            }
            (status, _) => panic!("{key}: {status}"),
        }
    }
    wrong
}

/// Whether a node refused its token alone. That is removed then, as the node said.
fn is_token_removed(data: &Path, outcome: &Outcome) -> bool {
    let is_token = outcome.log.contains("dynarust.admin-token");
    if is_token {
        fs::remove_file(data.join("dynarust.admin-token")).expect("the file can be removed");
    }
    is_token
}

fn assert_refused(outcome: &Outcome) {
    assert_eq!(outcome.code(), FAILED, "{outcome:?}");
    for part in ["storage.db", "DynaRust salvage", "backup", "--set-aside-damaged"] {
        assert!(outcome.log.contains(part), "no {part} in {outcome:?}");
    }
    assert_no_panic(outcome);
}

fn assert_no_panic(outcome: &Outcome) {
    assert!(!outcome.log.contains("panicked at"), "{outcome:?}");
}

fn read_files(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(data).expect("a directory can be read").map(|entry| entry.expect("an entry"));
    let files = entries.filter(|entry| entry.path().is_file() && entry.file_name() != "dynarust.lock");
    let read = |path: &Path| fs::read(path).expect("a file can be read");
    files.map(|entry| (entry.file_name().to_string_lossy().into_owned(), read(&entry.path()))).collect()
}
