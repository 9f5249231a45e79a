//! The byte format of the engine's log: segment headers, frames, and what frames contain. No length is trusted.

/// Length of a segment; `engine` opens sled with it.
pub const SEGMENT_BYTES: u64 = 2 * 1024 * 1024;
/// Length of a segment's header.
pub const HEADER_BYTES: usize = 20;
/// No frame starts in this many bytes at the end of a segment.
const FRAME_HEAD_BYTES_MAX: usize = 32;
/// The page with the names of the trees.
pub const META_PAGE: u64 = 0;

/// A position in the log: segment number times segment length, plus the offset.
pub type Position = i64;

/// The position of a segment by its number. `None` if it is too large for any log.
pub fn position_of(number: u64) -> Option<Position> {
    number.checked_mul(SEGMENT_BYTES).and_then(|position| Position::try_from(position).ok())
}

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Position of the segment in the log.
    pub position: Position,
    /// How much of the log was on disk when the segment was started.
    pub stable: Position,
}

impl Header {
    /// Parses a header; `None` if its checksum is wrong.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEADER_BYTES>()?;
        let (check, rest) = bytes.split_first_chunk::<4>()?;
        let (position, rest_of_it) = rest.split_first_chunk::<8>()?;
        let stable = rest_of_it.first_chunk::<8>()?;
        let number = |bytes: &[u8; 8]| i64::from_le_bytes(*bytes) ^ i64::MAX;
        let header = Self { position: number(position), stable: number(stable) };
        let is_sound = crc32fast::hash(rest) == !u32::from_le_bytes(*check);
        (is_sound && header.position >= 0 && header.position % SEGMENT_BYTES as i64 == 0).then_some(header)
    }

    /// The segment's number.
    pub fn number(&self) -> u64 {
        self.position.unsigned_abs() / SEGMENT_BYTES
    }
}

/// Kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: a cancelled write, or the numbers that mark the end of a batch.
    Void,
    /// Nothing follows in the segment.
    Cap,
    /// The page is free.
    Free,
    /// A counter of the engine.
    Counter,
    /// The names and root pages of all trees.
    Meta,
    /// A base page: the whole page.
    Node,
    /// A delta: a change of a page.
    Link,
}

/// Where a frame's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the frame.
    Inline,
    /// In a separate file, which the frame names.
    Blob,
}

/// A frame with a correct checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Where its content is.
    pub place: Place,
    /// Number of the segment it was written to.
    pub segment: u64,
    /// The page it belongs to.
    pub page: u64,
    /// Where it ends in the segment.
    pub end: usize,
    /// Its content.
    pub body: &'a [u8],
}

/// The frame at an offset of a segment; `None` if there is none with a correct checksum.
pub fn frame(segment: &[u8], at: usize) -> Option<Frame<'_>> {
    let mut rest = segment.get(at..)?;
    let whole = rest;
    let check = u32::from_le_bytes(*rest.split_off(..4)?.first_chunk()?);
    let kind = *rest.split_off_first()?;
    let (kind, place) = kind_of(kind)?;
    let length = usize::try_from(varint(&mut rest)?).ok()?;
    let number = varint(&mut rest)?;
    let page = varint(&mut rest)?;
    let head_bytes = whole.len() - rest.len();
    let body = rest.get(..length)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(body);
    hasher.update(&whole[4..head_bytes]);
    (!hasher.finalize() == check).then_some(Frame {
        kind,
        place,
        segment: number,
        page,
        end: at + head_bytes + length,
        body,
    })
}

/// Whether a frame can start there.
pub fn has_room(at: usize) -> bool {
    at + FRAME_HEAD_BYTES_MAX <= SEGMENT_BYTES as usize
}

/// The first frame at or after an offset, and its offset, in a segment whose number satisfies `wanted`.
pub fn find(segment: &[u8], from: usize, wanted: impl Fn(u64) -> bool) -> Option<(usize, Frame<'_>)> {
    let is_kind = |at: &usize| segment.get(at + 4).is_some_and(|kind| kind_of(*kind).is_some());
    (from..segment.len().saturating_sub(4)).filter(is_kind).find_map(|at| {
        // Cheaper than the checksum, which would have to read most bytes.
        let mut head = segment.get(at + 5..)?;
        let _length = varint(&mut head)?;
        if !varint(&mut head).is_some_and(&wanted) {
            return None;
        }
        frame(segment, at).map(|frame| (at, frame))
    })
}

fn kind_of(byte: u8) -> Option<(Kind, Place)> {
    Some(match byte {
        1 | 3 => (Kind::Void, Place::Inline),
        2 => (Kind::Cap, Place::Inline),
        4 => (Kind::Free, Place::Inline),
        5 => (Kind::Counter, Place::Inline),
        6 => (Kind::Meta, Place::Inline),
        7 => (Kind::Meta, Place::Blob),
        8 => (Kind::Node, Place::Inline),
        9 => (Kind::Node, Place::Blob),
        10 => (Kind::Link, Place::Inline),
        11 => (Kind::Link, Place::Blob),
        _ => return None,
    })
}

/// An unsigned integer of 1 to 9 bytes.
pub fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.split_off_first()?;
    Some(match first {
        0..=240 => u64::from(first),
        241..=248 => 240 + 256 * (u64::from(first) - 241) + u64::from(*bytes.split_off_first()?),
        249 => {
            let high = u64::from(*bytes.split_off_first()?);
            2288 + 256 * high + u64::from(*bytes.split_off_first()?)
        }
        250..=255 => {
            let tail = bytes.split_off(..usize::from(first) - 247)?;
            let mut number = [0; 8];
            number[..tail.len()].copy_from_slice(tail);
            u64::from_le_bytes(number)
        }
    })
}

