//! The settings as flags: clap arguments, made from the table in `config.rs`. We do not parse values here, so that a bad value gets the
//! same error from the command line as from the environment or a file.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, builder::ValueHint};

use crate::{
    config::{
        Config, Layers, SETTINGS, Setting, SettingSpec, Texts,
        types::{Arity, LogFormat, SettingType},
    },
    error::{Error, Result},
};

/// The flags of all settings, and `--config`.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    file: Option<PathBuf>,
    texts: Texts,
}

impl Flags {
    /// The value and source of each setting, from these flags, the environment, the file and the defaults.
    pub fn settings(&self) -> Result<Vec<Setting>> {
        let variable = |name: &str| std::env::var_os(name).map(|text| text.to_string_lossy().into_owned());
        Ok(Layers::read(self.texts.clone(), self.file.as_deref(), variable)?.settings())
    }

    /// The format of log lines. Works even if another setting is wrong or the file cannot be read; then text is the default.
    pub fn log_format(&self) -> LogFormat {
        let settings = self.settings().unwrap_or_else(|_| {
            let variable = |name: &str| {
                std::env::var("DYNARUST_LOG_FORMAT").ok().filter(|_| name == "DYNARUST_LOG_FORMAT")
            };
            Layers::read(self.texts.clone(), None, variable).unwrap_or_default().settings()
        });
        let given = settings.iter().find(|setting| setting.spec.name == "log-format");
        given.and_then(|given| LogFormat::parse(&given.text).ok()).unwrap_or(LogFormat::Text)
    }

    /// The address to listen on, as typed.
    pub fn listen(&self) -> Option<&str> {
        self.texts.get("listen").map(String::as_str)
    }

