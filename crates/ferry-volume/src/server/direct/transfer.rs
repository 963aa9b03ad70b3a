//! Transfers past the page cache: any range of the volume, in whole units of the store.
//!
//! ```text
//!  range     ····│▒▒▒▒████████████│████████████████│██▒▒▒▒▒▒
//!  a write       └─ load, put in ─┴── straight ────┴─ load, put in, store
//! ```
//!
//! What covers a unit in part is done in memory: the unit is loaded, changed and stored. Whoever stores a unit also stores
//! bytes that it was not asked to change, so nothing else may change that unit meanwhile: see [`super::turns`]. A read
//! that is not aligned goes through memory of ours, too. What is to be done next is said by [`Direct::act`], how it went is
//! told to [`Direct::went_on`].

use crate::buffer::{Buffer, Pool};
use crate::server::disk::is_unsupported;
use crate::server::task::is_zero;
use crate::store::UNIT_BYTES;
use ferry_engine::{ByteRange, Errno};
use std::io;
use std::ops::Range;

/// The most that goes through memory of ours at a time, in bytes.
const BOUNCED_BYTES: u64 = 1 << 20;

/// Where the bytes of a range are in memory.
pub(in crate::server) struct Place {
    pub(in crate::server) buffer: Buffer,
    /// Of the range's first byte.
    pub(in crate::server) at: usize,
}

/// What is done to a range.
pub(in crate::server) enum Deed {
    Read(Place),
    Write(Place),
    Zero { punch: bool },
}

/// A transfer under way.
pub(crate) struct Direct {
    deed: Deed,
    range: ByteRange,
    /// What addresses in memory must be multiples of.
    memory_bytes: u64,
    /// The part under way.
    part: Range<u64>,
    way: Way,
    /// Bytes of the way that are behind us.
    done: u64,
}

/// How a part is transferred.
enum Way {
    /// Between the place and the store.
    Straight,
    /// The units that the part touches, into memory of ours.
    Load(Buffer),
    /// Back.
    Store(Buffer),
    /// Without bytes.
    Zero,
    /// Zeroes, again and again.
    StoreZeroes(Buffer),
}

