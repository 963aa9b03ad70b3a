//! One request, out of the descriptor that the driver wrote for it (struct ublksrv_io_desc):
//!
//! ```text
//!   0 u32 operation (bits 0-7) and flags (from bit 8)   4 u32 sectors   8 u64 first sector   16 u64 address (not used)
//! ```
//!
//! It lies in memory that the driver shares with us, so it is copied once and judged in the copy.
//!
//! Invariant: a range that comes out lies within the disk and is not empty; one that is read or written is no longer than
//! [`REQUEST_BYTES_MAX`].

use super::{RANGE_SECTORS_MAX, REQUEST_BYTES_MAX, SECTOR_BYTES};

/// Bytes of a descriptor.
pub const DESCRIPTOR_BYTES: usize = 24;

const READ: u8 = 0;
const WRITE: u8 = 1;
const FLUSH: u8 = 2;
const DISCARD: u8 = 3;
const WRITE_ZEROES: u8 = 5;
/// Answer only when durable.
const FUA: u32 = 1 << 13;
/// Keep the space allocated.
const NO_UNMAP: u32 = 1 << 15;

/// A part of the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where it begins.
    pub offset: u64,
    /// How long it is; never zero.
    pub len: u64,
}

/// What a guest asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The range's bytes.
    Read(Range),
    /// Store bytes.
    Write {
        /// Where to.
        range: Range,
        /// Answer only when durable.
        fua: bool,
    },
    /// Make durable what was answered before.
    Flush,
    /// The range is no longer needed.
    Discard(Range),
    /// The range reads as zeroes afterwards.
    WriteZeroes {
        /// What to zero.
        range: Range,
        /// Answer only when durable.
        fua: bool,
        /// Keep the space allocated.
        no_hole: bool,
    },
}

/// Why a request is answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such operation.
    #[error("this device does not do that")]
    Unsupported,
    /// The range is empty, not on the disk, or longer than was agreed on.
    #[error("the range cannot be")]
    Range,
}

/// Reads a descriptor. `size_bytes` is the size of the disk.
///
/// # Errors
/// It cannot be done.
pub fn parse(descriptor: &[u8; DESCRIPTOR_BYTES], size_bytes: u64) -> Result<Ask, Refusal> {
    let u32_at = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| descriptor[at + i]));
    let first_sector = u64::from_ne_bytes(std::array::from_fn(|i| descriptor[8 + i]));
    let (operation, sectors) = (u32_at(0), u32_at(4));
    let (fua, no_hole) = (operation & FUA != 0, operation & NO_UNMAP != 0);
    let range = |sectors_max: u32| {
        let len = u64::from(sectors) * SECTOR_BYTES;
        let offset = first_sector.checked_mul(SECTOR_BYTES);
        let offset = offset.filter(|offset| offset.checked_add(len).is_some_and(|end| end <= size_bytes));
        let fits = sectors != 0 && sectors <= sectors_max;
        offset.filter(|_| fits).map(|offset| Range { offset, len }).ok_or(Refusal::Range)
    };
    let moved = || range(REQUEST_BYTES_MAX / SECTOR_BYTES as u32);
    let emptied = || range(RANGE_SECTORS_MAX);
    match operation as u8 {
        READ => moved().map(Ask::Read),
        WRITE => moved().map(|range| Ask::Write { range, fua }),
        FLUSH => Ok(Ask::Flush),
        DISCARD => emptied().map(Ask::Discard),
        WRITE_ZEROES => emptied().map(|range| Ask::WriteZeroes { range, fua, no_hole }),
        _ => Err(Refusal::Unsupported),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: u64 = 1 << 30;

    fn descriptor(operation: u32, sectors: u32, first_sector: u64) -> [u8; DESCRIPTOR_BYTES] {
        let parts =
            [&operation.to_ne_bytes()[..], &sectors.to_ne_bytes(), &first_sector.to_ne_bytes(), &[0; 8]];
        parts.concat().try_into().unwrap()
    }

    fn ask(operation: u32, sectors: u32, first_sector: u64) -> Result<Ask, Refusal> {
        parse(&descriptor(operation, sectors, first_sector), DISK)
    }

    #[test]
    fn each_operation_is_understood_with_its_flags() {
        let range = Range { offset: 4096, len: 1024 };
        assert_eq!(ask(0, 2, 8), Ok(Ask::Read(range)));
        assert_eq!(ask(1, 2, 8), Ok(Ask::Write { range, fua: false }));
        assert_eq!(ask(1 | FUA, 2, 8), Ok(Ask::Write { range, fua: true }));
        assert_eq!(ask(2, 0, 0), Ok(Ask::Flush));
        assert_eq!(ask(3, 2, 8), Ok(Ask::Discard(range)));
        assert_eq!(ask(5, 2, 8), Ok(Ask::WriteZeroes { range, fua: false, no_hole: false }));
        assert_eq!(ask(5 | FUA | NO_UNMAP, 2, 8), Ok(Ask::WriteZeroes { range, fua: true, no_hole: true }));
        assert_eq!(ask(1 << 9 | 1, 2, 8), Ok(Ask::Write { range, fua: false }), "other flags are hints");
    }

    #[test]
    fn what_is_not_on_the_disk_is_refused() {
        let last = DISK / SECTOR_BYTES - 1;
        assert_eq!(ask(0, 1, last), Ok(Ask::Read(Range { offset: DISK - 512, len: 512 })));
        for (sectors, first) in [(2, last), (1, last + 1), (1, u64::MAX), (1, u64::MAX / 512), (0, 0)] {
            assert_eq!(ask(0, sectors, first), Err(Refusal::Range), "{sectors} from {first}");
            assert_eq!(ask(3, sectors, first), Err(Refusal::Range), "{sectors} from {first}");
        }
    }

    #[test]
    fn what_is_longer_than_agreed_on_is_refused() {
        assert!(ask(1, 1024, 0).is_ok() && ask(5, RANGE_SECTORS_MAX, 0).is_ok());
        assert_eq!(ask(1, 1025, 0), Err(Refusal::Range));
        assert_eq!(parse(&descriptor(5, RANGE_SECTORS_MAX + 1, 0), u64::MAX), Err(Refusal::Range));
    }

    #[test]
    fn zones_and_other_operations_are_not_done() {
        for operation in [4, 10, 15, 18, 255] {
            assert_eq!(ask(operation, 1, 0), Err(Refusal::Unsupported), "{operation}");
        }
    }
}
