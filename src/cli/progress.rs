//! The progress of long operations, on standard error and only if that is a terminal: a bar if the total is known, a count if not.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

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
