//! The bytes of an import: a file or standard input, decompressed, with a guess at what they are.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flate2::bufread::MultiGzDecoder;

use super::rows::Format;
use crate::cli::{Exit, remote::CommandError};

const BUFFER_BYTES: usize = 1 << 18;
const GZIP: &[u8] = b"\x1f\x8b";

/// Where the rows come from.
pub struct Source {
    /// The bytes, decompressed.
    pub reader: Box<dyn BufRead + Send>,
    /// What they are.
    pub format: Format,
    /// Bytes of the file; `None` for standard input.
    pub total_bytes: Option<u64>,
    /// Bytes that have been read of it.
    pub read_bytes: Arc<AtomicU64>,
}

/// Counts what is read.
struct Counting<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.count.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

/// Opens a file, or standard input for `-`. `has_key` says that documents are expected, whose key is one of their fields.
pub fn open(file: &Path, format: Option<Format>, has_key: bool) -> Result<Source, CommandError> {
    let cannot = |error: io::Error| CommandError {
        exit: Exit::Failure,
        why: format!("cannot read {}: {error}", file.display()),
    };
    let (plain, total_bytes): (Box<dyn Read + Send>, _) = match file == Path::new("-") {
        true => (Box::new(io::stdin()), None),
        false => {
            let file = File::open(file).map_err(cannot)?;
            let bytes = file.metadata().ok().map(|metadata| metadata.len());
            (Box::new(file), bytes)
        }
    };
    let read_bytes = Arc::new(AtomicU64::new(0));
    let counting = Counting { inner: plain, count: Arc::clone(&read_bytes) };
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, counting);
    let is_compressed = reader.fill_buf().map_err(cannot)?.starts_with(GZIP);
    let mut reader: Box<dyn BufRead + Send> = match is_compressed {
        true => Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(reader))),
        false => Box::new(reader),
    };
    let format = match format {
        Some(format) => format,
        None if is_named_csv(file) => Format::Csv,
        None => guess(reader.fill_buf().map_err(cannot)?, has_key),
    };
    Ok(Source { reader, format, total_bytes, read_bytes })
}

fn is_named_csv(file: &Path) -> bool {
    let name = file.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    name.trim_end_matches(".gz").ends_with(".csv")
}

/// What the first bytes are. A first line that is a row, or the head of an export, is NDJSON; any other object is keys with values.
fn guess(first: &[u8], has_key: bool) -> Format {
    let first = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first).trim_ascii_start();
    if first.starts_with(b"[") {
        return Format::Json;
    }
    let line = first.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let members: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(line).ok();
    match members {
        Some(members) if has_key || members.contains_key("key") || members.contains_key("export") => {
            Format::Ndjson
        }
        // A long first line need not be here whole.
        None if line.len() == first.len() && first.len() >= BUFFER_BYTES => Format::Ndjson,
        None if !first.starts_with(b"{") && !first.is_empty() => Format::Csv,
        Some(_) | None => Format::Json,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_what_follows() {
        for (first, has_key, format) in [
            ("[{\"key\":\"a\"", false, Format::Json),
            ("{\"key\":\"a\",\"value\":1}\n{", false, Format::Ndjson),
            ("{\"export\":1}\n", false, Format::Ndjson),
            ("{\"id\":7}\n{\"id\":8}\n", true, Format::Ndjson),
            ("{\"a\":1,\"b\":2}", false, Format::Json),
            ("{\n  \"a\": 1\n}", false, Format::Json),
            ("\u{feff}name,age\nx,1\n", false, Format::Csv),
            ("", false, Format::Json),
        ] {
            assert_eq!(guess(first.as_bytes(), has_key), format, "{first}");
        }
    }
}
