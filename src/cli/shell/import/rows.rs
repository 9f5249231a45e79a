//! The rows of a file, whatever its format, in pieces of lines as the node reads them.

use std::{
    borrow::Cow,
    fmt,
    hash::{BuildHasher, RandomState},
    io::{self, BufRead},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value, json, value::RawValue};
use tokio::sync::mpsc;

use super::{export_lines::ExportLines, source::Source};

/// Rows of a piece, and bytes at which it is sent early.
const PIECE_ROWS: u64 = 2000;
const PIECE_BYTES: usize = 4 << 20;
/// Longest line. A node takes no value of this length.
const LINE_BYTES_MAX: usize = 64 << 20;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// An object a line
    Ndjson,
    /// A list of objects, or an object of keys and values
    Json,
    /// Comma-separated values below a header
    Csv,
}

/// How to read.
pub struct Reading {
    /// The table of rows that name none.
    pub table: Option<String>,
    /// The field that is the key.
    pub key: Option<String>,
    /// Whether cells of CSV may be numbers.
    pub is_typed: bool,
    /// Whether an export need not be whole.
    pub accepts_partial: bool,
    /// Whether rows with versions become new writes.
    pub makes_new_writes: bool,
    /// Rows that are done already.
    pub skip: u64,
}

/// Some rows, as lines.
pub struct Piece {
    /// The number of its first row in the file, from 1.
    pub first_row: u64,
    /// How many there are.
    pub rows: u64,
    /// The hashes of the keys of rows that will be new writes, in order.
    pub keys: Vec<u64>,
    /// The lines.
    pub body: Bytes,
    /// Bytes of the file that were read when it was complete.
    pub read_bytes: u64,
}

impl Piece {
    /// Leaves out so many rows at the beginning.
    pub fn cut(&mut self, rows: u64) {
        let rows = rows.min(self.rows);
        let ends = self.body.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let Some(last) = rows.checked_sub(1).and_then(|last| usize::try_from(last).ok()) else { return };
        let Some((end, _)) = ends.into_iter().nth(last) else { return };
        self.body = self.body.slice(end + 1..);
        self.first_row += rows;
        self.rows -= rows;
    }
}

/// What tells a row from others.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    table: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key: Cow<'a, str>,
    version: Option<IgnoredAny>,
}

/// Reads all rows and sends them. It ends early if nobody takes them any more.
///
/// # Errors
/// What is wrong with the file, and where.
pub fn read(source: Source, reading: &Reading, sender: &mpsc::Sender<Piece>) -> Result<(), String> {
    let mut rows = Rows {
        read_bytes: source.read_bytes,
        reading,
        sender,
        hashes: RandomState::new(),
        read: 0,
        first_row: 0,
        rows: 0,
        keys: Vec::new(),
        body: Vec::new(),
        is_closed: false,
    };
    let read = match source.format {
        Format::Ndjson => read_lines(source.reader, &mut rows),
        Format::Json => read_json(source.reader, &mut rows),
        Format::Csv => read_csv(source.reader, &mut rows),
    };
    if rows.is_closed {
        return Ok(());
    }
    read?;
    rows.send();
    Ok(())
}

/// Rows on their way to pieces.
struct Rows<'a> {
    read_bytes: Arc<AtomicU64>,
    reading: &'a Reading,
    sender: &'a mpsc::Sender<Piece>,
    hashes: RandomState,
    read: u64,
    first_row: u64,
    rows: u64,
    keys: Vec<u64>,
    body: Vec<u8>,
    is_closed: bool,
}

