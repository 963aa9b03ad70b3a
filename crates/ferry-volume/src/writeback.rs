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
use std::fs::File;
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;

/// Bytes that may be on their way before copy-ins wait for them.
const UNDER_WAY_BYTES_MAX: u64 = 32 << 20;

/// A stretch of the data file that is being written to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) offset: u64,
    pub(crate) len: u32,
    /// Whether it shall stay in the page cache.
    pub(crate) cached: bool,
}

/// The stretches under way, in the order in which they were begun.
#[derive(Debug, Default)]
pub(crate) struct Writeback {
    under_way: VecDeque<Stretch>,
    bytes: u64,
}

impl Writeback {
    /// Writing this has begun. Gives what must have reached the disk before more may be copied in, oldest last.
    pub(crate) fn begun(&mut self, stretch: Stretch) -> Vec<Stretch> {
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

impl Stretch {
    /// Begins to write it, by a thread that may wait. A courtesy: what fails is heard of by whoever asks for durability.
    pub(crate) fn begin(self, file: &File) {
        self.sync(file, libc::SYNC_FILE_RANGE_WRITE);
    }

    /// Waits until it has reached the disk, by a thread that may, and lets go of it unless it shall stay.
    pub(crate) fn finish(self, file: &File) {
        self.sync(file, libc::SYNC_FILE_RANGE_WAIT_BEFORE);
        if !self.cached {
            let len = NonZeroU64::new(self.len.into());
            let _ = rustix::fs::fadvise(file, self.offset, len, rustix::fs::Advice::DontNeed);
        }
    }

    #[allow(unsafe_code, reason = "a call that neither the standard library nor rustix has")]
    fn sync(self, file: &File, flags: libc::c_uint) {
        // SAFETY: no memory is passed, and the descriptor is open for as long as the file is borrowed.
        unsafe { libc::sync_file_range(file.as_raw_fd(), self.offset as i64, self.len.into(), flags) };
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
