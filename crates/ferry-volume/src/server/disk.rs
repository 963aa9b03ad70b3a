//! The engine's operations on the store, as io_uring operations: short transfers go on, what a filesystem cannot do
//! is done another way, and a frame of the map counts only when it is durable.

use super::Purpose;
use super::direct::{Deed, Direct, Place, Turns};
use super::inline::Inline;
use crate::buffer::{Buffer, Pool};
use crate::ring::{Descriptor, Ring};
use crate::store::Store;
use crate::writeback::{Stretch, Writeback};
use ferry_engine::{ByteRange, Errno, MapLog, MapRecord, OpId};
use std::io;
use std::time::Instant;

/// Records in one frame: a frame lies in one buffer.
const FRAME_RECORDS_MAX: usize = 1 << 16;
/// Bytes of zeroes written at a time where a filesystem cannot punch holes.
const ZEROES_BYTES: usize = 1 << 20;
/// Reads of up to so many bytes are tried in the page cache first, which saves a round trip of the ring.
const READ_NOW_BYTES_MAX: usize = 1 << 20;
/// Copies of fewer bytes are left to the page cache.
const WRITEBACK_BYTES_MIN: usize = 64 << 10;
pub(super) const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
pub(super) const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// An operation on the store under way.
pub(crate) struct DiskJob {
    pub(super) op: OpId,
    pub(super) step: Step,
}

/// A transfer between a buffer and a file.
pub(super) struct Transfer {
    buffer: Buffer,
    first_at: usize,
    at: usize,
    left: usize,
    offset: u64,
}

pub(super) enum Step {
    /// Of a store past the page cache.
    Direct(Direct),
    Read(Transfer),
    Write(Transfer),
    /// A write of what arrived from the source, which shall stay in the page cache or not.
    CopyIn(Transfer, bool),
    /// What was copied in goes to the disk at once ...
    BeginWriteback(Stretch),
    /// ... and the copy counts as done when these have got there, the last one first ...
    AwaitWriteback(Stretch, Vec<Stretch>),
    /// ... and have left the page cache, unless they shall stay.
    Forget(Stretch, Vec<Stretch>),
    Zero {
        range: ByteRange,
    },
    WriteZeroes {
        zeroes: Buffer,
        offset: u64,
        left: u64,
    },
    Sync,
    Frame {
        transfer: Transfer,
        before: MapLog,
        rest: Vec<MapRecord>,
    },
    SyncMap {
        before: MapLog,
        rest: Vec<MapRecord>,
    },
}

/// Runs disk jobs on a ring.
pub(super) struct Disk<'a> {
    pub(super) ring: &'a mut Ring<Purpose>,
    pub(super) store: &'a mut Store,
    pub(super) pool: &'a Pool,
    pub(super) inline: &'a mut Inline,
    pub(super) writeback: &'a mut Writeback,
    pub(super) turns: &'a mut Turns<Direct>,
}

