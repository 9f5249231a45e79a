//! A whole segment of the engine's log: the frames in it, and where it is not what was written.
//!
//! Frames follow each other without a gap, up to a `Cap`, to the last bytes, where none begins, or, where the process ended, to
//! nothing. A segment is written again and again, and what is left in it of an earlier life has another number.

use super::log::format::{self, Frame, Header};

/// A place in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A frame that is what was written.
    Sound(Frame<'a>),
    /// Bytes from here to the next sound frame are not what was written.
    Damaged(usize),
}

/// The position in the log at which a segment begins; `None` where its head is not sound, as in one that was never written.
pub fn begin(segment: &[u8]) -> Option<u64> {
    Header::parse(segment).map(|header| header.position.unsigned_abs())
}

/// What is in a whole segment of that number, in order.
///
/// What follows the last sound frame is told by nothing from what was never written, and is passed over.
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
        tests::{Fixture, close, key, put, table},
    };

    /// What is so of the body of a frame.
    pub type Wanted<'a> = Box<dyn Fn(&[u8]) -> bool + 'a>;

    /// Flips a bit of a page for which one of these is so, in a log: in its newest frame of which it is. Which one it was; `None` where none is settled. Pages in the
    /// segments that a start reads again are left alone.
    pub fn damage_page(data: &Path, candidates: &[Wanted<'_>]) -> Option<usize> {
        let path = data.join("db");
        let log = fs::read(&path).expect("the log can be read");
        let mut newest: Vec<(u64, usize)> = vec![(0, 0); candidates.len()];
        let mut tip = 0;
        for (index, segment) in log.chunks(SEGMENT_BYTES).enumerate() {
            let Some(begin) = begin(segment) else { continue };
            tip = tip.max(begin);
            for found in frames(segment, begin / SEGMENT_BYTES as u64) {
                // Those below are no pages: what was given up, and the like.
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

    /// Whether bytes are within others.
    pub fn holds(body: &[u8], content: &[u8]) -> bool {
        body.windows(content.len()).any(|bytes| bytes == content)
    }

    fn segments(log: &[u8]) -> impl Iterator<Item = (&[u8], u64)> {
        log.chunks_exact(SEGMENT_BYTES)
            .filter_map(|segment| Some((segment, begin(segment)? / SEGMENT_BYTES as u64)))
    }

    /// What sled wrote is read as it was written; and each flipped bit is found, if another frame follows.
    #[test]
    fn every_flipped_bit_of_a_full_segment_is_found() {
        let fixture = Fixture::new();
        let store = fixture.open();
        for number in 0..60_000 {
            let value = format!("\"{}\"", blake3::hash(&u64::to_be_bytes(number)).to_hex());
            store
                .merge(&table(), &key(&number.to_string()), |_| Ok(put(&value, None, number)))
                .expect("merges");
        }
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
            // A `Cap`, by which a segment ends that is written to its end.
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
