//! The walk of a log before the engine opens it: every frame that the engine will replay is tested, and what was durable must be
//! there. The engine takes a frame that does not fit its checksum for the end of the log, or of its segment, and says nothing.
//!
//! What a crash leaves is no damage: frames behind the last sync may be torn, and a segment whose rows have all been written anew
//! elsewhere may be half overwritten by a later one. Frames that the snapshot covers are not read: the engine tests each when it
//! reads it, and an error there is no silence.

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

/// Most threads that test segments: more find no memory fast enough.
const THREADS_MAX: usize = 4;
/// Most places that are listed; a disk that lost more has lost too much to be read as a list.
pub const PLACES_MAX: usize = 100;

/// Damage of one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in the file.
    pub offset: u64,
    /// What is wrong there.
    pub what: DamageKind,
}

/// What is wrong with a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// The bytes do not fit their checksum, from there on; so many of them, where that is known.
    Frames(Option<u64>),
    /// The header of a segment does not fit its checksum.
    Header,
    /// A segment is missing that was durable.
    Missing,
    /// The log ends there, and frames that are still needed lay behind.
    Short,
    /// The snapshot does not fit its checksum.
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

/// Tests what the engine will replay of the log below `data`. Changes nothing. What is damaged, in the order of the log. `marked` is
/// the last position that was durable, as far as the mark knows.
///
/// # Errors
/// `Io` where the system refuses a file, which says nothing of what is in it.
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

/// A log, and what of it must be sound.
struct Walk<'a> {
    log: &'a Log,
    /// The number of the first segment that is replayed.
    first: u64,
    /// Replayed segments: where each lies, by number.
    segments: BTreeMap<u64, u64>,
    /// Places of segments whose header is none.
    without_header: Vec<u64>,
    /// How far the engine had written the log when a segment was begun: from there on no segment has been used again.
    stable: Position,
    /// The last position that was durable.
    durable: Position,
    /// The number of the last segment by place.
    tail: Option<u64>,
    /// The highest number.
    last: u64,
}

/// Where the frames of a segment end early.
struct Break {
    at: usize,
    /// Where they go on.
    resumes: Option<usize>,
    /// Whether frames of a later segment lie behind: then this one was done with.
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
        // What the engine calls stable may still be in the disk's own memory: good enough only where there is no mark.
        let durable = marked.unwrap_or(stable).max(snapshot.position - 1);
        // A log of before there was a header has nothing that is stable: position 0 is none.
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

    /// The numbers of segments that the engine needs in a row, as it does not know otherwise how far the log went.
    fn required_segments(&self) -> impl Iterator<Item = u64> + use<> {
        let from = self.first.max(self.stable.max(0).unsigned_abs() / SEGMENT_BYTES);
        let to = u64::try_from(self.durable).map_or(0, |durable| durable / SEGMENT_BYTES + 1);
        // A mark that is damaged and fits its checksum all the same would ask for as many as there are numbers.
        (from..to).take(PLACES_MAX)
    }

    /// Where frames end that should go on, by place; on several threads, as a long log is mostly checksums.
    fn breaks(&self) -> Vec<(u64, Break)> {
        let work = Mutex::new(self.segments.iter());
        let found = Mutex::new(Vec::new());
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
        let test = || {
            let mut buffer = Vec::new();
            // Whoever panicked in between took one segment with it, and the scope passes that on.
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

    /// Whether a segment of that number can have overwritten another: there is none far beyond the last.
    fn is_later(&self, number: u64, found: u64) -> bool {
        number < found && found <= self.last + PLACES_MAX as u64
    }

    /// Segments without a header that were durable, by number; by the frames in them.
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

    /// Whether the file ends in a segment that was full once. Only the one that was written last may be short.
    fn is_truncated(&self) -> bool {
        let is_done = |number: u64| {
            format::position_of(number + 1).is_some_and(|end| end - 1 <= self.durable) && number < self.last
        };
        !self.log.bytes().is_multiple_of(SEGMENT_BYTES) && self.tail.is_some_and(is_done)
    }

    /// Whether pages of the snapshot lay behind the end of the file, and were not written anew since.
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

/// Gives each frame of a segment to `take`, with where it begins. Where the frames end before the segment does; `None` where they do
/// not.
pub fn end_of_frames(segment: &[u8], number: u64, mut take: impl FnMut(usize, &Frame<'_>)) -> Option<usize> {
    let mut at = HEADER_BYTES;
    while format::has_room(at) {
        match format::frame(segment, at).filter(|frame| frame.segment == number) {
            Some(frame) if frame.kind == Kind::Cap => return None,
            Some(frame) => {
                take(at, &frame);
                at = frame.end;
            }
            // The engine does not go on there after a start, as little as it would fit.
            None if !format::has_room(at + 1) && segment.get(at..).is_some_and(is_empty) => return None,
            None => return Some(at),
        }
    }
    None
}

/// Whether nothing was ever written there. Whole pages are compared at once: a store may have hundreds of unused segments.
fn is_empty(bytes: &[u8]) -> bool {
    const NOTHING: [u8; 4096] = [0; 4096];
    bytes.chunks(NOTHING.len()).all(|bytes| *bytes == NOTHING[..bytes.len()])
}