impl Rows<'_> {
    /// Takes a row that is a line already.
    fn push(&mut self, line: impl AsRef<[u8]>) {
        let line = line.as_ref();
        if !self.begin_row() {
            return;
        }
        // What is none the node refuses.
        if let Ok(Head { table, key, version }) = serde_json::from_slice(line)
            && (version.is_none() || self.reading.makes_new_writes)
        {
            self.note_key(table.as_deref(), &key);
        }
        self.end_row(line);
    }

    /// Takes a key with its value.
    fn push_pair(&mut self, key: &str, value: &str) {
        if self.begin_row() {
            self.note_key(None, key);
            self.end_row(format!("{{\"key\":{},\"value\":{value}}}", json!(key)).as_bytes());
        }
    }

    /// Counts a row; whether it is wanted.
    fn begin_row(&mut self) -> bool {
        self.read += 1;
        if self.rows == 0 {
            self.first_row = self.read;
        }
        self.read > self.reading.skip && !self.is_closed
    }

    /// Fails if nobody takes rows any more.
    fn go_on<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.is_closed { Err(E::custom("nobody takes the rows")) } else { Ok(()) }
    }

    fn note_key(&mut self, table: Option<&str>, key: &str) {
        let table = table.or(self.reading.table.as_deref());
        self.keys.push(self.hashes.hash_one((table, key)));
    }

    fn end_row(&mut self, line: &[u8]) {
        self.body.extend_from_slice(line);
        self.body.push(b'\n');
        self.rows += 1;
        if self.rows == PIECE_ROWS || self.body.len() >= PIECE_BYTES {
            self.send();
        }
    }

    /// Takes an object of JSON: a row, or a document with its key inside.
    fn push_object(&mut self, text: &str) -> Result<(), String> {
        match &self.reading.key {
            None => self.push(text),
            Some(field) => {
                let key = key_of(text, field).map_err(|why| format!("row {}: {why}", self.read + 1))?;
                self.push_pair(&key, text);
            }
        }
        Ok(())
    }

    fn send(&mut self) {
        if self.rows == 0 {
            return;
        }
        let (keys, body) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.body));
        let piece = Piece {
            first_row: self.first_row,
            rows: self.rows,
            keys,
            body: Bytes::from(body),
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
        };
        // Whoever takes no more has failed, and says so.
        self.is_closed = self.sender.blocking_send(piece).is_err();
        self.rows = 0;
    }
}

/// The key of a document: a string, or a number as it is written.
fn key_of(text: &str, field: &str) -> Result<String, String> {
    let document: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("this is not an object: {error}"))?;
    match document.get(field) {
        Some(Value::String(key)) => Ok(key.clone()),
        Some(Value::Number(key)) => Ok(key.to_string()),
        Some(_) => {
            Err(format!("the field {field:?} is neither a string nor a number, so it cannot be the key"))
        }
        None => Err(format!("there is no field {field:?}")),
    }
}

fn read_lines(mut reader: Box<dyn BufRead + Send>, rows: &mut Rows) -> Result<(), String> {
    let mut exports = ExportLines::new(rows.reading.accepts_partial);
    let mut line = Vec::new();
    let mut number = 0_u64;
    loop {
        line.clear();
        number += 1;
        let read = read_line(&mut reader, &mut line).map_err(|error| format!("line {number}: {error}"))?;
        if read == 0 || rows.is_closed {
            break;
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let text = if number == 1 { text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text) } else { text };
        if text.trim_ascii().is_empty() || !exports.is_row(text)? {
            continue;
        }
        match rows.reading.key {
            None => rows.push(text),
            Some(_) => {
                let text = std::str::from_utf8(text).map_err(|_| format!("line {number} is not UTF-8"))?;
                rows.push_object(text)?;
            }
        }
    }
    exports.end()
}

/// Reads a line, but not one that never ends.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    let read = io::Read::take(&mut *reader, LINE_BYTES_MAX as u64).read_until(b'\n', line)?;
    if read == LINE_BYTES_MAX && !line.ends_with(b"\n") {
        return Err(io::Error::other(format!("it is longer than {LINE_BYTES_MAX} bytes")));
    }
    Ok(read)
}

/// Reads a list of objects, or an object of keys and values, without holding more than one of them.
fn read_json(reader: Box<dyn BufRead + Send>, rows: &mut Rows) -> Result<(), String> {
    let mut json = serde_json::Deserializer::from_reader(SkipMark { inner: reader, is_first: true });
    JsonRows(rows).deserialize(&mut json).and_then(|()| json.end()).map_err(|error| error.to_string())
}

