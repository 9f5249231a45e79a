//! The first and the last line around the rows of an export, and what they promise: how many rows there are, and their hash.

use serde::Deserialize;

/// Looks at each line of an NDJSON file for exports. Files without a first line are plain lists of rows.
pub struct ExportLines {
    accepts_partial: bool,
    /// The rows and hash so far, within an export.
    inside: Option<(u64, blake3::Hasher)>,
    /// Whether an export has ended, and no other begun.
    has_ended: bool,
}

#[derive(Deserialize)]
struct First {
    export: u64,
}

#[derive(Deserialize)]
struct Last {
    end: bool,
    rows: u64,
    blake3: String,
}

#[derive(Deserialize)]
struct Failed {
    error: String,
    detail: String,
}

impl ExportLines {
    /// With `accepts_partial` an export need not be whole.
    pub fn new(accepts_partial: bool) -> Self {
        Self { accepts_partial, inside: None, has_ended: false }
    }

    /// Whether the line is a row.
    ///
    /// # Errors
    /// What is wrong with the export.
    pub fn is_row(&mut self, line: &[u8]) -> Result<bool, String> {
        if line.starts_with(b"{\"export\"") {
            let first: Option<First> = serde_json::from_slice(line).ok();
            return match first {
                Some(First { export: 1 }) => {
                    self.end()?;
                    self.has_ended = false;
                    self.inside = Some((0, begin(line)));
                    Ok(false)
                }
                Some(First { export }) => Err(format!("it is an export of a later format, {export}")),
                None => Ok(true),
            };
        }
        if line.starts_with(b"{\"end\"") || line.starts_with(b"{\"error\"") {
            if let Ok(last) = serde_json::from_slice::<Last>(line) {
                return self.last(&last).map(|()| false);
            }
            if let Ok(Failed { error, detail }) = serde_json::from_slice(line) {
                if self.accepts_partial {
                    self.inside = None;
                    return Ok(false);
                }
                return Err(format!("the export is not whole: {error}: {detail}. --partial takes it"));
            }
        }
        match &mut self.inside {
            Some((rows, hash)) => {
                *rows += 1;
                hash.update(line).update(b"\n");
            }
            None if self.has_ended && !self.accepts_partial => {
                return Err("there are rows after the end of the export. --partial takes them".into());
            }
            None => {}
        }
        Ok(true)
    }

    /// The file is at its end.
    ///
    /// # Errors
    /// If an export was cut off.
    pub fn end(&mut self) -> Result<(), String> {
        match self.inside.take() {
            Some(_) if !self.accepts_partial => {
                Err("the export was cut off: it has no last line. --partial takes it".into())
            }
            Some(_) | None => Ok(()),
        }
    }

    fn last(&mut self, last: &Last) -> Result<(), String> {
        self.has_ended = true;
        let Some((rows, hash)) = self.inside.take() else { return Ok(()) };
        let is_whole = last.end && last.rows == rows && last.blake3 == hash.finalize().to_hex().as_str();
        if is_whole || self.accepts_partial {
            return Ok(());
        }
        Err("its rows are not those that were exported: it was edited or damaged. --partial takes it".into())
    }
}

fn begin(line: &[u8]) -> blake3::Hasher {
    let mut hash = blake3::Hasher::new();
    hash.update(line).update(b"\n");
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(rows: &[&str]) -> Vec<String> {
        let mut lines = vec!["{\"export\":1}".to_owned()];
        lines.extend(rows.iter().map(|row| (*row).to_owned()));
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let hash = blake3::hash(text.as_bytes()).to_hex();
        lines.push(format!("{{\"end\":true,\"rows\":{},\"blake3\":\"{hash}\"}}", rows.len()));
        lines
    }

    fn read(lines: &[String], accepts_partial: bool) -> Result<usize, String> {
        let mut reader = ExportLines::new(accepts_partial);
        let mut rows = 0;
        for line in lines {
            rows += usize::from(reader.is_row(line.as_bytes())?);
        }
        reader.end()?;
        Ok(rows)
    }

    #[test]
    fn an_export_is_taken_whole_or_as_a_part_that_was_asked_for() {
        let whole = export(&["{\"key\":\"a\"}", "{\"key\":\"b\"}"]);
        assert_eq!(read(&whole, false), Ok(2));
        assert_eq!(
            read(&[whole.clone(), export(&[])].concat(), false),
            Ok(2),
            "exports may follow each other"
        );
        assert_eq!(read(&whole[1..3], false), Ok(2), "a plain list needs no frame");
        let cut = whole[..2].to_vec();
        let edited = [&whole[..1], &whole[2..]].concat();
        let longer = [&whole[..], &["{\"key\":\"c\"}".to_owned()]].concat();
        let failed = [&whole[..2], &["{\"error\":\"corrupt\",\"detail\":\"x\"}".to_owned()]].concat();
        for (lines, rows, why) in
            [(cut, 1, "cut off"), (edited, 1, "edited"), (longer, 3, "after the end"), (failed, 1, "corrupt")]
        {
            assert!(read(&lines, false).expect_err(why).contains(why));
            assert_eq!(read(&lines, true), Ok(rows), "{why}");
        }
    }
}
