//! A client as the checks see it.

use std::{collections::BTreeSet, fmt, sync::Arc};

use crate::{
    core::{
        access::{Grants, Right, Touched},
        name::TableName,
    },
    error::{Error, Result},
    node::{
        Action, Topic, Write,
        strong::{Operation, Transaction},
    },
};

/// A token of the file, or a verified JWT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its name in errors, logs and limits, which no token of another kind has.
    pub name: Box<str>,
    /// What it may do.
    pub grants: Grants,
    /// When it ends, in Unix milliseconds.
    pub expires_at_ms: Option<u64>,
}

/// Who sends a request.
#[derive(Clone, PartialEq, Eq)]
pub enum Principal {
    /// Nobody that was asked for a token: may do nothing.
    Nobody,
    /// Everyone, as there is no access control.
    Anyone,
    /// Whoever proved to know the node's admin token or the cluster secret: may do everything.
    Operator,
    /// Whoever has this token.
    Token(Arc<Token>),
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Principal({})", self.name())
    }
}

impl Principal {
    /// Its name in logs: `operator`, the name of a token of the file, or `jwt:` and the subject of a JWT. No two kinds share one.
    pub fn name(&self) -> &str {
        match self {
            Self::Nobody => "-",
            Self::Anyone => "anyone",
            Self::Operator => "operator",
            Self::Token(token) => &token.name,
        }
    }

    /// Whether it has a right for something that a request touches.
    ///
    /// # Errors
    /// `NotGranted`, which says what is missing.
    pub fn check(&self, right: Right, touched: Touched<'_>) -> Result<()> {
        match self {
            Self::Anyone | Self::Operator => Ok(()),
            Self::Nobody => Err(Error::NotGranted {
                right: right.name(),
                why: format!("nobody has the right {right} here"),
            }),
            Self::Token(token) => token.grants.check(right, touched).map_err(|refusal| Error::NotGranted {
                right: refusal.right.name(),
                why: format!("the token {:?} {refusal}", token.name),
            }),
        }
    }

    /// Whether it has a right for all keys with this prefix, in whichever tables it has it for.
    ///
    /// # Errors
    /// As `check`.
    pub fn check_keys(&self, right: Right, prefix: &str) -> Result<()> {
        self.check(right, Touched::AnyTable(prefix))
    }

    /// The prefixes of keys that it is limited to; none means all keys.
    pub fn prefixes(&self) -> &[Box<str>] {
        match self {
            Self::Nobody | Self::Anyone | Self::Operator => &[],
            Self::Token(token) => &token.grants.prefixes,
        }
    }

    /// Whether it may read something of a table, so that a list of tables shows it.
    pub fn may_see(&self, table: &TableName) -> bool {
        self.check(Right::Read, Touched::Table(table)).is_ok()
    }

    /// Whether it may follow a topic.
    ///
    /// # Errors
    /// `NotGranted`.
    pub fn check_topic(&self, topic: &Topic) -> Result<()> {
        self.check(
            Right::Read,
            match topic {
                Topic::Key(table, key) => Touched::Key(table, key),
                Topic::Prefix(table, prefix) => Touched::Keys(table, prefix),
                Topic::All => Touched::AllTables,
            },
        )
    }

    /// Whether it may make a write. A patch that tests the value needs the right to read as well: whoever may try often enough finds out
    /// the value.
    ///
    /// # Errors
    /// `NotGranted`.
    pub fn check_write(&self, table: &TableName, write: &Write) -> Result<()> {
        self.check(Right::Write, Touched::Key(table, &write.key))?;
        let Action::Patch { patch: Some(patch), .. } = &write.action else { return Ok(()) };
        match self.check(Right::Read, Touched::Key(table, &write.key)) {
            Err(Error::NotGranted { right, why }) if patch.tests_value() => Err(Error::NotGranted {
                right,
                why: format!("{why}; a patch with \"test\" tells what the value is"),
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The error of writes to a table, as this client may see it. Why a patch does not apply tells what the value has: whoever may only write
    /// learns that it does not, and no more.
    pub fn conceal(&self, table: &TableName, error: Error) -> Error {
        match error {
            Error::Conflict(_) if !self.may_see(table) => Error::Conflict(
                "a patch does not apply to the value. Why not is told to those who have the right to read"
                    .into(),
            ),
            error => error,
        }
    }

    /// The error of writes to some tables, as this client may see it.
    pub fn conceal_any(&self, tables: &BTreeSet<TableName>, error: Error) -> Error {
        tables.iter().fold(error, |error, table| self.conceal(table, error))
    }

    /// Whether it may run a transaction: read what it compares and gets, write what it writes.
    ///
    /// # Errors
    /// `NotGranted`.
    pub fn check_transaction(&self, transaction: &Transaction) -> Result<()> {
        let mut compared = transaction.compare.iter();
        compared.try_for_each(|it| self.check(Right::Read, Touched::Key(&it.table, &it.key)))?;
        let mut operations = transaction.success.iter().chain(&transaction.failure);
        operations.try_for_each(|operation| match operation {
            Operation::Get { table, key } => self.check(Right::Read, Touched::Key(table, key)),
            Operation::Write { table, write } => self.check_write(table, write),
        })
    }
}
