//! Writes a backup from the lines of a node. It has another name until it is complete and durable, so a crash leaves nothing that looks like a
//! backup.
//!
//! A full backup writes the rows that come in order as its first layer. One with a base compares them with the base's on the way, and keeps
//! what differs. The rows that changed meanwhile come in no order: they are sorted in memory, up to a limit, and are a layer then.

use std::{
    collections::BTreeMap,
    mem,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

pub use super::{
    base::{Base, Options},
    complete::{Complete, PARTIAL, partial_path, remove_partial},
};
use super::{
    content::{self, CONTENT, FORMAT, ID, LAYERS_MAX, Layer, MANIFEST, Manifest},
    layer::{self, LayerWriter, Target},
    line::{self, CHANGES, End, First, Last, Place},
    read::{Backup, Lines, PlacedLine},
    seal::{DataKey, Envelope},
};
use crate::{
    error::{Error, Result},
    storage::{
        engine,
        table::PAYLOAD_BYTES_MAX,
        unfinished::{Unfinished, make_directory},
    },
};

/// Bytes of lines that are sorted in memory: more are a layer of their own.
const SORTED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a line takes in memory beside its bytes and its name.
const LINE_OVERHEAD_BYTES: usize = 128;
/// Longest line: the largest payload that a store has, and as much again for the rest.
const LINE_BYTES_MAX: usize = 2 * PAYLOAD_BYTES_MAX;

/// What a written backup is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its id.
    pub id: String,
    /// The rows of all tables with a value.
    pub live: u64,
    /// The tombstones.
    pub tombstones: u64,
    /// Bytes of the lines that the node sent, without the last.
    pub bytes_read: u64,
    /// Bytes of the files that were written.
    pub bytes_written: u64,
    /// Bytes of the files that its base has too.
    pub bytes_shared: u64,
    /// When the rows were so, in Unix milliseconds.
    pub made_ms: u64,
}

/// A backup that is being written.
pub struct Writer<'a> {
    path: PathBuf,
    // It ends before its directory is removed.
    target: Target,
    key: Option<DataKey>,
    unfinished: Unfinished,
    base: Option<&'a Backup>,
    /// Its rows that were not compared yet.
    base_lines: Option<(Lines<'a>, Option<PlacedLine>)>,
    encryption: Option<Envelope>,
    layers: Vec<Layer>,
    first_layer: LayerWriter,
    sorted: BTreeMap<Place, Vec<u8>>,
    sorted_bytes: usize,
    first: Option<First>,
    phase: Phase,
    last_place: Option<Place>,
    lines: u64,
    hasher: blake3::Hasher,
    /// The begin of a line whose end is to come.
    begun: Vec<u8>,
}

enum Phase {
    InOrder,
    Changes,
    Ended(Box<Last>),
}

impl<'a> Writer<'a> {
    /// Begins a backup in a directory that does not exist yet.
    ///
    /// # Errors
    /// `StorageUnusable` if the directory exists; `Conflict` if somebody is writing it; `Io`.
    pub fn create(path: &Path, options: &Options, base: &'a Base) -> Result<Self> {
        if path.symlink_metadata().is_ok() {
            return Err(Error::StorageUnusable(format!(
                "{} exists already: name a directory that does not, and a backup is never overwritten",
                path.display()
            )));
        }
        let base = base.0.as_ref();
        let unfinished = Unfinished::create(partial_path(path))?;
        let directory = unfinished.path().to_owned();
        make_directory(&directory.join(CONTENT))?;
        let key = match base.and_then(Backup::key) {
            Some(key) => Some(key.clone()),
            None => options.is_encrypted().then(DataKey::random).transpose()?,
        };
        let encryption = key.as_ref().map_or(Ok(None), |key| options.envelope(key))?;
        let mut layers = Vec::new();
        let mut files = 0;
        if let Some(base) = base {
            for name in base.manifest.files() {
                layer::take_file(name, base.path(), &directory)?;
                let number = name.split('.').next().and_then(|number| number.parse().ok());
                files = files.max(number.unwrap_or(0));
            }
            layers.clone_from(&base.manifest.layers);
        }
        let base_lines = match base {
            Some(base) => {
                let mut lines = base.lines();
                let next = lines.next_line()?;
                Some((lines, next))
            }
            None => None,
        };
        Ok(Self {
            path: path.to_owned(),
            target: Target::new(directory, key.clone(), files),
            key,
            unfinished,
            base,
            base_lines,
            encryption,
            layers,
            first_layer: LayerWriter::default(),
            sorted: BTreeMap::new(),
            sorted_bytes: 0,
            first: None,
            phase: Phase::InOrder,
            last_place: None,
            lines: 0,
            hasher: blake3::Hasher::new(),
            begun: Vec::new(),
        })
    }

