//! Reads the rows of a backup in order: its layers, merged.

use std::{
    collections::{BTreeSet, VecDeque},
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    content::{self, CHUNK_BYTES, CONTENT, ID, Layer, MANIFEST, Manifest, altered},
    line::{self, Last, Parsed, Place},
    seal::{DataKey, Secret},
};
use crate::{
    core::{
        clock::Timestamp,
        digest::Sum,
        hex::{from_hex, to_hex},
        name::TableName,
        register::{Payload, Register},
    },
    error::{Error, Result},
    storage::{
        backup::{cut, line::TableSummary},
        table::{mode, partition::Counts},
    },
};

/// Longest file with an id: 64 digits and a line feed.
pub const ID_BYTES_MAX: u64 = 128;

/// A backup on disk.
pub struct Backup {
    path: PathBuf,
    /// Its id.
    pub id: String,
    /// Its manifest.
    pub manifest: Manifest,
    key: Option<DataKey>,
    /// What the rows are of.
    pub summary: Last,
}

/// A backup whose files are as they were made.
pub struct Checked {
    path: PathBuf,
    /// Its id.
    pub id: String,
    /// Its manifest.
    pub manifest: Manifest,
}

/// What is known of a backup that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Rows with a value.
    pub live: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// The latest timestamp.
    pub latest: Option<Timestamp>,
}

/// Checks that nothing in a backup's directory was altered, is missing or was added.
///
/// # Errors
/// `NotFound`, `StorageDamaged`; `Io`.
pub fn check(path: &Path) -> Result<Checked> {
    let manifest = Manifest::read(path)?;
    check_entries(path, &[CONTENT, ID], ID_BYTES_MAX)?;
    let content = path.join(CONTENT);
    let files: Vec<&str> = manifest.files().map(String::as_str).chain([MANIFEST]).collect();
    check_entries(&content, &files, content::FILE_BYTES_MAX)
        .map_err(|error| if let Error::StorageDamaged(why) = error { altered(path, &why) } else { error })?;
    for layer in &manifest.layers {
        let length = |name| fs::metadata(content.join(name)).map(|metadata| metadata.len());
        let bytes: io::Result<u64> = layer.files.iter().map(length).sum();
        let bytes = bytes.map_err(|e| Error::io(format_args!("reading {}", content.display()), &e))?;
        if bytes != layer.bytes {
            return Err(altered(path, "its files have other lengths than its manifest says"));
        }
    }
    let written = fs::read_to_string(path.join(ID))
        .map_err(|e| Error::io(format_args!("reading {}", path.join(ID).display()), &e))?;
    let id = content::id(path)?;
    if written.trim_ascii() != id {
        return Err(altered(
            path,
            &format!("its files have the id {id}, and its id was {}", written.trim_ascii()),
        ));
    }
    Ok(Checked { path: path.to_owned(), id, manifest })
}

/// Checks the names in a directory, and that they are plain files of at most so many bytes, or a directory for the content.
fn check_entries(directory: &Path, names: &[&str], bytes_max: u64) -> Result<()> {
    let mut missing: BTreeSet<&str> = names.iter().copied().collect();
    if missing.len() < names.len() {
        return Err(altered(directory, "its manifest names a file twice"));
    }
    let failed = |e| Error::io(format_args!("reading {}", directory.display()), &e);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Of the entry itself: a link is none of these.
        let (name, metadata) = (entry.file_name(), entry.metadata().map_err(failed)?);
        let name = name.to_string_lossy();
        if !missing.remove(&*name) {
            return Err(altered(directory, &format!("{name} is not part of it")));
        }
        match name == CONTENT {
            true if metadata.is_dir() => {}
            false if metadata.is_file() && (metadata.len() <= bytes_max || name == MANIFEST) => {}
            true => return Err(altered(directory, &format!("{name} is not a directory"))),
            false => return Err(altered(directory, &format!("{name} is not a file of it, or too long"))),
        }
    }
    match missing.first() {
        None => Ok(()),
        Some(missing) => Err(altered(directory, &format!("{missing} is missing"))),
    }
}

impl Checked {
    /// Checks that it is the backup of this id, if one is given.
    ///
    /// # Errors
    /// `StorageDamaged`.
    pub fn expect_id(&self, wanted: Option<&str>) -> Result<()> {
        match wanted {
            Some(wanted) if !wanted.eq_ignore_ascii_case(&self.id) => Err(Error::StorageDamaged(format!(
                "{} is not the backup {wanted}: its id is {}",
                self.path.display(),
                self.id
            ))),
            Some(_) | None => Ok(()),
        }
    }

