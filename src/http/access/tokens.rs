//! The file of tokens. It holds no secrets, only their hashes:
//!
//! ```toml
//! [[token]]
//! name = "shop"
//! hash = "<64 hexadecimal digits: the blake3 hash of the secret>"
//! rights = ["read", "write"]
//! tables = ["orders", "cart-*"]
//! prefixes = ["eu/"]
//! expires = 2027-01-01T00:00:00Z
//! ```
//!
//! A secret has 256 random bits, so one fast hash hides it, and looking it up by its hash tells nothing about it by its time.

use std::collections::HashSet;

use blake3::Hash;
use serde::Deserialize;
use toml::value::Datetime;

use super::Token;
use crate::core::{
    access::{Grants, Right, TablePattern},
    name::KEY_BYTES_MAX,
    nearest,
};

/// Most tokens of a file: each costs some memory, and a list for people is useless long before.
pub const TOKENS_MAX: usize = 10_000;
/// Most table patterns of a token, and most prefixes: each request tries them one after the other.
const LIMITS_MAX: usize = 100;
/// Longest name. Log lines and errors repeat it.
const NAME_BYTES_MAX: usize = 64;
/// What secrets begin with, so that scanners and people recognise one that leaks.
pub const SECRET_PREFIX: &str = "dynarust_";

/// What the names of JWTs begin with in errors, logs and limits. Their subject follows.
pub const JWT_PREFIX: &str = "jwt:";

/// The hash by which a secret is known.
pub fn hash(secret: &str) -> Hash {
    blake3::hash(secret.as_bytes())
}

/// The contents of a file of tokens.
#[derive(Debug)]
pub struct TokenFile {
    /// The tokens, in the order of the file.
    pub tokens: Vec<HashedToken>,
}

/// A token, and the hash of its secret.
#[derive(Debug)]
pub struct HashedToken {
    /// The hash.
    pub hash: Hash,
    /// The rest.
    pub token: Token,
}

/// A token as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    name: String,
    hash: String,
    rights: Vec<String>,
    tables: Option<Vec<String>>,
    prefixes: Option<Vec<String>>,
    expires: Option<Datetime>,
}

/// The fields of an entry, for the error about an unknown one.
const FIELDS: [&str; 6] = ["name", "hash", "rights", "tables", "prefixes", "expires"];

impl TokenFile {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
        if let Some(unknown) = table.keys().find(|key| *key != "token") {
            return Err(nearest::unknown("key", unknown, &["token"]));
        }
        let entries = match table.get("token") {
            None => &[][..],
            Some(entries) => {
                entries.as_array().ok_or("\"token\" is not a list: begin each token with [[token]]")?
            }
        };
        if entries.len() > TOKENS_MAX {
            return Err(format!("{} tokens; at most {TOKENS_MAX} are read", entries.len()));
        }
        let (mut names, mut hashes) = (HashSet::new(), HashSet::new());
        let mut tokens = Vec::with_capacity(entries.len());
        for (place, entry) in entries.iter().enumerate() {
            let read = read(entry).map_err(|why| format!("token {}{}: {why}", place + 1, named(entry)))?;
            if !names.insert(read.token.name.clone()) || !hashes.insert(read.hash) {
                return Err(format!(
                    "token {}{}: its name or its hash is there twice",
                    place + 1,
                    named(entry)
                ));
            }
            tokens.push(read);
        }
        Ok(Self { tokens })
    }
}

/// The name of an entry that may be wrong, for its error.
fn named(entry: &toml::Value) -> String {
    let name = entry.get("name").and_then(toml::Value::as_str);
    name.map(|name| format!(" ({name:?})")).unwrap_or_default()
}

fn read(entry: &toml::Value) -> Result<HashedToken, String> {
    let fields = entry.as_table().ok_or("it is not a table: begin it with [[token]]")?;
    if let Some(unknown) = fields.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        return Err(nearest::unknown("field", unknown, &FIELDS));
    }
    let entry: TokenEntry =
        entry.clone().try_into().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let hash = Hash::from_hex(&entry.hash).map_err(
        |_| "\"hash\" is not the 64 hexadecimal digits of a blake3 hash: `DynaRust token new` makes one",
    )?;
    let token = Token {
        name: name(&entry.name)?.into(),
        grants: grants(&entry.rights, entry.tables.as_deref(), entry.prefixes.as_deref())?,
        expires_at_ms: entry.expires.map(|at| expiry_ms(&at.to_string())).transpose()?,
    };
    Ok(HashedToken { hash, token })
}

/// Checks the name of a token. It is none that stands for other clients in logs and limits.
///
/// # Errors
/// The rule.
pub fn name(name: &str) -> Result<&str, String> {
    if ["operator", "anyone", "-"].contains(&name) || name.starts_with(JWT_PREFIX) {
        return Err(format!("{name:?} stands for other clients in the logs: choose another name"));
    }
    plain_name(name)
}

/// Checks a name that may stand in logs and names of files.
///
/// # Errors
/// The rule.
pub fn plain_name(name: &str) -> Result<&str, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._@:-".contains(&byte);
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain) {
        return Ok(name);
    }
    Err(format!("{name:?} is not a name: use 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ @ : -"))
}

