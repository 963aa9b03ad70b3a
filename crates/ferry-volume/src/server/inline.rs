//! Which writes the loop makes itself instead of asking the ring.
//!
//! A small write that only goes to the page cache takes a few microseconds. On the ring it costs a worker thread and
//! two wake-ups, several times as much, since most filesystems cannot promise a buffered write that does not wait. So the
//! loop writes and looks at the clock: once a write took long (a full page cache, a journal that commits), the ring gets
//! all writes for so much longer that waiting takes a small part of the loop's time, whatever the disk does.

use ferry_engine::ByteRange;
use std::time::{Duration, Instant};

/// Longest write that the loop makes itself, in bytes.
const BYTES_MAX: u64 = 32 << 10;
/// Pages of the cache: what covers one in part may have to read it from the disk first.
const PAGE_BYTES: u64 = 4096;
/// Longest time that a write into memory takes, with some patience.
const SHORT: Duration = Duration::from_millis(1);
/// After a long write the ring gets them for so many times as long.
const PAUSE_FACTOR: u32 = 20;

/// What is known of how long writes take.
#[derive(Debug, Default)]
pub(super) struct Inline {
    /// Flushes under way: a write may have to wait for one.
    flushes: usize,
    /// After a long write: until when the ring gets them.
    paused_until: Option<Instant>,
}

impl Inline {
    /// Whether a write of this range may be made at once.
    pub(super) fn suits(&self, range: ByteRange, now: Instant) -> bool {
        range.len_bytes() <= BYTES_MAX
            && range.offset().is_multiple_of(PAGE_BYTES)
            && range.len_bytes().is_multiple_of(PAGE_BYTES)
            && self.flushes == 0
            && self.paused_until.is_none_or(|until| until <= now)
    }

    /// A write was made from `begun` to `ended`.
    pub(super) fn wrote(&mut self, begun: Instant, ended: Instant) {
        let took = ended.saturating_duration_since(begun);
        self.paused_until = (took > SHORT).then(|| ended + took * PAUSE_FACTOR);
    }

    pub(super) fn flush_begins(&mut self) {
        self.flushes += 1;
    }

    pub(super) fn flush_ended(&mut self) {
        self.flushes -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(offset: u64, len_bytes: u64) -> ByteRange {
        ByteRange::new(offset, len_bytes).unwrap()
    }

    #[test]
    fn small_whole_pages_are_written_at_once() {
        let (inline, now) = (Inline::default(), Instant::now());
        assert!(inline.suits(range(4096, 4096), now) && inline.suits(range(0, BYTES_MAX), now));
        assert!(!inline.suits(range(0, BYTES_MAX + PAGE_BYTES), now), "longer than a moment");
        assert!(!inline.suits(range(512, 4096), now) && !inline.suits(range(0, 512), now), "parts of pages");
    }

    #[test]
    fn waiting_for_a_slow_disk_takes_a_small_part_of_the_time() {
        let (mut inline, begun) = (Inline::default(), Instant::now());
        let ended = begun + Duration::from_millis(50);
        inline.wrote(begun, ended);
        assert!(!inline.suits(range(0, 4096), ended + Duration::from_millis(999)));
        assert!(inline.suits(range(0, 4096), ended + Duration::from_secs(1)));
        inline.wrote(ended, ended + Duration::from_micros(3));
        assert!(inline.suits(range(0, 4096), ended), "a quick one ends the caution");
    }

    #[test]
    fn nothing_is_written_at_once_while_a_flush_is_under_way() {
        let (mut inline, now) = (Inline::default(), Instant::now());
        inline.flush_begins();
        assert!(!inline.suits(range(0, 4096), now));
        inline.flush_ended();
        assert!(inline.suits(range(0, 4096), now));
    }
}
