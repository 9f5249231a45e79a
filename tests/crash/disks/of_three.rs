//! Damaged disks under one of three: whatever became of it, the others keep every row, and it comes to hold what they hold.
//!
//! A trial stops or kills a member, damages its store, and has the others take writes and deletes meanwhile. The member refuses to
//! start, and one of its remedies is taken; or it starts. Once it is ready it has every row as it was acknowledged, or an error that
//! names it; and in the end all three have all of them. Nothing but the writes of the trial is ever told to who watches another.
//!
//! All members remove their tombstones a second after a delete. A member whose log is damaged may have rows again that were deleted; the others
//! prove to it that they were, and no deleted key comes back on any of the three.

use std::{
    collections::BTreeMap,
    fmt, fs,
    panic::{self, AssertUnwindSafe},
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Chance, HARMS, HISTORIES, Harm, History, Ledger, assert_no_panic, assert_refused, is_token_removed,
    read_files, survey, text,
};
use crate::harness::{
    Node, Setup,
    cluster::{self, CONVERGENCE, Cluster, wait_until_ready},
    http::Request,
    sse::Events,
    wait_until,
};

/// Trials in a normal run, of what has most in it. `DAMAGED_DISKS=100` asks for as many, of everything, and prints how they ended.
const TRIALS: u64 = 3;
/// The one whose disk is damaged.
const DAMAGED: usize = 2;
/// Written when a trial is over, so that who watches knows that nothing more comes.
const LAST_KEY: &str = "last";

type Files = BTreeMap<String, Vec<u8>>;

/// The stores of three members of which one was away for a while, and what they were to hold.
struct Pristine {
    addresses: Vec<String>,
    stores: Vec<Files>,
    ledger: Ledger,
}

impl Pristine {
    fn of(history: History) -> Self {
        let mut ledger = Ledger::default();
        let mut cluster = Cluster::start_with(3, with_short_grace);
        ledger.write(&cluster[0], 1, if history == History::Settled { 1 } else { 2 });
        cluster.wait_until_equal();
        match history {
            History::Stopped | History::Killed => {}
            History::Settled => {
                cluster.terminate(DAMAGED);
                cluster.restart(DAMAGED);
            }
            History::AgainStopped | History::AgainKilled => {
                for node in cluster.running() {
                    wait_until("tombstones are removed", CONVERGENCE, || {
                        node.get("/_/tables").expect(200).text().contains(r#""tombstones":0"#)
                    });
                }
                (0..3).for_each(|member| drop(cluster.terminate(member)));
                (0..3).for_each(|member| cluster.restart(member));
                cluster.wait_until_ready_and_linked();
                ledger.write(&cluster[1], 2, 2);
            }
        }
        cluster.wait_until_ready_and_linked();
        cluster.wait_until_equal();
        match history {
            History::Killed | History::AgainKilled => cluster.kill(DAMAGED),
            History::Stopped | History::Settled | History::AgainStopped => drop(cluster.terminate(DAMAGED)),
        }
        let meanwhile = (0..super::KEYS).step_by(5).map(|number| {
            let value = (number % 2 == 0).then(|| text(9_000 + number, 900));
            (format!("k{number}"), value)
        });
        ledger.send(&mut cluster[0].connect(), meanwhile.collect());
        cluster.wait_until_equal();
        let addresses = (0..3).map(|member| cluster.address(member)).collect();
        (0..DAMAGED).for_each(|member| drop(cluster.terminate(member)));
        let stores = (0..3).map(|member| read_files(&data_of(cluster.setup(member)))).collect();
        Self { addresses, stores, ledger }
    }

    /// A setup over a copy of the store of a member.
    fn copy(&self, member: usize) -> Setup {
        let setup = self.setup(member);
        let data = data_of(&setup);
        fs::create_dir(&data).expect("a directory can be made");
        for (name, bytes) in &self.stores[member] {
            fs::write(data.join(name), bytes).expect("a file can be written");
        }
        setup
    }

    /// A setup of a member that has nothing yet.
    fn setup(&self, member: usize) -> Setup {
        with_short_grace(cluster::setup()).listen(&self.addresses[member])
    }

    /// A setup of the damaged one, of what lies in another's directory.
    fn damaged_in(&self, data: &Path) -> Setup {
        self.setup(DAMAGED).join(&self.addresses[0]).flag("--data", data)
    }
}

fn with_short_grace(setup: Setup) -> Setup {
    setup.flag("--tombstone-grace", "1s")
}

fn data_of(setup: &Setup) -> std::path::PathBuf {
    setup.home().join("storage.db")
}

/// How a trial ended: in each case with all rows on all three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// It started, and had everything.
    Whole,
    /// It started, and answered with errors for some rows until it had them back.
    Errors,
    /// It started, said that rows may be missing or older, and had them back when it was ready.
    Doubtful,
    /// It refused, was salvaged, and had all that it ever had.
    SalvagedWhole,
    /// It refused, was salvaged in part, and got the rest from the others.
    SalvagedPart,
    /// It refused, and got everything from the others.
    SetAside,
}

