//! The verdict: reads back, from the volume as the machine sees it, every record that was ever acknowledged and every
//! filled block, and says which are not what they must be.
//!
//! A record counts only if the block in its place is the very one that was acknowledged (number and checksum). A
//! number acknowledged twice is a fault of its own: a writer that forgot its last records would write them again and
//! so hide the loss. Records that a later lap of the ring overwrote cannot be read back any more and are counted apart.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use serde::Serialize;

use super::acks::{self, Ack, Entry};
use super::disk::Disk;
use super::layout::{BLOCK_BYTES, CHUNK_BYTES, Layout};
use super::records::{Record, Ring};

/// Checks `disk` against the diary of its writer.
///
/// # Errors
/// The disk cannot be read.
pub fn check_diary(disk: &mut impl Disk, layout: &Layout, entries: &[Entry]) -> Result<Verdict> {
    let ring =
        Ring::new(layout.ring_offset(), layout.ring_bytes).expect("the layout leaves room for records");
    let acks: Vec<Ack> = acks::acknowledged(entries).collect();
    check(disk, layout, ring, &acks)
}

/// More faults than this are counted but not described.
const FAULTS_DESCRIBED_MAX: usize = 20;

/// What the checker found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Lines of acknowledgement.
    pub records_acknowledged: u64,
    /// Records read back exactly as acknowledged.
    pub records_intact: u64,
    /// Records that a later record of the ring replaced, as it may.
    pub records_overwritten: u64,
    /// Records that are missing, damaged or acknowledged twice.
    pub records_wrong: u64,
    /// Filled bytes read back and compared.
    pub fill_bytes_checked: u64,
    /// Filled blocks that do not hold what was written.
    pub fill_blocks_wrong: u64,
    /// The first faults, described.
    pub faults: Vec<Fault>,
}

/// One thing that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// The block in the record's place is not that record.
    RecordWrong {
        /// Its number.
        number: u64,
        /// Its place on the volume, in bytes.
        offset: u64,
        /// The number of the whole record that lies there instead, if one does.
        found: Option<u64>,
    },
    /// The number was acknowledged before: the writer had lost sight of it.
    WrittenAgain {
        /// The number.
        number: u64,
    },
    /// A filled block does not hold what was written.
    FillWrong {
        /// Its place on the volume, in bytes.
        offset: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RecordWrong { number, offset, found: Some(found) } => {
                write!(f, "record {number} at byte {offset} is not there; record {found} is in its place")
            }
            Self::RecordWrong { number, offset, found: None } => {
                write!(f, "record {number} at byte {offset} is not there; its block holds no whole record")
            }
            Self::WrittenAgain { number } => {
                write!(f, "record {number} was acknowledged twice, so its first copy had been lost")
            }
            Self::FillWrong { offset } => {
                write!(f, "the filled block at byte {offset} does not hold what was written")
            }
        }
    }
}

impl Verdict {
    /// True if every acknowledged record and every filled block is there.
    pub fn is_good(&self) -> bool {
        self.records_wrong == 0
            && self.fill_blocks_wrong == 0
            && self.records_intact + self.records_overwritten == self.records_acknowledged
    }

    fn note(&mut self, fault: Fault) {
        match fault {
            Fault::RecordWrong { .. } | Fault::WrittenAgain { .. } => self.records_wrong += 1,
            Fault::FillWrong { .. } => self.fill_blocks_wrong += 1,
        }
        if self.faults.len() < FAULTS_DESCRIBED_MAX {
            self.faults.push(fault);
        }
    }
}

/// Checks `disk` against what was acknowledged and what was filled.
///
/// # Errors
/// The volume could not be read; then there is no verdict.
pub fn check(disk: &mut impl Disk, layout: &Layout, ring: Ring, acks: &[Ack]) -> Result<Verdict> {
    let mut verdict = Verdict { records_acknowledged: acks.len() as u64, ..Verdict::default() };
    let newest = newest_of_each_slot(ring, acks, &mut verdict);
    check_records(disk, &newest, ring, &mut verdict)?;
    check_fill(disk, layout, &mut verdict)?;
    Ok(verdict)
}

