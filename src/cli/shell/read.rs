//! `get`, `keys`, `store`, `count` and `tables`.

use dynarust_client::{Entry, Listing, Table, TableInfo};
use futures_util::StreamExt;
use serde_json::{Value, json, value::RawValue};

use super::{Common, bounds::Bounds, render, run};
use crate::{
    cli::{Exit, output, output::Lines, remote::CommandError},
    error::Result,
};

/// Which key to read.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  DynaRust get users alice\n  DynaRust get users alice --json\n\n\
                        Exit codes: 0 it is there, 3 it is absent.")]
pub struct Get {
    /// The table
    table: String,
    /// The key
    key: String,
    /// Print a string without its quotes and escapes
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Read what the node has of a strong table, without asking the leader
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    common: Common,
}

/// Reads a key, and prints its value; with `--json` with its version and times.
pub fn get(arguments: &Get) -> Result<Exit> {
    let client = arguments.common.connection.client(None)?;
    run(async {
        let mut read = client.table(&arguments.table).get::<Value>(&arguments.key);
        if arguments.stale {
            read = read.stale();
        }
        let Some(entry) = read.await? else {
            let why = format!("the table {} has no key {:?}", arguments.table, arguments.key);
            return Err(CommandError { exit: Exit::NotFound, why });
        };
        let text = match &entry.value {
            _ if arguments.common.json => format!("{}\n", row(&arguments.key, &entry)),
            Value::String(text) if arguments.raw => format!("{text}\n"),
            value => render(value),
        };
        output::print(&text)?;
        Ok(Exit::Success)
    })
}

/// An entry with its key, as one object.
fn row<T: serde::Serialize>(key: &str, entry: &Entry<T>) -> Value {
    json!({
        "key": key,
        "value": entry.value,
        "version": entry.version,
        "timestamp": entry.timestamp,
        "node": entry.node,
        "expires_at": entry.expires_at,
    })
}

/// Which keys of a table.
#[derive(Debug, clap::Args)]
struct Range {
    /// The table
    table: String,
    #[command(flatten)]
    bounds: Bounds,
    /// Read what the node has of a strong table, without asking the leader
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    common: Common,
}

/// In which order, and how many.
#[derive(Debug, clap::Args)]
struct Order {
    /// End after so many keys
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// From the highest key down
    #[arg(long)]
    reverse: bool,
}

impl Range {
    fn listing(&self) -> Result<Listing> {
        let table: Table = self.common.connection.client(None)?.table(&self.table);
        let by = [Listing::prefix, Listing::start, Listing::end];
        let listing = self.bounds.apply(table.list(), by);
        Ok(if self.stale { listing.stale() } else { listing })
    }
}

impl Order {
    fn apply(&self, mut listing: Listing) -> Listing {
        if let Some(limit) = self.limit {
            listing = listing.limit(usize::try_from(limit).unwrap_or(usize::MAX));
        }
        if self.reverse { listing.reverse() } else { listing }
    }
}

/// Which keys to list.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  DynaRust keys users\n  DynaRust keys users --prefix a --limit 10\n\n\
                        With --json each line is a JSON string.")]
pub struct Keys {
    #[command(flatten)]
    range: Range,
    #[command(flatten)]
    order: Order,
}

/// Prints keys, one a line.
pub fn keys(arguments: &Keys) -> Result<Exit> {
    let listing = arguments.order.apply(arguments.range.listing()?);
    run(async {
        let mut lines = Lines::new();
        let mut keys = listing.keys();
        while let Some(key) = keys.next().await.filter(|_| lines.is_open()) {
            let key = key?;
            let line = if arguments.range.common.json { json!(key).to_string() } else { key };
            lines.print(&line)?;
        }
        lines.flush()?;
        Ok(Exit::Success)
    })
}

/// Which keys to list.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  DynaRust store users\n  DynaRust store users --prefix a --json\n\n\
                        On a terminal a line is a key and its value, elsewhere and with --json an object with `key` and `value`; with \
                        --json also with the version and times.")]
pub struct Store {
    #[command(flatten)]
    range: Range,
    #[command(flatten)]
    order: Order,
}

/// Prints keys with their values, one a line.
pub fn store(arguments: &Store) -> Result<Exit> {
    let listing = arguments.order.apply(arguments.range.listing()?);
    run(async {
        let mut lines = Lines::new();
        let mut entries = listing.entries::<Box<RawValue>>();
        while let Some(entry) = entries.next().await.filter(|_| lines.is_open()) {
            let (key, entry) = entry?;
            let line = match arguments.range.common.json {
                true => row_text(&key, &entry)?,
                false if output::is_terminal() => format!("{key}  {}", entry.value),
                false => format!("{{\"key\":{},\"value\":{}}}", json!(key), entry.value),
            };
            lines.print(&line)?;
        }
        lines.flush()?;
        Ok(Exit::Success)
    })
}

/// An entry with its key as text, its value untouched.
fn row_text(key: &str, entry: &Entry<Box<RawValue>>) -> std::result::Result<String, CommandError> {
    let text = serde_json::to_string(entry)
        .map_err(|error| CommandError { exit: Exit::Failure, why: error.to_string() })?;
    Ok(format!("{{\"key\":{},{}", json!(key), text.trim_start_matches('{')))
}

/// Which keys to count.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  DynaRust count users\n  DynaRust count users --prefix a")]
pub struct Count {
    #[command(flatten)]
    range: Range,
}

/// Prints how many keys there are.
pub fn count(arguments: &Count) -> Result<Exit> {
    let listing = arguments.range.listing()?;
    run(async {
        let count = listing.count().await?;
        let text = if arguments.range.common.json {
            json!({ "count": count }).to_string()
        } else {
            count.to_string()
        };
        output::print(&format!("{text}\n"))?;
        Ok(Exit::Success)
    })
}

/// Which node to ask.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  DynaRust tables")]
pub struct Tables {
    #[command(flatten)]
    common: Common,
}

/// Prints the tables.
pub fn tables(arguments: &Tables) -> Result<Exit> {
    let client = arguments.common.connection.client(None)?;
    run(async {
        let tables = client.tables().await?;
        let text =
            if arguments.common.json { format!("{}\n", json!(tables)) } else { tables_to_text(&tables) };
        output::print(&text)?;
        Ok(Exit::Success)
    })
}

fn tables_to_text(tables: &[TableInfo]) -> String {
    let head = ["TABLE", "MODE", "KEYS", "DELETED"].map(str::to_owned).to_vec();
    let rows = tables.iter().map(|table| {
        let mode = match table.mode {
            dynarust_client::Mode::Eventual => "eventual",
            dynarust_client::Mode::Strong => "strong",
        };
        let so_far = if table.counted { "" } else { " so far" };
        let keys = format!("{}{so_far}", table.keys);
        vec![table.name.clone(), mode.to_owned(), keys, format!("{}{so_far}", table.tombstones)]
    });
    output::columns(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_still_counted_are_marked() {
        let table = json!({ "name": "t", "mode": "eventual", "keys": 7, "tombstones": 1, "root": null });
        let mut tables: Vec<TableInfo> = serde_json::from_value(json!([table])).expect("a table");
        assert!(!tables_to_text(&tables).contains("so far"), "nodes that do not say have counted");
        tables[0].counted = false;
        let text = tables_to_text(&tables);
        assert!(text.contains("7 so far") && text.contains("1 so far"), "{text}");
    }
}
