//! `DynaRust diff`: the keys by which two backups, two nodes, or a backup and a node differ.
//!
//! A node is backed up to a temporary directory first, so that both sides are of one instant each and are compared in order, in little memory.

use std::path::Path;

use dynarust_client::Client;
use serde_json::{Map, Value, json};

use super::{
    Exit, backup,
    connection::{Connection, parse_address},
    flags::DataFlags,
    output,
    place::{self, Place, is_in_bucket},
    privacy, remote,
    unlock::Unlock,
};
use crate::{
    core::register::{Payload, Register},
    error::{Error, Result},
    storage::{
        backup::{
            compare::{self, Difference},
            read::{self, Backup},
            write::Options,
        },
        temporary::Temporary,
    },
};

/// What to compare.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A side is a backup, as a directory or s3://BUCKET/NAME, or the address of a node. Example:\n  \
                        DynaRust diff monday tuesday\n  \
                        DynaRust diff monday 127.0.0.1:6660\n\
                        Exit codes: 0 if they have the same rows, 1 if they differ or cannot be read."
)]
pub struct Arguments {
    /// A backup or a node
    #[arg(value_name = "A")]
    a: String,
    /// Another
    #[arg(value_name = "B")]
    b: String,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    unlock: Unlock,
    #[command(flatten)]
    connection: Connection,
    /// Data directory of the node, which has its admin token. With two nodes set CLUSTER_SECRET instead.
    #[command(flatten)]
    data: DataFlags,
}

/// Compares the two, and prints the keys that differ.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    privacy::restrict_new_files();
    let (a, b) = (Named::find(&arguments.a, arguments)?, Named::find(&arguments.b, arguments)?);
    if a.has_same_roots(&b) {
        return report_equal(arguments);
    }
    let (a, b) = match (a.open(arguments)?, b.open(arguments)?) {
        (Ok(a), Ok(b)) => (a, b),
        (Err(exit), _) | (_, Err(exit)) => return Ok(exit),
    };
    if compare::are_equal(&a.backup, &b.backup) {
        return report_equal(arguments);
    }
    let render = if arguments.json { to_json } else { to_text };
    let count = compare::differences(&a.backup, &b.backup, |difference| output::print(&render(&difference)))?;
    if count == 0 { report_equal(arguments) } else { Ok(Exit::Failure) }
}

fn report_equal(arguments: &Arguments) -> Result<Exit> {
    if !arguments.json {
        output::print("equal: the same rows in all tables\n")?;
    }
    Ok(Exit::Success)
}

/// What a side of the comparison is called.
enum Named {
    Backup(Box<Side>),
    Node(Client),
}

/// The roots of all tables that have rows, by name.
type Roots = Vec<(String, String)>;

impl Named {
    fn find(name: &str, arguments: &Arguments) -> Result<Self> {
        let path = Path::new(name);
        if path.is_dir() || is_in_bucket(path) {
            let (place, checked) = place::open(path)?;
            let secret = arguments.unlock.of(&checked.manifest)?;
            let side = Side { backup: checked.open(secret.as_ref())?, _at: At::Place(place) };
            return Ok(Self::Backup(Box::new(side)));
        }
        let address = parse_address(name).map_err(|why| {
            Error::Config(format!(
                "{name} is neither the directory of a backup nor the address of a node: {why}"
            ))
        })?;
        arguments.connection.client(Some(&address)).map(Self::Node)
    }

    /// Whether the roots of both say that they have the same rows: then a node need not send all it has. Roots of different clusters have
    /// different keys, and are never the same.
    fn has_same_roots(&self, other: &Self) -> bool {
        let roots = |named: &Self| match named {
            Self::Backup(side) => compare::shown_roots(&side.backup),
            Self::Node(node) => roots_of_node(node),
        };
        roots(self).is_some_and(|own| Some(own) == roots(other))
    }

    /// Opens it, or says why a node gives nothing and how the command ends.
    fn open(self, arguments: &Arguments) -> Result<std::result::Result<Side, Exit>> {
        let node = match self {
            Self::Backup(side) => return Ok(Ok(*side)),
            Self::Node(node) => node,
        };
        let data = arguments.data.directory_of_running()?;
        let temporary = Temporary::create()?;
        let made = temporary.join("backup");
        if let Err(error) = remote::runtime()?.block_on(backup::make(&node, &data, &made, Options::default()))
        {
            eprintln!("DynaRust: {}", error.why);
            return Ok(Err(error.exit));
        }
        Ok(Ok(Side { backup: read::check(&made)?.open(None)?, _at: At::Made(temporary) }))
    }
}

/// The roots of a node's tables; `None` if it does not tell, or does not know them yet.
fn roots_of_node(node: &Client) -> Option<Roots> {
    roots_of(&remote::runtime().ok()?.block_on(remote::get(node, "/stats")).ok()?)
}

fn roots_of(stats: &Map<String, Value>) -> Option<Roots> {
    let tables = stats.get("tables")?.as_array()?;
    if tables.iter().any(|table| table["counted"].as_bool() == Some(false)) {
        return None;
    }
    let tables = tables
        .iter()
        .filter(|table| table["keys"].as_u64() != Some(0) || table["tombstones"].as_u64() != Some(0));
    tables.map(|table| Some((table["name"].as_str()?.into(), table["root"].as_str()?.into()))).collect()
}

/// One side of the comparison.
struct Side {
    backup: Backup,
    /// Where it is, as long as it is read.
    _at: At,
}

/// Where one side is.
#[expect(dead_code, reason = "what is temporary is removed once they are dropped")]
enum At {
    Place(Place),
    /// It was made for this.
    Made(Temporary),
}

fn version(row: Option<&Register>) -> String {
    match row.map(|row| (row.timestamp(), row.payload())) {
        None => "absent".into(),
        Some((timestamp, Payload::Deleted)) => format!("{timestamp} (deleted)"),
        Some((timestamp, Payload::Live { .. })) => timestamp.to_string(),
    }
}

fn to_text(difference: &Difference) -> String {
    let Difference { table, key, a, b } = difference;
    format!("{table} {key}  A:{}  B:{}\n", version(a.as_ref()), version(b.as_ref()))
}

fn to_json(difference: &Difference) -> String {
    let Difference { table, key, a, b } = difference;
    let side = |row: &Option<Register>| {
        row.as_ref().map(|row| {
            let is_deleted = *row.payload() == Payload::Deleted;
            json!({ "version": row.timestamp().to_string(), "deleted": is_deleted })
        })
    };
    format!("{}\n", json!({ "table": table, "key": key, "a": side(a), "b": side(b) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table none of whose rows was counted yet was taken for one without rows: two nodes were said to be equal.
    #[test]
    fn the_roots_of_a_node_that_counts_its_rows_are_not_known() {
        let table = |name: &str, root: Option<&str>, counted: bool| {
            let keys = u64::from(root.is_some());
            json!({ "name": name, "keys": keys, "tombstones": 0, "root": root, "counted": counted })
        };
        let (known, uncounted) = (table("a", Some("x"), true), table("b", None, false));
        let roots = |tables: Value| roots_of(&Map::from_iter([("tables".to_owned(), tables)]));
        assert_eq!(roots(json!([known])), Some(vec![("a".into(), "x".into())]));
        assert_eq!(roots(json!([known, uncounted])), None);
    }
}