/// The acknowledgement each slot must answer for, in ascending order of slots.
fn newest_of_each_slot(ring: Ring, acks: &[Ack], verdict: &mut Verdict) -> BTreeMap<u64, Ack> {
    let mut newest: BTreeMap<u64, Ack> = BTreeMap::new();
    let mut next_number = 0;
    for ack in acks {
        if ack.number < next_number {
            verdict.note(Fault::WrittenAgain { number: ack.number });
            // The second copy must be there all the same, but does not count as a second fault.
            newest.insert(ack.number % ring.slots(), *ack);
            continue;
        }
        next_number = ack.number + 1;
        if newest.insert(ack.number % ring.slots(), *ack).is_some() {
            verdict.records_overwritten += 1;
        }
    }
    newest
}

fn check_records(
    disk: &mut impl Disk,
    newest: &BTreeMap<u64, Ack>,
    ring: Ring,
    verdict: &mut Verdict,
) -> Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES as usize];
    let mut acks = newest.iter().peekable();
    while let Some(&(&first_slot, _)) = acks.peek() {
        let slots = (CHUNK_BYTES / BLOCK_BYTES).min(ring.slots() - first_slot);
        let run = &mut buffer[..(slots * BLOCK_BYTES) as usize];
        disk.read_at(ring.offset_of(first_slot), run)?;
        while let Some((slot, ack)) = acks.next_if(|(slot, _)| **slot < first_slot + slots) {
            let at = ((slot - first_slot) * BLOCK_BYTES) as usize;
            check_record(&run[at..at + BLOCK_BYTES as usize], ring.offset_of(*slot), ack, ring, verdict);
        }
    }
    Ok(())
}

fn check_record(block: &[u8], offset: u64, ack: &Ack, ring: Ring, verdict: &mut Verdict) {
    let found = Record::decode(block, offset);
    let wrong = Fault::RecordWrong {
        number: ack.number,
        offset: ack.offset,
        found: found.map(|found| found.record.number),
    };
    match found {
        Some(found) if found.record.number == ack.number => {
            if found.checksum == ack.checksum && ack.offset == offset {
                verdict.records_intact += 1;
            } else {
                verdict.note(wrong);
            }
        }
        // The next lap has come by since the acknowledgements were read.
        Some(found) if found.record.number > ack.number && ring.offset_of(found.record.number) == offset => {
            verdict.records_overwritten += 1;
        }
        Some(_) | None => verdict.note(wrong),
    }
}

