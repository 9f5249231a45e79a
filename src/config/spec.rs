//! The definition of one setting. Its names on the command line, in the environment and in the file follow from the name of its field.

use std::sync::OnceLock;

use super::types::{Arity, SettingType};

/// Defaults of this program that are others than those of the table, by field.
static DEFAULTS: OnceLock<&[(&str, &str)]> = OnceLock::new();

/// Gives settings other defaults, before any setting is read.
pub fn use_defaults(defaults: &'static [(&'static str, &'static str)]) {
    DEFAULTS.get_or_init(|| defaults);
}

/// The definition of a setting.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingSpec {
    /// Its name: the key in the file, and the flag after `--`.
    pub name: String,
    /// Its name on the command line: `--name`, or `NAME` for a positional argument.
    pub flag: String,
    /// Its environment variable.
    pub variable: String,
    /// The placeholder of its value in a usage line.
    pub placeholder: &'static str,
    /// Whether its value must not be shown.
    pub secret: bool,
    /// How many values it takes.
    pub arity: Arity,
    /// Its default value; empty if there is none.
    pub default: &'static str,
    /// The smallest and the largest value, if it has limits.
    pub limits: Option<(&'static str, &'static str)>,
    /// What it does, in one sentence.
    pub summary: String,
    /// Its unit, and how to choose a value.
    pub advice: String,
}

impl SettingSpec {
    /// The setting of this field of `Config`.
    pub(super) fn new<T: SettingType>(
        field: &str,
        doc: &[&str],
        default: &'static str,
        limits: &[(&'static str, &'static str)],
    ) -> Self {
        let variable = match field {
            // The usual variable of Rust programs.
            "log" => "RUST_LOG".into(),
            // The names in the first release.
            "cluster_secret" | "cluster_secret_file" => field.to_ascii_uppercase(),
            _ => format!("DYNARUST_{}", field.to_ascii_uppercase()),
        };
        let name = field.replace('_', "-");
        let flag = match field {
            // These two are positional: DynaRust <LISTEN> [JOIN]...
            "listen" | "join" => field.to_ascii_uppercase(),
            _ => format!("--{name}"),
        };
        let others = DEFAULTS.get().copied().unwrap_or_default();
        let default = others.iter().find(|(name, _)| *name == field).map_or(default, |(_, default)| *default);
        let doc = doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join("\n");
        let (summary, advice) = doc.split_once("\n\n").unwrap_or((&doc, ""));
        Self {
            name,
            flag,
            variable,
            placeholder: T::PLACEHOLDER,
            secret: T::SECRET,
            arity: T::ARITY,
            default,
            limits: limits.first().copied(),
            summary: summary.replace('\n', " "),
            advice: advice.replace('\n', " "),
        }
    }
}
