//! The counts of the repository, and what is to be said of others.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Where they are, from the root of the repository.
pub const PATH: &str = "bench/instructions.json";
/// How much more than the file has is too much, in percent.
const RISE_PERCENT_MAX: u64 = 5;
/// How often an operation is counted at most.
const COUNTED_MAX: usize = 3;
/// How much less is worth writing down, in percent.
const FALL_PERCENT_MIN: u64 = 1;
/// As few more say nothing, whatever the percentage: the compiler moves that many around.
const NOISE: u64 = 4;

/// Instructions of each operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// The compilers, the C library and valgrind, whose work the counts are as well.
    #[serde(default)]
    pub tools: Vec<String>,
    /// By the name of the operation.
    pub instructions: BTreeMap<String, u64>,
}

/// What is to be said of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The check fails.
    Failure(String),
    /// It is only said.
    Remark(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Failure(text) | Self::Remark(text)) = self;
        f.write_str(text)
    }
}

impl Counts {
    /// Those of the repository.
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join(PATH);
        let text = fs::read_to_string(&path)
            .map_err(|e| Error::io(format_args!("reading {}", path.display()), &e))?;
        Self::parse(&text).map_err(|why| Error::Failed(format!("{}: {why}", path.display())))
    }

    /// Those of a file's text.
    pub fn parse(text: &str) -> std::result::Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Replaces those of the repository.
    pub fn write(&self, root: &Path) -> Result<()> {
        let path = root.join(PATH);
        let text = serde_json::to_string_pretty(self).expect("text and numbers are JSON") + "\n";
        fs::write(&path, text).map_err(|e| Error::io(format_args!("writing {}", path.display()), &e))
    }
}

/// Counts once, or, where that is too much, until it is not, and takes the least: where a store has threads, they may be in each other's way.
pub fn least_of(file: Option<u64>, mut count: impl FnMut() -> Result<u64>) -> Result<u64> {
    let mut least = count()?;
    for _ in 1..COUNTED_MAX {
        if !file.is_some_and(|before| is_rise(before, least)) {
            break;
        }
        least = least.min(count()?);
    }
    Ok(least)
}

/// Compares what was measured with the file.
pub fn compare(file: &BTreeMap<String, u64>, measured: &BTreeMap<String, u64>) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for (name, &count) in measured {
        match file.get(name) {
            None => verdicts.push(Verdict::Failure(format!(
                "`{name}`: {count} instructions, and {PATH} does not have it: run `cargo instructions update`"
            ))),
            Some(&before) if is_rise(before, count) => verdicts.push(Verdict::Failure(format!(
                "`{name}`: {count} instructions, {before} in {PATH}: {:.1} % more, and {RISE_PERCENT_MAX} % are allowed. Make it cheaper; or, if the \
                 work is meant, run `cargo instructions update`, and add a line to CHANGELOG.md that has `{name}` and the new count and says why",
                percent(before, count)
            ))),
            Some(&before) if is_fall(before, count) => verdicts.push(Verdict::Remark(format!(
                "`{name}`: {count} instructions, {before} in {PATH}: {:.1} % fewer. Run `cargo instructions update`, so that it stays so",
                -percent(before, count)
            ))),
            Some(_) => {}
        }
    }
    let gone = file.keys().filter(|name| !measured.contains_key(*name));
    verdicts.extend(gone.map(|name| {
        Verdict::Failure(format!(
            "`{name}` is in {PATH}, and nothing is counted by this name: run `cargo instructions update`"
        ))
    }));
    verdicts
}

/// The counts of the file that were raised after `commit`, and whose reason the changelog does not give.
pub fn unexplained(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    commit: &str,
    changelog: &str,
) -> Vec<Verdict> {
    let raised = after.iter().filter_map(|(name, &count)| {
        let before = *before.get(name)?;
        (count > before && !is_explained(name, count, changelog)).then(|| {
            Verdict::Failure(format!(
                "`{name}`: {PATH} has {count} instructions, and had {before} at {commit}: add a line to CHANGELOG.md that has `{name}` and {count} \
                 and says why"
            ))
        })
    });
    raised.collect()
}

/// Whether a line has both the name, in backquotes, and the count.
fn is_explained(name: &str, count: u64, changelog: &str) -> bool {
    let (name, count) = (format!("`{name}`"), count.to_string());
    changelog.lines().any(|line| {
        line.contains(&name) && line.split(|c: char| !c.is_ascii_digit()).any(|number| number == count)
    })
}