/// What these rights, tables and prefixes grant. Without tables it is all of them, without prefixes all keys.
///
/// # Errors
/// What is wrong with one of them.
pub fn grants(
    rights: &[String],
    tables: Option<&[String]>,
    prefixes: Option<&[String]>,
) -> Result<Grants, String> {
    let known = Right::ALL.map(Right::name);
    let right = |name: &String| Right::named(name).ok_or_else(|| nearest::unknown("right", name, &known));
    if rights.is_empty() {
        return Err(format!("there are no rights: name some of {}", known.join(", ")));
    }
    for (what, list) in [("tables", tables), ("prefixes", prefixes)] {
        match list.map(<[String]>::len) {
            Some(0) => return Err(format!("{what:?} is empty: leave it out if it is to be no limit")),
            Some(count) if count > LIMITS_MAX => {
                return Err(format!("{count} {what}; at most {LIMITS_MAX} are read"));
            }
            Some(_) | None => {}
        }
    }
    let prefix = |prefix: &String| match prefix.len() {
        0 => Err("a prefix is empty: leave \"prefixes\" out for all keys".to_owned()),
        1..=KEY_BYTES_MAX => Ok(prefix.as_str().into()),
        length => Err(format!("a prefix of {length} bytes: keys have at most {KEY_BYTES_MAX}")),
    };
    let every = ["*".to_owned()];
    Ok(Grants {
        rights: rights.iter().map(right).collect::<Result<_, _>>()?,
        tables: tables
            .unwrap_or(&every)
            .iter()
            .map(|text| TablePattern::parse(text))
            .collect::<Result<_, _>>()?,
        prefixes: prefixes.unwrap_or_default().iter().map(prefix).collect::<Result<_, _>>()?,
    })
}

/// The Unix milliseconds of an instant (RFC 3339).
///
/// # Errors
/// What is missing.
pub fn expiry_ms(text: &str) -> Result<u64, String> {
    let at = humantime::parse_rfc3339_weak(text).ok().filter(|_| text.ends_with('Z') || text.ends_with('z'));
    let at =
        at.ok_or_else(|| format!("expires = {text} is not an instant in UTC, such as 2027-01-01T00:00:00Z"))?;
    let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &str) -> Result<TokenFile, String> {
        TokenFile::parse(&format!("[[token]]\nname = \"a\"\nhash = \"{}\"\n{lines}", hash("secret")))
    }

    #[test]
    fn a_token_has_rights_tables_prefixes_and_an_expiry() {
        let file = parse(
            "rights = [\"read\", \"admin\"]\ntables = [\"a\", \"b-*\"]\nprefixes = [\"x/\"]\nexpires = 2027-01-01T00:00:00Z",
        );
        let file = file.expect("valid");
        let HashedToken { hash: found, token } = &file.tokens[0];
        assert_eq!(
            (*found, &*token.name, token.expires_at_ms),
            (hash("secret"), "a", Some(1_798_761_600_000))
        );
        let rights: Vec<_> = token.grants.rights.iter().collect();
        assert_eq!(rights, [Right::Read, Right::Admin]);
        assert_eq!((token.grants.tables.len(), &*token.grants.prefixes[0]), (2, "x/"));
        let all = parse("rights = [\"read\"]").expect("valid").tokens.remove(0).token.grants;
        assert!(all.prefixes.is_empty() && all.tables[0].matches("anything"));
        assert_eq!(TokenFile::parse("# none yet\n").expect("valid").tokens.len(), 0);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_token_it_is_in() {
        for (lines, words) in [
            ("rights = [\"reed\"]", ["token 1 (\"a\")", "did you mean \"read\"?"]),
            ("rights = []", ["token 1", "no rights"]),
            ("rights = [\"read\"]\ntabels = [\"a\"]", ["token 1", "did you mean \"tables\"?"]),
            ("rights = [\"read\"]\ntables = []", ["tables", "leave it out"]),
            ("rights = [\"read\"]\ntables = [\"a b\"]", ["a b", "matches no table"]),
            ("rights = [\"read\"]\nprefixes = [\"\"]", ["prefix is empty", "leave"]),
            ("rights = [\"read\"]\nexpires = 2027-01-01", ["expires", "in UTC"]),
            ("rights = [\"read\"]\nexpires = 2027-01-01T00:00:00+02:00", ["expires", "in UTC"]),
            ("rights = \"read\"", ["token 1", "sequence"]),
            ("", ["token 1", "rights"]),
        ] {
            let why = parse(lines).expect_err(lines);
            assert!(words.iter().all(|word| why.contains(word)), "{lines}: {why}");
        }
        let twice = format!("[[token]]\nname = \"a\"\nhash = \"{}\"\nrights = [\"read\"]\n", hash("1"));
        assert!(TokenFile::parse(&(twice.clone() + &twice)).expect_err("twice").contains("there twice"));
        for (text, words) in
            [("[[tokens]]\n", "did you mean \"token\"?"), ("token = 1", "[[token]]"), ("[[token", "line 1")]
        {
            let why = TokenFile::parse(text).expect_err(text);
            assert!(why.contains(words), "{text}: {why}");
        }
        for name in ["operator", "anyone", "-", "jwt:alice"] {
            let text = format!("[[token]]\nname = \"{name}\"\nhash = \"{}\"\nrights = [\"read\"]", hash("1"));
            let why = TokenFile::parse(&text).expect_err(name);
            assert!(why.contains("stands for other clients"), "{name}: {why}");
        }
        let nameless = parse("rights = [\"read\"]\n[[token]]\nname = \"b c\"\nhash = \"\"\nrights = []")
            .expect_err("b c");
        assert!(nameless.starts_with("token 2 (\"b c\"): \"hash\""), "{nameless}");
    }
}
