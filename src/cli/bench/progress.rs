//! The progress bar of a benchmark.

use std::time::Duration;

use tokio::time::{Instant, interval};

pub use crate::cli::progress::bar;

/// Often enough to be seen moving, too seldom to be measured.
const REDRAW_INTERVAL: Duration = Duration::from_millis(250);

/// Moves a bar with time, from now until `length` has passed; never returns before.
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
