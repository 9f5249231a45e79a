//! Where the value of a setting comes from: a flag, else the environment, else the file, else the default. The first of these that has
//! a value decides it alone; lists are not merged. All sources are arguments, so tests do not depend on the process's environment.
//!
//! We read the environment ourselves instead of using clap's `env`. With clap an empty variable counts as set, a variable that is not
//! UTF-8 ends every command without being named, and commands without these flags could not read the variables that they need. clap also
//! has no configuration file, so the order would be decided here anyway.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use super::{
    SETTINGS, SettingSpec,
    types::{Arity, SettingType},
};
use crate::{
    core::nearest,
    error::{Error, Result},
};

/// The texts of settings, by name.
pub type Texts = BTreeMap<&'static str, String>;

/// The layers above the defaults.
#[derive(Clone, Default)]
pub struct Layers {
    /// From the command line.
    pub flags: Texts,
    /// From the environment.
    pub environment: Texts,
    /// From the configuration file, if one was named.
    pub file: Option<File>,
}

impl fmt::Debug for Layers {
    /// Without the texts, as one of them may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layers").finish_non_exhaustive()
    }
}

impl Layers {
    /// Reads all layers. `variable` looks up a variable of the environment. An empty variable counts as not set, because container
    /// tools pass an empty one for a setting that was left out. Unknown `DYNARUST_*` variables are not an error: see [`unknown_variable`].
    pub fn read(
        flags: Texts,
        file: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let variable = |name: &str| variable(name).filter(|text| !text.is_empty());
        let environment =
            SETTINGS.iter().filter_map(|spec| Some((spec.name.as_str(), variable(&spec.variable)?)));
        let environment = environment.collect();
        let path = file.map(Path::to_path_buf).or_else(|| variable("DYNARUST_CONFIG").map(PathBuf::from));
        Ok(Self { flags, environment, file: path.map(File::read).transpose()? })
    }

    /// Keeps only the settings with these names.
    pub fn only(mut self, names: &[&str]) -> Self {
        let file = self.file.as_mut().map(|file| &mut file.texts);
        for texts in [&mut self.flags, &mut self.environment].into_iter().chain(file) {
            texts.retain(|name, _| names.contains(name));
        }
        self
    }

    /// The value and source of each setting, in the order of [`SETTINGS`].
    pub fn settings(&self) -> Vec<Setting> {
        SETTINGS.iter().map(|spec| self.setting(spec)).collect()
    }

    fn setting(&self, spec: &'static SettingSpec) -> Setting {
        let name = spec.name.as_str();
        let (text, source) = if let Some(text) = self.flags.get(name) {
            (text.clone(), Source::Flag)
        } else if let Some(text) = self.environment.get(name) {
            (text.clone(), Source::Environment)
        } else if let Some((file, text)) =
            self.file.as_ref().and_then(|file| Some((file, file.texts.get(name)?)))
        {
            (text.clone(), Source::File(file.path.clone()))
        } else {
            (spec.default.to_owned(), Source::Default)
        };
        Setting { spec, text, source }
    }
}

/// Variables that are not settings of a node: the file with the settings, what the commands read, and what `watch --exec` sets.
pub const COMMAND_VARIABLES: [&str; 10] = [
    "DYNARUST_CONFIG",
    "DYNARUST_CONTEXT",
    "DYNARUST_ENDPOINT",
    "DYNARUST_EVENT",
    "DYNARUST_KEY",
    "DYNARUST_TABLE",
    "DYNARUST_TIMEOUT",
    "DYNARUST_TLS_CLIENT_CERT",
    "DYNARUST_TLS_CLIENT_KEY",
    "DYNARUST_TOKEN",
];

/// A warning about an environment variable that starts with `DYNARUST_` but is not a setting; `None` for all other variables, and for
/// those that Kubernetes sets for a service called dynarust. Not an error, as the system may set variables that the user does not know of.
pub fn unknown_variable(name: &str) -> Option<String> {
    const PREFIX: &str = "DYNARUST_";
    let variables = SETTINGS.iter().map(|spec| spec.variable.as_str());
    let known: Vec<&str> = variables.chain(COMMAND_VARIABLES).collect();
    let upper = name.to_ascii_uppercase();
    let given = upper.strip_prefix(PREFIX)?;
    let of_service = ["SERVICE_HOST", "SERVICE_PORT", "PORT"].contains(&given)
        || given.ends_with("_SERVICE_HOST")
        || given.contains("SERVICE_PORT_")
        || given.ends_with("_SERVICE_PORT")
        || given.starts_with("PORT_") && given.ends_with(|last: char| last.is_ascii_uppercase())
        || given.contains("_PORT_");
    if known.contains(&name) || of_service {
        return None;
    }
    // All variables share the prefix, so it says nothing about which one was meant.
    let plain = |variable: &&str| variable.strip_prefix(PREFIX).unwrap_or(variable).to_owned();
    let plains: Vec<String> = known.iter().map(plain).collect();
    let meant = nearest::nearest(given, plains.iter().map(String::as_str));
    let meant = meant.and_then(|meant| plains.iter().position(|plain| plain == meant));
    Some(match meant {
        Some(place) => format!("it is ignored; did you mean {}?", known[place]),
        None => "it is ignored; DynaRust config lists all settings".into(),
    })
}

