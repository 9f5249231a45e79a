//! One error, by who has to act: whoever typed the command, or whoever runs what it measures.

use std::{fmt, io, process::ExitCode};

/// The result of everything that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The arguments cannot be used as they are; the text says what to change.
    Usage(String),
    /// The target or the operating system did not do what the measurement needs; the text says what was being done.
    Failed(String),
}

impl Error {
    /// Wraps an operating system error with what was being done.
    pub fn io(doing: impl fmt::Display, error: &io::Error) -> Self {
        Self::Failed(format!("{doing}: {error}"))
    }

    /// The exit code of the process: 2 for wrong usage, 1 otherwise, as of `DynaRust`.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => 2.into(),
            Self::Failed(_) => 1.into(),
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}
