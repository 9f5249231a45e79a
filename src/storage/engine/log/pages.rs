//! The pages of a log, reassembled from all frames with a correct checksum, wherever they are. For a log that the engine cannot open, or
//! not without losing more.
//!
//! A page is its last base frame and the deltas after it. Trees are followed from their roots, as the engine does. Where a page is lost,
//! the keys it held are a *gap*, and older frames are used for keys in a gap: an old row is better than none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::{
    Log,
    format::{self, Data, Frame, HEADER_BYTES, Kind, Link, META_PAGE, Node, Place, Position, SEGMENT_BYTES},
    snapshot::{self, PageState, Pointer, Snapshot},
    walk,
};
use crate::{
    error::{Error, Result},
    storage::{META, engine::notes},
};

/// Bytes before the content of a blob's file: a checksum and a kind.
const BLOB_HEAD_BYTES: usize = 5;

/// The place and kind of a frame.
#[derive(Clone, Copy, Debug)]
struct Entry {
    page: u64,
    position: Position,
    offset: u64,
    bytes: u32,
    kind: Kind,
    place: Place,
}

impl Entry {
    /// Whether the frame replaces everything before it.
    fn is_base(&self) -> bool {
        matches!(self.kind, Kind::Free | Kind::Counter | Kind::Meta | Kind::Node)
    }
}

/// All frames of a log with a correct checksum.
pub struct Pages {
    log: Log,
    blobs: PathBuf,
    /// By page, then by position.
    entries: Vec<Entry>,
    /// Pages that lost frames which the last snapshot knows, and have no later base frame.
    outdated: BTreeSet<u64>,
}

/// Keys from the first up to, not including, the second; an empty second key means no upper bound.
pub type Gap = (Vec<u8>, Vec<u8>);

/// A tree, as far as it can be followed.
pub struct Tree {
    /// Its name.
    pub name: Vec<u8>,
    /// Its leaves, ordered by key.
    leaves: Vec<Leaf>,
    /// All its pages that are named anywhere, lost ones included, each with its lowest key if that is known.
    pages: BTreeMap<u64, Vec<u8>>,
    /// Keys whose page is lost.
    pub gaps: Vec<Gap>,
    /// Number of pages that are older than their last version.
    pub outdated: usize,
}

struct Leaf {
    page: u64,
    low: Vec<u8>,
    high: Vec<u8>,
    position: Position,
}

/// A page with its deltas applied.
struct Page {
    position: Position,
    low: Vec<u8>,
    high: Vec<u8>,
    next: u64,
    content: Content,
}

enum Content {
    Items(BTreeMap<Vec<u8>, Vec<u8>>),
    Pages(Vec<(Vec<u8>, u64)>),
}

impl Pages {
    /// Reads the log in `data`; calls `progress` with the bytes read so far after each segment.
    ///
    /// # Errors
    /// `StorageDamaged` if there is no log, else `Io`.
    pub fn read(data: &Path, mut progress: impl FnMut(u64)) -> Result<Self> {
        let Some(log) = Log::open(data)? else {
            return Err(Error::StorageDamaged(format!(
                "{} has no log: there is nothing to read",
                data.display()
            )));
        };
        let mut entries = Vec::new();
        let mut buffer = Vec::new();
        for slot in 0..log.segments() {
            log.read_segment(slot, &mut buffer);
            entries_of(&buffer, slot * SEGMENT_BYTES, &mut entries);
            progress((slot * SEGMENT_BYTES) + buffer.len() as u64);
        }
        entries.sort_unstable_by_key(|entry: &Entry| (entry.page, entry.position));
        entries.dedup_by_key(|entry| (entry.page, entry.position));
        let mut pages = Self { log, blobs: data.join("blobs"), entries, outdated: BTreeSet::new() };
        let snapshot = match snapshot::find(data)? {
            Some(path) => fs::read(path).ok().and_then(|file| Snapshot::parse(&file)).unwrap_or_default(),
            None => Snapshot::default(),
        };
        pages.outdated = pages.outdated_since(&snapshot);
        Ok(pages)
    }

