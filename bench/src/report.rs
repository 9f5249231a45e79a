//! The report of a workload: named figures per run, and the median, minimum and maximum of all runs.

use std::{
    io::{self, Write},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// The longest latency recorded; a longer one counts as this.
const LATENCY_MAX: Duration = Duration::from_secs(600);

/// Minimum width of the column of names, so that most reports line up.
const NAME_WIDTH_MIN: usize = 24;

/// The percentiles reported of every latency.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// A named number; the name ends with its unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// For example `get_per_s` or `put_p99_ms`.
    pub name: String,
    /// The number.
    pub value: f64,
}

impl Figure {
    /// Names a number.
    pub fn new(name: impl Into<String>, value: f64) -> Self {
        Self { name: name.into(), value }
    }
}

/// Latencies in nanoseconds, to three significant digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1_000, LATENCY_MAX.as_nanos() as u64, 3);
        Self(histogram.expect("bounds and digits are constants that the histogram takes"))
    }
}

impl Latencies {
    /// Records one latency.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_nanos() as u64);
    }

    /// Adds all latencies of `other`.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Percentiles and the maximum, in milliseconds; none where no latency was recorded.
    pub fn figures(&self, name: &str) -> Vec<Figure> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let at = |nanoseconds: u64| nanoseconds as f64 / 1e6;
        let quantiles = QUANTILES.iter().map(|(quantile_name, quantile)| {
            Figure::new(format!("{name}_{quantile_name}_ms"), at(self.0.value_at_quantile(*quantile)))
        });
        quantiles.chain([Figure::new(format!("{name}_max_ms"), at(self.0.max()))]).collect()
    }
}

/// The report of a workload.
#[derive(Clone, Debug)]
pub struct Report {
    workload: &'static str,
    target: String,
    settings: Vec<(&'static str, Value)>,
    runs: Vec<Vec<Figure>>,
    notes: Vec<Figure>,
}

impl Report {
    /// An empty report of `workload` on `target`.
    pub fn new(workload: &'static str, target: impl Into<String>) -> Self {
        Self { workload, target: target.into(), settings: Vec::new(), runs: Vec::new(), notes: Vec::new() }
    }

    /// Adds a setting that the figures depend on.
    pub fn setting(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.settings.push((name, value.into()));
        self
    }

    /// Adds the figures of a run. All runs have figures of the same names, in the same order.
    pub fn run(&mut self, figures: Vec<Figure>) {
        self.runs.push(figures);
    }

    /// Adds a figure of all runs together.
    pub fn note(&mut self, name: &str, value: f64) {
        self.notes.push(Figure::new(name, value));
    }

    /// Adds several figures of all runs together.
    pub fn notes(&mut self, figures: Vec<Figure>) {
        self.notes.extend(figures);
    }

    /// The median over all runs of the figure of this name.
    pub fn median(&self, name: &str) -> Option<f64> {
        self.spreads().into_iter().find(|spread| spread.name == name).map(|spread| spread.median)
    }

    /// The figure of this name in all runs, or of all runs together.
    pub fn spread(&self, name: &str) -> Option<Spread> {
        let note = || self.notes.iter().find(|note| note.name == name).map(|note| note.value);
        let of_runs = self.spreads().into_iter().find(|spread| spread.name == name);
        of_runs.or_else(|| {
            note().map(|value| Spread { name: name.to_owned(), median: value, min: value, max: value })
        })
    }

    /// Writes the report: a table, or one line of JSON.
    pub fn write(&self, as_json: bool, out: &mut impl Write) -> io::Result<()> {
        if as_json { writeln!(out, "{}", self.json()) } else { self.write_table(out) }
    }

