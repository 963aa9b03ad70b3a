//! Ranges of the source whose bytes came with a wrong checksum: fetched again each time, and reported from the third
//! time on, for then it is no accident of the way.

use crate::control::{Mismatch, Span};
use ferry_engine::ByteRange;

/// From this many wrong checksums of the same bytes on they are reported.
const REPORTED_FROM: u32 = 3;
/// Ranges that are remembered at a time; the engine fetches the same again, so few are enough.
const REMEMBERED_MAX: usize = 256;

/// What came wrong, in no order and without overlaps.
#[derive(Default)]
pub(super) struct Suspects {
    ranges: Vec<Suspect>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Suspect {
    range: ByteRange,
    times: u32,
    /// The checksum of the bytes that came the last time.
    came: u32,
    /// Whether the same wrong bytes came twice.
    same: bool,
}

impl Suspects {
    /// These bytes came with another checksum than the source's; `came` is that of the bytes. Says so once for each range
    /// that comes to be reported.
    pub(super) fn came_wrong(&mut self, range: ByteRange, came: u32) {
        let before = self.ranges.iter().filter(|suspect| suspect.range.intersect(range).is_some());
        let times = 1 + before.map(|suspect| suspect.times).max().unwrap_or(0);
        let same = self.ranges.iter().any(|suspect| suspect.range == range && suspect.came == came);
        self.forget(range);
        if self.ranges.len() < REMEMBERED_MAX {
            self.ranges.push(Suspect { range, times, came, same });
        }
        if times == REPORTED_FROM {
            let cause = if same {
                "the same wrong bytes come each time: it is the source's disk or memory"
            } else {
                "other bytes come each time: it is the way, or the source's memory"
            };
            tracing::error!(%range, times, cause, "the source's bytes do not match the source's checksum");
        }
    }

    /// These bytes came right, or nobody wants them any more.
    pub(super) fn forget(&mut self, range: ByteRange) {
        if self.ranges.is_empty() {
            return;
        }
        let cut = |suspect: Suspect| {
            let before = ByteRange::between(suspect.range.offset(), suspect.range.end().min(range.offset()));
            let behind = ByteRange::between(suspect.range.offset().max(range.end()), suspect.range.end());
            [before, behind].into_iter().flatten().map(move |range| Suspect { range, ..suspect })
        };
        self.ranges = self.ranges.drain(..).flat_map(cut).collect();
    }

    /// What is to be reported, in order.
    pub(super) fn reported(&self) -> Vec<Mismatch> {
        let bad = self.ranges.iter().filter(|suspect| suspect.times >= REPORTED_FROM);
        let mut bad: Vec<Mismatch> = bad
            .map(|suspect| Mismatch {
                span: Span::from(suspect.range),
                times: suspect.times,
                same_bytes: suspect.same,
            })
            .collect();
        bad.sort_by_key(|mismatch| mismatch.span.offset);
        bad
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end).unwrap()
    }

    fn reported(suspects: &Suspects) -> Vec<(u64, u64, u32, bool)> {
        suspects.reported().iter().map(|b| (b.span.offset, b.span.len_bytes, b.times, b.same_bytes)).collect()
    }

    #[test]
    fn the_third_wrong_checksum_is_reported_and_halving_narrows_it() {
        let mut suspects = Suspects::default();
        suspects.came_wrong(range(0, 1024), 1);
        suspects.came_wrong(range(0, 512), 2);
        assert!(reported(&suspects).is_empty());
        suspects.came_wrong(range(256, 512), 3);
        assert_eq!(reported(&suspects), [(256, 256, 3, false)]);
        suspects.came_wrong(range(256, 512), 3);
        assert_eq!(reported(&suspects), [(256, 256, 4, true)]);
    }

    #[test]
    fn what_came_right_in_the_end_is_forgotten() {
        let mut suspects = Suspects::default();
        for _ in 0..3 {
            suspects.came_wrong(range(0, 1024), 1);
        }
        suspects.forget(range(100, 200));
        assert_eq!(reported(&suspects), [(0, 100, 3, true), (200, 824, 3, true)]);
        suspects.forget(range(0, 4096));
        assert!(reported(&suspects).is_empty());
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let mut suspects = Suspects::default();
        (0..2 * REMEMBERED_MAX as u64).for_each(|at| suspects.came_wrong(range(at * 10, at * 10 + 5), 1));
        assert_eq!(suspects.ranges.len(), REMEMBERED_MAX);
    }
}
