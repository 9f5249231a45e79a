//! The scrub: reads the log from the disk, slowly and again and again, and checks it against its checksums. So damage is found in pages
//! that nobody reads, while other nodes still have their rows.
//!
//! sled writes the log in segments and reuses segments that it has emptied. Only full segments are checked. A segment that was rewritten
//! while it was read starts at another log position afterwards; real damage is still there at the second look.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use tracing::{debug, warn};

use crate::{
    error::{Error, Result},
    storage::{
        Store,
        engine::{
            Engine, SEGMENT_BYTES,
            log::format,
            segment::{self, Found},
        },
        table::jobs::RepairJob,
    },
};

/// Bytes read at a time, between two pauses.
const READ_BYTES: usize = 64 * 1024;
/// The pause after a pass over a short log, or after a failed read.
const PAUSE: Duration = Duration::from_secs(1);
/// Most damaged places that are remembered, so that each is reported once.
const KNOWN_MAX: usize = 10_000;

/// A scrub under way.
pub struct Scrub {
    /// Bytes per second.
    rate: u64,
    /// Place of the next segment in the file.
    offset: u64,
    /// Damaged places already reported: the segment's log position, and the offset in it.
    known: BTreeSet<(u64, usize)>,
}

impl Scrub {
    /// Makes a scrub that reads this many bytes per second, at least one.
    pub fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), offset: 0, known: BTreeSet::new() }
    }

    /// Works until `stop` receives or is closed.
    pub fn run(mut self, store: &Store, stop: &Receiver<()>) {
        let mut pause = Duration::ZERO;
        while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(pause) {
            let begun = Instant::now();
            let mut rest = |bytes: usize| {
                let due = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
                stop.recv_timeout(due) == Err(RecvTimeoutError::Timeout)
            };
            pause = match scrub_next(store, self.offset, &mut self.known, &mut rest) {
                Ok(Next::Segment) => {
                    self.offset += SEGMENT_BYTES as u64;
                    Duration::ZERO
                }
                Ok(Next::End) => {
                    self.offset = 0;
                    PAUSE.saturating_sub(begun.elapsed())
                }
                Ok(Next::Stop) => return,
                Err(error) => {
                    debug!(%error, "the log cannot be read now");
                    PAUSE
                }
            };
        }
    }
}

enum Next {
    /// The segment was handled.
    Segment,
    /// There are no more segments.
    End,
    /// The scrub must stop.
    Stop,
}

/// Reads the segment at a place of the file, if it is full, and reports its damage.
fn scrub_next(
    store: &Store,
    offset: u64,
    known: &mut BTreeSet<(u64, usize)>,
    rest: &mut impl FnMut(usize) -> bool,
) -> Result<Next> {
    let (log, stable) = store.with_engine(Engine::log)?;
    match scrub_segment(store, (&log, stable), offset, known, rest) {
        // The engine cuts off free segments at the end.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Next::End),
        scrubbed => scrubbed.map_err(|error| Error::io("reading the log", &error)),
    }
}

fn scrub_segment(
    store: &Store,
    (log, stable): (&File, u64),
    offset: u64,
    known: &mut BTreeSet<(u64, usize)>,
    rest: &mut impl FnMut(usize) -> bool,
) -> io::Result<Next> {
    if offset + SEGMENT_BYTES as u64 > log.metadata()?.len() {
        return Ok(Next::End);
    }
    let mut head = [0; format::HEADER_BYTES];
    log.read_exact_at(&mut head, offset)?;
    let sealed = |begin: u64| begin + SEGMENT_BYTES as u64 <= stable;
    let Some(begin) = segment::begin(&head).filter(|begin| sealed(*begin)) else { return Ok(Next::Segment) };
    let mut damaged = BTreeSet::new();
    for look in 0..2 {
        let Some(bytes) = read(log, offset, rest)? else { return Ok(Next::Stop) };
        store.counters().scrubbed_bytes.add(bytes.len() as u64);
        if segment::begin(&bytes) != Some(begin) {
            return Ok(Next::Segment);
        }
        let found: BTreeSet<usize> = damaged_in(&bytes, begin);
        damaged = if look == 0 { found } else { damaged.intersection(&found).copied().collect() };
        if damaged.is_empty() {
            return Ok(Next::Segment);
        }
    }
    // It may have been rewritten just before the second look.
    log.read_exact_at(&mut head, offset)?;
    if segment::begin(&head) == Some(begin) {
        report(store, offset, begin, &damaged, known);
    }
    Ok(Next::Segment)
}