struct JsonRows<'a, 'b>(&'a mut Rows<'b>);

impl<'de> DeserializeSeed<'de> for JsonRows<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JsonRows<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects, or an object of keys and values")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(row) = list.next_element::<Box<RawValue>>()? {
            // A row is one line.
            let row = row.get().replace(['\n', '\r'], " ");
            self.0.push_object(&row).map_err(serde::de::Error::custom)?;
            self.0.go_on()?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
            self.0.push_pair(&key, &value.get().replace(['\n', '\r'], " "));
            self.0.go_on()?;
        }
        Ok(())
    }
}

/// Reads past a byte order mark.
struct SkipMark {
    inner: Box<dyn BufRead + Send>,
    is_first: bool,
}

impl io::Read for SkipMark {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if std::mem::take(&mut self.is_first) && self.inner.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
            self.inner.consume(3);
        }
        self.inner.read(buffer)
    }
}

fn read_csv(reader: Box<dyn BufRead + Send>, rows: &mut Rows) -> Result<(), String> {
    let mut csv = csv::ReaderBuilder::new().from_reader(SkipMark { inner: reader, is_first: true });
    let header = csv.headers().map_err(|error| error.to_string())?.clone();
    let name = rows.reading.key.clone().unwrap_or_else(|| "key".to_owned());
    let columns: Vec<&str> = header.iter().collect();
    let key_at =
        columns.iter().position(|column| *column == name).ok_or_else(|| match &rows.reading.key {
            Some(_) => crate::core::nearest::unknown("column", &name, &columns),
            None => format!(
                "no column is named \"key\". Say with --key which has the keys: {}",
                columns.join(", ")
            ),
        })?;
    let is_pairs = rows.reading.key.is_none() && columns.len() == 2 && columns.contains(&"value");
    // A column that is called `key` names the row; any other belongs to the document as well.
    let has_key_inside = rows.reading.key.is_some();
    let mut record = csv::StringRecord::new();
    while csv.read_record(&mut record).map_err(|error| error.to_string())? && !rows.is_closed {
        let key = record.get(key_at).unwrap_or_default();
        let value = if is_pairs {
            let text = record.get(1 - key_at).unwrap_or_default();
            any_json(text)
        } else {
            let cells = columns.iter().zip(&record).enumerate();
            let cells = cells.filter(|(at, _)| *at != key_at || has_key_inside);
            let members = cells.map(|(_, (name, cell))| {
                format!("{}:{}", json!(name), cell_json(cell, rows.reading.is_typed))
            });
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        };
        rows.push_pair(key, &value);
    }
    Ok(())
}

/// A cell that holds a whole value: JSON, or a string.
fn any_json(text: &str) -> String {
    match <&RawValue>::deserialize(&mut serde_json::Deserializer::from_str(text)) {
        Ok(value) if value.get().len() == text.trim().len() => value.get().replace(['\n', '\r'], " "),
        Ok(_) | Err(_) => json!(text).to_string(),
    }
}

