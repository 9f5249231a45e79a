//! Log lines: to standard error, so that standard output has only what was asked for; in colour only for people.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{EnvFilter, fmt};

use crate::{
    config::{Config, kinds::LogFormat},
    error::{Error, Result},
};

/// Starts writing log lines, for the rest of the process.
pub fn start(config: &Config) -> Result<()> {
    // The more specific directive wins, and of two like ones the later: `sled=debug` still has its way.
    let filter = EnvFilter::builder().parse_lossy(format!("sled=info,{}", config.log.0));
    let colour = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A log that cannot be written is no reason to end: told of it, the subscriber would panic over the same.
    let lines =
        fmt().with_env_filter(filter).with_writer(stderr).with_ansi(colour).log_internal_errors(false);
    let started = match config.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Error::Io(format!("cannot start the log: {error}")))
}