    /// All trees that are named, each as far as it can be followed. Empty if no frame with the names is left.
    pub fn trees(&self) -> Vec<Tree> {
        // The newest readable one.
        let named = self.frames_of(META_PAGE).iter().rev().filter(|entry| entry.kind == Kind::Meta);
        let names = named.filter_map(|entry| {
            let body = self.body(entry)?;
            let trees = format::meta(&body)?;
            Some(trees.into_iter().map(|(name, root)| (name.to_vec(), root)).collect::<Vec<_>>())
        });
        let names = names.take(1).flatten();
        names.map(|(name, root)| self.tree(name, root)).collect()
    }

    /// A note of the node, if it can be read.
    pub fn note(&self, name: &str) -> Option<Vec<u8>> {
        let trees = self.trees();
        let meta = trees.iter().find(|tree| tree.name == META.as_bytes())?;
        let mut items = BTreeMap::new();
        let keep = |key: &[u8], value: &[u8]| {
            items.insert(key.to_vec(), value.to_vec());
            Ok(())
        };
        self.items(meta, keep).ok()?;
        notes::read(|key| Ok(items.get(key).cloned()), name).ok()?
    }

    /// Passes the items of a tree to `take`, unordered.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn items(&self, tree: &Tree, mut take: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        for leaf in &tree.leaves {
            let Some(Page { content: Content::Items(items), .. }) = self.page(leaf.page) else { continue };
            items.iter().try_for_each(|(key, value)| take(key, value))?;
        }
        Ok(())
    }

    /// Passes what older frames of the tree's pages hold of the keys in its gaps, unordered and with repeats. `is_item` tells whether a key
    /// fits a value: deltas whose base is lost do not give the prefix of their keys.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn items_in_gaps(
        &self,
        tree: &Tree,
        is_item: impl Fn(&[u8], &[u8]) -> bool,
        mut take: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        if tree.gaps.is_empty() {
            return Ok(());
        }
        let mut take_in_gap = |key: &[u8], value: &[u8]| match tree.gaps.iter().any(|gap| is_in(gap, key)) {
            true => take(key, value),
            false => Ok(()),
        };
        for (page, low) in &tree.pages {
            let mut prefix: Option<Vec<u8>> = None;
            for entry in self.since_freed(*page) {
                let Some(body) = self.body(entry) else { continue };
                match entry.kind {
                    Kind::Node => {
                        let Some(node) = Node::parse(&body) else { continue };
                        prefix = Some(node.prefix().to_vec());
                        let Data::Leaf(items) = &node.data else { continue };
                        for (key, value) in items {
                            take_in_gap(&[node.prefix(), key].concat(), value)?;
                        }
                    }
                    Kind::Link => {
                        let Some(Link::Set(key, value)) = Link::parse(&body) else { continue };
                        let known = prefix.iter().map(Vec::as_slice);
                        let guessed = (0..=low.len()).rev().map(|length| &low[..length]);
                        let mut keys = known.chain(guessed).map(|prefix| [prefix, key].concat());
                        if let Some(key) = keys.find(|key| is_item(key, value)) {
                            take_in_gap(&key, value)?;
                        }
                    }
                    Kind::Void | Kind::Cap | Kind::Free | Kind::Counter | Kind::Meta => {}
                }
            }
        }
        Ok(())
    }

    /// Keys and values of leaves that no tree leads to, unordered. Some were abandoned long ago.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn orphans(&self, trees: &[Tree], mut take: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        let mut known: BTreeSet<u64> = trees.iter().flat_map(|tree| tree.pages.keys().copied()).collect();
        for entry in &self.entries {
            if !known.insert(entry.page) {
                continue;
            }
            let Some(Page { content: Content::Items(items), .. }) = self.page(entry.page) else { continue };
            items.iter().try_for_each(|(key, value)| take(key, value))?;
        }
        Ok(())
    }

    fn tree(&self, name: Vec<u8>, root: u64) -> Tree {
        let mut pages = BTreeMap::from([(root, Vec::new())]);
        let mut leaves = Vec::new();
        let mut work = vec![root];
        while let Some(number) = work.pop() {
            let Some(page) = self.page(number) else { continue };
            let children = match &page.content {
                Content::Pages(children) => children.as_slice(),
                Content::Items(_) => &[],
            };
            let next = (page.next != 0).then(|| (page.high.clone(), page.next));
            for (low, child) in children.iter().cloned().chain(next) {
                if let std::collections::btree_map::Entry::Vacant(vacant) = pages.entry(child) {
                    vacant.insert(low);
                    work.push(child);
                }
            }
            if let Content::Items(_) = page.content {
                let Page { position, low, high, .. } = page;
                leaves.push(Leaf { page: number, low, high, position });
            }
        }
        let (leaves, gaps) = in_order(leaves);
        let outdated = pages.keys().filter(|page| self.outdated.contains(page)).count();
        Tree { name, leaves, pages, gaps, outdated }
    }

    /// A page in its last version. `None` if it is free, or if no base frame is left.
    fn page(&self, number: u64) -> Option<Page> {
        let frames = self.frames_of(number);
        let bodies = frames.iter().enumerate().rev().filter(|(_, entry)| entry.is_base());
        let (at, body) = bodies
            // A free page is free, whatever it was before.
            .map(|(at, entry)| {
                (at, if entry.kind == Kind::Node { self.body(entry) } else { Some(Vec::new()) })
            })
            .find_map(|(at, body)| Some((at, body?)))?;
        let node = Node::parse(&body)?;
        let prefix = node.prefix();
        let content = match &node.data {
            Data::Leaf(items) => {
                let base = |(key, value): &(&[u8], &[u8])| ([prefix, key].concat(), value.to_vec());
                let mut items: BTreeMap<_, _> = items.iter().map(base).collect();
                for entry in frames[at..].iter().filter(|entry| entry.kind == Kind::Link) {
                    let Some(body) = self.body(entry) else { continue };
                    match Link::parse(&body) {
                        Some(Link::Set(key, value)) => {
                            items.insert([prefix, key].concat(), value.to_vec());
                        }
                        Some(Link::Del(key)) => {
                            items.remove(&[prefix, key].concat());
                        }
                        Some(Link::Merge) | None => {}
                    }
                }
                Content::Items(items)
            }
            // Deltas of an index page only say that one child absorbed another, which the leaves say too.
            Data::Index(children) => {
                Content::Pages(children.iter().map(|(key, page)| ([prefix, key].concat(), *page)).collect())
            }
        };
        let (low, high) = (node.low.to_vec(), node.high.to_vec());
        Some(Page { position: frames[at].position, low, high, next: node.next, content })
    }

    fn frames_of(&self, page: u64) -> &[Entry] {
        let from = self.entries.partition_point(|entry| entry.page < page);
        let to = from + self.entries[from..].partition_point(|entry| entry.page == page);
        &self.entries[from..to]
    }

    /// Frames of a page since it was last free: before that it may have belonged to another tree.
    fn since_freed(&self, page: u64) -> &[Entry] {
        let frames = self.frames_of(page);
        let from = frames.iter().rposition(|entry| entry.kind == Kind::Free).map_or(0, |freed| freed + 1);
        &frames[from..]
    }

    fn body(&self, entry: &Entry) -> Option<Vec<u8>> {
        let mut bytes = vec![0; entry.bytes as usize];
        self.log.read(entry.offset, &mut bytes).ok()?;
        let frame = format::frame(&bytes, 0)?;
        match entry.place {
            Place::Inline => Some(frame.body.to_vec()),
            Place::Blob => {
                let name = i64::from_le_bytes(*frame.body.first_chunk()?);
                let mut blob = fs::read(self.blobs.join(name.to_string())).ok()?;
                let check = u32::from_le_bytes(*blob.first_chunk()?);
                let is_sound = blob.len() >= BLOB_HEAD_BYTES && crc32fast::hash(&blob[4..]) == check;
                is_sound.then(|| blob.split_off(BLOB_HEAD_BYTES))
            }
        }
    }

    fn outdated_since(&self, snapshot: &Snapshot) -> BTreeSet<u64> {
        let is_outdated = |(page, state): &(usize, &PageState)| {
            let PageState::Present(pointers) = state else { return false };
            let frames = self.frames_of(*page as u64);
            let Some(base) = frames.iter().rfind(|entry| entry.is_base()) else { return true };
            let is_gone = |pointer: &Pointer| {
                pointer.position > base.position
                    && frames.binary_search_by_key(&pointer.position, |entry| entry.position).is_err()
            };
            pointers.iter().any(is_gone)
        };
        let pages = snapshot.pages.iter().enumerate();
        pages.filter(is_outdated).map(|(page, _)| page as u64).collect()
    }
}

