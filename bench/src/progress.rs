//! The progress bar of a benchmark.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, interval};

/// Often enough to look alive, rarely enough to cost nothing.
const REDRAW_INTERVAL: Duration = Duration::from_millis(250);

/// A bar of `length` steps, labelled `what`. It draws on a terminal's standard error, and nowhere else.
pub fn bar(what: &'static str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {pos}/{len} {msg}");
    let style = style.expect("the template is a constant that the bar takes");
    let bar = ProgressBar::new(length).with_style(style.progress_chars("=> ")).with_prefix(what);
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
    bar
}

/// Shows a bar that moves with time, and returns when `length` has passed.
pub async fn follow_time(workload: &'static str, length: Duration) {
    let bar = bar(workload, length.as_secs().max(1)).with_message("s");
    let start = Instant::now();
    let mut redraw = interval(REDRAW_INTERVAL);
    while start.elapsed() < length {
        redraw.tick().await;
        bar.set_position(start.elapsed().as_secs());
    }
    bar.finish_and_clear();
}
