//! Checks a log before the engine opens it: every frame that the engine will replay is tested, and everything durable must be there. The
//! engine itself silently takes a wrong checksum for the end of the log or of a segment.
//!
//! The traces of a crash are not damage: frames after the last sync may be torn, and a segment whose rows were all rewritten elsewhere may
//! be half overwritten by a later one. Frames covered by the snapshot are not read here: the engine checks each of them when it reads it,
//! and reports an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    num::NonZero,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

use super::{
    Log,
    format::{self, Frame, HEADER_BYTES, Header, Kind, Position, SEGMENT_BYTES},
    snapshot::{self, PageState, Snapshot},
};
use crate::error::{Error, Result};

/// Most threads that check segments: more are limited by memory bandwidth.
const THREADS_MAX: usize = 4;
/// Most damaged places that are listed; beyond that a list is no help.
pub const PLACES_MAX: usize = 100;

/// A damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in the file.
    pub offset: u64,
    /// What is wrong there.
    pub what: DamageKind,
}

/// The kinds of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// Bytes that do not match their checksum, from there on; how many, if that is known.
    Frames(Option<u64>),
    /// A segment's header does not match its checksum.
    Header,
    /// A segment that was durable is missing.
    Missing,
    /// The log ends there, but frames that are still needed were behind it.
    Short,
    /// The snapshot does not match its checksum.
    Snapshot,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, offset) = (self.file.display(), self.offset);
        match self.what {
            DamageKind::Frames(Some(bytes)) => {
                write!(f, "{file}: {bytes} bytes at {offset} do not fit their checksum")
            }
            DamageKind::Frames(None) => {
                write!(
                    f,
                    "{file}: what follows {offset} in that segment does not fit its checksum or was never written"
                )
            }
            DamageKind::Header => {
                write!(f, "{file}: the header of the segment at {offset} does not fit its checksum")
            }
            DamageKind::Missing => write!(f, "{file}: the segment of log position {offset} is missing"),
            DamageKind::Short => {
                write!(f, "{file} ends at {offset}, and rows that are still needed lay behind that")
            }
            DamageKind::Snapshot => write!(f, "{file} does not fit its checksum"),
        }
    }
}

/// Checks everything of the log in `data` that the engine will replay, and changes nothing. Returns the damage in the order of the log.
/// `marked` is the last durable position, if the durable mark knows it.
///
/// # Errors
/// `Io` if the system refuses to read a file, which says nothing about its content.
pub fn walk(data: &Path, marked: Option<Position>) -> Result<Vec<Damage>> {
    let mut damage = Vec::new();
    let snapshot = read_snapshot(data, &mut damage)?;
    let Some(log) = Log::open(data)? else {
        if marked.is_some_and(|position| position >= 0) {
            damage.push(Damage { file: data.join(super::LOG_FILE), offset: 0, what: DamageKind::Short });
        }
        return Ok(damage);
    };
    Walk::new(&log, &snapshot, marked).run(&snapshot, &mut damage)?;
    damage.truncate(PLACES_MAX);
    Ok(damage)
}

fn read_snapshot(data: &Path, damage: &mut Vec<Damage>) -> Result<Snapshot> {
    let Some(path) = snapshot::find(data)? else { return Ok(Snapshot::default()) };
    let file = fs::read(&path).map_err(|e| Error::io(format_args!("reading {}", path.display()), &e))?;
    Ok(Snapshot::parse(&file).unwrap_or_else(|| {
        damage.push(Damage { file: path, offset: 0, what: DamageKind::Snapshot });
        Snapshot::default()
    }))
}

/// A log, and which parts of it must be sound.
struct Walk<'a> {
    log: &'a Log,
    /// Number of the first segment that is replayed.
    first: u64,
    /// Replayed segments: the place in the file by number.
    segments: BTreeMap<u64, u64>,
    /// Places of segments without a valid header.
    without_header: Vec<u64>,
    /// How much of the log was written when a segment was started: no segment from there on has been reused.
    stable: Position,
    /// The last durable position.
    durable: Position,
    /// Number of the segment at the end of the file.
    tail: Option<u64>,
    /// The highest segment number.
    last: u64,
}

