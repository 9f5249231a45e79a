//! `put`, `patch`, `del`, `create`, `batch` and `txn`.

use std::{
    io::{self, IsTerminal, Write as _},
    path::PathBuf,
};

use dynarust_client::{Answer, Client, Method, Mode, Outcome as Given, Version, Write, Written};
use serde_json::{Value, json, value::RawValue};

use super::{Common, Outcome, input, run, usage};
use crate::{
    cli::{Exit, output, output::Lines, remote::CommandError},
    error::Result,
};

/// On what condition to write, and how many replicas must hold it.
#[derive(Debug, clap::Args)]
struct Conditions {
    /// Only over this version
    #[arg(long, value_name = "VERSION", conflicts_with = "if_present")]
    if_version: Option<String>,
    /// Only if the key is present
    #[arg(long)]
    if_present: bool,
    /// Wait until so many replicas hold it: a count, majority or all
    #[arg(long = "w", value_name = "REPLICAS")]
    replicas: Option<String>,
    /// How long to wait for the replicas
    #[arg(long = "w-timeout", value_name = "DURATION", requires = "replicas")]
    replicas_timeout: Option<String>,
}

/// When a value expires.
#[derive(Debug, clap::Args)]
struct Expiry {
    /// How long the value lives: seconds, or a duration such as 30m or 7d
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,
    /// When it expires, in Unix milliseconds
    #[arg(long, value_name = "UNIX_MS", conflicts_with = "ttl")]
    expires_at: Option<u64>,
}

impl Conditions {
    fn apply<R: Given>(&self, mut write: Write<R>) -> Write<R> {
        if let Some(version) = &self.if_version {
            write = write.if_version(&Version::from(version.as_str()));
        }
        if self.if_present {
            write = write.if_present();
        }
        if let Some(replicas) = &self.replicas {
            write = write.query("w", replicas);
        }
        match &self.replicas_timeout {
            Some(limit) => write.query("w_timeout", limit),
            None => write,
        }
    }
}

impl Expiry {
    fn apply(&self, write: Write<Written>) -> Write<Written> {
        match (&self.ttl, self.expires_at) {
            (Some(ttl), _) => write.query("ttl", ttl),
            (None, Some(unix_ms)) => write.expires_at(unix_ms),
            (None, None) => write,
        }
    }
}

/// What to write.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  DynaRust put users alice '{\"name\": \"Alice\"}'\n  DynaRust put users bob Bob --ttl 7d\n  \
                        DynaRust put users carol - < value.json\n  DynaRust put users carol @value.json --if-absent\n\n\
                        It prints the version that it wrote. Exit codes: 0 written, 4 the condition does not hold."
)]
pub struct Put {
    /// The table
    table: String,
    /// The key
    key: String,
    /// The value: JSON, or a string; - reads standard input, @FILE a file
    #[arg(value_name = "VALUE|-|@FILE", allow_hyphen_values = true)]
    value: String,
    /// The value is a string, even if it is JSON
    #[arg(long)]
    string: bool,
    /// Only if the key is absent
    #[arg(long, conflicts_with_all = ["if_version", "if_present"])]
    if_absent: bool,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    expiry: Expiry,
    #[command(flatten)]
    common: Common,
}

/// Writes a value, and prints its version.
pub fn put(arguments: &Put) -> Result<Exit> {
    let client = arguments.common.connection.client(None)?;
    run(async {
        let value = input::value(&arguments.value, arguments.string)?;
        let mut write = client.table(&arguments.table).put(&arguments.key, &value);
        if arguments.if_absent {
            write = write.if_absent();
        }
        let written = arguments.expiry.apply(arguments.conditions.apply(write)).await?;
        print_written(&written, arguments.common.json)
    })
}

fn print_written(written: &Written, is_json: bool) -> Outcome {
    let text = if is_json { json!(written).to_string() } else { written.version.to_string() };
    output::print(&format!("{text}\n"))?;
    Ok(Exit::Success)
}

/// What to change.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  DynaRust patch users alice '{\"visits\": 2}'\n  \
                        DynaRust patch users alice '[{\"op\": \"remove\", \"path\": \"/visits\"}]'\n  \
                        DynaRust patch users alice --ttl 30m\n\n\
                        An object is a merge patch (RFC 7396), a list a JSON Patch (RFC 6902). Exit codes: 0 changed, 3 the key is \
                        absent, 4 the condition does not hold.")]