#[derive(Default)]
struct Ends(BTreeMap<(History, Harm), BTreeMap<End, u64>>);

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all: BTreeMap<End, u64> = BTreeMap::new();
        for ((history, harm), ends) in &self.0 {
            ends.iter().for_each(|(end, count)| *all.entry(*end).or_default() += count);
            writeln!(f, "{:14} {:5} {ends:?}", format!("{history:?}"), format!("{harm:?}"))?;
        }
        writeln!(f, "all            {all:?}")
    }
}

/// One flipped byte on one node's disk removed good rows from all three: 6 of 134 trials, up to 41 rows; in others rows were gone or
/// older on the one.
#[test]
fn a_damaged_disk_of_one_of_three_costs_nothing_anywhere() {
    let trials = std::env::var("DAMAGED_DISKS").ok().map(|text| text.parse().expect("a number"));
    let first = std::env::var("DAMAGED_DISKS_FROM").map_or(0, |text| text.parse().expect("a number"));
    let mut pristines: BTreeMap<History, Pristine> = BTreeMap::new();
    let (mut ends, mut failed) = (Ends::default(), Vec::new());
    for trial in first..first + trials.unwrap_or(TRIALS) {
        let mut chance = Chance::new(3_000_000 + trial);
        let history = if trials.is_none() { History::AgainKilled } else { HISTORIES[(trial % 5) as usize] };
        let harm = HARMS[((trial / 5 + trial % 5) % 4) as usize];
        let pristine = pristines.entry(history).or_insert_with(|| Pristine::of(history));
        let begun = Instant::now();
        // So that one that fails keeps no other from being tried.
        let end = panic::catch_unwind(AssertUnwindSafe(|| run(pristine, trial, harm, &mut chance)));
        eprintln!("  {history:?}: {end:?} after {:?}", begun.elapsed());
        let Ok(end) = end else {
            failed.push(trial);
            continue;
        };
        *ends.0.entry((history, harm)).or_default().entry(end).or_default() += 1;
    }
    println!("{ends}");
    eprintln!("{ends}");
    assert!(
        failed.is_empty(),
        "trials {failed:?} failed; DAMAGED_DISKS=1 DAMAGED_DISKS_FROM=N runs one again"
    );
}