/// Where the frames of a segment end too early.
struct Break {
    at: usize,
    /// Where they continue.
    resumes: Option<usize>,
    /// Whether frames of a later segment follow: then this segment was no longer needed.
    is_overwritten: bool,
}

impl<'a> Walk<'a> {
    fn new(log: &'a Log, snapshot: &Snapshot, marked: Option<Position>) -> Self {
        let first = snapshot.position.unsigned_abs() / SEGMENT_BYTES;
        let (mut segments, mut without_header) = (BTreeMap::new(), Vec::new());
        let mut stable = snapshot.position - snapshot.position % SEGMENT_BYTES as i64;
        let (mut tail, mut last) = (None, 0);
        for slot in 0..log.segments() {
            let mut bytes = [0; HEADER_BYTES];
            let read = log.read(slot * SEGMENT_BYTES, &mut bytes).unwrap_or(0);
            let header = Header::parse(&bytes[..read]);
            tail = header.map(|header| header.number());
            last = last.max(tail.unwrap_or(0));
            match header {
                Some(header) if header.number() >= first => {
                    stable = stable.max(header.stable);
                    segments.insert(header.number(), slot);
                }
                Some(_) => {}
                None => without_header.push(slot),
            }
        }
        // What the engine calls stable may still be in the disk's cache; it is used only if there is no mark.
        let durable = marked.unwrap_or(stable).max(snapshot.position - 1);
        // Before the first header nothing is stable: position 0 does not count.
        let durable = if segments.is_empty() && durable == 0 { -1 } else { durable };
        Self { log, first, segments, without_header, stable, durable, tail, last }
    }

    fn run(&self, snapshot: &Snapshot, damage: &mut Vec<Damage>) -> Result<()> {
        let found = |slot: u64, at: usize, what| Damage {
            file: self.log.path().to_owned(),
            offset: slot * SEGMENT_BYTES + at as u64,
            what,
        };
        for (slot, broken) in self.breaks() {
            if !broken.is_overwritten {
                let bytes = broken.resumes.map(|resumes| (resumes - broken.at) as u64);
                damage.push(found(slot, broken.at, DamageKind::Frames(bytes)));
            }
        }
        let without_header = self.damaged_headers();
        damage.extend(without_header.values().map(|slot| found(*slot, 0, DamageKind::Header)));
        for number in self.required_segments() {
            if !self.segments.contains_key(&number) && !without_header.contains_key(&number) {
                let position = number * SEGMENT_BYTES;
                damage.push(Damage { offset: position, ..found(0, 0, DamageKind::Missing) });
            }
        }
        if self.is_truncated() || self.lacks_pages(snapshot) {
            damage.push(Damage { offset: self.log.bytes(), ..found(0, 0, DamageKind::Short) });
        }
        Ok(())
    }

    /// Numbers of the segments that must follow each other without a gap: the engine cannot tell otherwise how long the log is.
    fn required_segments(&self) -> impl Iterator<Item = u64> + use<> {
        let from = self.first.max(self.stable.max(0).unsigned_abs() / SEGMENT_BYTES);
        let to = u64::try_from(self.durable).map_or(0, |durable| durable / SEGMENT_BYTES + 1);
        // A damaged mark with a correct checksum could ask for any number of them.
        (from..to).take(PLACES_MAX)
    }

    /// Where frames end too early, by place. Uses several threads, as checksums take most of the time.
    fn breaks(&self) -> Vec<(u64, Break)> {
        let work = Mutex::new(self.segments.iter());
        let found = Mutex::new(Vec::new());
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
        let test = || {
            let mut buffer = Vec::new();
            // A thread that panicked took one segment with it, and the scope passes the panic on.
            let next = || work.lock().ok()?.next();
            while let Some((number, slot)) = next() {
                self.log.read_segment(*slot, &mut buffer);
                let broken = self.broken(*number, &buffer);
                if let (Some(broken), Ok(mut found)) = (broken, found.lock()) {
                    found.push((*number, *slot, broken));
                }
            }
        };
        thread::scope(|scope| {
            (1..threads.min(self.segments.len())).for_each(|_| drop(scope.spawn(test)));
            test();
        });
        let mut found = found.into_inner().unwrap_or_default();
        found.sort_unstable_by_key(|(number, ..)| *number);
        found.into_iter().map(|(_, slot, broken)| (slot, broken)).collect()
    }