/// A cell as JSON: numbers as JSON writes them, `true` and `false` are what they seem; `007` and all else are strings.
fn cell_json(cell: &str, is_typed: bool) -> String {
    let is_number = || {
        let looks_so = cell.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        looks_so
            && serde_json::from_str::<serde_json::Number>(cell).is_ok()
            && !cell.contains(char::is_whitespace)
    };
    if is_typed && (cell == "true" || cell == "false" || is_number()) {
        cell.to_owned()
    } else {
        json!(cell).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(format: Format, text: &str, key: Option<&str>, skip: u64) -> Result<Vec<String>, String> {
        let (sender, mut pieces) = mpsc::channel(10);
        let source = Source {
            reader: Box::new(io::Cursor::new(text.to_owned())),
            format,
            total_bytes: None,
            read_bytes: Arc::new(AtomicU64::new(0)),
        };
        let reading = Reading {
            table: None,
            key: key.map(str::to_owned),
            is_typed: true,
            accepts_partial: false,
            makes_new_writes: false,
            skip,
        };
        read(source, &reading, &sender)?;
        drop(sender);
        let mut lines = Vec::new();
        while let Some(piece) = pieces.blocking_recv() {
            assert_eq!(piece.first_row, skip + lines.len() as u64 + 1);
            lines.extend(String::from_utf8(piece.body.to_vec()).expect("text").lines().map(str::to_owned));
        }
        Ok(lines)
    }

    #[test]
    fn rows_of_all_formats_become_lines() {
        let a = "{\"key\":\"a\",\"value\":1.10}";
        let b = "{\"key\":\"b\",\"value\":{\"x\": [1]}}";
        let csv = "{\"key\":\"7\",\"value\":{\"id\":7,\"zip\":\"007\",\"ok\":true,\"name\":\"A, B\"}}";
        for (format, text, key, expected) in [
            (Format::Ndjson, format!("{a}\r\n\n{b}"), None, vec![a, b]),
            (Format::Ndjson, "{\"id\":7}\n".into(), Some("id"), vec!["{\"key\":\"7\",\"value\":{\"id\":7}}"]),
            (Format::Json, format!("[{a},\n {b}]"), None, vec![a, b]),
            (Format::Json, "\u{feff}{\"a\": 1.10, \"b\": {\"x\": [1]}}".into(), None, vec![a, b]),
            (
                Format::Json,
                "[{\"id\":\"x\"}]".into(),
                Some("id"),
                vec!["{\"key\":\"x\",\"value\":{\"id\":\"x\"}}"],
            ),
            (Format::Csv, "id,zip,ok,name\n7,007,true,\"A, B\"\n".into(), Some("id"), vec![csv]),
            (Format::Csv, "key,value\na,1.10\nb,\"{\"\"x\"\": [1]}\"\n".into(), None, vec![a, b]),
            (Format::Csv, "value,key\nhello,a\n".into(), None, vec!["{\"key\":\"a\",\"value\":\"hello\"}"]),
            (Format::Csv, "key,n\na,1\n".into(), None, vec!["{\"key\":\"a\",\"value\":{\"n\":1}}"]),
        ] {
            assert_eq!(lines(format, &text, key, 0).expect("rows"), expected, "{text}");
        }
        let many: String = (0..5000).map(|n| format!("{{\"key\":\"k{n}\",\"value\":{n}}}\n")).collect();
        let rest = lines(Format::Ndjson, &many, None, 4321).expect("rows");
        assert_eq!((rest.len(), rest[0].as_str()), (679, "{\"key\":\"k4321\",\"value\":4321}"));
    }

    #[test]
    fn a_piece_that_was_taken_in_part_begins_at_the_next_row() {
        let body = Bytes::from_static(b"a\nb\nc\n");
        for (taken, rest, first_row) in
            [(0, &b"a\nb\nc\n"[..], 7), (2, b"c\n", 9), (3, b"", 10), (9, b"", 10)]
        {
            let mut piece =
                Piece { first_row: 7, rows: 3, keys: Vec::new(), body: body.clone(), read_bytes: 0 };
            piece.cut(taken);
            assert_eq!((&piece.body[..], piece.first_row, piece.rows), (rest, first_row, 10 - first_row));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (format, text, key, why) in [
            (Format::Ndjson, "{\"id\":7}\n{}\n", Some("id"), "row 2: there is no field \"id\""),
            (Format::Ndjson, "{\"id\":[]}\n", Some("id"), "neither"),
            (Format::Ndjson, "{\"export\":1}\n", None, "cut off"),
            (Format::Json, "7", None, "a list of objects"),
            (Format::Json, "[{}", None, "EOF"),
            (Format::Csv, "name,age\nx,1\n", None, "--key"),
            (Format::Csv, "nmae,age\nx,1\n", Some("name"), "did you mean \"nmae\""),
            (Format::Csv, "key,a\nx\n", None, "line: 2"),
        ] {
            let said = lines(format, text, key, 0).expect_err(why);
            assert!(said.contains(why), "{why}: {said}");
        }
    }
}
