//! What a killed process leaves, and what lies on disk.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use dynarust::storage::{
    engine::Engine,
    table::record::{self, Body},
};

use super::model::{Heads, is_over};

const CACHE_BYTES: u64 = 8 * 1024 * 1024;

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Copies what a kill at this instant would leave of an open store. The engine writes beside this, and a copy is no instant:
/// so everything is read again until nothing has changed, and is then what it was between two readings.
pub fn copy(data: &Path, target: &Path) {
    let mut files = read(data);
    loop {
        let again = read(data);
        if again == files {
            break;
        }
        files = again;
    }
    for (path, bytes) in files {
        let path = target.join(path);
        fs::create_dir_all(path.parent().expect("a file lies in a directory")).expect("makes a directory");
        fs::write(path, bytes).expect("writes a file");
    }
}

/// What lies in a store that nobody has open.
#[derive(Debug)]
pub struct Dump {
    /// The record of each key, by table, but for values that are over.
    pub tables: BTreeMap<String, Heads>,
    /// Bytes of long values that the records name.
    pub chunked_bytes: u64,
    /// Bytes of long values that are there.
    pub chunk_bytes: u64,
}

/// Reads all records of a store, and whether long values have just the chunks they need.
pub fn dump(data: &Path, now_ms: u64) -> Dump {
    let engine = Engine::open(data, CACHE_BYTES).expect("the engine opens");
    let mut dump = Dump { tables: BTreeMap::new(), chunked_bytes: 0, chunk_bytes: 0 };
    for name in engine.tree_names("rows/") {
        let mut heads = Heads::new();
        for item in engine.tree(&format!("rows/{name}")).expect("a tree").range(&[], None) {
            let (row, bytes) = item.expect("reads");
            let record = record::decode(&row, &bytes).expect("a sound record");
            if let Body::Chunked(length) = record.body {
                dump.chunked_bytes += u64::from(length);
            }
            if !is_over(&record.head, now_ms) {
                let key = String::from_utf8(row[1..].to_vec()).expect("a key is text");
                let head = record.head;
                heads.insert(key, (head.marker, head.live, head.expires_at_ms));
            }
        }
        for item in engine.tree(&format!("chunks/{name}")).expect("a tree").range(&[], None) {
            dump.chunk_bytes += item.expect("reads").1.len() as u64;
        }
        dump.tables.insert(name, heads);
    }
    dump
}

/// sled's files for long items, which it never syncs: there must be none.
pub fn blobs(data: &Path) -> usize {
    fs::read_dir(data.join("blobs")).map_or(0, Iterator::count)
}

fn read(data: &Path) -> Files {
    let mut files = Files::new();
    let mut directories = vec![data.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("lists a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            // The engine removes a snapshot when it has written the next.
            if let Ok(bytes) = fs::read(&path) {
                files.insert(path.strip_prefix(data).expect("lies below").to_owned(), bytes);
            }
        }
    }
    files
}
