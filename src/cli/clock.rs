//! `DynaRust clock`: shows and repairs timestamps that a wrong wall clock left in a stopped node's database.

use clap::Subcommand;
use serde_json::json;

use super::{Exit, flags::ClockFlags, output, progress::Progress};
use crate::{
    core::clock::unix_ms,
    error::{Error, Result},
    node,
    storage::offline::clock_repair::{Found, TableAhead, find, repair},
};

/// Shows and repairs timestamps that a wrong clock left in a stopped node's database
///
/// Timestamps decide which write wins. A node whose clock was ahead has given rows timestamps in the future: other nodes refuse
/// them, the node accepts no writes (`clock-drift`), and /readyz says "clock". Set the clock with NTP, stop the node, and run `show` to
/// see what is ahead. `repair` gives those rows the current time, in their order, and lowers the clock bound that the node
/// stored; it removes no row. A repaired row counts as written now: it wins over what other nodes wrote to its key in the
/// meantime. Without a repair, the node accepts writes again once the time has caught up.
#[derive(Debug, clap::Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Example:\n  DynaRust clock show --data storage.db\n  DynaRust clock repair --data storage.db\n\n\
                  Exit codes: 0 ok, 1 something is ahead (show), or the repair was refused or failed, 2 wrong usage."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints how far the database is ahead of the clock, and which rows are; changes nothing
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        flags: ClockFlags,
    },
    /// Gives rows that are ahead of the clock the current time, in their order
    Repair {
        /// Repair even if every row is ahead, so that the clock itself may be wrong
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        flags: ClockFlags,
    },
}

/// Shows or repairs. `Exit::Failure` if something is ahead, or the clock itself may be wrong.
///
/// # Errors
/// As `storage::offline::clock_repair`.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    match &arguments.command {
        Command::Show { json, flags } => {
            let (data, drift_ms) = flags.directory_and_drift_ms()?;
            let progress = Progress::start("rows read");
            let found = find(&data, &node::wall_clock(), drift_ms, |rows| progress.set(rows))?;
            drop(progress);
            output::print(&if *json { render_json(&found) } else { render_text(&found) })?;
            Ok(if found.is_ahead() { Exit::Failure } else { Exit::Success })
        }
        Command::Repair { force, flags } => {
            let (data, drift_ms) = flags.directory_and_drift_ms()?;
            let progress = Progress::start("rows");
            let repaired = repair(&data, &node::wall_clock(), drift_ms, *force, |rows| progress.set(rows));
            drop(progress);
            match repaired {
                Ok(found) => output::print(&render_repaired(&found)).map(|()| Exit::Success),
                Err(Error::Forbidden(why)) => {
                    eprintln!("DynaRust: nothing was changed: {why}");
                    Ok(Exit::Failure)
                }
                Err(error) => Err(error),
            }
        }
    }
}

fn render_text(found: &Found) -> String {
    let instant = |at_ms: u64| {
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(at_ms);
        let ahead_ms = found.ahead_ms(at_ms);
        let ahead = if ahead_ms > 0 { format!("  {ahead_ms} ms ahead") } else { String::new() };
        format!("{}{ahead}", humantime::format_rfc3339_millis(at))
    };
    let row = |at_ms: Option<u64>| at_ms.filter(|at_ms| *at_ms > 0).map_or("none".to_owned(), instant);
    let mut rows = vec![
        ("clock", instant(found.now_ms)),
        ("bound", row(Some(unix_ms(found.bound)))),
        ("oldest row", row(found.span.map(|(first, _)| first.unix_ms()))),
        ("latest row", row(found.span.map(|(_, last)| last.unix_ms()))),
        ("swept", row(Some(found.swept.latest_ms()))),
        ("rows ahead", found.rows().to_string()),
    ];
    if found.damaged > 0 {
        rows.push(("unreadable", format!("{} (DynaRust check names them)", found.damaged)));
    }
    let mut text = output::table(&rows);
    for table in &found.tables {
        text += &format!("{}: {}\n", table.table, describe_rows(table));
        for (key, timestamp) in &table.examples {
            let ahead_ms = found.ahead_ms(timestamp.unix_ms());
            text += &format!("  {:?}  {ahead_ms} ms ahead, by node {}\n", key.as_str(), timestamp.node);
        }
        let more = table.own + table.foreign - table.examples.len() as u64;
        if more > 0 {
            text += &format!("  and {more} more\n");
        }
    }
    let doubt = found.suspicion().map(|doubt| format!("{doubt}\n")).unwrap_or_default();
    let verdict = match found.is_ahead() {
        true => format!(
            "more than {} ms are ahead (--max-clock-drift): if the clock is right, run DynaRust clock repair",
            found.allowed_ms
        ),
        false => format!("nothing is more than {} ms ahead (--max-clock-drift)", found.allowed_ms),
    };
    format!("{text}{doubt}{verdict}\n")
}

fn render_json(found: &Found) -> String {
    let table = |table: &TableAhead| json!({ "name": table.table.as_str(), "own": table.own, "foreign": table.foreign });
    let body = json!({
        "node": found.node.map(|node| node.to_string()),
        "now": found.now_ms,
        "allowed_ms": found.allowed_ms,
        "ahead": found.is_ahead(),
        "bound": unix_ms(found.bound),
        "oldest": found.span.map(|(first, _)| first.unix_ms()),
        "latest": found.span.map(|(_, last)| last.unix_ms()),
        "swept": found.swept.latest_ms(),
        "rows_ahead": found.rows(),
        "damaged": found.damaged,
        "tables": found.tables.iter().map(table).collect::<Vec<_>>(),
        "doubt": found.suspicion(),
    });
    format!("{body:#}\n")
}

fn render_repaired(found: &Found) -> String {
    if !found.is_ahead() {
        return format!(
            "nothing is more than {} ms ahead of the clock (--max-clock-drift): nothing was changed\n",
            found.allowed_ms
        );
    }
    let line = |table: &TableAhead| format!("{}: {} rewritten\n", table.table, describe_rows(table));
    let tables: String = found.tables.iter().map(line).collect();
    format!(
        "{tables}{} rows now have the current time, in their old order; the clock's bound is lowered. Start the node: the others \
         accept it again\n",
        found.rows()
    )
}

fn describe_rows(table: &TableAhead) -> String {
    let TableAhead { own, foreign, .. } = table;
    match foreign {
        0 => format!("{own} rows ahead"),
        _ => format!(
            "{} rows ahead, {foreign} of them written by other nodes and here only because this node's clock was ahead too",
            own + foreign
        ),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli;

    #[test]
    fn a_subcommand_is_required_and_unknown_arguments_are_errors() {
        let parse = |line: &[&str]| cli::Arguments::try_parse_from([&["DynaRust", "clock"], line].concat());
        assert!(parse(&["show", "--json", "--data", "d", "--max-clock-drift", "1s"]).is_ok());
        assert!(parse(&["repair", "--force"]).is_ok());
        for wrong in
            [&["mend"] as &[_], &["repair", "--json"], &["show", "--force"], &["show", "--cache=1GiB"]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        let help = parse(&[]).expect_err("no command").to_string();
        assert!(help.contains("clock repair --data"), "{help}");
    }
}
