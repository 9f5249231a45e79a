//! The engine's snapshot: how long the log was at the last start, and where the frames of each page were.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::format::{self, Position};
use crate::error::{Error, Result};

/// Prefix of snapshot file names.
const PREFIX: &str = "snap.";
/// Suffix of the file name of a snapshot that was not completed.
const UNFINISHED: &str = ".generating";

/// A snapshot.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Everything below this position is in the snapshot.
    pub position: Position,
    /// The pages, by number.
    pub pages: Vec<PageState>,
}

/// What a snapshot says about a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageState {
    /// The page is free.
    Free,
    /// Where its frames were: the base first, then the deltas.
    Present(Vec<Pointer>),
}

/// Where a frame was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// In the log.
    pub position: Position,
    /// In the file.
    pub offset: u64,
}

/// The snapshot that the engine will read: the last by name. `None` if there is none.
///
/// # Errors
/// `Io` if the directory cannot be read.
pub fn find(data: &Path) -> Result<Option<PathBuf>> {
    let names = names(data)?;
    let names = names.into_iter().filter(|name| !name.ends_with(UNFINISHED));
    Ok(names.max().map(|name| data.join(name)))
}

/// Removes the snapshot of a start that was interrupted while writing it. The engine would take it for the newest one and fail to open.
///
/// # Errors
/// `Io`.
pub fn remove_unfinished(data: &Path) -> Result<()> {
    for name in names(data)?.into_iter().filter(|name| name.ends_with(UNFINISHED)) {
        let path = data.join(name);
        fs::remove_file(&path).map_err(|e| Error::io(format_args!("removing {}", path.display()), &e))?;
    }
    Ok(())
}

fn names(data: &Path) -> Result<Vec<String>> {
    let failed = |e: io::Error| Error::io(format_args!("reading {}", data.display()), &e);
    let mut names = Vec::new();
    match fs::read_dir(data) {
        Ok(entries) => {
            for entry in entries {
                let name = entry.map_err(failed)?.file_name();
                names.extend(name.into_string().ok().filter(|name| name.starts_with(PREFIX)));
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    Ok(names)
}

impl Snapshot {
    /// Parses a snapshot's file; `None` if it is damaged.
    pub fn parse(file: &[u8]) -> Option<Self> {
        let (rest, check) = file.split_last_chunk::<4>()?;
        let (mut body, _length) = rest.split_last_chunk::<8>()?;
        if body.is_empty() || crc32fast::hash(body) != u32::from_le_bytes(*check) {
            return None;
        }
        let bytes = &mut body;
        // Zero means none; all other positions are stored plus one.
        let position = format::fixed(bytes)?.checked_sub(1)?.max(0);
        let _active_segment = format::varint(bytes)?;
        let mut pages = Vec::new();
        while !bytes.is_empty() {
            pages.push(page_state(bytes)?);
        }
        Some(Self { position, pages })
    }
}

fn page_state(bytes: &mut &[u8]) -> Option<PageState> {
    let frames = *bytes.split_off_first()?;
    if frames == 0 {
        let _position = format::fixed(bytes)?;
        offset(bytes)?;
        return Some(PageState::Free);
    }
    let pointers = (0..frames).map(|_| {
        let position = format::fixed(bytes)?;
        let offset = offset(bytes)?;
        let _length = format::varint(bytes)?;
        Some(Pointer { position, offset })
    });
    pointers.collect::<Option<_>>().map(PageState::Present)
}

fn offset(bytes: &mut &[u8]) -> Option<u64> {
    let is_blob = *bytes.split_off_first()?;
    let offset = format::varint(bytes)?;
    match is_blob {
        0 => Some(offset),
        1 => format::fixed(bytes).map(|_blob| offset),
        _ => None,
    }
}
