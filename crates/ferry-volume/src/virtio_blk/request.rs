//! One request, out of its chain of descriptors (VIRTIO 1.2, 5.2.6):
//!
//! ```text
//!  to read    u32 type   u32 reserved   u64 sector   then the data of a write, or ranges of 16 bytes:
//!                                                    u64 sector   u32 sectors   u32 flags (bit 0: unmap)
//!  to write   the data of a read, or the serial number      then u8 status        (all little-endian)
//! ```
//!
//! Invariant: a range that comes out lies within the disk and is not empty.

use super::chain::{Broken, Chain, GuestMemory, Scatter, Unmapped};
use super::{RANGE_SECTORS_MAX, RANGES_MAX, REQUEST_BYTES_MAX, SECTOR_BYTES};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

/// Bytes of a request's header.
const HEADER_BYTES: u32 = 16;
/// Bytes of a range of a discard or write-zeroes.
const RANGE_BYTES: u32 = 16;

/// A part of the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where it begins.
    pub offset: u64,
    /// How long it is; never zero.
    pub len: u64,
}

/// What a guest asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The range's bytes.
    Read {
        /// What to read.
        range: Range,
        /// Where it goes; exactly as long as the range.
        into: Scatter,
    },
    /// Store bytes.
    Write {
        /// Where to.
        range: Range,
        /// Where they come from; exactly as long as the range.
        from: Scatter,
    },
    /// Make durable what was answered before.
    Flush,
    /// These ranges are no longer needed; at least one.
    Discard(Vec<Range>),
    /// These ranges read as zeroes afterwards; at least one. With each: whether its space may be given back.
    WriteZeroes(Vec<(Range, bool)>),
    /// The serial number, as much of it as there is room for.
    Serial {
        /// Where it goes.
        into: Scatter,
    },
}

/// A request that can be answered, although perhaps with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Where the status goes: a guest-physical address.
    pub status: u64,
    /// What is asked.
    pub ask: Result<Ask, Refusal>,
}

/// Why a request is answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such type of request, or a flag that this device does not know is set.
    #[error("this device does not do that")]
    Unsupported,
    /// The header, or the ranges of a discard, are not in the guest's memory.
    #[error(transparent)]
    Unmapped(#[from] Unmapped),
    /// Header, data or ranges have a length that cannot be, or there is data where none belongs.
    #[error("a part of the request has a wrong length")]
    Length,
    /// The range is not on the disk.
    #[error("the range is not on the disk")]
    OutOfRange,
}

/// Reads a request out of its descriptors. `size_bytes` is the size of the disk.
///
/// # Errors
/// The chain cannot be answered.
pub fn parse(mut chain: Chain, memory: &dyn GuestMemory, size_bytes: u64) -> Result<Parsed, Broken> {
    let status = chain.take_status()?;
    Ok(Parsed { status, ask: ask(chain, memory, size_bytes) })
}

fn ask(chain: Chain, memory: &dyn GuestMemory, size_bytes: u64) -> Result<Ask, Refusal> {
    let (header, readable) = chain.readable.split(HEADER_BYTES).ok_or(Refusal::Length)?;
    let writable = chain.writable;
    let mut copy = [0; HEADER_BYTES as usize];
    header.copy_out(memory, &mut copy)?;
    let (kind, sector) = (le32(&copy[0..4]), le64(&copy[8..16]));
    match kind {
        VIRTIO_BLK_T_IN => {
            let range = of_data(sector, &writable, &readable, size_bytes)?;
            Ok(Ask::Read { range, into: writable })
        }
        VIRTIO_BLK_T_OUT => {
            let range = of_data(sector, &readable, &writable, size_bytes)?;
            Ok(Ask::Write { range, from: readable })
        }
        VIRTIO_BLK_T_FLUSH => Ok(Ask::Flush),
        VIRTIO_BLK_T_DISCARD => {
            let ranges = of_list(&readable, memory, size_bytes)?;
            // "The unmap bit MUST be zero for discard commands" (5.2.6.1).
            let plain = |(range, unmap)| if unmap { Err(Refusal::Unsupported) } else { Ok(range) };
            ranges.into_iter().map(plain).collect::<Result<_, _>>().map(Ask::Discard)
        }
        VIRTIO_BLK_T_WRITE_ZEROES => of_list(&readable, memory, size_bytes).map(Ask::WriteZeroes),
        VIRTIO_BLK_T_GET_ID if writable.len_bytes() > 0 => Ok(Ask::Serial { into: writable }),
        VIRTIO_BLK_T_GET_ID => Err(Refusal::Length),
        _ => Err(Refusal::Unsupported),
    }
}

/// The range of a read or write with this data, and nothing in the other direction.
fn of_data(sector: u64, data: &Scatter, other: &Scatter, size_bytes: u64) -> Result<Range, Refusal> {
    let len = u64::from(data.len_bytes());
    if len == 0 || !len.is_multiple_of(SECTOR_BYTES) || other.len_bytes() > 0 {
        return Err(Refusal::Length);
    }
    if data.len_bytes() > REQUEST_BYTES_MAX {
        return Err(Refusal::Length);
    }
    on_disk(sector, len, size_bytes)
}