pub struct Patch {
    /// The table
    table: String,
    /// The key
    key: String,
    /// The patch: JSON; - reads standard input, @FILE a file. May be missing with --ttl or --expires-at
    #[arg(value_name = "PATCH|-|@FILE", required_unless_present_any = ["ttl", "expires_at"])]
    patch: Option<String>,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    expiry: Expiry,
    #[command(flatten)]
    common: Common,
}

/// Changes a value, and prints its new version.
pub fn patch(arguments: &Patch) -> Result<Exit> {
    let client = arguments.common.connection.client(None)?;
    run(async {
        let table = client.table(&arguments.table);
        let patch: Option<Box<RawValue>> =
            arguments.patch.as_deref().map(|patch| input::json(patch, "patch")).transpose()?;
        let write = match &patch {
            Some(patch) if patch.get().trim_start().starts_with('[') => {
                table.json_patch(&arguments.key, patch)
            }
            Some(patch) => table.patch(&arguments.key, patch),
            None => table.touch(&arguments.key),
        };
        let written = arguments.expiry.apply(arguments.conditions.apply(write)).await?;
        print_written(&written, arguments.common.json)
    })
}

/// What to delete.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  DynaRust del users bob\n  DynaRust del users --prefix c --yes\n  DynaRust del users --all --yes\n\n\
                        Exit codes: 0 deleted, 3 a key that was named is absent, 4 the condition does not hold."
)]
pub struct Del {
    /// The table
    table: String,
    /// The keys
    #[arg(value_name = "KEY", required_unless_present_any = ["prefix", "all"])]
    keys: Vec<String>,
    /// All keys that begin with this
    #[arg(long, conflicts_with_all = ["keys", "all"])]
    prefix: Option<String>,
    /// All keys of the table
    #[arg(long, conflicts_with = "keys")]
    all: bool,
    /// Do not ask before many keys are deleted
    #[arg(long, short)]
    yes: bool,
    /// Only over this version
    #[arg(long, value_name = "VERSION", conflicts_with_all = ["prefix", "all"])]
    if_version: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// Deletes keys, and prints how many.
pub fn del(arguments: &Del) -> Result<Exit> {
    let client = arguments.common.connection.client(None)?;
    run(async {
        let deleted = match &arguments.prefix {
            None if !arguments.all => return delete_named(&client, arguments).await,
            Some(prefix) if prefix.is_empty() => {
                return Err(usage("an empty prefix means all keys: use --all"));
            }
            prefix => delete_many(&client, arguments, prefix.as_deref()).await?,
        };
        match deleted {
            Some(count) => print_deleted(count, arguments.common.json).map(|()| Exit::Success),
            None => {
                eprintln!("DynaRust: nothing was deleted");
                Ok(Exit::Failure)
            }
        }
    })
}

async fn delete_named(client: &Client, arguments: &Del) -> Outcome {
    let table = client.table(&arguments.table);
    let mut absent = Vec::new();
    for key in &arguments.keys {
        let mut delete = table.delete(key);
        if let Some(version) = &arguments.if_version {
            delete = delete.if_version(&Version::from(version.as_str()));
        }
        if delete.await?.is_none() {
            absent.push(format!("{key:?}"));
        }
    }
    print_deleted((arguments.keys.len() - absent.len()) as u64, arguments.common.json)?;
    if absent.is_empty() {
        return Ok(Exit::Success);
    }
    let why = format!("the table {} has no key {}", arguments.table, absent.join(", "));
    Err(CommandError { exit: Exit::NotFound, why })
}

/// Deletes all keys, or those of a prefix, after a question; `None` if the answer is no.
async fn delete_many(
    client: &Client,
    arguments: &Del,
    prefix: Option<&str>,
) -> std::result::Result<Option<u64>, CommandError> {
    let table = client.table(&arguments.table);
    if !arguments.yes {
        let listing = prefix.map_or_else(|| table.list(), |prefix| table.list().prefix(prefix));
        let what = prefix.map_or_else(String::new, |prefix| format!(" that begin with {prefix:?}"));
        let question = format!("Delete {} keys of {}{what}?", listing.count().await?, arguments.table);
        if !confirm(&question)? {
            return Ok(None);
        }
    }
    Ok(Some(match prefix {
        Some(prefix) => table.delete_prefix(prefix).await?,
        None => table.delete_all().await?,
    }))
}

/// Asks the person at the terminal.
fn confirm(question: &str) -> std::result::Result<bool, CommandError> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(usage("this deletes many keys, and nobody is here to be asked: add --yes"));
    }
    eprint!("{question} [y/N] ");
    let cannot = |error: io::Error| CommandError { exit: Exit::Failure, why: format!("cannot ask: {error}") };
    io::stderr().flush().map_err(cannot)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(cannot)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}

