//! What a client may do, and the decision whether that is enough.

use std::fmt::{self, Write as _};

use super::{Right, Rights, TablePattern};
use crate::core::name::{Key, TableName};

/// What a client may do: these rights, on these tables, for these keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// The rights.
    pub rights: Rights,
    /// The tables; one that matches none is out of reach.
    pub tables: Vec<TablePattern>,
    /// Prefixes of keys; none means all keys.
    pub prefixes: Vec<Box<str>>,
}

/// Something that a request touches.
#[derive(Clone, Copy, Debug)]
pub enum Touched<'a> {
    /// The node as a whole: its figures, its cluster, commands to it.
    Node,
    /// A table's existence, or keys of it that are checked one by one.
    Table(&'a TableName),
    /// All keys of a table with this prefix; empty for the whole table.
    Keys(&'a TableName, &'a str),
    /// All keys with this prefix, of tables that are checked one by one.
    AnyTable(&'a str),
    /// One key.
    Key(&'a TableName, &'a Key),
    /// All tables, those made later included.
    AllTables,
}

impl<'a> Touched<'a> {
    /// The table that it is in, if it is one.
    pub fn table(self) -> Option<&'a TableName> {
        match self {
            Self::Table(table) | Self::Keys(table, _) | Self::Key(table, _) => Some(table),
            Self::Node | Self::AnyTable(_) | Self::AllTables => None,
        }
    }
}

/// What a client lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The right that the request needs.
    pub right: Right,
    /// Why the client does not have it here, as the rest of a sentence about the token.
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Grants {
    /// Decides whether this is enough for a request that needs `right` for what it touches.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(&self, right: Right, touched: Touched<'_>) -> Result<(), Refusal> {
        let allowed = self.rights.contains(right)
            && match touched {
                Touched::Node => true,
                Touched::Table(table) => self.has_table(table),
                Touched::Keys(table, prefix) => self.has_table(table) && self.has_keys(prefix),
                Touched::AnyTable(prefix) => self.has_keys(prefix),
                Touched::Key(table, key) => self.has_table(table) && self.has_keys(key.as_str()),
                Touched::AllTables => {
                    self.prefixes.is_empty() && self.tables.iter().any(|it| it.matches("*"))
                }
            };
        if allowed { Ok(()) } else { Err(Refusal { right, why: self.explain(right, touched) }) }
    }

    fn has_keys(&self, prefix: &str) -> bool {
        self.prefixes.is_empty() || self.prefixes.iter().any(|own| prefix.starts_with(&**own))
    }

    fn has_table(&self, table: &TableName) -> bool {
        self.tables.iter().any(|pattern| pattern.matches(table.as_str()))
    }

    /// Why a request is refused. Of several reasons the first.
    fn explain(&self, right: Right, touched: Touched<'_>) -> String {
        if !self.rights.contains(right) {
            return format!("lacks the right {right}; it has {}", list(self.rights.iter()));
        }
        if let Some(table) = touched.table().filter(|table| !self.has_table(table)) {
            return format!(
                "lacks the right {right} for table {table}; it is limited to {}",
                list(&self.tables)
            );
        }
        let prefixes = self.prefixes.iter().map(|prefix| format!("{prefix:?}"));
        match touched {
            Touched::Key(table, key) => format!(
                "lacks the right {right} for key {:?} of table {table}; it is limited to keys that begin with {}",
                key.as_str(),
                list(prefixes)
            ),
            Touched::AllTables if self.prefixes.is_empty() => {
                format!(
                    "lacks the right {right} for all tables; it is limited to {}: name one",
                    list(&self.tables)
                )
            }
            Touched::Keys(..)
            | Touched::AnyTable(_)
            | Touched::AllTables
            | Touched::Node
            | Touched::Table(_) => format!(
                "lacks the right {right} for all those keys; it is limited to keys that begin with {}: ask with a prefix inside that",
                list(prefixes)
            ),
        }
    }
}