    /// Opens it to be read.
    ///
    /// # Errors
    /// `Forbidden` without the right secret; `StorageDamaged`.
    pub fn open(self, secret: Option<&Secret>) -> Result<Backup> {
        let key = self.manifest.key(secret)?;
        self.open_with(key)
    }

    /// Opens it to be read, with its data key if it is encrypted.
    ///
    /// # Errors
    /// `StorageDamaged` if the data key is another.
    pub fn open_with(self, key: Option<DataKey>) -> Result<Backup> {
        let Self { path, id, manifest } = self;
        let key = key.filter(|_| manifest.encryption.is_some());
        let summary = manifest.summary(&path, key.as_ref())?;
        Ok(Backup { path, id, manifest, key, summary })
    }
}

impl Backup {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its data key, if it is encrypted.
    pub(super) fn key(&self) -> Option<&DataKey> {
        self.key.as_ref()
    }

    /// The lines of its rows, in order.
    pub fn lines(&self) -> Lines<'_> {
        let layers = self.manifest.layers.iter().map(|layer| LayerLines {
            backup: self,
            layer,
            files: layer.files.iter().collect(),
            bytes: Vec::new(),
            at: 0,
            lines: 0,
            last: None,
        });
        Lines { heads: None, layers: layers.collect() }
    }

    /// Reads every row, gives it to `take`, and checks counts and roots of all tables.
    ///
    /// # Errors
    /// `StorageDamaged`; those of `take`.
    pub fn read_all(
        &self,
        mut take: impl FnMut(&TableName, &crate::core::name::Key, Register) -> Result<()>,
    ) -> Result<Contents> {
        let key = cut::digest_key(&self.summary);
        let key = key.ok_or_else(|| altered(&self.path, "its summary has no key for the roots"))?;
        let mut contents = Contents { live: 0, tombstones: 0, latest: None };
        let mut tables: Vec<TableSummary> = Vec::new();
        let mut current: Option<(TableName, Counts, Sum)> = None;
        let mut lines = self.lines();
        let mut finish = |done: Option<(TableName, Counts, Sum)>| {
            if let Some((name, counts, sum)) = done {
                let known = self.summary.tables.iter().find(|table| table.name == name.as_str());
                let mode = known.map_or(line::Mode::Eventual, |known| known.mode);
                tables.push(cut::summary(&name, mode, counts, &sum));
            }
        };
        while let Some((_, line)) = lines.next_line()? {
            let parsed = line::parse(&line).map_err(|error| altered(&self.path, &error.to_string()))?;
            let Parsed::Row(table, row_key, register) = parsed else { continue };
            if current.as_ref().is_none_or(|(name, ..)| *name != table) {
                finish(current.replace((table.clone(), Counts::default(), Sum::default())));
            }
            let (_, counts, sum) = current.as_mut().expect("set just above");
            *sum += Sum::of(key.leaf(&table, row_key.as_str().as_bytes(), &register.marker()));
            let count = match register.payload() {
                Payload::Live { .. } => (&mut counts.live, &mut contents.live),
                Payload::Deleted => (&mut counts.tombstones, &mut contents.tombstones),
            };
            *count.0 += 1;
            *count.1 += 1;
            contents.latest = contents.latest.max(Some(register.timestamp()));
            take(&table, &row_key, register)?;
        }
        finish(current);
        self.check_tables(&tables)?;
        self.check_modes()?;
        Ok(contents)
    }

    /// Compares the modes of the tables with the node's own record of them.
    fn check_modes(&self) -> Result<()> {
        let record = |key: &[u8]| {
            let found = self.summary.records.iter().find(|(name, _)| *name == to_hex(key));
            Ok(found.and_then(|(_, value)| from_hex(value)))
        };
        let strong = mode::names(record).map_err(|error| altered(&self.path, &error.to_string()))?;
        for table in &self.summary.tables {
            let is_strong = strong.iter().any(|name| name.as_str() == table.name);
            if is_strong != (table.mode == line::Mode::Strong) {
                let why = format!("the mode of table {} is not the one of the node's records", table.name);
                return Err(altered(&self.path, &why));
            }
        }
        Ok(())
    }

    /// Compares what was read with the summary. A table without rows has no lines.
    fn check_tables(&self, found: &[TableSummary]) -> Result<()> {
        let known: Vec<_> =
            self.summary.tables.iter().filter(|table| table.live + table.tombstones > 0).collect();
        for number in 0..known.len().max(found.len()) {
            match (known.get(number), found.get(number)) {
                (Some(known), Some(found)) if **known == *found => {}
                (known, found) => {
                    let table = known.map_or_else(|| found.map_or("", |it| &it.name), |it| &it.name);
                    return Err(altered(
                        &self.path,
                        &format!("the rows of table {table} are not those that its summary counts"),
                    ));
                }
            }
        }
        Ok(())
    }
}