/// What the file is to have after `measured`: what fell, and what rose too far. What rose by less stays, or many small rises would pass
/// without a word.
pub fn updated(file: &BTreeMap<String, u64>, measured: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let kept = |(name, &count): (&String, &u64)| {
        let before =
            file.get(name).copied().filter(|&before| !is_rise(before, count) && !is_fall(before, count));
        (name.clone(), before.unwrap_or(count))
    };
    measured.iter().map(kept).collect()
}

fn percent(before: u64, after: u64) -> f64 {
    (after as f64 / (before.max(1)) as f64 - 1.0) * 100.0
}

fn is_rise(before: u64, after: u64) -> bool {
    after > before + NOISE && (after - before) * 100 > before * RISE_PERCENT_MAX
}

fn is_fall(before: u64, after: u64) -> bool {
    before > after + NOISE && (before - after) * 100 > before * FALL_PERCENT_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    fn failures(verdicts: Vec<Verdict>) -> Vec<String> {
        verdicts.iter().filter(|it| matches!(it, Verdict::Failure(_))).map(ToString::to_string).collect()
    }

    #[test]
    fn more_than_five_percent_fails_and_says_what_to_do() {
        let file = counts(&[("a", 1000), ("b", 1000), ("tiny", 10)]);
        let failures = failures(compare(&file, &counts(&[("a", 1051), ("b", 1050), ("tiny", 14)])));
        let [failure] = &failures[..] else { panic!("{failures:?}") };
        for said in ["`a`", "1051", "1000", "5.1 %", "cargo instructions update", "CHANGELOG.md"] {
            assert!(failure.contains(said), "{said}: {failure}");
        }
    }

    #[test]
    fn too_much_is_counted_again() {
        let least = |file, counts: &[u64]| {
            let mut left = counts.iter();
            let least = least_of(file, || Ok(*left.next().expect("not more often"))).expect("counted");
            (least, left.len())
        };
        assert_eq!(least(Some(1000), &[1040, 1]), (1040, 1));
        assert_eq!(least(None, &[5000, 1]), (5000, 1));
        assert_eq!(least(Some(1000), &[1100, 1051, 1050]), (1050, 0));
        assert_eq!(least(Some(1000), &[1100, 1200, 1300]), (1100, 0));
    }

    #[test]
    fn fewer_is_said_and_does_not_fail() {
        let verdicts = compare(&counts(&[("a", 1000), ("b", 1000)]), &counts(&[("a", 900), ("b", 995)]));
        let [Verdict::Remark(remark)] = &verdicts[..] else { panic!("{verdicts:?}") };
        assert!(remark.contains("10.0 % fewer"), "{remark}");
    }

    #[test]
    fn an_operation_on_one_side_only_fails() {
        let failures = failures(compare(&counts(&[("gone", 1)]), &counts(&[("new", 1)])));
        assert_eq!(failures.len(), 2, "{failures:?}");
        assert!(failures[0].contains("`new`") && failures[1].contains("`gone`"), "{failures:?}");
    }

    #[test]
    fn a_raised_count_needs_a_line_with_its_name_and_number() {
        let (before, after) = (counts(&[("a", 100), ("b", 9)]), counts(&[("a", 130), ("b", 8), ("new", 1)]));
        for changelog in ["", "- `a` does more", "- 130 of `b`", "- `a` takes 1300", "- `a`\n- 130"] {
            let failures = failures(unexplained(&before, &after, "c0ffee", changelog));
            let [failure] = &failures[..] else { panic!("{changelog}: {failures:?}") };
            assert!(failure.contains("c0ffee") && failure.contains("`a` and 130"), "{failure}");
        }
        assert!(unexplained(&before, &after, "c0ffee", "- `a` takes 130, as it now checks more").is_empty());
    }

    /// Else ten changes of 4 % each would be half as much again, and nobody had said a word.
    #[test]
    fn an_update_keeps_what_rose_little() {
        let file = counts(&[("little", 1000), ("far", 1000), ("fell", 1000), ("gone", 1)]);
        let measured = counts(&[("little", 1040), ("far", 1100), ("fell", 900), ("new", 7)]);
        let expected = counts(&[("little", 1000), ("far", 1100), ("fell", 900), ("new", 7)]);
        assert_eq!(updated(&file, &measured), expected);
    }

    #[test]
    fn counts_are_read_as_they_are_written() {
        let directory = std::env::temp_dir().join(format!("dynarust-counts-{}", std::process::id()));
        fs::create_dir_all(directory.join("bench")).expect("a directory");
        let written = Counts { tools: vec!["rustc 1.2.3".into()], instructions: counts(&[("a b, c", 1)]) };
        written.write(&directory).expect("written");
        let read = Counts::read(&directory);
        fs::remove_dir_all(&directory).expect("removed");
        assert_eq!(read, Ok(written));
    }
}
