//! One knob: what it is called on the command line, in the environment and in a file, by the name of its field.

use super::types::{Arity, SettingType};

/// One knob, as every layer sees it.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingSpec {
    /// Its name: the key in the file, and the flag behind `--`.
    pub name: String,
    /// How the command line calls it.
    pub flag: String,
    /// Its environment variable.
    pub variable: String,
    /// What stands for its value in a usage line.
    pub placeholder: &'static str,
    /// Whether its value is never to be shown.
    pub secret: bool,
    /// How its value is given.
    pub arity: Arity,
    /// Its value if nobody gives one; empty for none.
    pub default: &'static str,
    /// The least and the most it takes, where it has an order.
    pub limits: Option<(&'static str, &'static str)>,
    /// What it is, in a sentence.
    pub summary: String,
    /// Its unit and how to choose it.
    pub advice: String,
}

impl SettingSpec {
    /// The knob of this field of `Config`.
    pub(super) fn new<T: SettingType>(
        field: &str,
        doc: &[&str],
        default: &'static str,
        limits: &[(&'static str, &'static str)],
    ) -> Self {
        let variable = match field {
            // What Rust programs have always listened to.
            "log" => "RUST_LOG".into(),
            // What the first users set.
            "cluster_secret" | "cluster_secret_file" => field.to_ascii_uppercase(),
            _ => format!("DYNARUST_{}", field.to_ascii_uppercase()),
        };
        let name = field.replace('_', "-");
        let flag = match field {
            // These two are given by their place: DynaRust <LISTEN> [JOIN]...
            "listen" | "join" => field.to_ascii_uppercase(),
            _ => format!("--{name}"),
        };
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
