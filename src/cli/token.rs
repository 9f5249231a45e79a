//! `DynaRust token`: makes, lists and revokes the tokens of clients, in the file that a node reads with `--tokens`. A running node takes over
//! each change within a second.
//!
//! Only one process changes the file at a time, and replaces it whole: a node never reads half of it. Comments and the order of a file that
//! people edit stay, which is why we use toml_edit here.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::json;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};

use super::{Exit, flags::TokensFlags, output};
use crate::{
    core::access::Grants,
    error::{Error, Result},
    http::access::tokens::{self, HashedToken, SECRET_PREFIX, TokenFile},
    storage::environment::random_bytes,
};

/// What to do with tokens.
#[derive(Debug, clap::Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  DynaRust token new shop --rights read,write --table orders --tokens tokens.toml\n  \
                  DynaRust token list --tokens tokens.toml\n  DynaRust token revoke shop --tokens tokens.toml\n\n\
                  Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 no such token."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Adds a token, and prints its secret, once
    ///
    /// The secret goes to standard output, alone; the file keeps its hash. Clients send it as `Authorization: Bearer SECRET`
    New(New),
    /// Lists the tokens, without their secrets, which the file does not have
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        file: TokensFlags,
    },
    /// Removes a token: it is refused from then on, and its open streams end
    Revoke {
        /// The token's name
        #[arg(value_name = "TOKEN")]
        name: String,
        #[command(flatten)]
        file: TokensFlags,
    },
}

#[derive(Debug, clap::Args)]
struct New {
    /// Its name, for people and logs
    #[arg(value_name = "TOKEN")]
    name: String,
    /// What it may do: read, write, admin
    #[arg(long, value_name = "RIGHT", value_delimiter = ',', required = true)]
    rights: Vec<String>,
    /// A table it is for; `*` stands for any text, as in app-*. May be repeated; all tables without it
    #[arg(long = "table", value_name = "PATTERN")]
    tables: Vec<String>,
    /// What the keys must begin with. May be repeated; all keys without it
    #[arg(long = "prefix", value_name = "TEXT")]
    prefixes: Vec<String>,
    /// When it ends: a duration from now, such as 90d, or an instant, such as 2027-01-01T00:00:00Z
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    #[command(flatten)]
    file: TokensFlags,
}

/// Changes or lists the tokens.
///
/// # Errors
/// `Config` for wrong arguments and for a file that is not one of tokens; `Io` as the file system reports.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    match &arguments.command {
        Command::New(new) => add(new),
        Command::List { json, file } => list(&file.path()?, *json),
        Command::Revoke { name, file } => revoke(name, &file.path()?),
    }
}

fn add(new: &New) -> Result<Exit> {
    let path = new.file.path()?;
    let given = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let grants = tokens::grants(&new.rights, given(&new.tables).as_deref(), given(&new.prefixes).as_deref());
    let grants = grants.map_err(Error::Config)?;
    tokens::name(&new.name).map_err(Error::Config)?;
    let expires = new.expires.as_deref().map(expiry).transpose()?;
    let secret = secret()?;
    change(&path, |document| {
        let mut entry = Table::new();
        entry["name"] = value(&new.name);
        entry["hash"] = value(tokens::hash(&secret).to_string());
        entry["rights"] = value(array(&new.rights));
        for (field, list) in [("tables", &new.tables), ("prefixes", &new.prefixes)] {
            if !list.is_empty() {
                entry[field] = value(array(list));
            }
        }
        if let Some(at) = &expires {
            entry["expires"] =
                value(at.parse::<toml_edit::Datetime>().map_err(|error| Error::Config(error.to_string()))?);
        }
        entries(document)?.push(entry);
        Ok(true)
    })?;
    let until = expires.map_or_else(|| "never ends".to_owned(), |at| format!("ends at {at}"));
    eprintln!(
        "The token {:?} is in {}: {}; it {until}. This is its secret, shown only now. Send it as Authorization: Bearer SECRET",
        new.name,
        path.display(),
        describe(&grants)
    );
    output::print(&format!("{secret}\n"))?;
    Ok(Exit::Success)
}

fn revoke(name: &str, path: &Path) -> Result<Exit> {
    let is_changed = change(path, |document| {
        let entries = entries(document)?;
        let before = entries.len();
        entries.retain(|entry| entry.get("name").and_then(Item::as_str) != Some(name));
        Ok(entries.len() < before)
    })?;
    if is_changed {
        output::print(&format!(
            "{name} is revoked: nodes with {} refuse it within a second\n",
            path.display()
        ))?;
        return Ok(Exit::Success);
    }
    eprintln!("DynaRust: {} has no token {name:?}: `DynaRust token list` shows them", path.display());
    Ok(Exit::NotFound)
}

fn list(path: &Path, is_json: bool) -> Result<Exit> {
    let file = TokenFile::parse(&read(path)?).map_err(|why| wrong(path, &why))?;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    output::print(&match is_json {
        true => format!(
            "{:#}\n",
            json!(file.tokens.iter().map(|token| to_json(token, now_ms)).collect::<Vec<_>>())
        ),
        false if file.tokens.is_empty() => "no tokens\n".into(),
        false => {
            let rows: Vec<_> = file.tokens.iter().map(|it| (&*it.token.name, to_text(it, now_ms))).collect();
            output::table(&rows)
        }
    })?;
    Ok(Exit::Success)
}

fn to_text(token: &HashedToken, now_ms: u64) -> String {
    let grants = describe(&token.token.grants);
    match token.token.expires_at_ms {
        None => grants,
        Some(at_ms) if at_ms <= now_ms => format!("{grants}; has expired"),
        Some(at_ms) => format!("{grants}; ends at {}", instant(at_ms)),
    }
}