fn report(
    store: &Store,
    offset: u64,
    begin: u64,
    damaged: &BTreeSet<usize>,
    known: &mut BTreeSet<(u64, usize)>,
) {
    let mut is_new = false;
    for at in damaged {
        if known.len() < KNOWN_MAX && known.insert((begin, *at)) {
            is_new = true;
            store.counters().damaged_frames.increment();
            let file = store.0.options.data.join("db");
            warn!(file = %file.display(), offset = offset + *at as u64, "the log is damaged here; all tables are checked");
        }
    }
    if is_new {
        // The thread may be gone while the store closes.
        let _ = store.0.context.repairs.send(RepairJob::InspectAll);
    }
}

/// The damaged offsets of a segment.
fn damaged_in(bytes: &[u8], begin: u64) -> BTreeSet<usize> {
    let found = segment::frames(bytes, begin / SEGMENT_BYTES as u64);
    found
        .filter_map(|found| match found {
            Found::Sound(_) => None,
            Found::Damaged(at) => Some(at),
        })
        .collect()
}

/// Reads a segment from the disk, not from the page cache; `None` if the scrub must stop. Pauses after each piece.
fn read(log: &File, offset: u64, rest: &mut impl FnMut(usize) -> bool) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; SEGMENT_BYTES];
    let length = std::num::NonZeroU64::new(SEGMENT_BYTES as u64);
    rustix::fs::fadvise(log, offset, length, rustix::fs::Advice::DontNeed)?;
    for (index, piece) in bytes.chunks_mut(READ_BYTES).enumerate() {
        let at = offset + (index * READ_BYTES) as u64;
        match log.read_exact_at(piece, at) {
            Ok(()) => {}
            // An unreadable sector is damage; its content is unknown.
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => piece.fill(0),
            Err(error) => return Err(error),
        }
        if !rest(piece.len()) {
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::storage::tests::{Fixture, close, write_rows};

    /// Scrubs the whole log at once.
    fn pass(store: &Store, known: &mut BTreeSet<(u64, usize)>) {
        let mut offset = 0;
        while let Next::Segment = scrub_next(store, offset, known, &mut |_| true).expect("reads") {
            offset += SEGMENT_BYTES as u64;
        }
    }

    /// A flipped bit in a page that nobody read was found by the next start, or years later by a reader, when no node had the sound page
    /// any more.
    #[test]
    fn a_flipped_bit_is_found_once_and_nothing_else_is() {
        let fixture = Fixture::new();
        let store = fixture.open();
        write_rows(&store, 60_000);
        store.with_engine(Engine::sync).expect("syncs");
        let mut known = BTreeSet::new();
        pass(&store, &mut known);
        assert!(known.is_empty() && store.counters().scrubbed_bytes.value() > 0, "{known:?}");
        // In every full segment: sled may be about to rewrite some of them.
        let path = fixture.data().join("db");
        let log = fs::OpenOptions::new().read(true).write(true).open(&path).expect("the log opens");
        let stable = store.with_engine(Engine::log).expect("a log").1;
        let (mut segment, mut offset) = (vec![0; SEGMENT_BYTES], 0);
        while log.read_exact_at(&mut segment, offset).is_ok() {
            let begin = segment::begin(&segment);
            if begin.is_some_and(|begin| begin + SEGMENT_BYTES as u64 <= stable) {
                log.write_all_at(&[segment[1_000_000] ^ 4], offset + 1_000_000)
                    .expect("the log can be written");
            }
            offset += SEGMENT_BYTES as u64;
        }
        pass(&store, &mut known);
        assert!(!known.is_empty(), "none was found");
        let found = store.counters().damaged_frames.value();
        assert_eq!(found, known.len() as u64);
        pass(&store, &mut known);
        assert_eq!(store.counters().damaged_frames.value(), found, "each is reported once");
        close(store);
    }
}