    /// The configuration from these flags, the environment, the file and the defaults.
    pub fn config(&self) -> Result<Config> {
        Config::new(&self.settings()?)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        self.file = matches.get_one::<PathBuf>("config").cloned();
        for spec in SETTINGS.iter() {
            // An error means that this command has no flag for the setting.
            let Ok(Some(texts)) = matches.try_get_many::<String>(&spec.name) else { continue };
            let texts: Vec<_> = texts.map(String::as_str).collect();
            // A secret as a flag is refused later, with the reason. Until then we do not keep it in memory.
            let text = if spec.secret { "given".to_owned() } else { texts.join(",") };
            self.texts.insert(&spec.name, text);
        }
        Ok(())
    }
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        command.args(SETTINGS.iter().map(argument)).arg(config_file_argument())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// `--data` and `--max-clock-drift`, for commands on a stopped node.
#[derive(Clone, Debug)]
pub struct ClockFlags(Flags);

impl ClockFlags {
    /// The directory of the database, and how far clocks may be apart, in milliseconds.
    pub fn directory_and_drift_ms(&self) -> Result<(PathBuf, u64)> {
        let config = self.0.config()?;
        let drift_ms = u64::try_from(config.max_clock_drift.as_millis()).unwrap_or(u64::MAX);
        Ok((config.data, drift_ms))
    }
}

impl FromArgMatches for ClockFlags {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        Flags::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Args for ClockFlags {
    fn augment_args(command: Command) -> Command {
        command.args(arguments_of(&["data", "max-clock-drift"])).arg(config_file_argument())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// `--data`, for commands that need the data directory only.
#[derive(Clone, Debug)]
pub struct DataFlags(Flags);

impl DataFlags {
    /// The directory of the database.
    pub fn directory(&self) -> Result<PathBuf> {
        Ok(self.0.config()?.data)
    }

    /// Whether it was given on the command line.
    pub fn is_given(&self) -> bool {
        self.0.texts.contains_key("data")
    }

    /// The directory of the database, for a command that asks a running node. Other settings are not checked, as they are the node's.
    pub fn directory_of_running(&self) -> Result<PathBuf> {
        let variable = |name: &str| std::env::var_os(name).map(|text| text.to_string_lossy().into_owned());
        let layers = Layers::read(self.0.texts.clone(), self.0.file.as_deref(), variable)?.only(&["data"]);
        Ok(Config::new(&layers.settings())?.data)
    }
}

impl FromArgMatches for DataFlags {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        Flags::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Args for DataFlags {
    fn augment_args(command: Command) -> Command {
        command.args(arguments_of(&["data"])).arg(config_file_argument())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// `--tokens`, for commands on the file of tokens.
#[derive(Clone, Debug)]
pub struct TokensFlags(Flags);

impl TokensFlags {
    /// The file. Other settings are not checked.
    ///
    /// # Errors
    /// `Config` if none is named.
    pub fn path(&self) -> Result<PathBuf> {
        let variable = |name: &str| std::env::var_os(name).map(|text| text.to_string_lossy().into_owned());
        let layers = Layers::read(self.0.texts.clone(), self.0.file.as_deref(), variable)?.only(&["tokens"]);
        Config::new(&layers.settings())?.tokens.ok_or_else(|| {
            Error::Config("which file? Name the file of tokens with --tokens, or in DYNARUST_TOKENS".into())
        })
    }
}

impl FromArgMatches for TokensFlags {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        Flags::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Args for TokensFlags {
    fn augment_args(command: Command) -> Command {
        command.args(arguments_of(&["tokens"])).arg(config_file_argument())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The flags of the settings with these names.
fn arguments_of(names: &'static [&str]) -> impl Iterator<Item = Arg> {
    SETTINGS.iter().filter(|spec| names.contains(&spec.name.as_str())).map(argument)
}

fn argument(spec: &'static SettingSpec) -> Arg {
    // clap's own help texts have no full stop either.
    let help = spec.summary.trim_end_matches('.');
    let argument = Arg::new(&*spec.name).help(help).long_help(long_help(spec));
    let argument = match spec.flag.strip_prefix("--") {
        // A negative number is a bad value, and gets the error for one; it is not a flag.
        Some(flag) => argument.long(flag).value_name(spec.placeholder).allow_negative_numbers(true),
        None => argument.value_name(&*spec.flag),
    };
    let argument = argument.hide(spec.secret);
    match spec.arity {
        Arity::One => argument,
        Arity::Many => argument.action(ArgAction::Append),
        Arity::Switch => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
    }
}

/// What the setting does, how to choose a value, its default, its limits and its variable.
fn long_help(spec: &SettingSpec) -> String {
    let mut help = spec.summary.clone();
    if !spec.advice.is_empty() {
        help.push_str("\n\n");
        help.push_str(&spec.advice);
    }
    let mut facts = Vec::new();
    if !spec.default.is_empty() {
        facts.push(format!("default: {}", spec.default));
    }
    if let Some((least, most)) = spec.limits {
        facts.push(format!("from {least} to {most}"));
    }
    facts.push(spec.variable.clone());
    help.push_str(&format!("\n\n[{}]", facts.join("; ")));
    help
}

fn config_file_argument() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_hint(ValueHint::FilePath)
        .value_parser(clap::value_parser!(PathBuf))
        .help("TOML file with any of these settings, by their long names")
        .long_help(
            "TOML file with any of these settings, by their long names; flags and variables override it.\n\n\
             [DYNARUST_CONFIG]",
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(line: &[&str]) -> Flags {
        let command = Flags::augment_args(Command::new("DynaRust").no_binary_name(true));
        Flags::from_arg_matches(&command.try_get_matches_from(line).expect("valid")).expect("infallible")
    }

    #[test]
    fn the_command_line_of_the_first_release_still_works() {
        let flags = flags(&["127.0.0.1:6661", "127.0.0.1:6660", "[::1]:6660"]);
        assert_eq!(flags.texts["listen"], "127.0.0.1:6661");
        assert_eq!(flags.texts["join"], "127.0.0.1:6660,[::1]:6660");
    }

    #[test]
    fn only_given_flags_have_a_text() {
        let flags = flags(&["--cache=1GiB", "--cors-origin", "http://a", "--cors-origin", "http://b"]);
        let names: Vec<_> = flags.texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
        assert_eq!(names, [("cache", "1GiB"), ("cors-origin", "http://a,http://b")]);
    }

    #[test]
    fn the_log_format_is_known_if_another_setting_is_wrong() {
        assert_eq!(flags(&["--log-format=json", "--cache=1B"]).log_format(), LogFormat::Json);
        assert_eq!(flags(&["--log-format=json", "--config=/no/such.toml"]).log_format(), LogFormat::Json);
        assert_eq!(flags(&["--log-format=xml"]).log_format(), LogFormat::Text);
    }

    #[test]
    fn a_switch_needs_no_value_and_takes_one() {
        assert_eq!(flags(&["--set-aside-damaged", "a:1"]).texts["set-aside-damaged"], "true");
        assert_eq!(flags(&["--set-aside-damaged=false"]).texts["set-aside-damaged"], "false");
    }
}