/// The ranges of a discard or write-zeroes, each with its unmap flag.
fn of_list(list: &Scatter, memory: &dyn GuestMemory, size_bytes: u64) -> Result<Vec<(Range, bool)>, Refusal> {
    let count = list.len_bytes() / RANGE_BYTES;
    if count == 0 || count > RANGES_MAX || !list.len_bytes().is_multiple_of(RANGE_BYTES) {
        return Err(Refusal::Length);
    }
    let mut copy = [0; (RANGES_MAX * RANGE_BYTES) as usize];
    let copy = &mut copy[..list.len_bytes() as usize];
    list.copy_out(memory, copy)?;
    let one = |bytes: &[u8]| {
        let (sector, sectors, flags) = (le64(&bytes[0..8]), le32(&bytes[8..12]), le32(&bytes[12..16]));
        if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 {
            return Err(Refusal::Unsupported);
        }
        if sectors == 0 || sectors > RANGE_SECTORS_MAX {
            return Err(Refusal::Length);
        }
        Ok((on_disk(sector, u64::from(sectors) * SECTOR_BYTES, size_bytes)?, flags != 0))
    };
    copy.chunks_exact(RANGE_BYTES as usize).map(one).collect()
}

fn on_disk(sector: u64, len: u64, size_bytes: u64) -> Result<Range, Refusal> {
    let offset = sector.checked_mul(SECTOR_BYTES).ok_or(Refusal::OutOfRange)?;
    let end = offset.checked_add(len).ok_or(Refusal::OutOfRange)?;
    if end > size_bytes {
        return Err(Refusal::OutOfRange);
    }
    Ok(Range { offset, len })
}

fn le32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes were cut out"))
}

