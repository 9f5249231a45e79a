//! The log, on standard error. It is in colour only on a terminal. With `--log-format json` every line that the process writes is a JSON
//! object, including panics and the errors that keep it from starting.

use std::{
    io::{self, IsTerminal, Write, stderr},
    panic::{self, PanicHookInfo},
    thread,
    time::SystemTime,
};

use serde_json::json;
use tracing_subscriber::{EnvFilter, fmt};

use crate::{
    config::{Config, types::LogFormat},
    error::{Error, Result},
};

/// Starts the log.
pub fn start(config: &Config) -> Result<()> {
    // Of two directives for the same module the later wins, so the user can still set `sled=debug`.
    let filter =
        EnvFilter::builder().parse_lossy(format!("sled=info,openraft=off,access=off,{}", config.log.0));
    let colour = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // If standard error cannot be written, the subscriber would report that to standard error too, and panic.
    let lines =
        fmt().with_env_filter(filter).with_writer(stderr).with_ansi(colour).log_internal_errors(false);
    let started = match config.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => {
            panic::set_hook(Box::new(|panicked| json_error(&describe(panicked))));
            lines.json().flatten_event(true).try_init()
        }
    };
    started.map_err(|error| Error::Io(format!("cannot start the log: {error}")))
}

/// Writes an error as a line of the JSON log, whatever the filter is. For errors that end the process, before the log starts or after.
pub fn json_error(message: &str) {
    let line = json_line(SystemTime::now(), message);
    // There is nowhere else to report a failure.
    let _ = stderr().write_all(line.as_bytes());
}

/// A line with the same fields as those of the log.
fn json_line(now: SystemTime, message: &str) -> String {
    let timestamp = humantime::format_rfc3339_micros(now).to_string();
    format!(
        "{}\n",
        json!({ "timestamp": timestamp, "level": "ERROR", "message": message, "target": "DynaRust" })
    )
}

fn describe(panicked: &PanicHookInfo<'_>) -> String {
    let payload = panicked.payload();
    let message = payload.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
    let at = panicked.location().map(|at| format!(" at {at}")).unwrap_or_default();
    format!("thread {:?} panicked{at}: {message}", thread::current().name().unwrap_or("unnamed"))
}

/// Whether a command line that clap did not accept asks for a JSON log.
pub fn asks_for_json(arguments: &[String]) -> bool {
    let last = arguments.iter().enumerate().rev().find_map(|(place, argument)| {
        let value = argument.strip_prefix("--log-format=");
        value.or_else(|| (argument == "--log-format").then(|| arguments.get(place + 1))?.map(String::as_str))
    });
    match last {
        Some(format) => format == "json",
        None => std::env::var("DYNARUST_LOG_FORMAT").is_ok_and(|format| format == "json"),
    }
}

/// Whether standard error is a terminal and its lines are text.
pub fn is_for_people(format: LogFormat) -> bool {
    format == LogFormat::Text && io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command, time::Duration};

    use serde_json::Value;

    use super::*;

    /// Set in the process that panics.
    const PANICS: &str = "DYNARUST_TEST_PANICS";

    /// A panic was a line of text among lines of JSON, which log collectors could not parse. The test needs a process of its own, as the hook
    /// is global.
    #[test]
    fn a_panic_is_a_line_of_the_json_log() {
        if env::var_os(PANICS).is_some() {
            panic::set_hook(Box::new(|panicked| json_error(&describe(panicked))));
            panic!("on {}", "purpose");
        }
        let test = "cli::logging::tests::a_panic_is_a_line_of_the_json_log";
        let child = Command::new(env::current_exe().expect("a test"))
            .args(["--exact", test])
            .env(PANICS, "1")
            .output();
        let said = String::from_utf8(child.expect("it runs").stderr).expect("text");
        let line = said.lines().find(|line| line.contains("purpose")).unwrap_or_else(|| panic!("{said:?}"));
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let message = line["message"].as_str().expect("a message");
        assert_eq!(line["level"], "ERROR");
        assert!(
            message.contains("panicked at src/cli/logging.rs:") && message.ends_with(": on purpose"),
            "{message}"
        );
    }

    #[test]
    fn our_own_line_has_the_fields_of_the_others() {
        let line = json_line(SystemTime::UNIX_EPOCH + Duration::from_micros(1_500_000), "it \"broke\"\n");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        let expected = json!({
            "timestamp": "1970-01-01T00:00:01.500000Z", "level": "ERROR", "message": "it \"broke\"\n", "target": "DynaRust"
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn the_last_format_of_a_command_line_counts() {
        let asks =
            |line: &[&str]| asks_for_json(&line.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert!(asks(&["--nonsense", "--log-format", "json"]) && asks(&["--log-format=json", "6660"]));
        assert!(
            !asks(&["--log-format=json", "--log-format", "text"])
                && !asks(&["6660"])
                && !asks(&["--log-format"])
        );
    }
}