    fn json(&self) -> Value {
        let object = |figures: &[Figure]| -> Map<String, Value> {
            figures.iter().map(|figure| (figure.name.clone(), json!(rounded(figure.value)))).collect()
        };
        let mut all = Map::new();
        all.insert("workload".into(), json!(self.workload));
        all.insert("target".into(), json!(self.target));
        all.extend(self.settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let medians: Vec<_> = self
            .spreads()
            .into_iter()
            .map(|spread| Figure { name: spread.name, value: spread.median })
            .collect();
        all.insert("median".into(), Value::Object(object(&medians)));
        all.insert("runs".into(), self.runs.iter().map(|run| Value::Object(object(run))).collect());
        all.extend(object(&self.notes));
        Value::Object(all)
    }

    fn write_table(&self, out: &mut impl Write) -> io::Result<()> {
        let settings: Vec<_> = self.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        writeln!(out, "{} of {}: {}", self.workload, self.target, settings.join(" "))?;
        let spreads = self.spreads();
        let names = spreads.iter().map(|spread| &spread.name).chain(self.notes.iter().map(|note| &note.name));
        let width = names.map(|name| name.len() + 1).max().unwrap_or_default().max(NAME_WIDTH_MIN);
        if !self.runs.is_empty() {
            let count = self.runs.len();
            let runs = format!("{count} {}", if count == 1 { "run" } else { "runs" });
            writeln!(out, "{runs:width$}{:>14}{:>14}{:>14}", "median", "min", "max")?;
        }
        for Spread { name, median, min, max } in spreads {
            writeln!(out, "{name:width$}{:>14}{:>14}{:>14}", rounded(median), rounded(min), rounded(max))?;
        }
        for figure in &self.notes {
            writeln!(out, "{:width$}{:>14}", figure.name, rounded(figure.value))?;
        }
        Ok(())
    }

    fn spreads(&self) -> Vec<Spread> {
        // By name, not by position: a run without any latency has no percentiles.
        let names = self.runs.iter().max_by_key(|run| run.len());
        let names = names.into_iter().flatten().map(|figure| figure.name.clone());
        names.filter_map(|name| Spread::of(name, &self.runs)).collect()
    }
}

/// One figure over all runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// Its name.
    pub name: String,
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    fn of(name: String, runs: &[Vec<Figure>]) -> Option<Self> {
        let in_run =
            |run: &Vec<Figure>| run.iter().find(|figure| figure.name == name).map(|figure| figure.value);
        let mut values: Vec<f64> = runs.iter().filter_map(in_run).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { name, median, min, max })
    }
}

/// Rounds to three decimals, or to a whole number from 1000 on: more is noise.
pub fn rounded(value: f64) -> f64 {
    let scale = if value.abs() >= 1000.0 { 1.0 } else { 1000.0 };
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(values: &[f64]) -> Report {
        let mut report = Report::new("get", "http://127.0.0.1:1").setting("keys", 10);
        for value in values {
            report.run(vec![Figure::new("get_per_s", *value)]);
        }
        report
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        assert_eq!(report(&[3.0, 1.0, 2.0]).median("get_per_s"), Some(2.0));
        assert_eq!(report(&[4.0, 1.0, 2.0, 3.0]).median("get_per_s"), Some(2.5));
        assert_eq!(report(&[]).median("get_per_s"), None);
    }

    #[test]
    fn json_has_settings_runs_and_medians() {
        let mut out = Vec::new();
        report(&[3.0, 1.0, 2.0]).write(true, &mut out).expect("a vector");
        let json: Value = serde_json::from_slice(&out).expect("json");
        assert_eq!(json["keys"], 10);
        assert_eq!(json["median"]["get_per_s"].as_f64(), Some(2.0));
        assert_eq!(json["runs"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn latencies_are_reported_in_milliseconds() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.figures("get"), []);
        (1..=100).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        let figures = latencies.figures("get");
        assert_eq!(figures[0].name, "get_p50_ms");
        assert!((figures[0].value - 50.0).abs() < 0.1, "{figures:?}");
        assert!((figures[4].value - 100.0).abs() < 0.1, "{figures:?}");
    }
}
