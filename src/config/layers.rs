//! Who set a knob: the flag, then the environment, then the file, then the default. The first that names a knob decides it
//! alone; lists are not merged. All layers are arguments, so that a test needs neither a process nor its environment.
//!
//! The environment is read here and not by clap: there an empty variable counts as set, one that is not UTF-8 ends any command without
//! being named, and commands without these flags read some of them too. clap knows no file, so that the order would be decided here
//! all the same.

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

/// Texts by the name of their knob.
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
    /// Without the texts: there may be a secret among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layers").finish_non_exhaustive()
    }
}

impl Layers {
    /// Puts the layers together. `variable` looks a name up in the environment; a variable that is empty is not set, as
    /// container tools pass empty ones for what was left out. Other `DYNARUST_*` variables are [`unknown_variable`]s.
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

    /// What they say of the knobs of these names, and nothing of others.
    pub fn only(mut self, names: &[&str]) -> Self {
        let file = self.file.as_mut().map(|file| &mut file.texts);
        for texts in [&mut self.flags, &mut self.environment].into_iter().chain(file) {
            texts.retain(|name, _| names.contains(name));
        }
        self
    }

    /// What each knob was set to, in the order of [`SETTINGS`].
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

/// What to say of a variable of the environment that looks like a knob's and is none; `None` for all others, and for what Kubernetes
/// makes for every service called dynarust. To be warned of: a system may set some that nobody who starts a node knows of.
pub fn unknown_variable(name: &str) -> Option<String> {
    const PREFIX: &str = "DYNARUST_";
    let variables = SETTINGS.iter().map(|spec| spec.variable.as_str());
    let known: Vec<&str> = variables.chain(["DYNARUST_CONFIG"]).collect();
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
    // What all have in common says nothing about which is meant.
    let plain = |variable: &&str| variable.strip_prefix(PREFIX).unwrap_or(variable).to_owned();
    let plains: Vec<String> = known.iter().map(plain).collect();
    let meant = nearest::nearest(given, plains.iter().map(String::as_str));
    let meant = meant.and_then(|meant| plains.iter().position(|plain| plain == meant));
    Some(match meant {
        Some(place) => format!("it is ignored; did you mean {}?", known[place]),
        None => "it is ignored; DynaRust config lists all settings".into(),
    })
}

/// A configuration file: TOML, one flat table whose keys are the names of the knobs.
#[derive(Clone)]
pub struct File {
    path: PathBuf,
    texts: Texts,
}

impl fmt::Debug for File {
    /// Without the texts: there may be a secret among them.
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

    /// Reads `text` as the file at `path`.
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

/// The text that a flag would have. `None` where the knob does not take such a value.
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

/// What a knob was set to, and by whom.
#[derive(Clone, PartialEq, Eq)]
pub struct Setting {
    /// The knob.
    pub spec: &'static SettingSpec,
    /// Its value, as it was given.
    pub text: String,
    /// Who gave it.
    pub source: Source,
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.spec.name, self.shown(), self.origin())
    }
}

impl Setting {
    /// Its value as it may be shown: as it was given, unless it is a secret.
    pub fn shown(&self) -> &str {
        if self.spec.secret && !self.text.is_empty() { "(not shown)" } else { &self.text }
    }

    /// Reads the value. The error names who gave it, and what is allowed.
    pub(super) fn value<T: SettingType>(&self) -> Result<T> {
        if self.spec.secret && self.source == Source::Flag {
            return Err(Error::Config(format!(
                "{} would be visible to everyone who can list processes: set {} in the environment, or name a file in {}_FILE",
                self.spec.flag, self.spec.variable, self.spec.variable
            )));
        }
        T::parse(&self.text).map_err(|why| self.refuse(&why))
    }

    /// Refuses a value outside the knob's limits.
    pub(super) fn check_limits<T: SettingType + PartialOrd>(
        &self,
        value: &T,
        (least, most): (&str, &str),
    ) -> Result<()> {
        let limit = |text| T::parse(text).expect("a limit in the table of knobs is a value of its knob");
        if limit(least) <= *value && *value <= limit(most) {
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

    /// Where to look for what was given.
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

/// Who gave a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The knob's environment variable.
    Environment,
    /// This configuration file.
    File(PathBuf),
    /// Nobody.
    Default,
}
