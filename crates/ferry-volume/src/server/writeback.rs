//! What was copied in and is on its way from the page cache to the disk.
//!
//! ```text
//!  copy-in ─▶ page cache ─▶ writing starts ─┬─▶ little is under way: the copy-in is done
//!                                           └─▶ else: done when what came long before it has reached the disk
//! ```
//!
//! So the disk always has much to do, and yet a guest's flush never finds more than [`UNDER_WAY_BYTES_MAX`] of what
//! nobody asked for before it, and the source is not read faster than the disk writes. What is there and was only
//! hydrated leaves the page cache: otherwise a large volume would push out what machines use, and every page of it would
//! be a new one, which costs more than all else that is done with its bytes. Nothing here is about durability: that is
//! asked for by a flush, which also hears of a write that failed.

use std::collections::VecDeque;

/// Bytes that may be on their way before copy-ins wait for them.
const UNDER_WAY_BYTES_MAX: u64 = 32 << 20;

/// A stretch of the data file that is being written to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) offset: u64,
    pub(super) len: u32,
    /// Whether it shall stay in the page cache.
    pub(super) cached: bool,
}

/// The stretches under way, in the order in which they were begun.
#[derive(Debug, Default)]
pub(super) struct Writeback {
    under_way: VecDeque<Stretch>,
    bytes: u64,
}

impl Writeback {
    /// Writing this has begun. Gives what must have reached the disk before more may be copied in, oldest last.
    pub(super) fn begun(&mut self, stretch: Stretch) -> Vec<Stretch> {
        self.under_way.push_back(stretch);
        self.bytes += u64::from(stretch.len);
        let mut before = Vec::new();
        while self.bytes > UNDER_WAY_BYTES_MAX
            && let Some(oldest) = self.under_way.pop_front()
        {
            self.bytes -= u64::from(oldest.len);
            before.insert(0, oldest);
        }
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 20;

    fn stretch(number: u64, len: u32) -> Stretch {
        Stretch { offset: number * u64::from(MIB), len, cached: false }
    }

    #[test]
    fn little_is_waited_for_only_when_much_is_under_way() {
        let mut writeback = Writeback::default();
        for number in 0..32 {
            assert_eq!(writeback.begun(stretch(number, MIB)), []);
        }
        assert_eq!(writeback.begun(stretch(32, MIB)), [stretch(0, MIB)]);
        assert_eq!(writeback.begun(stretch(33, 2 * MIB)), [stretch(2, MIB), stretch(1, MIB)], "oldest last");
    }

    #[test]
    fn what_is_larger_than_all_that_may_be_under_way_is_waited_for_itself() {
        let mut writeback = Writeback::default();
        let huge = stretch(0, 33 * MIB);
        assert_eq!(writeback.begun(huge), [huge]);
        assert_eq!(writeback.begun(stretch(40, MIB)), []);
    }
}
