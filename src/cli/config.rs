//! `DynaRust config`: the settings of a node started with the same arguments in the same environment. If they are invalid, the command
//! fails with the error of that node.

use serde_json::json;

use super::{Exit, flags::Flags, memory, output};
use crate::{
    config::{Config, Setting},
    error::Result,
};

/// The arguments of a node, and how to print the settings.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Prints every setting, its value and where it is set.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let settings = arguments.flags.settings()?;
    let config = Config::new(&settings)?;
    config.secrets()?;
    let limit = config.memory();
    let shares = config.shares(&limit)?;
    output::print(&match arguments.json {
        true => to_json(&settings),
        false => format!("{}\nmemory {}\n", to_text(&settings), memory::describe_shares(&limit, &shares)),
    })?;
    Ok(Exit::Success)
}

fn to_text(settings: &[Setting]) -> String {
    let shown = |setting: &Setting| if setting.text.is_empty() { "-" } else { setting.shown() }.to_owned();
    let width = settings.iter().map(|setting| setting.shown().chars().count()).max().unwrap_or_default();
    let rows: Vec<_> = settings
        .iter()
        .map(|setting| {
            (setting.spec.name.as_str(), format!("{:width$}  {}", shown(setting), setting.origin()))
        })
        .collect();
    output::table(&rows)
}

fn to_json(settings: &[Setting]) -> String {
    let rows: Vec<_> = settings
        .iter()
        .map(|setting| {
            let spec = setting.spec;
            json!({
                "name": spec.name,
                "value": setting.shown(),
                "from": setting.origin(),
                "flag": spec.flag,
                "variable": spec.variable,
                "default": spec.default,
                "least": spec.limits.map(|(least, _)| least),
                "most": spec.limits.map(|(_, most)| most),
                "about": spec.summary,
            })
        })
        .collect();
    format!("{:#}\n", json!(rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layers, SETTINGS};

    #[test]
    fn every_setting_has_a_line_with_its_value_and_origin() {
        let mut layers = Layers::default();
        layers.flags.insert("cache", "1GiB".into());
        let text = to_text(&layers.settings());
        assert_eq!(text.lines().count(), SETTINGS.len());
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines: Vec<_> = text.lines().map(words).collect();
        assert!(lines.contains(&words("cache 1GiB flag --cache")), "{text}");
        assert!(lines.contains(&words("data storage.db default")), "{text}");
        assert!(lines.contains(&words("advertise - default")), "{text}");
    }

    #[test]
    fn json_is_an_array_of_all_settings() {
        let rows: serde_json::Value =
            serde_json::from_str(&to_json(&Layers::default().settings())).expect("JSON");
        assert_eq!(rows.as_array().map(Vec::len), Some(SETTINGS.len()));
        assert_eq!(rows[2]["name"], "data");
        assert_eq!(rows[2]["variable"], "DYNARUST_DATA");
    }
}