/// An integer of 8 bytes.
pub fn fixed(bytes: &mut &[u8]) -> Option<i64> {
    bytes.split_off(..8)?.first_chunk().map(|bytes| i64::from_le_bytes(*bytes))
}

/// Bytes prefixed with their length.
fn counted<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(bytes)?).ok()?;
    bytes.split_off(..length)
}

/// The names of all trees, with their root pages.
pub fn meta(mut body: &[u8]) -> Option<Vec<(&[u8], u64)>> {
    let mut trees = Vec::new();
    while !body.is_empty() {
        trees.push((counted(&mut body)?, varint(&mut body)?));
    }
    Some(trees)
}

/// A page of a tree: the keys from `low` up to, not including, `high`; an empty `high` means no upper bound.
#[derive(Debug)]
pub struct Node<'a> {
    /// The page with the next keys; 0 for none.
    pub next: u64,
    /// Its lowest possible key.
    pub low: &'a [u8],
    /// The lowest key above it.
    pub high: &'a [u8],
    /// Length of the prefix of `low` that all keys share and leave out.
    prefix_bytes: usize,
    /// Its content.
    pub data: Data<'a>,
}

/// The content of a page: keys without the shared prefix, in order.
#[derive(Debug)]
pub enum Data<'a> {
    /// Items.
    Leaf(Vec<(&'a [u8], &'a [u8])>),
    /// Child pages, each with its lowest key.
    Index(Vec<(&'a [u8], u64)>),
}

impl<'a> Node<'a> {
    /// Parses a page; `None` if the bytes are not one.
    pub fn parse(mut body: &'a [u8]) -> Option<Self> {
        let bytes = &mut body;
        let next = varint(bytes)?;
        let _merging_child = varint(bytes)?;
        let _is_merging = bytes.split_off_first()?;
        let prefix_bytes = usize::from(*bytes.split_off_first()?);
        let (low, high) = (counted(bytes)?, counted(bytes)?);
        if prefix_bytes > low.len() {
            return None;
        }
        let is_index = *bytes.split_off_first()?;
        let count = usize::try_from(varint(bytes)?).ok()?;
        // Every key takes at least one byte.
        if count > bytes.len() {
            return None;
        }
        let keys: Vec<_> = (0..count).map(|_| counted(bytes)).collect::<Option<_>>()?;
        let data = match is_index {
            0 => Data::Leaf(keys.into_iter().map(|key| Some((key, counted(bytes)?))).collect::<Option<_>>()?),
            1 => Data::Index(keys.into_iter().map(|key| Some((key, varint(bytes)?))).collect::<Option<_>>()?),
            _ => return None,
        };
        Some(Self { next, low, high, prefix_bytes, data })
    }

    /// The prefix shared by all keys.
    pub fn prefix(&self) -> &'a [u8] {
        &self.low[..self.prefix_bytes]
    }
}

/// A delta of a page. Keys are without the page's shared prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link<'a> {
    /// A key has a value.
    Set(&'a [u8], &'a [u8]),
    /// A key was removed.
    Del(&'a [u8]),
    /// The page is about to absorb another, or did.
    Merge,
}

impl<'a> Link<'a> {
    /// Parses a delta; `None` if the bytes are not one.
    pub fn parse(mut body: &'a [u8]) -> Option<Self> {
        let bytes = &mut body;
        Some(match bytes.split_off_first()? {
            0 => Self::Set(counted(bytes)?, counted(bytes)?),
            1 => Self::Del(counted(bytes)?),
            2..=4 => Self::Merge,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decoded_as_the_engine_encodes_them() {
        let cases: [(&[u8], u64); 9] = [
            (&[0], 0),
            (&[240], 240),
            (&[241, 0], 240),
            (&[241, 1], 241),
            (&[248, 255], 2287),
            (&[249, 0, 0], 2288),
            (&[249, 255, 255], 67_823),
            (&[250, 0, 0, 1], 65_536),
            (&[255, 1, 0, 0, 0, 0, 0, 0, 1], (1 << 56) + 1),
        ];
        for (mut bytes, number) in cases {
            let whole = bytes;
            assert_eq!(varint(&mut bytes), Some(number), "{whole:?}");
            assert!(bytes.is_empty());
            let mut short = &whole[..whole.len() - 1];
            assert_eq!(varint(&mut short), None, "{whole:?} cut");
        }
    }

    #[test]
    fn no_bytes_make_the_parsers_panic() {
        let mut noise = Vec::new();
        let mut hash = blake3::hash(b"noise");
        while noise.len() < 20_000 {
            // Small bytes are more often kinds, lengths and numbers.
            noise.extend(hash.as_bytes().iter().map(|byte| byte % 13));
            hash = blake3::hash(hash.as_bytes());
        }
        for at in 0..noise.len() {
            let bytes = &noise[at..];
            let _ =
                (frame(bytes, 0), Node::parse(bytes), Link::parse(bytes), meta(&bytes[..9.min(bytes.len())]));
            let _ = Header::parse(bytes);
        }
        assert_eq!(find(&noise, 0, |_| true).map(|(at, _)| at), None);
    }
}
