//! Standard output of the commands. If the reader has closed the pipe, as `head` does, a Rust program gets an error instead of a signal;
//! we treat that as success.

use std::{
    io::{self, BufWriter, IsTerminal, StdoutLock, Write},
    path::Path,
};

use crate::error::{Error, Result};

/// Writes the complete output of a command.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("cannot write to standard output", &error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether standard output is a terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether to colour standard output: it is a terminal, and `NO_COLOR` is not set.
pub fn is_coloured() -> bool {
    is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Output that comes line by line. Once the reader has gone, it is closed, and takes lines without printing them.
pub struct Lines {
    out: BufWriter<StdoutLock<'static>>,
    is_closed: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

impl Lines {
    /// Lines to standard output.
    pub fn new() -> Self {
        Self { out: BufWriter::with_capacity(1 << 16, io::stdout().lock()), is_closed: false }
    }

    /// Whether anybody reads.
    pub fn is_open(&self) -> bool {
        !self.is_closed
    }

    /// Prints a line, at the latest with [`Lines::flush`].
    pub fn print(&mut self, line: impl AsRef<[u8]>) -> Result<()> {
        self.write(|out| out.write_all(line.as_ref()).and_then(|()| out.write_all(b"\n")))
    }

    /// Prints everything that waits.
    pub fn flush(&mut self) -> Result<()> {
        self.write(Write::flush)
    }

    fn write(
        &mut self,
        write: impl FnOnce(&mut BufWriter<StdoutLock<'static>>) -> io::Result<()>,
    ) -> Result<()> {
        if self.is_closed {
            return Ok(());
        }
        match write(&mut self.out) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(())
            }
            Err(error) => Err(Error::io("cannot write to standard output", &error)),
        }
    }
}

/// A path as a shell takes it.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Lines of a name and a value, with the values aligned.
pub fn table(rows: &[(impl AsRef<str>, impl AsRef<str>)]) -> String {
    let width = rows.iter().map(|(name, _)| name.as_ref().chars().count()).max().unwrap_or_default();
    rows.iter().map(|(name, value)| format!("{:width$}  {}\n", name.as_ref(), value.as_ref())).collect()
}

/// A table of cells. Each column is as wide as its widest cell.
pub fn columns(rows: &[Vec<String>]) -> String {
    let length = |cell: &String| cell.chars().count();
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<_> = (0..count)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(length).max().unwrap_or_default())
        .collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let text = columns(&[row(&["node", "state"]), row(&["3f", "alive"]), row(&["3f2a91", ""])]);
        assert_eq!(text, "node    state\n3f      alive\n3f2a91\n");
    }
}
