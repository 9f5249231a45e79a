//! Log lines: to standard error, so that standard output has only what was asked for; in colour only for people. In JSON every line
//! of a node's process is an object: also why it does not start, why it ends, and what a panic says.

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
        LogFormat::Json => {
            panic::set_hook(Box::new(|panicked| json_error(&describe(panicked))));
            lines.json().flatten_event(true).try_init()
        }
    };
    started.map_err(|error| Error::Io(format!("cannot start the log: {error}")))
}

/// Writes an error as a line of the JSON log, whatever is filtered: for what ends the process, before there is a log and after.
pub fn json_error(message: &str) {
    let line = json_line(SystemTime::now(), message);
    // Nobody is left to be told.
    let _ = stderr().write_all(line.as_bytes());
}

/// The line, with the fields of the lines that are logged.
fn json_line(now: SystemTime, message: &str) -> String {
    let timestamp = humantime::format_rfc3339_micros(now).to_string();
    format!(
        "{}\n",
        json!({ "timestamp": timestamp, "level": "ERROR", "message": message, "target": "DynaRust" })
    )
}

fn describe(panicked: &PanicHookInfo<'_>) -> String {
    let payload = panicked.payload();
    let said = payload.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
    let at = panicked.location().map(|at| format!(" at {at}")).unwrap_or_default();
    format!("thread {:?} panicked{at}: {said}", thread::current().name().unwrap_or("unnamed"))
}

/// Whether a command line that cannot be read asks for a node that logs in JSON.
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

/// Whether standard error is read by a person: not where its lines are JSON.
pub fn is_for_people(format: LogFormat) -> bool {
    format == LogFormat::Text && io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command, time::Duration};

    use serde_json::Value;

    use super::*;

    /// Set in the process that is to panic.
    const PANICS: &str = "DYNARUST_TEST_PANICS";

    /// A panic was a line of text among lines of JSON, which whoever collects them could not read. It takes a process: the hook is the
    /// process's own.
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
    fn a_line_of_ones_own_has_the_fields_of_the_others() {
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
