//! `DynaRust check`: reads every record of a stopped node's database and says what it found. Changes nothing.

use serde_json::{Value, json};

use super::{Exit, flags::DataFlags, output, progress};
use crate::{
    error::Result,
    node,
    storage::check::{self, Report, TableReport},
};

/// Where the database is, and how to print what was found.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data: DataFlags,
}

/// Checks the database and prints what was found.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let bar = progress::counter("records read");
    let report =
        check::check(&arguments.data.directory()?, &node::wall_clock(), |records| bar.set_position(records));
    bar.finish_and_clear();
    let report = report?;
    output::print(&if arguments.json { to_json(&report) } else { to_text(&report) })?;
    Ok(if report.is_sound() { Exit::Success } else { Exit::Failure })
}

fn to_text(report: &Report) -> String {
    let damaged: Vec<_> = report.tables.iter().flat_map(|table| &table.damaged).collect();
    let mut text = output::table(
        &report.tables.iter().map(|table| (table.name.as_str(), describe(table))).collect::<Vec<_>>(),
    );
    for line in &damaged {
        text.push_str(&format!("damaged: {line}\n"));
    }
    let verdict = match damaged.len() {
        0 => "every record is sound".to_owned(),
        1 => "1 record is damaged".to_owned(),
        count => format!("{count} records are damaged"),
    };
    text + &format!("{} on disk, {verdict}\n", indicatif::BinaryBytes(report.disk_bytes))
}

fn describe(table: &TableReport) -> String {
    format!("{} keys, {} tombstones", table.rows.live, table.rows.tombstones)
}

fn to_json(report: &Report) -> String {
    let tables: Vec<_> = report.tables.iter().map(table_to_json).collect();
    format!(
        "{:#}\n",
        json!({ "sound": report.is_sound(), "disk_bytes": report.disk_bytes, "tables": tables })
    )
}

fn table_to_json(table: &TableReport) -> Value {
    json!({
        "name": table.name.as_str(),
        "keys": table.rows.live,
        "tombstones": table.rows.tombstones,
        "damaged": table.damaged,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{core::name::TableName, storage::table::Counts};

    fn report(damaged: &[&str]) -> Report {
        let name = TableName::parse("users").expect("a name");
        let damaged = damaged.iter().map(|&line| line.to_owned()).collect();
        let table = TableReport { name, rows: Counts { live: 12, tombstones: 3 }, damaged };
        Report { tables: vec![table], disk_bytes: 3 << 20 }
    }

    #[test]
    fn a_sound_database_is_said_to_be() {
        assert_eq!(
            to_text(&report(&[])),
            "users  12 keys, 3 tombstones\n3.00 MiB on disk, every record is sound\n"
        );
    }

    #[test]
    fn every_damaged_record_is_named() {
        let report = report(&["table users, key \"a\": checksum", "table users, key \"b\": torn"]);
        let text = to_text(&report);
        assert!(
            text.contains("damaged: table users, key \"b\": torn\n")
                && text.contains("2 records are damaged"),
            "{text}"
        );
        let json: Value = serde_json::from_str(&to_json(&report)).expect("JSON");
        assert_eq!(
            (&json["sound"], &json["tables"][0]["damaged"][0]),
            (&json!(false), &json!("table users, key \"a\": checksum"))
        );
    }
}
