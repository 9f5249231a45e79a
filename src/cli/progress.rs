//! The progress of long operations, on standard error and only if that is a terminal: a bar if the total is known, a count if not.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use serde_json::{Value, json};

use super::output;

/// How often a long transfer says how far it is, where there is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(10);

/// A progress bar of `length` steps, labelled `what`.
pub fn bar(what: &'static str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {pos}/{len} {msg}");
    let style = style.expect("the template is a constant that the bar takes");
    let bar = ProgressBar::new(length).with_style(style.progress_chars("=> ")).with_prefix(what);
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
    bar
}

/// A running count. Dropping it clears its line, also if the command failed.
pub struct Progress(ProgressBar);

impl Progress {
    /// Starts counting `what`.
    pub fn start(what: &'static str) -> Self {
        let style = ProgressStyle::with_template("{spinner} {pos} {msg}, {per_sec}");
        let style = style.expect("the template is a constant that the bar takes");
        let bar = ProgressBar::no_length().with_style(style).with_message(what);
        let bar = bar.with_finish(ProgressFinish::AndClear);
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
        Self(bar)
    }

    /// Shows this count.
    pub fn set(&self, count: u64) {
        self.0.set_position(count);
    }
}

/// The progress of an import or export: a bar with the rate and the time that is left on a terminal, elsewhere a line now and then.
pub struct Transfer {
    what: &'static str,
    bar: ProgressBar,
    started: Instant,
    last_line: Instant,
    /// Rows at the start, which an earlier run has done.
    first: Option<u64>,
}

impl Transfer {
    /// Of about so many rows, if that is known.
    pub fn of_rows(what: &'static str, total: Option<u64>) -> Self {
        Self::of(what, total)
    }

    /// Of a file of so many bytes, if that is known.
    pub fn of_bytes(what: &'static str, total: Option<u64>) -> Self {
        Self::of(what, total)
    }

    fn of(what: &'static str, total: Option<u64>) -> Self {
        let (template, bar) = match total {
            Some(total) => ("[{wide_bar}] {percent}%  {msg}, {eta} left", ProgressBar::new(total)),
            None => ("{spinner} {msg}", ProgressBar::no_length()),
        };
        let style =
            ProgressStyle::with_template(template).expect("the template is a constant that the bar takes");
        let bar = bar.with_style(style.progress_chars("=> ")).with_finish(ProgressFinish::AndClear);
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
        let now = Instant::now();
        Self { what, bar, started: now, last_line: now, first: None }
    }

    /// Shows that so many rows are done.
    pub fn set(&mut self, rows: u64) {
        self.set_at(rows, rows);
    }

    /// Shows that so many rows are done, which end at this byte of the file.
    pub fn set_at(&mut self, rows: u64, position: u64) {
        let first = *self.first.get_or_insert(rows);
        if stderr().is_terminal() {
            let rate = (rows - first) as f64 / self.started.elapsed().as_secs_f64().max(0.001);
            self.bar.set_message(format!("{rows} rows, {rate:.0} rows/s"));
            self.bar.set_position(position);
        } else if self.last_line.elapsed() >= LINE_PERIOD {
            self.last_line = Instant::now();
            eprintln!("DynaRust: {} {rows} rows", self.what);
        }
    }

    /// Says what was done, and how fast: as text on standard error, or as JSON on standard output.
    pub fn finish(self, text: &str, rows: u64, json: Option<Value>) -> crate::error::Result<()> {
        self.bar.finish_and_clear();
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = rows as f64 / seconds.max(0.001);
        match json {
            Some(Value::Object(mut members)) => {
                members.insert("seconds".into(), json!(seconds));
                members.insert("rows_per_second".into(), json!(rate.round()));
                output::print(&format!("{}\n", Value::Object(members)))
            }
            Some(_) | None => {
                eprintln!("{text} in {seconds:.1} s ({rate:.0} rows/s)");
                Ok(())
            }
        }
    }
}