    fn broken(&self, number: u64, segment: &[u8]) -> Option<Break> {
        let at = end_of_frames(segment, number, |_, _| {})?;
        if format::position_of(number)? + at as i64 > self.durable {
            return None;
        }
        let resumes = format::find(segment, at + 1, |found| found == number).map(|(at, _)| at);
        let is_overwritten = format::find(segment, at + 1, |found| self.is_later(number, found)).is_some();
        Some(Break { at, resumes, is_overwritten })
    }

    /// Whether a segment of that number can have overwritten another: numbers far beyond the last do not exist.
    fn is_later(&self, number: u64, found: u64) -> bool {
        number < found && found <= self.last + PLACES_MAX as u64
    }

    /// Segments that were durable and have no valid header, by the number found in their frames.
    fn damaged_headers(&self) -> BTreeMap<u64, u64> {
        let mut damaged = BTreeMap::new();
        let mut buffer = Vec::new();
        let last = u64::try_from(self.durable).map_or(0, |durable| durable / SEGMENT_BYTES);
        for slot in &self.without_header {
            self.log.read_segment(*slot, &mut buffer);
            let number = if is_empty(&buffer) {
                None
            } else {
                format::find(&buffer, 0, |number| (self.first..=last).contains(&number))
                    .map(|(_, frame)| frame.segment)
            };
            let is_known = |number: &u64| !self.segments.contains_key(number);
            if let Some(number) = number.filter(is_known).filter(|_| self.durable >= 0) {
                damaged.insert(number, *slot);
            }
        }
        damaged
    }

    /// Whether the file ends inside a segment that was full. Only the segment written last may be short.
    fn is_truncated(&self) -> bool {
        let is_done = |number: u64| {
            format::position_of(number + 1).is_some_and(|end| end - 1 <= self.durable) && number < self.last
        };
        !self.log.bytes().is_multiple_of(SEGMENT_BYTES) && self.tail.is_some_and(is_done)
    }

    /// Whether pages of the snapshot were behind the end of the file and have not been rewritten since.
    fn lacks_pages(&self, snapshot: &Snapshot) -> bool {
        let lies_behind = |state: &PageState| match state {
            PageState::Free => false,
            PageState::Present(pointers) => pointers.iter().any(|pointer| pointer.offset >= self.log.bytes()),
        };
        let pages = snapshot.pages.iter().enumerate();
        let mut lacking: BTreeSet<u64> =
            pages.filter(|(_, state)| lies_behind(state)).map(|(page, _)| page as u64).collect();
        let mut buffer = Vec::new();
        for (number, slot) in &self.segments {
            if lacking.is_empty() {
                break;
            }
            self.log.read_segment(*slot, &mut buffer);
            end_of_frames(&buffer, *number, |_, frame| {
                if matches!(frame.kind, Kind::Free | Kind::Counter | Kind::Meta | Kind::Node) {
                    lacking.remove(&frame.page);
                }
            });
        }
        !lacking.is_empty()
    }
}

/// Passes each frame of a segment, with its offset, to `take`. Returns where the frames end too early; `None` if they do not.
pub fn end_of_frames(segment: &[u8], number: u64, mut take: impl FnMut(usize, &Frame<'_>)) -> Option<usize> {
    let mut at = HEADER_BYTES;
    while format::has_room(at) {
        match format::frame(segment, at).filter(|frame| frame.segment == number) {
            Some(frame) if frame.kind == Kind::Cap => return None,
            Some(frame) => {
                take(at, &frame);
                at = frame.end;
            }
            // The engine does not continue there after a start, though a frame would fit.
            None if !format::has_room(at + 1) && segment.get(at..).is_some_and(is_empty) => return None,
            None => return Some(at),
        }
    }
    None
}

/// Whether nothing was ever written there. Compares large blocks: a store may have hundreds of unused segments.
fn is_empty(bytes: &[u8]) -> bool {
    const NOTHING: [u8; 4096] = [0; 4096];
    bytes.chunks(NOTHING.len()).all(|bytes| *bytes == NOTHING[..bytes.len()])
}
