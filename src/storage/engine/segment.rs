//! A full segment of the engine's log: its frames, and the bytes that are not what was written.
//!
//! Frames follow each other without a gap, up to a `Cap`, up to the last bytes, where none fits, or, if the process ended, up to nothing.
//! Segments are reused; what is left of earlier use has another segment number.

use super::log::format::{self, Frame, Header};

/// One find in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A frame as it was written.
    Sound(Frame<'a>),
    /// The bytes from this offset to the next sound frame are not what was written.
    Damaged(usize),
}

/// The log position of a segment; `None` if its header is not sound, as in a segment that was never written.
pub fn begin(segment: &[u8]) -> Option<u64> {
    Header::parse(segment).map(|header| header.position.unsigned_abs())
}

/// The content of a full segment with that number, in order.
///
/// What follows the last sound frame looks the same as bytes that were never written, and is skipped.
pub fn frames(segment: &[u8], number: u64) -> impl Iterator<Item = Found<'_>> {
    let mut at = format::HEADER_BYTES;
    std::iter::from_fn(move || {
        let here = format::frame(segment, at).filter(|frame| frame.segment == number && format::has_room(at));
        if let Some(frame) = here {
            at = frame.end;
            return Some(Found::Sound(frame));
        }
        let damaged = at;
        (at, _) = format::find(segment, at + 1, |of| of == number)?;
        Some(Found::Damaged(damaged))
    })
}

#[cfg(test)]
pub(in crate::storage) mod tests {
    use std::{fs, os::unix::fs::FileExt, path::Path};

    use super::*;
    use crate::storage::{
        engine::{SEGMENT_BYTES, log::format::Kind},
        tests::{Fixture, close, write_rows},
    };

    /// A condition on the body of a frame.
    pub type Wanted<'a> = Box<dyn Fn(&[u8]) -> bool + 'a>;

    /// Flips a bit of a page, in the newest frame of the log whose body meets one of the conditions. Returns which condition; `None` if no
    /// such frame is settled. Pages in segments that a start replays are left alone.
    pub fn damage_page(data: &Path, candidates: &[Wanted<'_>]) -> Option<usize> {
        let path = data.join("db");
        let log = fs::read(&path).expect("the log can be read");
        let mut newest: Vec<(u64, usize)> = vec![(0, 0); candidates.len()];
        let mut tip = 0;
        for (index, segment) in log.chunks(SEGMENT_BYTES).enumerate() {
            let Some(begin) = begin(segment) else { continue };
            tip = tip.max(begin);
            for found in frames(segment, begin / SEGMENT_BYTES as u64) {
                // Frames of a lower kind are no pages, but cancelled writes and the like.
                let Found::Sound(frame @ Frame { kind: Kind::Node | Kind::Link, .. }) = found else {
                    continue;
                };
                let middle = index * SEGMENT_BYTES + frame.end - frame.body.len() / 2;
                for (newest, is_wanted) in newest.iter_mut().zip(candidates) {
                    if is_wanted(frame.body) {
                        *newest = (*newest).max((begin + frame.end as u64, middle));
                    }
                }
            }
        }
        let is_settled = |(lsn, _): &(u64, usize)| *lsn > 0 && lsn + SEGMENT_BYTES as u64 <= tip;
        let chosen = newest.iter().position(is_settled)?;
        let at = newest[chosen].1;
        let file = fs::OpenOptions::new().write(true).open(&path).expect("the log opens");
        file.write_all_at(&[log[at] ^ 0x10], at as u64).expect("the log can be written");
        Some(chosen)
    }

    /// Whether bytes contain others.
    pub fn holds(body: &[u8], content: &[u8]) -> bool {
        body.windows(content.len()).any(|bytes| bytes == content)
    }

    fn segments(log: &[u8]) -> impl Iterator<Item = (&[u8], u64)> {
        log.chunks_exact(SEGMENT_BYTES)
            .filter_map(|segment| Some((segment, begin(segment)? / SEGMENT_BYTES as u64)))
    }

    /// Everything sled wrote is read back as written, and each flipped bit is found if another frame follows.
    #[test]
    fn every_flipped_bit_of_a_full_segment_is_found() {
        let fixture = Fixture::new();
        let store = fixture.open();
        write_rows(&store, 60_000);
        close(store);
        let log = fs::read(fixture.data().join("db")).expect("the log can be read");
        let (mut sealed, mut kinds) = (0, std::collections::BTreeSet::new());
        for (segment, number) in segments(&log) {
            let found: Vec<_> = frames(segment, number).collect();
            let sound = found.iter().map(|found| match found {
                Found::Sound(frame) => *frame,
                Found::Damaged(at) => panic!("damage at {at} of a sound segment"),
            });
            let sound: Vec<_> = sound.collect();
            kinds.extend(sound.iter().map(|frame| format!("{:?}", frame.kind)));
            // A segment that was filled ends with a `Cap`.
            let Some(last) = sound.last().filter(|last| last.kind == Kind::Cap) else { continue };
            sealed += 1;
            for turn in 0..40 {
                let at = format::HEADER_BYTES
                    + turn * (last.end - last.body.len() - format::HEADER_BYTES - 40) / 40;
                let mut segment = segment.to_vec();
                segment[at] ^= 1 << (turn % 8);
                let damaged =
                    frames(&segment, number).filter(|found| matches!(found, Found::Damaged(_))).count();
                assert_eq!(damaged, 1, "bit {} of byte {at}", turn % 8);
            }
        }
        assert!(sealed >= 2 && kinds.len() >= 3, "{sealed} segments, {kinds:?}");
    }
}
