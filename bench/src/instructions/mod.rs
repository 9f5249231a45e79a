//! `cargo instructions`: how many instructions each hot operation takes, by valgrind's callgrind, against the counts in
//! `bench/instructions.json`. Instructions are the same from run to run, where times are not, so a change that costs more is seen at once:
//! `check` fails for more than 5 % above the file, and where the file was raised without a line in CHANGELOG.md that says why.
//!
//! `bench/instructions/main.rs` says how it is built: the node's own code is optimized, and of the other packages those that the tests have
//! so. The counts tell of a change in our own code, not how many instructions a release executes. They hold for one kind of processor:
//! libraries choose instructions by what it has. valgrind shows the same processor to a program wherever the real one has AVX2; elsewhere
//! nothing is compared, and `check` says so. Nor does it judge the counts of other compilers, or of another C library: it prints what differs.

mod build;
mod callgrind;
mod counts;
mod history;

use std::{collections::BTreeMap, path::Path};

use self::counts::{Counts, Verdict};
use crate::error::{Error, Result};

/// Calls of each operation that are counted. Some do more on every so many calls, so that few would not be alike.
const CALLS: u64 = 1000;
/// Calls before them: caches and free lists are then as they stay.
const WARMUP_CALLS: u64 = 100;
/// Rows of the tables that operations are counted on: valgrind makes everything fifty times slower.
const ROWS: u64 = 1000;
/// With this argument nothing is done as often as an operation.
const NOTHING: &str = "nothing";
/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Something that is done for each request.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Its name.
    pub name: &'static str,
    /// Makes ready for it, on a table of so many rows where there is one, and returns it.
    pub prepare: fn(u64) -> Box<dyn FnMut()>,
}

/// Runs `check` or `update`.
///
/// # Errors
/// `Usage` for other arguments, and where there is no valgrind; `Failed` where a count is too high.
pub fn run(arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["check"] => check(),
        ["update"] => update(),
        // Among other benches, by plain `cargo bench`.
        [] => {
            println!("Instructions are counted by `cargo instructions check`.");
            Ok(())
        }
        _ => Err(Error::Usage(format!(
            "{arguments:?} is neither `check`, which compares with {}, nor `update`, which writes it",
            counts::PATH
        ))),
    }
}

fn check() -> Result<()> {
    if !is_comparable() {
        println!(
            "Not counted: this processor has no AVX2, and the counts of {} are of one that has.",
            counts::PATH
        );
        return Ok(());
    }
    let (file, changelog) = (Counts::read(Path::new(ROOT))?, history::changelog(Path::new(ROOT))?);
    let measured = measure(&file)?;
    let mut verdicts = counts::compare(&file.instructions, &measured.instructions);
    let is_judged = file.tools == measured.tools;
    if !is_judged {
        println!(
            "Not judged: the counts of {} are of {}, these of {}.",
            counts::PATH,
            file.tools.join(", "),
            measured.tools.join(", ")
        );
        verdicts.drain(..).for_each(|verdict| println!("{verdict}"));
    }
    let before = history::before(Path::new(ROOT), &file)?;
    if let Some((commit, before)) = &before {
        verdicts.extend(counts::unexplained(&before.instructions, &file.instructions, commit, &changelog));
    }
    let (failures, remarks): (Vec<_>, Vec<_>) =
        verdicts.into_iter().partition(|verdict| matches!(verdict, Verdict::Failure(_)));
    remarks.iter().for_each(|remark| println!("{remark}"));
    if failures.is_empty() {
        let against = before.map_or_else(
            || "no earlier counts in git".to_owned(),
            |(commit, _)| format!("those before at {commit}"),
        );
        let cost = if is_judged { "cost what" } else { "were counted, and are not judged by what" };
        println!(
            "{} operations {cost} {} says; compared with {against}.",
            measured.instructions.len(),
            counts::PATH
        );
        return Ok(());
    }
    let failures: Vec<_> = failures.iter().map(ToString::to_string).collect();
    Err(Error::Failed(failures.join("\n")))
}

fn update() -> Result<()> {
    if !is_comparable() {
        return Err(Error::Failed(format!(
            "this processor has no AVX2, and the counts of {} are of one that has: count on another machine",
            counts::PATH
        )));
    }
    let root = Path::new(ROOT);
    let before = if root.join(counts::PATH).exists() { Counts::read(root)? } else { Counts::default() };
    let measured = measure(&before)?;
    let after = Counts {
        tools: measured.tools,
        instructions: counts::updated(&before.instructions, &measured.instructions),
    };
    for (name, count) in &after.instructions {
        match before.instructions.get(name) {
            Some(old) if old == count => {}
            Some(old) => println!("`{name}`: {count}, was {old}"),
            None => println!("`{name}`: {count}, new"),
        }
    }
    after.write(root)
}

/// Whether valgrind shows the processor that the counts of the file are of.
fn is_comparable() -> bool {
    #[cfg(target_arch = "x86_64")]
    let is_comparable = std::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    let is_comparable = false;
    is_comparable
}

/// Builds the operations, and counts each in a process of its own.
fn measure(file: &Counts) -> Result<Counts> {
    let program = build::operations(Path::new(ROOT))?;
    let names = build::names(&program)?;
    // What the calls themselves cost.
    let nothing = callgrind::total(&program, NOTHING)?;
    let mut instructions = BTreeMap::new();
    for name in names {
        let once = || {
            let total = callgrind::total(&program, &name)?;
            Ok(total.saturating_sub(nothing).div_ceil(CALLS))
        };
        let count = counts::least_of(file.instructions.get(&name).copied(), once)?;
        let is_new = instructions.insert(name, count).is_none();
        assert!(is_new, "names are unique");
    }
    Ok(Counts { tools: build::tools()?, instructions })
}

/// Runs the operation that the process is told, between calls of one function, which callgrind counts; or prints the names of all.
///
/// # Panics
/// If there is no such operation.
pub fn count(operations: &[Operation]) {
    let name = std::env::args().nth(1).unwrap_or_default();
    if name == build::NAMES {
        return operations.iter().for_each(|operation| println!("{}", operation.name));
    }
    if name == NOTHING {
        return count_operation(&mut || {});
    }
    let operation = operations.iter().find(|operation| operation.name == name);
    let mut run = (operation.expect("one of those that were printed").prepare)(ROWS);
    (0..WARMUP_CALLS).for_each(|_| run());
    count_operation(&mut *run);
}

/// The only function whose instructions, and those of what it calls, are counted: callgrind knows it by its name.
#[inline(never)]
fn count_operation(run: &mut dyn FnMut()) {
    // A closure here would have the name in its own.
    for _ in 0..CALLS {
        run();
    }
}