fn list(items: impl IntoIterator<Item = impl fmt::Display>) -> String {
    let mut text = String::new();
    for item in items {
        let comma = if text.is_empty() { "" } else { ", " };
        write!(text, "{comma}{item}").expect("writing to a String cannot fail");
    }
    if text.is_empty() { "none".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(rights: &[Right], tables: &[&str], prefixes: &[&str]) -> Grants {
        Grants {
            rights: rights.iter().copied().collect(),
            tables: tables.iter().map(|text| TablePattern::parse(text).expect("a pattern")).collect(),
            prefixes: prefixes.iter().map(|text| (*text).into()).collect(),
        }
    }

    fn table(name: &str) -> TableName {
        TableName::parse(name).expect("a table name")
    }

    fn key(key: &str) -> Key {
        Key::parse(key).expect("a key")
    }

    #[test]
    fn no_right_implies_another() {
        for held in Right::ALL {
            let grants = grants(&[held], &["*"], &[]);
            for needed in Right::ALL {
                assert_eq!(grants.check(needed, Touched::Node).is_ok(), held == needed, "{held} {needed}");
            }
        }
        let refused = grants(&[Right::Read, Right::Admin], &["*"], &[]).check(Right::Write, Touched::Node);
        let refusal = refused.expect_err("refused");
        assert_eq!(
            (refusal.right, refusal.to_string().as_str()),
            (Right::Write, "lacks the right write; it has read, admin")
        );
    }

    #[test]
    fn tables_and_prefixes_limit_what_a_right_is_for() {
        let (users, orders) = (table("users"), table("orders"));
        let (inside, outside) = (key("a/1"), key("b/1"));
        let grants = grants(&[Right::Read], &["us*"], &["a/", "c"]);
        for (touched, allowed) in [
            (Touched::Node, true),
            (Touched::Table(&users), true),
            (Touched::Table(&orders), false),
            (Touched::Key(&users, &inside), true),
            (Touched::Key(&users, &outside), false),
            (Touched::Key(&orders, &inside), false),
            (Touched::Keys(&users, "a/"), true),
            (Touched::Keys(&users, "a/12"), true),
            (Touched::Keys(&users, "c"), true),
            (Touched::Keys(&users, "a"), false),
            (Touched::Keys(&users, ""), false),
            (Touched::Keys(&orders, "a/"), false),
            (Touched::AllTables, false),
        ] {
            assert_eq!(grants.check(Right::Read, touched).is_ok(), allowed, "{touched:?}");
        }
    }

    #[test]
    fn all_tables_take_a_star_and_no_prefix() {
        for (tables, prefixes, allowed) in [
            (&["*"][..], &[][..], true),
            (&["a", "*"], &[], true),
            (&["a*"], &[], false),
            (&["*"], &["p"], false),
        ] {
            let allowed_now = grants(&[Right::Read], tables, prefixes).check(Right::Read, Touched::AllTables);
            assert_eq!(allowed_now.is_ok(), allowed, "{tables:?} {prefixes:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_the_token_is_limited_to() {
        let grants = grants(&[Right::Write], &["users", "app-*"], &["a/"]);
        let why = |touched| grants.check(Right::Write, touched).expect_err("refused").to_string();
        let (users, orders, other) = (table("users"), table("orders"), key("b"));
        assert_eq!(
            why(Touched::Table(&orders)),
            "lacks the right write for table orders; it is limited to users, app-*"
        );
        assert!(why(Touched::Key(&users, &other)).ends_with("limited to keys that begin with \"a/\""));
        assert!(why(Touched::Keys(&users, "")).contains("ask with a prefix inside that"));
    }

    #[test]
    fn nothing_is_granted_by_default() {
        let users = table("users");
        for right in Right::ALL {
            assert!(Grants::default().check(right, Touched::Table(&users)).is_err());
        }
    }
}