fn print_deleted(count: u64, is_json: bool) -> std::result::Result<(), CommandError> {
    let text = match count {
        _ if is_json => json!({ "deleted": count }).to_string(),
        1 => "1 key deleted".to_owned(),
        _ => format!("{count} keys deleted"),
    };
    Ok(output::print(&format!("{text}\n"))?)
}

/// Which table to make.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  DynaRust create stock\n\nAn eventual table needs no making: it is there with its first key."
)]
pub struct Create {
    /// The table
    table: String,
    #[command(flatten)]
    common: Common,
}

/// Makes a strong table.
pub fn create(arguments: &Create) -> Result<Exit> {
    let client = arguments.common.connection.client(None)?;
    run(async {
        let is_new = client.create_table(&arguments.table, Mode::Strong).await?;
        let text = match (arguments.common.json, is_new) {
            (true, _) => json!({ "table": arguments.table, "mode": "strong", "created": is_new }).to_string(),
            (false, true) => format!("{} is a strong table now", arguments.table),
            (false, false) => format!("{} is a strong table already", arguments.table),
        };
        output::print(&format!("{text}\n"))?;
        Ok(Exit::Success)
    })
}

/// Which operations to run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  DynaRust batch users operations.json\n  \
                        printf '{\"op\":\"put\",\"key\":\"dave\",\"value\":1}\\n' | DynaRust batch users\n\n\
                        An operation has `op` (put, patch or delete), `key`, and `value` or `patch`; see docs/api.md. It prints a result \
                        for each. Exit codes: 0 all applied, 1 some failed.")]
pub struct Batch {
    /// The table
    table: String,
    /// A file with a list of operations, or one a line; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// All operations apply, or none
    #[arg(long)]
    atomic: bool,
    #[command(flatten)]
    common: Common,
}

/// Runs a batch, and prints the results, one a line.
pub fn batch(arguments: &Batch) -> Result<Exit> {
    let client = arguments.common.connection.client(None)?;
    run(async {
        let body = input::file(&arguments.file)?;
        let mut request = client.table(&arguments.table).batch_request(body);
        if arguments.atomic {
            request = request.query("atomic", "true");
        }
        let mut answer: serde_json::Map<String, Value> = request.send().await?.json()?;
        let results = match answer.remove("results") {
            Some(Value::Array(results)) => results,
            _ => Vec::new(),
        };
        let mut lines = Lines::new();
        for result in &results {
            lines.print(result.to_string())?;
        }
        lines.flush()?;
        let failed = results.iter().filter(|result| result.get("error").is_some()).count();
        if failed > 0 {
            let why = format!("{failed} of {} operations failed", results.len());
            return Err(CommandError { exit: Exit::Failure, why });
        }
        Ok(Exit::Success)
    })
}

/// Which transaction to run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  DynaRust txn @transaction.json\n\n\
                        `compare` is what must hold, `success` what to do then, `failure` what to do otherwise; see docs/api.md. It prints \
                        the node's answer. Exit codes: 0 everything compared equal, 4 it did not, and `failure` ran.")]
pub struct Txn {
    /// The transaction: JSON; - reads standard input, @FILE a file
    #[arg(value_name = "JSON|-|@FILE", default_value = "-")]
    transaction: String,
    #[command(flatten)]
    common: Common,
}

/// Runs a transaction, and prints what it became.
pub fn txn(arguments: &Txn) -> Result<Exit> {
    let client = arguments.common.connection.client(None)?;
    run(async {
        let body = input::json(&arguments.transaction, "transaction")?;
        let request = client.request(Method::POST, "/_/txn").header("content-type", "application/json");
        let answer: Answer = request.body(body.get().to_owned()).send().await?;
        let answer: Value = answer.json().map_err(CommandError::from)?;
        output::print(&match arguments.common.json {
            true => format!("{answer}\n"),
            false => super::render(&answer),
        })?;
        Ok(if answer["succeeded"] == false { Exit::PreconditionFailed } else { Exit::Success })
    })
}
