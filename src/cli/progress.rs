//! Progress of a long command: on a terminal's standard error, and nowhere else.

use indicatif::{ProgressBar, ProgressStyle};

/// Counts what is done of a work whose size is not known; `what` is done to it, such as "records read".
pub fn counter(what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {human_pos} {msg} in {elapsed} ({per_sec})");
    let style = style.expect("the template is a constant that indicatif takes");
    ProgressBar::no_length().with_style(style).with_message(what)
}