/// The frames of a segment, also behind damaged bytes.
fn entries_of(segment: &[u8], offset: u64, entries: &mut Vec<Entry>) {
    let mut take = |at: usize, frame: &Frame<'_>| {
        let position = format::position_of(frame.segment);
        let bytes = u32::try_from(frame.end - at);
        let is_page = !matches!(frame.kind, Kind::Void | Kind::Cap);
        if let (Some(position), Ok(bytes), true) = (position, bytes, is_page) {
            let Frame { page, kind, place, .. } = *frame;
            let (position, offset) = (position + at as i64, offset + at as u64);
            entries.push(Entry { page, position, offset, bytes, kind, place });
        }
    };
    let number = format::Header::parse(segment).map(|header| header.number());
    let mut at = match number {
        Some(number) => match walk::end_of_frames(segment, number, &mut take) {
            Some(at) => at,
            None => return,
        },
        None => HEADER_BYTES,
    };
    // Also behind damage, and what a later segment has not overwritten yet. A number far too large for the log is none.
    let is_possible = |number: u64| format::position_of(number).is_some();
    while let Some((found, frame)) = format::find(segment, at, is_possible) {
        take(found, &frame);
        at = frame.end;
    }
}

/// Leaves ordered by key, without those that another absorbed, and the key ranges that no leaf covers.
fn in_order(mut leaves: Vec<Leaf>) -> (Vec<Leaf>, Vec<Gap>) {
    leaves.sort_by(|a, b| a.low.cmp(&b.low).then(b.position.cmp(&a.position)));
    let (mut kept, mut gaps): (Vec<Leaf>, Vec<Gap>) = (Vec::new(), Vec::new());
    // The key up to which there are leaves, and how new the leaf is that reaches it.
    let mut reached: Option<(Vec<u8>, Position)> = Some((Vec::new(), Position::MAX));
    for leaf in leaves {
        match &reached {
            // The leaf before has no upper bound.
            None if kept.last().is_some_and(|last| last.position > leaf.position) => continue,
            None => {}
            Some((high, position)) => {
                if leaf.low > *high {
                    gaps.push((high.clone(), leaf.low.clone()));
                } else if !leaf.high.is_empty() && leaf.high <= *high && leaf.position < *position {
                    continue;
                }
            }
        }
        reached = match reached {
            None => None,
            Some(_) if leaf.high.is_empty() => None,
            Some((high, position)) if high >= leaf.high => Some((high, position)),
            Some(_) => Some((leaf.high.clone(), leaf.position)),
        };
        kept.push(leaf);
    }
    if let Some((high, _)) = reached {
        gaps.push((high, Vec::new()));
    }
    (kept, gaps)
}