impl Disk<'_> {
    /// Reads; tells the end at once when the page cache holds all of it.
    pub(super) fn read(
        &mut self,
        op: OpId,
        range: ByteRange,
        buffer: Buffer,
        at: usize,
    ) -> Option<(OpId, Result<(), Errno>)> {
        if let Some(direct) = self.store.direct {
            self.begin_direct(op, range, Deed::Read(Place { buffer, at }), direct.memory_bytes);
            return None;
        }
        let (offset, left) = (range.offset(), range.len_bytes() as usize);
        let here = match left {
            0..=READ_NOW_BYTES_MAX => Ring::<Purpose>::read_now(&self.store.data, &buffer, at, left, offset),
            _ => 0,
        };
        let transfer = Transfer { buffer, first_at: at, at, left, offset };
        match transfer.went_on(here) {
            Moved::All => return Some((op, Ok(()))),
            Moved::Nothing(rest) | Moved::Some(rest) => self.submit(op, Step::Read(rest)),
        }
        None
    }

    /// Writes; tells the end at once when it was a moment's work. What failed at once is left to the ring to tell.
    pub(super) fn write(
        &mut self,
        op: OpId,
        range: ByteRange,
        buffer: Buffer,
        at: usize,
    ) -> Option<(OpId, Result<(), Errno>)> {
        if let Some(direct) = self.store.direct {
            self.begin_direct(op, range, Deed::Write(Place { buffer, at }), direct.memory_bytes);
            return None;
        }
        let (data, left) = (self.store.data.clone(), range.len_bytes() as usize);
        if self.write_at_once(&data, range, &buffer, at) {
            return Some((op, Ok(())));
        }
        self.submit(op, Step::Write(Transfer { buffer, first_at: at, at, left, offset: range.offset() }));
        None
    }

    /// Whether all of it was written, without the ring.
    fn write_at_once(&mut self, file: &Descriptor, range: ByteRange, buffer: &Buffer, at: usize) -> bool {
        let begun = Instant::now();
        if !self.inline.suits(range, begun) {
            return false;
        }
        let (offset, len) = (range.offset(), range.len_bytes() as usize);
        let written = Ring::<Purpose>::write_now(file, buffer, at, len, offset).is_some();
        self.inline.wrote(begun, Instant::now());
        written
    }

    /// Keeps what arrived from the source. A large piece leaves the page cache for the disk: see [`super::writeback`].
    /// Tells the end at once when it was a moment's work.
    pub(super) fn copy_in(
        &mut self,
        op: OpId,
        range: ByteRange,
        buffer: Buffer,
        at: usize,
        cached: bool,
    ) -> Option<(OpId, Result<(), Errno>)> {
        if self.store.direct.is_some() {
            return self.write(op, range, buffer, at);
        }
        let (copies, left) = (self.store.copies.clone(), range.len_bytes() as usize);
        if self.write_at_once(&copies, range, &buffer, at) {
            return Some((op, Ok(())));
        }
        let transfer = Transfer { buffer, first_at: at, at, left, offset: range.offset() };
        self.submit(op, Step::CopyIn(transfer, cached));
        None
    }

    pub(super) fn zero(&mut self, op: OpId, range: ByteRange, punch: bool) {
        if let Some(direct) = self.store.direct {
            return self.begin_direct(op, range, Deed::Zero { punch }, direct.memory_bytes);
        }
        let mode = if punch { PUNCH } else { ZERO };
        let job = DiskJob { op, step: Step::Zero { range } };
        self.ring.fallocate(&self.store.data, mode, range.offset(), range.len_bytes(), Purpose::Disk(job));
    }

    pub(super) fn sync(&mut self, op: OpId) {
        self.inline.flush_begins();
        self.submit(op, Step::Sync);
    }

    /// Appends records to the map. At most one such operation is under way (the engine's promise).
    pub(super) fn persist(&mut self, op: OpId, records: Vec<MapRecord>) {
        let before = self.store.log;
        self.append(op, records, before);
    }

    /// Appends as many of the records as one frame holds; what is left follows when that is durable. A
    /// command's record is the last one, so it is never told without the others; a mark's is in one frame with all
    /// that follow it. `before`: what to go back to.
    fn append(&mut self, op: OpId, mut records: Vec<MapRecord>, before: MapLog) {
        let rest = records.split_off(first_frame(&records));
        let offset = self.store.log.bytes_valid();
        let frame = self.store.log.append(&records);
        let buffer = self.pool.take(frame.len());
        buffer.copy_in(0, &frame);
        let transfer = Transfer { buffer, first_at: 0, at: 0, left: frame.len(), offset };
        self.submit(op, Step::Frame { transfer, before, rest });
    }

    fn submit(&mut self, op: OpId, step: Step) {
        let (data, map) = (self.store.data.clone(), self.store.map.clone());
        match &step {
            Step::Read(t) => {
                let (buffer, at, left, offset) = t.parts();
                self.ring.read_at(&data, &buffer, at, left, offset, Purpose::Disk(DiskJob { op, step }));
            }
            Step::Write(t) => {
                let (buffer, at, left, offset) = t.parts();
                self.ring.write_at(&data, &buffer, at, left, offset, Purpose::Disk(DiskJob { op, step }));
            }
            Step::CopyIn(t, _) => {
                let (buffer, at, left, offset) = t.parts();
                let copies = self.store.copies.clone();
                self.ring.write_at(&copies, &buffer, at, left, offset, Purpose::Disk(DiskJob { op, step }));
            }
            Step::BeginWriteback(Stretch { offset, len, .. }) => {
                let (copies, offset, len) = (self.store.copies.clone(), *offset, *len);
                self.ring.begin_writeback(&copies, offset, len, Purpose::Disk(DiskJob { op, step }));
            }
            Step::AwaitWriteback(Stretch { offset, len, .. }, _) => {
                let (copies, offset, len) = (self.store.copies.clone(), *offset, *len);
                self.ring.await_writeback(&copies, offset, len, Purpose::Disk(DiskJob { op, step }));
            }
            Step::Forget(Stretch { offset, len, .. }, _) => {
                let (copies, offset, len) = (self.store.copies.clone(), *offset, *len);
                self.ring.forget(&copies, offset, len, Purpose::Disk(DiskJob { op, step }));
            }
            Step::Frame { transfer, .. } => {
                let (buffer, at, left, offset) = transfer.parts();
                self.ring.write_at(&map, &buffer, at, left, offset, Purpose::Disk(DiskJob { op, step }));
            }
            Step::WriteZeroes { zeroes, offset, left } => {
                let (zeroes, offset, len) = (zeroes.clone(), *offset, zeroes.len().min(*left as usize));
                self.ring.write_at(&data, &zeroes, 0, len, offset, Purpose::Disk(DiskJob { op, step }));
            }
            Step::Sync => self.ring.sync_data(&data, Purpose::Disk(DiskJob { op, step })),
            Step::SyncMap { .. } => self.ring.sync_data(&map, Purpose::Disk(DiskJob { op, step })),
            Step::Zero { .. } | Step::Direct(_) => unreachable!("submitted by those who know the mode"),
        }
    }

    /// Takes note of a completion; gives what the engine must be told when the operation is over.
    pub(super) fn completed(
        &mut self,
        job: DiskJob,
        result: io::Result<u32>,
    ) -> Option<(OpId, Result<(), Errno>)> {
        let (op, step) = match job {
            DiskJob { op, step: Step::Direct(direct) } => return self.direct_went_on(op, direct, result),
            DiskJob { op, step } => (op, step),
        };
        if matches!(step, Step::Sync) {
            self.inline.flush_ended();
        }
        let count = match (result, &step) {
            (Ok(count), _) => count as usize,
            (Err(e), Step::Zero { range }) if is_unsupported(&e) => {
                let zeroes = self.pool.take(ZEROES_BYTES);
                zeroes.zero(0, ZEROES_BYTES);
                self.submit(
                    op,
                    Step::WriteZeroes { zeroes, offset: range.offset(), left: range.len_bytes() },
                );
                return None;
            }
            // Only a courtesy: a flush does what is left to do, and hears of what failed.
            (Err(_), Step::BeginWriteback(_) | Step::AwaitWriteback(..) | Step::Forget(..)) => 0,
            (Err(e), Step::Frame { before, .. } | Step::SyncMap { before, .. }) => {
                return Some((op, Err(self.take_back(*before, &e))));
            }
            (Err(e), _) => return Some((op, Err(Errno(e.raw_os_error().unwrap_or(libc::EIO))))),
        };
        match step {
            Step::Direct(_) => unreachable!("it goes on by itself"),
            Step::Zero { .. } | Step::Sync => Some((op, Ok(()))),
            Step::Read(transfer) => self.moved(op, transfer, count, Step::Read),
            Step::Write(transfer) => self.moved(op, transfer, count, Step::Write),
            Step::CopyIn(transfer, cached) => self.copied_in(op, transfer, count, cached),
            Step::BeginWriteback(stretch) => {
                let before = self.writeback.begun(stretch);
                self.await_writeback(op, before)
            }
            Step::AwaitWriteback(there, before) if !there.cached => {
                self.again(op, Step::Forget(there, before))
            }
            Step::AwaitWriteback(_, before) | Step::Forget(_, before) => self.await_writeback(op, before),
            Step::WriteZeroes { zeroes, offset, left } => match (count, left - count as u64) {
                (_, 0) => Some((op, Ok(()))),
                (0, _) => Some((op, Err(Errno(libc::EIO)))),
                (_, left) => {
                    self.again(op, Step::WriteZeroes { zeroes, offset: offset + count as u64, left })
                }
            },
            Step::Frame { transfer, before, rest } => match transfer.went_on(count) {
                Moved::All => self.again(op, Step::SyncMap { before, rest }),
                Moved::Nothing(_) => {
                    Some((op, Err(self.take_back(before, &io::ErrorKind::WriteZero.into()))))
                }
                Moved::Some(transfer) => self.again(op, Step::Frame { transfer, before, rest }),
            },
            Step::SyncMap { before, rest } => self.map_synced(op, before, rest),
        }
    }

    fn copied_in(
        &mut self,
        op: OpId,
        transfer: Transfer,
        count: usize,
        cached: bool,
    ) -> Option<(OpId, Result<(), Errno>)> {
        let (offset, len) = (transfer.first_offset(), transfer.whole_len());
        match self.moved(op, transfer, count, |rest| Step::CopyIn(rest, cached)) {
            Some((op, Ok(()))) if len >= WRITEBACK_BYTES_MIN => {
                self.again(op, Step::BeginWriteback(Stretch { offset, len: len as u32, cached }))
            }
            other => other,
        }
    }

    fn map_synced(
        &mut self,
        op: OpId,
        before: MapLog,
        rest: Vec<MapRecord>,
    ) -> Option<(OpId, Result<(), Errno>)> {
        if let Err(e) = self.store.name_map() {
            return Some((op, Err(self.take_back(before, &io::Error::other(e)))));
        }
        if !rest.is_empty() {
            self.append(op, rest, before);
            return None;
        }
        if let Err(e) = self.store.compact_map() {
            // The long map is as good as a short one; it is tried again after the next frame.
            tracing::warn!(error = %e, "the map could not be compacted");
        }
        self.store.keep_map_room();
        Some((op, Ok(())))
    }

    /// Goes on as `step` with what is left of a transfer.
    fn moved(
        &mut self,
        op: OpId,
        transfer: Transfer,
        count: usize,
        step: impl FnOnce(Transfer) -> Step,
    ) -> Option<(OpId, Result<(), Errno>)> {
        match transfer.went_on(count) {
            Moved::All => Some((op, Ok(()))),
            Moved::Nothing(_) => Some((op, Err(Errno(libc::EIO)))),
            Moved::Some(rest) => self.again(op, step(rest)),
        }
    }

    fn await_writeback(&mut self, op: OpId, mut before: Vec<Stretch>) -> Option<(OpId, Result<(), Errno>)> {
        match before.pop() {
            Some(oldest) => self.again(op, Step::AwaitWriteback(oldest, before)),
            None => Some((op, Ok(()))),
        }
    }

    fn again(&mut self, op: OpId, step: Step) -> Option<(OpId, Result<(), Errno>)> {
        self.submit(op, step);
        None
    }

    fn take_back(&mut self, before: MapLog, error: &io::Error) -> Errno {
        tracing::error!(%error, "the map could not be made durable");
        if let Err(e) = self.store.cut_map(before) {
            tracing::error!(error = %e, "the map could not be cut back");
        }
        Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// How many of the records the first frame holds.
fn first_frame(records: &[MapRecord]) -> usize {
    if records.len() <= FRAME_RECORDS_MAX {
        return records.len();
    }
    let mark = records.iter().position(|record| matches!(record, MapRecord::MarkSet(_)));
    match mark {
        Some(0) => records.len(),
        Some(mark) => mark.min(FRAME_RECORDS_MAX),
        None => FRAME_RECORDS_MAX,
    }
}

enum Moved {
    All,
    Nothing(Transfer),
    Some(Transfer),
}

impl Transfer {
    /// Where the whole transfer began in the file: as far before the offset as it has gone on in the buffer.
    fn first_offset(&self) -> u64 {
        self.offset - (self.at - self.first_at) as u64
    }

    /// Length of the whole transfer in bytes.
    fn whole_len(&self) -> usize {
        self.at - self.first_at + self.left
    }

    fn parts(&self) -> (Buffer, usize, usize, u64) {
        (self.buffer.clone(), self.at, self.left, self.offset)
    }

    fn went_on(mut self, count: usize) -> Moved {
        self.at += count;
        self.left -= count;
        self.offset += count as u64;
        match (count, self.left) {
            (_, 0) => Moved::All,
            (0, _) => Moved::Nothing(self),
            (_, _) => Moved::Some(self),
        }
    }
}

pub(super) fn is_unsupported(error: &io::Error) -> bool {
    // The last one is a device whose sectors the range does not fit.
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ESPIPE | libc::EINVAL))
}

#[cfg(test)]
mod tests;
