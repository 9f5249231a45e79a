//! The first and last line around the rows of an export. They keep a part of an export from being mistaken for all of it: behind a proxy
//! that speaks HTTP/1.0, or in a truncated file, half an export looks like a small one.
//!
//! ```text
//! {"export":1}
//! {"table":"users","key":"alice",...}
//! {"end":true,"rows":1,"blake3":"<64 hexadecimal digits>"}
//! ```
//!
//! The checksum covers all lines before the last, including the first, each without trailing white space and with one LF. So a file whose
//! line ends were converted is still valid. An import accepts an export that begins with the first line only if it ends with the last. Rows
//! without a first line are a handwritten list and need no last line. A file may contain several exports.

use serde::{Deserialize, de::IgnoredAny};

use crate::{
    error::{Error, Result},
    http::request::body,
};

/// The format version of exports, the only one so far.
const FORMAT: u64 = 1;
/// The first line of an export.
pub const FIRST_LINE: &[u8] = b"{\"export\":1}\n";
const REMEDY: &str = "export again, or import the rows that are there with ?partial=true";

/// The count and checksum of the lines so far.
struct Sum {
    rows: u64,
    hasher: blake3::Hasher,
}

impl Sum {
    fn new() -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(FIRST_LINE);
        Self { rows: 0, hasher }
    }

    fn blake3(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

/// Produces the last line of an export.
pub struct ExportWriter(Sum);

impl ExportWriter {
    /// Starts after the first line.
    pub fn begin() -> Self {
        Self(Sum::new())
    }

    /// Counts rows, one per line.
    pub fn add(&mut self, rows: usize, lines: &[u8]) {
        self.0.rows += rows as u64;
        self.0.hasher.update(lines);
    }

    /// The last line.
    pub fn last_line(&self) -> String {
        format!("{{\"end\":true,\"rows\":{},\"blake3\":\"{}\"}}\n", self.0.rows, self.0.blake3())
    }
}

/// Separates the rows of an import from the frame around them, and checks that each export is complete.
pub struct ExportReader {
    /// Accept an incomplete export.
    partial: bool,
    at: Place,
}

enum Place {
    /// Before the first line, or in a list of rows.
    List,
    Export(Box<Sum>),
    /// After the last line of an export.
    End,
}

#[derive(Deserialize)]
struct Mark {
    export: Option<u64>,
    end: Option<bool>,
    rows: Option<u64>,
    blake3: Option<String>,
    key: Option<IgnoredAny>,
}

impl ExportReader {
    /// Starts before the first line.
    pub fn new(partial: bool) -> Self {
        Self { partial, at: Place::List }
    }

    /// Whether a line that is not empty is a row.
    ///
    /// # Errors
    /// `BadRequest` if the export proves incomplete, or a row follows its end.
    pub fn is_row(&mut self, line: &[u8]) -> Result<bool> {
        let line = line.trim_ascii();
        let mark = if may_be_mark(line) { body::parse_object::<Mark>(line).ok() } else { None };
        match mark.filter(|mark| mark.key.is_none()) {
            Some(Mark { export: Some(format), .. }) => self.begin(format).map(|()| false),
            Some(mark @ Mark { end: Some(true), .. }) => self.end(&mark).map(|()| false),
            Some(_) | None => self.row(line).map(|()| true),
        }
    }

    fn begin(&mut self, format: u64) -> Result<()> {
        self.check_end()?;
        if format != FORMAT {
            return Err(Error::BadRequest(format!(
                "the export has format {format}, and this version knows only {FORMAT}: import it with the version that wrote it"
            )));
        }
        self.at = Place::Export(Box::new(Sum::new()));
        Ok(())
    }

    fn row(&mut self, line: &[u8]) -> Result<()> {
        match &mut self.at {
            Place::List => Ok(()),
            Place::Export(sum) => {
                sum.rows += 1;
                sum.hasher.update(line);
                sum.hasher.update(b"\n");
                Ok(())
            }
            Place::End if self.partial => Ok(()),
            Place::End => Err(Error::BadRequest(
                "a row follows the end of the export: put added rows in a file of their own, or import everything with ?partial=true"
                    .into(),
            )),
        }
    }

    fn end(&mut self, mark: &Mark) -> Result<()> {
        let found = match std::mem::replace(&mut self.at, Place::End) {
            _ if self.partial => return Ok(()),
            Place::Export(sum) => sum,
            Place::List | Place::End => {
                return Err(Error::BadRequest(format!(
                    "the first line {} of the export is missing: {REMEDY}",
                    String::from_utf8_lossy(FIRST_LINE.trim_ascii())
                )));
            }
        };
        if mark.rows != Some(found.rows) {
            let said = mark.rows.map_or("no number of".into(), |rows| rows.to_string());
            return Err(Error::BadRequest(format!(
                "the export is incomplete: it has {} rows, but its last line says {said} rows; {REMEDY}",
                found.rows
            )));
        }
        if mark.blake3.as_deref() != Some(&found.blake3()) {
            return Err(Error::BadRequest(format!(
                "the export was changed or damaged: the blake3 checksum in its last line does not match its rows; {REMEDY}"
            )));
        }
        Ok(())
    }

    /// Whether an export has begun and not ended.
    pub fn is_open(&self) -> bool {
        !self.partial && matches!(self.at, Place::Export(_))
    }

    /// Checks that an export that has begun has also ended.
    ///
    /// # Errors
    /// `BadRequest`.
    pub fn check_end(&self) -> Result<()> {
        match &self.at {
            Place::Export(sum) if !self.partial => Err(Error::BadRequest(format!(
                "the export is incomplete: it stops after {} rows, before its last line; {REMEDY}",
                sum.rows
            ))),
            Place::Export(_) | Place::List | Place::End => Ok(()),
        }
    }
}

/// Whether a line needs a closer look; nearly all lines are rows.
fn may_be_mark(line: &[u8]) -> bool {
    let member = line.strip_prefix(b"{").unwrap_or_default().trim_ascii_start();
    member.starts_with(b"\"export\"") || member.starts_with(b"\"end\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exported(rows: &[&str]) -> Vec<String> {
        let mut writer = ExportWriter::begin();
        for row in rows {
            writer.add(1, format!("{row}\n").as_bytes());
        }
        let first = String::from_utf8_lossy(FIRST_LINE).into_owned();
        let rows = rows.iter().map(|row| format!("{row}\n"));
        std::iter::once(first).chain(rows).chain([writer.last_line()]).collect()
    }

    fn import(lines: &[String], partial: bool) -> Result<usize> {
        let mut reader = ExportReader::new(partial);
        let mut rows = 0;
        for line in lines {
            rows += usize::from(reader.is_row(line.as_bytes())?);
        }
        reader.check_end()?;
        Ok(rows)
    }

    const ROWS: [&str; 3] =
        [r#"{"table":"t","key":"a","value":1}"#, r#"{"key":"b"}"#, r#"{"end":true,"key":"c"}"#];

    #[test]
    fn an_export_is_complete_whatever_its_line_ends_are() {
        let lines = exported(&ROWS);
        assert_eq!(import(&lines, false), Ok(3));
        let converted: Vec<String> = lines.iter().map(|line| line.replace('\n', " \r\n")).collect();
        assert_eq!(import(&converted, false), Ok(3));
        assert_eq!(import(&exported(&[]), false), Ok(0));
        assert_eq!(import(&[lines.clone(), lines].concat(), false), Ok(6), "one after the other");
    }

    #[test]
    fn a_part_of_an_export_is_not_mistaken_for_all_of_it() {
        let lines = exported(&ROWS);
        for missing in 0..lines.len() {
            let mut part = lines.clone();
            part.remove(missing);
            assert!(matches!(import(&part, false), Err(Error::BadRequest(_))), "without line {missing}");
            assert!(import(&part, true).is_ok(), "without line {missing}");
            assert!(
                missing == 0 || import(&lines[..missing], false).is_err(),
                "cut off before line {missing}"
            );
        }
        let mut changed = lines.clone();
        changed[1] = changed[1].replace('1', "2");
        assert!(import(&changed, false).is_err() && import(&changed, true) == Ok(3));
        let more = [lines.clone(), vec![ROWS[0].into()]].concat();
        assert!(import(&more, false).is_err() && import(&more, true) == Ok(4));
        let cut_then_whole = [lines[..2].to_vec(), lines].concat();
        assert!(import(&cut_then_whole, false).is_err());
        assert!(import(&[r#"{"export":2}"#.into()], false).is_err());
    }

    #[test]
    fn a_list_of_rows_needs_no_frame() {
        let rows: Vec<String> = ROWS.map(String::from).into();
        assert_eq!(import(&rows, false), Ok(3));
        assert_eq!(import(&[], false), Ok(0));
    }
}