fn to_json(token: &HashedToken, now_ms: u64) -> serde_json::Value {
    let grants = &token.token.grants;
    json!({
        "name": token.token.name,
        "hash": token.hash.to_string(),
        "rights": grants.rights.iter().map(|right| right.name()).collect::<Vec<_>>(),
        "tables": grants.tables.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "prefixes": grants.prefixes,
        "expires": token.token.expires_at_ms.map(instant),
        "expired": token.token.expires_at_ms.is_some_and(|at_ms| at_ms <= now_ms),
    })
}

/// What a token may do, in words.
fn describe(grants: &Grants) -> String {
    let rights = grants.rights.iter().map(|right| right.name()).collect::<Vec<_>>().join(", ");
    let tables = grants.tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut text =
        if tables == "*" { format!("{rights} on all tables") } else { format!("{rights} on {tables}") };
    if !grants.prefixes.is_empty() {
        let prefixes: Vec<_> = grants.prefixes.iter().map(|prefix| format!("{prefix:?}")).collect();
        text += &format!(", keys that begin with {}", prefixes.join(" or "));
    }
    text
}

/// An instant (RFC 3339), from one or from a duration.
fn expiry(text: &str) -> Result<String> {
    if let Ok(duration) = humantime::parse_duration(text) {
        let at = SystemTime::now().checked_add(duration.min(Duration::from_secs(3600 * 24 * 365 * 100)));
        return Ok(humantime::format_rfc3339_seconds(at.unwrap_or(UNIX_EPOCH)).to_string());
    }
    tokens::expiry_ms(text).map(instant).map_err(|_| {
        Error::Config(format!("--expires: {text:?} is neither a duration, such as 90d, nor an instant, such as 2027-01-01T00:00:00Z"))
    })
}

fn instant(unix_ms: u64) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms)).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(at).to_string()
}

/// 256 random bits.
fn secret() -> Result<String> {
    Ok(format!("{SECRET_PREFIX}{}", blake3::Hash::from_bytes(random_bytes()?)))
}

fn array(texts: &[String]) -> Array {
    texts.iter().map(String::as_str).collect()
}

fn entries(document: &mut DocumentMut) -> Result<&mut ArrayOfTables> {
    let entries = document.entry("token").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    entries.as_array_of_tables_mut().ok_or_else(|| {
        Error::Config("write each token as [[token]], so that this command can change the file".into())
    })
}

/// Changes the file as `edit` says, which returns whether there is anything to change. Creates it if it is not there.
fn change(path: &Path, edit: impl FnOnce(&mut DocumentMut) -> Result<bool>) -> Result<bool> {
    // The file that a link stands for, as it is replaced.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let lock = with_extension(path, "lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock)
        .map_err(|error| io_error(path, &error))?;
    lock.lock().map_err(|error| io_error(path, &error))?;
    let text = if path.exists() { read(path)? } else { String::new() };
    let mut document: DocumentMut =
        text.parse().map_err(|error: toml_edit::TomlError| wrong(path, &error.to_string()))?;
    if !edit(&mut document)? {
        return Ok(false);
    }
    let text = document.to_string();
    TokenFile::parse(&text).map_err(|why| wrong(path, &why))?;
    replace(path, &text).map_err(|error| io_error(path, &error))?;
    Ok(true)
}

/// Replaces a file atomically. It keeps its owner and its permissions; a new one is for its owner only.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let fresh = with_extension(path, "new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    if let Ok(before) = fs::metadata(path) {
        let now = file.metadata()?;
        if (before.uid(), before.gid()) != (now.uid(), now.gid()) {
            chown(&fresh, Some(before.uid()), Some(before.gid()))?;
        }
        file.set_permissions(fs::Permissions::from_mode(before.mode() & 0o777))?;
    }
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn with_extension(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| io_error(path, &error))
}

fn io_error(path: &Path, error: &io::Error) -> Error {
    Error::io(path.display(), error)
}

fn wrong(path: &Path, why: &str) -> Error {
    Error::Config(format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_keeps_comments_and_permissions_and_a_new_file_is_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens.toml");
        let push = |name: &'static str| {
            change(&path, |document| {
                let mut entry = Table::new();
                entry["name"] = value(name);
                entry["hash"] = value(tokens::hash(name).to_string());
                entry["rights"] = value(array(&["read".to_owned()]));
                entries(document)?.push(entry);
                Ok(true)
            })
        };
        let mode = || fs::metadata(&path).expect("a file").mode() & 0o777;
        assert_eq!((push("a"), mode()), (Ok(true), 0o600));
        fs::write(&path, format!("# for the shop\n{}", read(&path).expect("text"))).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
        assert_eq!((push("b"), mode()), (Ok(true), 0o640));
        let text = read(&path).expect("text");
        assert!(text.starts_with("# for the shop\n"), "{text}");
        assert_eq!(TokenFile::parse(&text).expect("valid").tokens.len(), 2);
        assert!(matches!(push("a"), Err(Error::Config(why)) if why.contains("there twice")));
        assert_eq!(read(&path), Ok(text), "a change that would break the file is not made");
    }

    #[test]
    fn an_expiry_is_a_duration_or_an_instant() {
        assert_eq!(expiry("2027-01-01T00:00:00Z"), Ok("2027-01-01T00:00:00Z".into()));
        assert!(expiry("90d").is_ok_and(|at| tokens::expiry_ms(&at).is_ok()));
        for wrong in ["", "soon", "2027-01-01"] {
            assert!(matches!(expiry(wrong), Err(Error::Config(_))), "{wrong}");
        }
    }
}