fn le64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes were cut out"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;

    /// Memory of 64 KiB that begins at address 0.
    struct Ram(RefCell<Vec<u8>>);

    impl GuestMemory for Ram {
        fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unmapped> {
            let ram = self.0.borrow();
            let at = usize::try_from(address).map_err(|_| Unmapped)?;
            into.copy_from_slice(ram.get(at..at + into.len()).ok_or(Unmapped)?);
            Ok(())
        }

        fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Unmapped> {
            let mut ram = self.0.borrow_mut();
            let at = usize::try_from(address).map_err(|_| Unmapped)?;
            ram.get_mut(at..at + bytes.len()).ok_or(Unmapped)?.copy_from_slice(bytes);
            Ok(())
        }
    }

    const DISK: u64 = 1 << 30;
    const STATUS: u64 = 0xf000;

    /// A request whose header and payload lie at 0, read from there; and room for an answer at 0x8000.
    fn asked(kind: u32, sector: u64, payload: &[u8], room: u32) -> Result<Ask, Refusal> {
        let mut bytes = vec![0; 1 << 16];
        bytes[0..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&sector.to_le_bytes());
        bytes[16..16 + payload.len()].copy_from_slice(payload);
        let mut chain = Chain::default();
        // The header is cut in two, and the second half lies with the payload.
        chain.push(0, 5, false).unwrap();
        chain.push(5, 11 + payload.len() as u32, false).unwrap();
        chain.push(0x8000, room, true).unwrap();
        chain.push(STATUS, 1, true).unwrap();
        let parsed = parse(chain, &Ram(RefCell::new(bytes)), DISK).unwrap();
        assert_eq!(parsed.status, STATUS);
        parsed.ask
    }

    fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    }

    #[test]
    fn what_a_driver_asks_is_understood_however_it_is_cut() {
        let Ok(Ask::Read { range: read, into }) = asked(VIRTIO_BLK_T_IN, 8, &[], 4096) else { panic!() };
        assert_eq!((read, into.len_bytes()), (Range { offset: 4096, len: 4096 }, 4096));
        let Ok(Ask::Write { range: write, from }) = asked(VIRTIO_BLK_T_OUT, 1, &[7; 1024], 0) else {
            panic!()
        };
        assert_eq!((write, from.len_bytes()), (Range { offset: 512, len: 1024 }, 1024));
        assert_eq!(asked(VIRTIO_BLK_T_FLUSH, 0, &[], 0), Ok(Ask::Flush));
        let two = [range(0, 8, 0), range(16, 1, 0)].concat();
        let ranges = vec![Range { offset: 0, len: 4096 }, Range { offset: 8192, len: 512 }];
        assert_eq!(asked(VIRTIO_BLK_T_DISCARD, 0, &two, 0), Ok(Ask::Discard(ranges.clone())));
        let zeroes = [range(0, 8, 1), range(16, 1, 0)].concat();
        let zeroed = vec![(ranges[0], true), (ranges[1], false)];
        assert_eq!(asked(VIRTIO_BLK_T_WRITE_ZEROES, 0, &zeroes, 0), Ok(Ask::WriteZeroes(zeroed)));
        assert!(matches!(asked(VIRTIO_BLK_T_GET_ID, 0, &[], 20), Ok(Ask::Serial { .. })));
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        for (kind, payload, room) in [
            (VIRTIO_BLK_T_IN, 0, 0),
            (VIRTIO_BLK_T_IN, 0, 511),
            (VIRTIO_BLK_T_IN, 512, 512),
            (VIRTIO_BLK_T_IN, 0, REQUEST_BYTES_MAX + 512),
            (VIRTIO_BLK_T_OUT, 0, 0),
            (VIRTIO_BLK_T_OUT, 513, 0),
            (VIRTIO_BLK_T_OUT, 512, 512),
            (VIRTIO_BLK_T_DISCARD, 0, 0),
            (VIRTIO_BLK_T_DISCARD, 15, 0),
            (VIRTIO_BLK_T_WRITE_ZEROES, 16 * (RANGES_MAX as usize + 1), 0),
            (VIRTIO_BLK_T_GET_ID, 0, 0),
        ] {
            assert_eq!(
                asked(kind, 0, &vec![0; payload], room),
                Err(Refusal::Length),
                "{kind} {payload} {room}"
            );
        }
        assert_eq!(asked(VIRTIO_BLK_T_DISCARD, 0, &range(0, 0, 0), 0), Err(Refusal::Length));
        let long = range(0, RANGE_SECTORS_MAX + 1, 0);
        assert_eq!(asked(VIRTIO_BLK_T_DISCARD, 0, &long, 0), Err(Refusal::Length));
    }

    #[test]
    fn what_is_not_on_the_disk_is_refused() {
        let end = DISK / SECTOR_BYTES;
        assert!(asked(VIRTIO_BLK_T_IN, end - 1, &[], 512).is_ok());
        for sector in [end, end - 1, u64::MAX / 512, u64::MAX] {
            assert_eq!(asked(VIRTIO_BLK_T_IN, sector, &[], 1024), Err(Refusal::OutOfRange));
            assert_eq!(asked(VIRTIO_BLK_T_OUT, sector, &[0; 1024], 0), Err(Refusal::OutOfRange));
            let list = range(sector, 2, 0);
            assert_eq!(asked(VIRTIO_BLK_T_WRITE_ZEROES, 0, &list, 0), Err(Refusal::OutOfRange));
        }
    }

    #[test]
    fn what_is_not_known_is_not_supported() {
        for kind in [2, 3, 7, 12, 14, 15, u32::MAX] {
            assert_eq!(asked(kind, 0, &[], 512), Err(Refusal::Unsupported), "{kind}");
        }
        assert_eq!(asked(VIRTIO_BLK_T_DISCARD, 0, &range(0, 8, 1), 0), Err(Refusal::Unsupported));
        assert_eq!(asked(VIRTIO_BLK_T_WRITE_ZEROES, 0, &range(0, 8, 2), 0), Err(Refusal::Unsupported));
    }

    #[test]
    fn a_header_outside_of_memory_is_answered_with_an_error() {
        let mut chain = Chain::default();
        chain.push(1 << 40, 16, false).unwrap();
        chain.push(STATUS, 1, true).unwrap();
        let parsed = parse(chain, &Ram(RefCell::new(vec![0; 1 << 16])), DISK).unwrap();
        assert_eq!(parsed, Parsed { status: STATUS, ask: Err(Refusal::Unmapped(Unmapped)) });
    }

    proptest! {
        #[test]
        fn a_read_lands_where_the_driver_said_however_it_is_cut(
            cuts in proptest::collection::vec(0_u32..600, 1..20),
            sectors in 1_u64..8,
        ) {
            let len = sectors * SECTOR_BYTES;
            let mut bytes = vec![0; 1 << 16];
            bytes[8..16].copy_from_slice(&3_u64.to_le_bytes());
            let ram = Ram(RefCell::new(bytes));
            let mut chain = Chain::default();
            chain.push(0, 16, false).unwrap();
            let (mut address, mut left) = (0x4000, len as u32 + 1);
            for cut in cuts {
                let cut = cut.min(left - 1);
                chain.push(address, cut, true).unwrap();
                (address, left) = (address + u64::from(cut) + 3, left - cut);
            }
            chain.push(address, left, true).unwrap();
            let Parsed { status, ask } = parse(chain, &ram, DISK).unwrap();
            let Ok(Ask::Read { range, into }) = ask else { panic!("{ask:?}") };
            prop_assert_eq!(range, Range { offset: 3 * SECTOR_BYTES, len });
            let content: Vec<u8> = (0..len).map(|i| i as u8 | 1).collect();
            into.copy_in(&ram, &content).unwrap();
            let mut back = vec![0; len as usize];
            into.copy_out(&ram, &mut back).unwrap();
            prop_assert_eq!(back, content);
            prop_assert_eq!(ram.0.borrow()[status as usize], 0, "the status is not a part of the data");
        }
    }
}
