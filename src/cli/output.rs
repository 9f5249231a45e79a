//! What a command writes to standard output. Rust programs are sent an error, not a signal, where the reader has gone; for
//! a command whose output is piped into `head` that is a good end.

use std::io::{self, Write};

use crate::error::{Error, Result};

/// Writes a command's whole output.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("cannot write to standard output", &error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Lines of names and values, the values in one column.
pub fn table(rows: &[(impl AsRef<str>, impl AsRef<str>)]) -> String {
    let width = rows.iter().map(|(name, _)| name.as_ref().chars().count()).max().unwrap_or_default();
    rows.iter().map(|(name, value)| format!("{:width$}  {}\n", name.as_ref(), value.as_ref())).collect()
}