/// Whether a key is in a gap.
pub fn is_in((low, high): &Gap, key: &[u8]) -> bool {
    low.as_slice() <= key && (high.is_empty() || key < high.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(low: &str, high: &str, position: Position) -> Leaf {
        Leaf { page: 0, low: low.into(), high: high.into(), position }
    }

    #[test]
    fn keys_that_no_leaf_has_are_gaps() {
        let gaps = |leaves: Vec<Leaf>| {
            let (_, gaps) = in_order(leaves);
            let text = |key: Vec<u8>| String::from_utf8(key).expect("text");
            gaps.into_iter().map(|(low, high)| (text(low), text(high))).collect::<Vec<_>>()
        };
        let gap = |low: &str, high: &str| (low.to_owned(), high.to_owned());
        assert_eq!(gaps(vec![leaf("", "", 1)]), []);
        assert_eq!(gaps(vec![leaf("m", "", 2), leaf("", "m", 1)]), []);
        assert_eq!(gaps(vec![leaf("c", "f", 1), leaf("h", "", 1)]), [gap("", "c"), gap("f", "h")]);
        assert_eq!(gaps(vec![leaf("", "c", 1)]), [gap("c", "")]);
        assert_eq!(gaps(Vec::new()), [gap("", "")]);
    }

    /// A leaf that absorbed its right neighbour has that one's keys, and knows what was deleted of them since.
    #[test]
    fn a_leaf_absorbed_by_another_is_left_out() {
        let (kept, gaps) = in_order(vec![leaf("", "m", 9), leaf("c", "m", 5), leaf("m", "", 3)]);
        assert_eq!(kept.iter().map(|leaf| leaf.position).collect::<Vec<_>>(), [9, 3]);
        assert_eq!(gaps, []);
        let (kept, _) = in_order(vec![leaf("", "", 9), leaf("c", "m", 5)]);
        assert_eq!(kept.len(), 1);
    }
}