fn check_fill(disk: &mut impl Disk, layout: &Layout, verdict: &mut Verdict) -> Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES as usize];
    let mut expected = vec![0; BLOCK_BYTES as usize];
    for chunk in layout.chunks() {
        let found = &mut buffer[..chunk.len_bytes as usize];
        disk.read_at(chunk.offset, found)?;
        for (index, block) in found.chunks(BLOCK_BYTES as usize).enumerate() {
            let offset = chunk.offset + index as u64 * BLOCK_BYTES;
            layout.fill_block(offset, &mut expected);
            if block != expected {
                verdict.note(Fault::FillWrong { offset });
            }
        }
        verdict.fill_bytes_checked += chunk.len_bytes;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::disk::memory::MemoryDisk;
    use crate::demo::fill::fill;
    use crate::demo::records::RECORD_BYTES;

    const MIB: u64 = 1024 * 1024;

    fn layout() -> Layout {
        Layout::plan(64 * MIB, 3 * MIB + 8192, 11).unwrap()
    }

    fn write_record(disk: &mut MemoryDisk, ring: Ring, number: u64) -> Ack {
        let offset = ring.offset_of(number);
        let mut block = [0; RECORD_BYTES];
        let checksum = Record { number, offset, written_at_ns: 5, writer: 1 }.encode(&mut block);
        disk.write_at(offset, &block).unwrap();
        Ack { at_ns: 6, number, offset, checksum }
    }

    fn good_disk(ring: Ring, records: u64) -> (MemoryDisk, Vec<Ack>) {
        let mut disk = MemoryDisk::default();
        fill(&mut disk, &layout(), &mut |_| {}).unwrap();
        let acks = (0..records).map(|number| write_record(&mut disk, ring, number)).collect();
        (disk, acks)
    }

    fn ring() -> Ring {
        Ring::new(layout().ring_offset(), layout().ring_bytes).unwrap()
    }

    #[test]
    fn a_volume_that_kept_everything_is_good() {
        let (mut disk, acks) = good_disk(ring(), 700);
        let verdict = check(&mut disk, &layout(), ring(), &acks).unwrap();
        assert!(verdict.is_good(), "{verdict:?}");
        assert_eq!(verdict.records_intact, 700);
        assert_eq!(verdict.fill_bytes_checked, 3 * MIB + 8192);
    }

    #[test]
    fn a_corrupted_record_is_found_whichever_it_is() {
        for number in [0, 1, 255, 256, 699] {
            let (mut disk, acks) = good_disk(ring(), 700);
            disk.blocks.get_mut(&(ring().offset_of(number) / BLOCK_BYTES)).unwrap()[2000] ^= 0x10;
            let verdict = check(&mut disk, &layout(), ring(), &acks).unwrap();
            assert!(!verdict.is_good());
            assert_eq!(verdict.records_wrong, 1);
            let offset = ring().offset_of(number);
            assert_eq!(verdict.faults, [Fault::RecordWrong { number, offset, found: None }]);
        }
    }

    #[test]
    fn a_missing_record_is_found() {
        let (mut disk, acks) = good_disk(ring(), 700);
        disk.blocks.remove(&(ring().offset_of(699) / BLOCK_BYTES)).unwrap();
        assert!(!check(&mut disk, &layout(), ring(), &acks).unwrap().is_good());
    }

    #[test]
    fn a_whole_record_that_is_not_the_acknowledged_one_is_found() {
        let (mut disk, acks) = good_disk(ring(), 10);
        let offset = ring().offset_of(4);
        let mut block = [0; RECORD_BYTES];
        Record { number: 4, offset, written_at_ns: 99, writer: 2 }.encode(&mut block);
        disk.write_at(offset, &block).unwrap();
        let verdict = check(&mut disk, &layout(), ring(), &acks).unwrap();
        assert_eq!(verdict.faults, [Fault::RecordWrong { number: 4, offset, found: Some(4) }]);
    }

    #[test]
    fn a_writer_that_forgot_its_last_records_and_wrote_them_again_is_found() {
        let (mut disk, mut acks) = good_disk(ring(), 10);
        acks.push(write_record(&mut disk, ring(), 8));
        acks.push(write_record(&mut disk, ring(), 9));
        acks.push(write_record(&mut disk, ring(), 10));
        let verdict = check(&mut disk, &layout(), ring(), &acks).unwrap();
        assert_eq!(verdict.records_wrong, 2);
        assert!(!verdict.is_good());
    }

    #[test]
    fn a_damaged_or_misplaced_filled_block_is_found() {
        let (good, acks) = good_disk(ring(), 1);
        let chunk = layout().chunks().nth(1).unwrap();
        let (here, there) = (chunk.offset / BLOCK_BYTES, chunk.offset / BLOCK_BYTES + 3);

        let mut damaged = good.clone();
        damaged.blocks.get_mut(&here).unwrap()[4095] ^= 1;
        let verdict = check(&mut damaged, &layout(), ring(), &acks).unwrap();
        assert_eq!(verdict.faults, [Fault::FillWrong { offset: chunk.offset }]);
        assert!(!verdict.is_good());

        let mut swapped = good;
        let (one, other) = (swapped.blocks[&here].clone(), swapped.blocks[&there].clone());
        swapped.blocks.insert(here, other);
        swapped.blocks.insert(there, one);
        assert_eq!(check(&mut swapped, &layout(), ring(), &acks).unwrap().fill_blocks_wrong, 2);
    }

    #[test]
    fn an_empty_volume_has_lost_everything() {
        let (_, acks) = good_disk(ring(), 30);
        let verdict = check(&mut MemoryDisk::default(), &layout(), ring(), &acks).unwrap();
        assert_eq!(verdict.records_wrong, 30);
        assert_eq!(verdict.fill_blocks_wrong, (3 * MIB + 8192) / BLOCK_BYTES);
        assert_eq!(verdict.faults.len(), FAULTS_DESCRIBED_MAX);
    }

    #[test]
    fn records_that_a_later_lap_replaced_are_counted_apart_and_hide_no_loss() {
        let small = Ring::new(layout().ring_offset(), 8 * BLOCK_BYTES).unwrap();
        let (mut disk, acks) = good_disk(small, 20);
        let verdict = check(&mut disk, &layout(), small, &acks).unwrap();
        assert!(verdict.is_good(), "{verdict:?}");
        assert_eq!((verdict.records_intact, verdict.records_overwritten), (8, 12));

        // The lap before the last one must not pass for the last.
        let stale = write_record(&mut disk, small, 11);
        assert_eq!(stale.number, 11);
        assert!(!check(&mut disk, &layout(), small, &acks).unwrap().is_good());
    }
}