/// A configuration file: TOML, one flat table whose keys are the names of settings.
#[derive(Clone)]
pub struct File {
    path: PathBuf,
    texts: Texts,
}

impl fmt::Debug for File {
    /// Without the texts, as one of them may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({})", self.path.display())
    }
}

impl File {
    fn read(path: PathBuf) -> Result<Self> {
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) => {
                Err(Error::Config(format!("cannot read the configuration file {}: {error}", path.display())))
            }
        }
    }

    /// Parses `text`, the content of the file at `path`.
    pub fn parse(path: PathBuf, text: &str) -> Result<Self> {
        let wrong = |why: &dyn fmt::Display| Error::Config(format!("{}: {why}", path.display()));
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| wrong(&error))?;
        let mut texts = Texts::new();
        for (key, value) in &table {
            let Some(spec) = SETTINGS.iter().find(|spec| spec.name == *key) else {
                let known: Vec<_> = SETTINGS.iter().map(|spec| spec.name.as_str()).collect();
                return Err(wrong(&nearest::unknown("key", key, &known)));
            };
            let Some(text) = text_of(value, spec.arity) else {
                let allowed =
                    if spec.arity == Arity::Many { "a string or an array of strings" } else { "one value" };
                return Err(wrong(&format_args!("`{key}` takes {allowed}, not {}", value.type_str())));
            };
            texts.insert(&spec.name, text);
        }
        Ok(Self { path, texts })
    }
}

/// The value as text, as a flag would give it. `None` if the setting does not take a value of this type.
fn text_of(value: &toml::Value, arity: Arity) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(switch) => Some(switch.to_string()),
        toml::Value::Array(values) if arity == Arity::Many => {
            let texts: Option<Vec<_>> = values.iter().map(toml::Value::as_str).collect();
            Some(texts?.join(","))
        }
        toml::Value::Array(_) | toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => {
            None
        }
    }
}

/// The value of a setting, and where it was set.
#[derive(Clone, PartialEq, Eq)]
pub struct Setting {
    /// The setting.
    pub spec: &'static SettingSpec,
    /// Its value, as given.
    pub text: String,
    /// Where it was set.
    pub source: Source,
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.spec.name, self.shown(), self.origin())
    }
}

impl Setting {
    /// Its value as given, or a placeholder if it is a secret.
    pub fn shown(&self) -> &str {
        if self.spec.secret && !self.text.is_empty() { "(not shown)" } else { &self.text }
    }

    /// Parses the value. The error names where it was set and what is allowed.
    pub(super) fn value<T: SettingType>(&self) -> Result<T> {
        if self.spec.secret && self.source == Source::Flag {
            return Err(Error::Config(format!(
                "{} would be visible to everyone who can list processes: set {} in the environment, or name a file in {}_FILE",
                self.spec.flag, self.spec.variable, self.spec.variable
            )));
        }
        T::parse(&self.text).map_err(|why| self.refuse(&why))
    }

    /// Returns an error for a value outside the limits of the setting.
    pub(super) fn check_limits<T: SettingType + PartialOrd>(
        &self,
        value: &T,
        (least, most): (&str, &str),
    ) -> Result<()> {
        let limit = |text| T::parse(text).expect("the limits in the table of settings are valid values");
        // An empty text stands for a default that is computed, within the limits.
        if self.text.is_empty() || limit(least) <= *value && *value <= limit(most) {
            return Ok(());
        }
        Err(self.refuse(&format!("out of range: from {least} to {most}")))
    }

    fn refuse(&self, why: &str) -> Error {
        if self.spec.secret {
            return Error::Config(format!("{}: the value is {why}", self.origin()));
        }
        Error::Config(format!("{}: {:?} is {why}", self.origin(), self.text))
    }

    /// Where it was set, as the user would look for it: `flag --cache`, `DYNARUST_CACHE in the environment`.
    pub fn origin(&self) -> String {
        match &self.source {
            Source::Flag if self.spec.flag.starts_with("--") => format!("flag {}", self.spec.flag),
            Source::Flag => format!("argument {}", self.spec.flag),
            Source::Environment => format!("{} in the environment", self.spec.variable),
            Source::File(path) => format!("`{}` in {}", self.spec.name, path.display()),
            Source::Default => "default".into(),
        }
    }
}

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment variable of the setting.
    Environment,
    /// This configuration file.
    File(PathBuf),
    /// Nowhere: it is the default.
    Default,
}