    /// Takes the next bytes of the lines, which may end anywhere.
    ///
    /// # Errors
    /// `Corrupt` if they are not what comes next; `StorageFull`, `Io`.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        // Whole lines that the checksum does not cover yet: it is several times as fast on many at once.
        let mut unhashed = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let next = &rest[end + 1..];
            if !self.begun.is_empty() {
                self.begun.extend_from_slice(&rest[..end]);
                let line = mem::take(&mut self.begun);
                if self.line(&line)? {
                    self.hasher.update(&line).update(b"\n");
                }
                unhashed = next;
            } else {
                if is_last(&rest[..end]) {
                    self.hasher.update(&unhashed[..unhashed.len() - rest.len()]);
                    unhashed = next;
                }
                self.line(&rest[..end])?;
            }
            rest = next;
        }
        self.hasher.update(&unhashed[..unhashed.len() - rest.len()]);
        self.begun.extend_from_slice(rest);
        match self.begun.len() <= LINE_BYTES_MAX {
            true => Ok(()),
            false => Err(Error::Corrupt("a line of the backup is longer than any value".into())),
        }
    }

    /// Takes a line. Returns whether the checksum covers it.
    fn line(&mut self, line: &[u8]) -> Result<bool> {
        if self.first.is_none() {
            self.first = Some(parse_first(line)?);
        } else if let Phase::Ended(_) = self.phase {
            return Err(Error::Corrupt("a line follows the last line of the backup".into()));
        } else if is_last(line) {
            return self.last(line).map(|()| false);
        } else if line == CHANGES.trim_ascii_end() {
            self.compare_rest()?;
            self.phase = Phase::Changes;
        } else {
            self.row(line)?;
        }
        self.lines += 1;
        Ok(true)
    }

    fn row(&mut self, line: &[u8]) -> Result<()> {
        let place = line::place(line)?;
        match self.phase {
            Phase::Changes => self.keep(place, line.to_vec()),
            Phase::InOrder | Phase::Ended(_) => {
                if self.last_place.as_ref().is_some_and(|last| *last >= place) {
                    return Err(Error::Corrupt("the rows of the backup are not in order".into()));
                }
                match self.base_lines.is_some() {
                    true => self.compare(&place, line)?,
                    false => self.first_layer.push(&mut self.target, line)?,
                }
                self.last_place = Some(place);
                Ok(())
            }
        }
    }

    /// Keeps a row if the base has another one or none; rows of the base that come before it are gone.
    fn compare(&mut self, place: &Place, line: &[u8]) -> Result<()> {
        self.pass_base(|known| known < place)?;
        let Some((lines, next)) = &mut self.base_lines else { return Ok(()) };
        match next {
            Some((known, known_line)) if known == place => {
                let is_same = known_line == line;
                *next = lines.next_line()?;
                if is_same { Ok(()) } else { self.keep(place.clone(), line.to_vec()) }
            }
            Some(_) | None => self.keep(place.clone(), line.to_vec()),
        }
    }

    fn compare_rest(&mut self) -> Result<()> {
        self.pass_base(|_| true)
    }

    /// Passes rows of the base that are not there any more.
    fn pass_base(&mut self, is_gone: impl Fn(&Place) -> bool) -> Result<()> {
        while let Some((lines, next)) = &mut self.base_lines {
            let Some((place, _)) = next.take_if(|(place, _)| is_gone(place)) else { return Ok(()) };
            *next = lines.next_line()?;
            let mut removed = Vec::new();
            let key = String::from_utf8_lossy(&place.row[1..]).into_owned();
            line::append_removed(&mut removed, &place.table, &key);
            removed.pop();
            self.keep(place, removed)?;
        }
        Ok(())
    }

    /// Keeps a row for a layer of its own. The last one of a place counts.
    fn keep(&mut self, place: Place, line: Vec<u8>) -> Result<()> {
        self.sorted_bytes += place.row.len() + line.len() + LINE_OVERHEAD_BYTES;
        self.sorted.insert(place, line);
        if self.sorted_bytes > SORTED_BYTES_MAX {
            self.write_sorted()?;
        }
        Ok(())
    }

    /// Writes the rows that were kept as a layer.
    fn write_sorted(&mut self) -> Result<()> {
        // The first layer comes first.
        self.write_first()?;
        self.sorted_bytes = 0;
        let mut layer = LayerWriter::default();
        for line in mem::take(&mut self.sorted).into_values() {
            layer.push(&mut self.target, &line)?;
        }
        self.layers.extend(layer.finish(&mut self.target)?);
        if self.layers.len() > LAYERS_MAX {
            return Err(Error::TooMany(
                "too many rows differ from the base, or changed during the backup: make a full backup, without --base, at a quieter time"
                    .into(),
            ));
        }
        Ok(())
    }

    fn write_first(&mut self) -> Result<()> {
        let layer = mem::take(&mut self.first_layer).finish(&mut self.target)?;
        self.layers.extend(layer);
        Ok(())
    }

    fn last(&mut self, line: &[u8]) -> Result<()> {
        let end: End = serde_json::from_slice(line)
            .map_err(|error| Error::Corrupt(format!("the last line of the backup: {error}")))?;
        let blake3 = self.hasher.finalize().to_hex();
        if end.lines != self.lines || end.blake3 != blake3.as_str() {
            return Err(Error::Corrupt(
                "the backup was changed on its way: its checksum does not match".into(),
            ));
        }
        self.compare_rest()?;
        self.phase = Phase::Ended(Box::new(end.last));
        Ok(())
    }

    /// How many rows came.
    pub fn rows(&self) -> u64 {
        self.lines.saturating_sub(1)
    }

    /// Completes the backup under its name: durable on return.
    ///
    /// # Errors
    /// `Corrupt` if lines are missing; `StorageFull`, `Io`.
    pub fn finish(self) -> Result<Written> {
        self.complete()?.publish()
    }

    /// Completes the backup, durably, under its temporary name: whoever wants to read it first can.
    ///
    /// # Errors
    /// As `finish`.
    pub fn complete(mut self) -> Result<Complete> {
        let (Some(first), Phase::Ended(last)) =
            (self.first.take(), mem::replace(&mut self.phase, Phase::InOrder))
        else {
            return Err(Error::Corrupt("the backup is incomplete: its last line is missing".into()));
        };
        self.write_sorted()?;
        let made_ms = last.made_ms;
        let made = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(made_ms)).to_string();
        let (live, tombstones) = last
            .tables
            .iter()
            .fold((0, 0), |(live, tombstones), table| (live + table.live, tombstones + table.tombstones));
        let mut manifest = Manifest {
            backup: FORMAT,
            program: format!("DynaRust {}", first.version),
            node: first.node,
            cluster: first.cluster,
            made,
            base: self.base.map(|base| base.id.clone()),
            layers: mem::take(&mut self.layers),
            encryption: self.encryption.take(),
            summary: None,
            sealed: None,
        };
        let bytes: u64 = manifest.layers.iter().map(|layer| layer.bytes).sum();
        let bytes_shared =
            self.base.map_or(0, |base| base.manifest.layers.iter().map(|layer| layer.bytes).sum());
        manifest.set_summary(*last, self.key.as_ref())?;
        let directory = self.unfinished.path();
        let text = serde_json::to_vec_pretty(&manifest).expect("a manifest always encodes");
        layer::write_file(&directory.join(CONTENT).join(MANIFEST), &text)?;
        let id = content::id(directory)?;
        layer::write_file(&directory.join(ID), format!("{id}\n").as_bytes())?;
        engine::sync_directory(&directory.join(CONTENT))?;
        engine::sync_directory(directory)?;
        let bytes_written = bytes - bytes_shared + text.len() as u64;
        let bytes_read = self.hasher.count();
        let written = Written { id, live, tombstones, bytes_read, bytes_written, bytes_shared, made_ms };
        Ok(Complete { path: self.path, unfinished: self.unfinished, key: self.key, written })
    }
}

/// Whether a line is the last one, which has the checksum of those before.
fn is_last(line: &[u8]) -> bool {
    line.starts_with(b"{\"end\"")
}

fn parse_first(line: &[u8]) -> Result<First> {
    match serde_json::from_slice::<First>(line) {
        Ok(first) if first.backup == line::FORMAT => Ok(first),
        Ok(first) => Err(Error::StorageUnusable(format!(
            "the node sends backups of format {}, and this version knows only {}: use the node's version",
            first.backup,
            line::FORMAT
        ))),
        Err(error) => Err(Error::Corrupt(format!("the first line of the backup: {error}"))),
    }
}
