//! Writes the layers of a backup: chunk files of one length, compressed, and encrypted if there is a key. A thread of its own does that, so that
//! who reads the rows does not wait for the disk.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use super::{
    content::{self, CHUNK_BYTES, Layer},
    seal::DataKey,
};
use crate::error::{Error, Result};

/// The fastest level: a backup should wait for the disk, not for the processor.
const COMPRESSION_LEVEL: i32 = 1;

/// Chunks that wait for the disk.
const CHUNKS_WAITING_MAX: usize = 2;

/// Where layers are written.
pub struct Target {
    /// The number of the last chunk file.
    files: u64,
    /// The chunks to write. `None` once it ends.
    chunks: Option<mpsc::SyncSender<(String, Vec<u8>)>>,
    /// The lengths of the files that were written, in order; an error is the last.
    written: mpsc::Receiver<Result<u64>>,
    waiting: usize,
    thread: Option<JoinHandle<()>>,
}

impl Target {
    /// Writes chunk files into the directory of a backup, numbered above `files`, encrypted if there is a data key.
    pub fn new(directory: PathBuf, key: Option<DataKey>, files: u64) -> Self {
        let (chunks, to_write) = mpsc::sync_channel::<(String, Vec<u8>)>(CHUNKS_WAITING_MAX);
        let (report, written) = mpsc::channel();
        let thread = thread::spawn(move || {
            for (name, bytes) in to_write {
                let length = write_chunk(&directory, key.as_ref(), &name, &bytes);
                let is_last = length.is_err();
                if report.send(length).is_err() || is_last {
                    return;
                }
            }
        });
        Self { files, chunks: Some(chunks), written, waiting: 0, thread: Some(thread) }
    }

    /// Has a chunk written. Returns its file's name.
    fn write(&mut self, bytes: Vec<u8>) -> Result<String> {
        self.files += 1;
        let name = content::file_name(self.files);
        let chunks = self.chunks.as_ref().expect("it ends when it is dropped");
        if chunks.send((name.clone(), bytes)).is_err() {
            return Err(self.wait().err().unwrap_or_else(stopped));
        }
        self.waiting += 1;
        Ok(name)
    }

    /// Returns when all chunks are written, durably: how many bytes their files have.
    fn wait(&mut self) -> Result<u64> {
        let mut bytes = 0;
        for _ in 0..std::mem::take(&mut self.waiting) {
            bytes += self.written.recv().map_err(|_| stopped())??;
        }
        Ok(bytes)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.chunks = None;
        if let Some(thread) = self.thread.take() {
            // It reports what fails, and does not panic.
            let _ = thread.join();
        }
    }
}

fn stopped() -> Error {
    Error::Io("the thread that writes the backup has stopped".into())
}

fn write_chunk(directory: &Path, key: Option<&DataKey>, name: &str, bytes: &[u8]) -> Result<u64> {
    let compressed = zstd::bulk::compress(bytes, COMPRESSION_LEVEL)
        .map_err(|error| Error::io("compressing a chunk of the backup", &error))?;
    let bytes = match key {
        Some(key) => key.seal(name, &compressed)?,
        None => compressed,
    };
    write_file(&content::file_path(directory, name), &bytes)?;
    Ok(bytes.len() as u64)
}

/// A layer that is being written.
#[derive(Default)]
pub struct LayerWriter {
    layer: Layer,
    bytes: Vec<u8>,
}

impl LayerWriter {
    /// Adds a line, without its line feed. They come in order.
    ///
    /// # Errors
    /// `StorageFull`, `Io`.
    pub fn push(&mut self, target: &mut Target, line: &[u8]) -> Result<()> {
        self.layer.lines += 1;
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
        while self.bytes.len() >= CHUNK_BYTES {
            let rest = self.bytes.split_off(CHUNK_BYTES);
            self.write(target)?;
            self.bytes = rest;
        }
        Ok(())
    }

    /// The layer, durable; `None` if it has no lines. No other one may be begun before.
    ///
    /// # Errors
    /// As `push`.
    pub fn finish(mut self, target: &mut Target) -> Result<Option<Layer>> {
        if !self.bytes.is_empty() {
            self.write(target)?;
        }
        self.layer.bytes = target.wait()?;
        Ok((self.layer.lines > 0).then_some(self.layer))
    }

    fn write(&mut self, target: &mut Target) -> Result<()> {
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8));
        self.layer.files.push(target.write(bytes)?);
        Ok(())
    }
}

/// Writes a new file, durably.
///
/// # Errors
/// `StorageFull`, `Io`.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_data()
    });
    written.map_err(|e| Error::io(format_args!("writing {}", path.display()), &e))
}

/// Takes a chunk file over from another backup: as a link to the same file, or as a copy on another file system.
///
/// # Errors
/// `Io`.
pub fn take_file(name: &str, from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (content::file_path(from, name), content::file_path(to, name));
    if fs::hard_link(&from, &to).is_ok() {
        return Ok(());
    }
    let copied = fs::read(&from).map_err(|e| Error::io(format_args!("reading {}", from.display()), &e));
    copied.and_then(|bytes| write_file(&to, &bytes))
}
