//! What a figure is to be, and whether it is.

use std::fmt;

use clap::ValueEnum;

use super::Row;
use crate::report::{Report, Spread, rounded};

/// A bound of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// The figure's name in the report.
    pub figure: &'static str,
    bound: Bound,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    /// The figure is to be this or more.
    pub const fn at_least(figure: &'static str, bound: f64) -> Self {
        Self { figure, bound: Bound::AtLeast(bound) }
    }

    /// The figure is to be this or less.
    pub const fn at_most(figure: &'static str, bound: f64) -> Self {
        Self { figure, bound: Bound::AtMost(bound) }
    }

    fn is_reached(self, value: f64) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
            Self::AtMost(bound) => write!(f, "<= {bound}"),
        }
    }
}

/// The targets and the results of all rows.
#[derive(Default)]
pub struct Table(Vec<Line>);

struct Line {
    row: Row,
    goal: Goal,
    /// `None` where there was nothing to compare with.
    spread: Option<Spread>,
    /// Whether the sizes were those that the target is for.
    is_full: bool,
}

impl Table {
    /// Adds the figures of a row that have a target.
    pub fn add(&mut self, row: Row, report: &Report, is_full: bool) {
        let line = |goal: &Goal| Line { row, goal: *goal, spread: report.spread(goal.figure), is_full };
        self.0.extend(row.goals().iter().map(line));
    }
}

impl Line {
    /// By the median: one round among several says little on a shared machine.
    fn verdict(&self) -> &'static str {
        match &self.spread {
            None => "not compared",
            Some(_) if !self.is_full => "sizes divided",
            Some(spread) if self.goal.is_reached(spread.median) => "reached",
            Some(_) => "missed",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<12}{:<23}{:>9}{:>10}{:>10}{:>10}",
            "row", "figure", "target", "median", "min", "max"
        )?;
        for line in &self.0 {
            let number = |of: fn(&Spread) -> f64| {
                line.spread.as_ref().map_or_else(|| "-".to_owned(), |spread| rounded(of(spread)).to_string())
            };
            let (median, min, max) = (number(|it| it.median), number(|it| it.min), number(|it| it.max));
            let row = line.row.to_possible_value().expect("no row is left out of the command line");
            let row = row.get_name();
            let (goal, verdict) = (line.goal, line.verdict());
            let target = goal.bound.to_string();
            writeln!(f, "{row:<12}{:<23}{target:>9}{median:>10}{min:>10}{max:>10}  {verdict}", goal.figure)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Figure;

    fn lines(report: &Report, is_full: bool) -> Vec<String> {
        let mut table = Table::default();
        table.add(Row::Fanout, report, is_full);
        table.to_string().lines().skip(2).map(str::to_owned).collect()
    }

    #[test]
    fn a_row_has_its_target_its_spread_and_a_verdict_by_the_median() {
        let mut report = Report::new("fanout", "a node");
        for ratio in [1.9, 1.2, 1.1] {
            report.run(vec![Figure::new("last_to_loop", ratio), Figure::new("others_put_p99_ms", 7.5)]);
        }
        let said = lines(&report, true);
        for part in ["fanout", "last_to_loop", "<= 1.25", "1.2", "1.1", "1.9", "reached"] {
            assert!(said[0].contains(part), "{part}: {said:?}");
        }
        assert!(said[1].ends_with("missed"), "{said:?}");
        assert!(lines(&report, false)[0].ends_with("sizes divided"));
    }

    #[test]
    fn what_was_not_measured_is_not_reached() {
        let said = lines(&Report::new("fanout", "a node"), true);
        assert!(said.iter().all(|line| line.ends_with("not compared")), "{said:?}");
    }
}