/// A line without its line feed, and where it belongs.
pub type PlacedLine = (Place, Vec<u8>);

/// The lines of a backup in order, without those that say that a row was removed.
pub struct Lines<'a> {
    layers: Vec<LayerLines<'a>>,
    /// The next line of each layer; `None` before the first.
    heads: Option<Vec<Option<PlacedLine>>>,
}

impl Lines<'_> {
    /// The next line, with its place and without its line feed.
    ///
    /// # Errors
    /// `StorageDamaged`, `Io`.
    pub fn next_line(&mut self) -> Result<Option<PlacedLine>> {
        let mut heads = match self.heads.take() {
            Some(heads) => heads,
            None => self.layers.iter_mut().map(LayerLines::next_line).collect::<Result<_>>()?,
        };
        let next = loop {
            // Of equal places the last layer's wins.
            let mut least: Option<usize> = None;
            for (number, head) in heads.iter().enumerate() {
                let Some((place, _)) = head else { continue };
                let known = least.and_then(|least| heads[least].as_ref());
                if known.is_none_or(|(known, _)| place <= known) {
                    least = Some(number);
                }
            }
            let Some(least) = least else { break None };
            let taken = heads[least].take();
            heads[least] = self.layers[least].next_line()?;
            let Some((place, line)) = taken else { break None };
            for (number, head) in heads.iter_mut().enumerate() {
                if head.as_ref().is_some_and(|(other, _)| *other == place) {
                    *head = self.layers[number].next_line()?;
                }
            }
            if !line.ends_with(b",\"removed\":true}") {
                break Some((place, line));
            }
        };
        self.heads = Some(heads);
        Ok(next)
    }
}

/// The lines of one layer.
struct LayerLines<'a> {
    backup: &'a Backup,
    layer: &'a Layer,
    files: VecDeque<&'a String>,
    bytes: Vec<u8>,
    at: usize,
    lines: u64,
    last: Option<Place>,
}

impl LayerLines<'_> {
    fn next_line(&mut self) -> Result<Option<PlacedLine>> {
        let Some(line) = self.next_text()? else { return self.check_end() };
        let place = line::place(&line).map_err(|error| self.altered(&error.to_string()))?;
        // Layers are merged by their order.
        if self.last.as_ref().is_some_and(|last| *last >= place) {
            return Err(self.altered("its rows are not in order"));
        }
        self.lines += 1;
        self.last = Some(place.clone());
        Ok(Some((place, line)))
    }

    fn next_text(&mut self) -> Result<Option<Vec<u8>>> {
        let mut searched = self.at;
        loop {
            if let Some(end) = self.bytes[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.bytes[self.at..searched + end].to_vec();
                self.at = searched + end + 1;
                return Ok(Some(line));
            }
            let Some(file) = self.files.pop_front() else { return Ok(None) };
            // What is left of the last line goes on in the next file.
            self.bytes.drain(..self.at);
            self.at = 0;
            searched = self.bytes.len();
            self.bytes.extend_from_slice(&read_file(self.backup, file)?);
        }
    }

    fn check_end(&self) -> Result<Option<PlacedLine>> {
        if self.at < self.bytes.len() {
            return Err(self.altered("its last line is not complete"));
        }
        match self.lines == self.layer.lines {
            true => Ok(None),
            false => Err(self.altered("a layer has another number of rows than its manifest says")),
        }
    }

    fn altered(&self, why: &str) -> Error {
        altered(&self.backup.path, why)
    }
}

fn read_file(backup: &Backup, name: &str) -> Result<Vec<u8>> {
    let path = content::file_path(&backup.path, name);
    let bytes = fs::read(&path).map_err(|e| Error::io(format_args!("reading {}", path.display()), &e))?;
    let damaged = || altered(&backup.path, &format!("{name} cannot be read"));
    let compressed = match &backup.key {
        Some(key) => key.open(name, &bytes).ok_or_else(damaged)?,
        None => bytes,
    };
    zstd::bulk::decompress(&compressed, CHUNK_BYTES).map_err(|_| damaged())
}