/// The deletions of a member came back on all three when its log was found to be an older one: the tombstones were gone everywhere, and what
/// the member knew of the agreement with the others had lain in the log.
#[test]
fn a_log_of_before_the_deletions_brings_no_key_back() {
    let mut cluster = Cluster::start_with(3, with_short_grace);
    let mut ledger = Ledger::default();
    ledger.write(&cluster[0], 1, 1);
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    drop(cluster.terminate(DAMAGED));
    let log = data_of(cluster.setup(DAMAGED)).join("db");
    let before = fs::read(&log).expect("a log can be read");
    cluster.restart(DAMAGED);
    cluster.wait_until_ready_and_linked();
    // Not all of them: a table without rows is removed.
    let long = ledger.now.keys().filter(|key| key.starts_with('k')).map(|key| (key.clone(), None));
    ledger.send(&mut cluster[0].connect(), long.collect());
    for node in cluster.running() {
        wait_until("tombstones are removed", CONVERGENCE, || {
            node.get("/_/tables").expect(200).text().contains(r#""tombstones":0"#)
        });
    }
    cluster.kill(DAMAGED);
    fs::write(&log, before).expect("a log can be written");
    cluster.restart(DAMAGED);
    let metrics = cluster[DAMAGED].get("/metrics").expect(200).text().to_owned();
    assert!(metrics.lines().any(|line| line == "dynarust_storage_doubtful 1"), "{metrics}");
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    for node in cluster.running() {
        assert_eq!(survey(node, &ledger, false), 0, "{}: rows are lost", node.address());
    }
}

fn run(pristine: &Pristine, trial: u64, harm: Harm, chance: &mut Chance) -> End {
    let others = (0..DAMAGED).map(|member| pristine.copy(member)).collect();
    let mut cluster = Cluster::start_from(others);
    cluster.wait_until_equal();
    let (mut watch, _) = Events::open(&cluster[0], "/t/subscribe");
    let damaged = pristine.copy(DAMAGED);
    let file = any_file(&pristine.stores[DAMAGED], chance).to_owned();
    let at = chance.below(pristine.stores[DAMAGED][&file].len() as u64);
    eprintln!("trial {trial}: {harm:?} of {file} at {at}");
    harm.inflict(&data_of(&damaged).join(&file), at, chance);
    let (damaged, node, remedied) = started(pristine, damaged, chance);
    // Answers when the rows are counted, so that what is known of the last stop was compared.
    let metrics = node.get("/metrics").expect(200).text().to_owned();
    let is_doubtful = metrics.lines().any(|line| line == "dynarust_storage_doubtful 1");
    wait_until_ready(&node);
    let errors = survey(&node, &pristine.ledger, false);
    let place = cluster.adopt(node);
    let end = match (remedied, is_doubtful, errors) {
        (Some(end), ..) => end,
        (None, true, _) => End::Doubtful,
        (None, false, 0) => End::Whole,
        (None, false, _) => End::Errors,
    };
    wait_until("it has everything", 2 * CONVERGENCE, || {
        let unreadable = cluster[place].get("/stats").expect(200).json()["unreadable_ranges"].as_u64();
        unreadable == Some(0) && survey(&cluster[place], &pristine.ledger, false) == 0
    });
    cluster.wait_until_ready_and_linked();
    cluster.wait_until_equal();
    for node in cluster.running() {
        assert_eq!(survey(node, &pristine.ledger, false), 0, "{} lacks rows", node.address());
        assert!(!node.log().contains("panicked"), "{}", node.log());
    }
    let last = Request::new("PUT", &format!("/t/key/{LAST_KEY}?w=all&w_timeout=15s"));
    cluster[place].send(&last.body(r#"{"value":1}"#)).expect(200);
    loop {
        let block = watch.block_within(Duration::from_secs(20)).expect("the stream goes on");
        if block.is_data() {
            assert_eq!(block.json()["key"], LAST_KEY, "told to another: {}", block.text);
            break;
        }
    }
    drop(damaged);
    end
}

fn any_file<'a>(files: &'a Files, chance: &mut Chance) -> &'a str {
    let others: Vec<&String> = files.keys().filter(|name| *name != "db").collect();
    match chance.below(10) {
        0 => others[chance.below(others.len() as u64) as usize],
        _ => "db",
    }
}

/// A node over a damaged store, after one of the remedies where it refused; and whose directory that lies in.
fn started(pristine: &Pristine, damaged: Setup, chance: &mut Chance) -> (Setup, Node, Option<End>) {
    let data = data_of(&damaged);
    let outcome = match pristine.damaged_in(&data).try_start() {
        Ok(node) => return (damaged, node, None),
        Err(outcome) => outcome,
    };
    if is_token_removed(&data, &outcome) {
        let node = pristine.damaged_in(&data).start();
        return (damaged, node, None);
    }
    // Nobody knows then whether it was this format.
    let is_unknown_format = outcome.log.contains("dynarust.format is damaged");
    if !is_unknown_format {
        assert_refused(&outcome);
    }
    let (damaged, salvage) = damaged.run(&["salvage", "storage.db", "--into", "salvaged.db"]);
    assert_no_panic(&salvage);
    if salvage.code() != Some(0) || (!is_unknown_format && chance.below(2) == 0) {
        let node = pristine.damaged_in(&data).argument("--set-aside-damaged").start();
        return (damaged, node, Some(End::SetAside));
    }
    let is_whole = salvage.stdout.contains("nothing was lost");
    let node = pristine.damaged_in(&damaged.home().join("salvaged.db")).start();
    (damaged, node, Some(if is_whole { End::SalvagedWhole } else { End::SalvagedPart }))
}