/// What the disk is to do.
pub(in crate::server) enum Act<'a> {
    Read { buffer: &'a Buffer, at: usize, len: usize, offset: u64 },
    Write { buffer: &'a Buffer, at: usize, len: usize, offset: u64 },
    Zero { range: ByteRange, punch: bool },
}

const fn floor(offset: u64) -> u64 {
    offset - offset % UNIT_BYTES
}

fn hull(part: &Range<u64>) -> Range<u64> {
    floor(part.start)..part.end.next_multiple_of(UNIT_BYTES)
}

impl Direct {
    pub(in crate::server) fn new(deed: Deed, range: ByteRange, memory_bytes: u64, pool: &Pool) -> Self {
        let part = range.offset()..range.offset();
        let mut direct = Self { deed, range, memory_bytes, part, way: Way::Straight, done: 0 };
        direct.plan(pool);
        direct
    }

    /// Finds the next part, and its way.
    fn plan(&mut self, pool: &Pool) {
        let (start, end) = (self.part.end, self.range.end());
        let covers_in_part = !start.is_multiple_of(UNIT_BYTES) || end - start < UNIT_BYTES;
        let bounced_end = end.min(floor(start) + BOUNCED_BYTES);
        let (part_end, way) = match &self.deed {
            Deed::Read(place)
                if !covers_in_part && end.is_multiple_of(UNIT_BYTES) && self.fits(place, start) =>
            {
                (end, Way::Straight)
            }
            Deed::Read(_) => (bounced_end, Way::Load(bounce(start..bounced_end, pool))),
            Deed::Write(_) | Deed::Zero { .. } if covers_in_part => {
                let part_end = end.min(floor(start) + UNIT_BYTES);
                (part_end, Way::Load(bounce(start..part_end, pool)))
            }
            Deed::Zero { .. } => (floor(end), Way::Zero),
            Deed::Write(place) if self.fits(place, start) => (floor(end), Way::Straight),
            Deed::Write(_) => {
                let part_end = floor(bounced_end);
                let memory = bounce(start..part_end, pool);
                self.put_in(&memory, &(start..part_end));
                (part_end, Way::Store(memory))
            }
        };
        (self.part, self.way, self.done) = (start..part_end, way, 0);
    }

    /// Whether the kernel takes the place as it is, from an offset of the store on.
    fn fits(&self, place: &Place, offset: u64) -> bool {
        let address = place.buffer.address(self.in_place(place, offset), 0) as u64;
        address.is_multiple_of(self.memory_bytes)
    }

    fn in_place(&self, place: &Place, offset: u64) -> usize {
        place.at + (offset - self.range.offset()) as usize
    }

    /// What the disk is to do now.
    pub(in crate::server) fn act(&self) -> Act<'_> {
        let done = self.done;
        let offset = match &self.way {
            Way::Straight | Way::Zero | Way::StoreZeroes(_) => self.part.start + done,
            Way::Load(_) | Way::Store(_) => hull(&self.part).start + done,
        };
        let len = (self.length() - done) as usize;
        match (&self.way, &self.deed) {
            (Way::Straight, Deed::Read(place)) => {
                Act::Read { buffer: &place.buffer, at: self.in_place(place, offset), len, offset }
            }
            (Way::Straight, Deed::Write(place)) => {
                Act::Write { buffer: &place.buffer, at: self.in_place(place, offset), len, offset }
            }
            (Way::Load(memory), _) => Act::Read { buffer: memory, at: done as usize, len, offset },
            (Way::Store(memory), _) => Act::Write { buffer: memory, at: done as usize, len, offset },
            (Way::StoreZeroes(zeroes), _) => {
                Act::Write { buffer: zeroes, at: 0, len: len.min(zeroes.len()), offset }
            }
            (Way::Zero, Deed::Zero { punch }) => {
                let range = ByteRange::between(self.part.start, self.part.end);
                Act::Zero { range: range.expect("no part is empty"), punch: *punch }
            }
            (Way::Straight | Way::Zero, _) => unreachable!("no plan makes this"),
        }
    }

    /// Bytes that the way has in all.
    fn length(&self) -> u64 {
        let whole = match self.way {
            Way::Straight | Way::Zero | Way::StoreZeroes(_) => self.part.clone(),
            Way::Load(_) | Way::Store(_) => hull(&self.part),
        };
        whole.end - whole.start
    }

    /// Takes note of how the act went; tells the end, or there is another act to do.
    pub(in crate::server) fn went_on(
        &mut self,
        result: io::Result<u32>,
        pool: &Pool,
    ) -> Option<Result<(), Errno>> {
        match (result, &self.way) {
            (Ok(_), Way::Zero) => self.done = self.length(),
            (Err(e), Way::Zero) if is_unsupported(&e) => {
                let zeroes = pool.take(self.length().min(BOUNCED_BYTES) as usize);
                zeroes.zero(0, zeroes.len());
                self.way = Way::StoreZeroes(zeroes);
                return None;
            }
            (Err(e), _) => return Some(Err(Errno(e.raw_os_error().unwrap_or(libc::EIO)))),
            (Ok(0), _) => return Some(Err(Errno::EIO)),
            (Ok(count), _) => self.done += u64::from(count),
        }
        if self.done < self.length() {
            return None;
        }
        if let Way::Load(memory) = &self.way {
            let memory = memory.clone();
            let is_there_already = self.is_zero_already(&memory);
            self.put_in(&memory, &self.part);
            if self.changes_the_store() && !is_there_already {
                (self.way, self.done) = (Way::Store(memory), 0);
                return None;
            }
        }
        if self.part.end == self.range.end() {
            return Some(Ok(()));
        }
        self.plan(pool);
        None
    }

    /// Whether zeroes are what was loaded: what is a hole stays one.
    fn is_zero_already(&self, memory: &Buffer) -> bool {
        let (at, len) = in_units(&self.part);
        matches!(self.deed, Deed::Zero { .. }) && memory.with_bytes(at, len, is_zero)
    }

    /// Brings the bytes of a part from where they are to where they belong: for a read that is the place.
    fn put_in(&self, memory: &Buffer, part: &Range<u64>) {
        let (at, len) = in_units(part);
        match &self.deed {
            Deed::Read(place) => place.buffer.copy_from(self.in_place(place, part.start), memory, at, len),
            Deed::Write(place) => memory.copy_from(at, &place.buffer, self.in_place(place, part.start), len),
            Deed::Zero { .. } => memory.zero(at, len),
        }
    }

    pub(in crate::server) fn changes_the_store(&self) -> bool {
        !matches!(self.deed, Deed::Read(_))
    }
}

/// Where a part is in memory that holds its units, and its length.
fn in_units(part: &Range<u64>) -> (usize, usize) {
    ((part.start - floor(part.start)) as usize, (part.end - part.start) as usize)
}

fn bounce(part: Range<u64>, pool: &Pool) -> Buffer {
    let whole = hull(&part);
    pool.take((whole.end - whole.start) as usize)
}

#[cfg(test)]
mod tests;
