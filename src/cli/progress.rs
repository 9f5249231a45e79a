//! The progress of what takes its time, on a terminal's standard error and nowhere else: a bar where the end is known, a count
//! where it is not.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

/// A bar of so many steps, labelled `what`. It draws on a terminal's standard error, and nowhere else.
pub fn bar(what: &'static str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {pos}/{len} {msg}");
    let style = style.expect("the template is a constant that the bar takes");
    let bar = ProgressBar::new(length).with_style(style.progress_chars("=> ")).with_prefix(what);
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
    bar
}

/// A running count. Dropped, it leaves the terminal as it was, also where the command failed.
pub struct Progress(ProgressBar);

impl Progress {
    /// Begins to count `what`.
    pub fn start(what: &'static str) -> Self {
        let style = ProgressStyle::with_template("{spinner} {pos} {msg}, {per_sec}");
        let style = style.expect("the template is a constant that the bar takes");
        let bar = ProgressBar::no_length().with_style(style).with_message(what);
        let bar = bar.with_finish(ProgressFinish::AndClear);
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
        Self(bar)
    }

    /// So many by now.
    pub fn set(&self, count: u64) {
        self.0.set_position(count);
    }
}
