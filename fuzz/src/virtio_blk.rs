//! Requests of a virtio-blk driver: the guest's memory is the input, and its first bytes are the table of descriptors.

use ferry_volume::virtio_blk::{
    Ask, Chain, GuestMemory, RANGES_MAX, REQUEST_BYTES_MAX, Range, SECTOR_BYTES, Scatter, Unmapped, parse,
};
use std::cell::RefCell;

const DISK_BYTES: u64 = 1 << 30;
const TABLE_SIZE: u16 = 16;

struct Memory(RefCell<Vec<u8>>);

impl Memory {
    fn place(&self, address: u64, len: usize) -> Result<std::ops::Range<usize>, Unmapped> {
        let at = usize::try_from(address).map_err(|_| Unmapped)?;
        let end = at.checked_add(len).filter(|&end| end <= self.0.borrow().len()).ok_or(Unmapped)?;
        Ok(at..end)
    }
}

impl GuestMemory for Memory {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unmapped> {
        let place = self.place(address, into.len())?;
        into.copy_from_slice(&self.0.borrow()[place]);
        Ok(())
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Unmapped> {
        let place = self.place(address, bytes.len())?;
        self.0.borrow_mut()[place].copy_from_slice(bytes);
        Ok(())
    }
}

/// What is accepted lies on the disk, fits where it must, and can be copied without a panic.
pub fn run(bytes: &[u8]) {
    let memory = Memory(RefCell::new(bytes.to_vec()));
    let Ok(chain) = Chain::walk(&memory, 0, TABLE_SIZE, 0) else { return };
    let Ok(parsed) = parse(chain.clone(), &memory, DISK_BYTES) else { return };
    assert_eq!(parse(chain, &memory, DISK_BYTES), Ok(parsed.clone()), "the same memory says the same");
    match parsed.ask {
        Ok(Ask::Read { range, into }) => {
            transfer(range, &into);
            let _ = into.copy_in(&memory, &vec![7; range.len as usize]);
        }
        Ok(Ask::Write { range, from }) => {
            transfer(range, &from);
            let _ = from.copy_out(&memory, &mut vec![0; range.len as usize]);
        }
        Ok(Ask::Discard(ranges)) => list(&ranges),
        Ok(Ask::WriteZeroes(ranges)) => list(&ranges.iter().map(|&(range, _)| range).collect::<Vec<_>>()),
        Ok(Ask::Serial { into }) => assert!(into.len_bytes() > 0),
        Ok(Ask::Flush) | Err(_) => {}
    }
    let _ = memory.write(parsed.status, &[0]);
}

fn transfer(range: Range, data: &Scatter) {
    on_disk(range);
    assert_eq!(range.len, u64::from(data.len_bytes()));
    assert!(data.len_bytes() <= REQUEST_BYTES_MAX);
}

fn list(ranges: &[Range]) {
    assert!(!ranges.is_empty() && ranges.len() <= RANGES_MAX as usize);
    ranges.iter().copied().for_each(on_disk);
}

fn on_disk(range: Range) {
    assert!(range.len > 0 && range.len.is_multiple_of(SECTOR_BYTES));
    assert!(range.offset.is_multiple_of(SECTOR_BYTES) && range.offset + range.len <= DISK_BYTES);
}
