//! The engine's operations on the store, as io_uring operations: short transfers go on, what a filesystem cannot do
//! is done another way, and a frame of the map counts only when it is durable.

use super::Purpose;
use crate::buffer::{BUFFER_BYTES_MAX, Buffer, Pool};
use crate::ring::Ring;
use crate::store::Store;
use ferry_engine::{BLOCK_BYTES, ByteRange, Errno, MapLog, MapRecord, OpId};
use std::io;

/// Bytes of zeroes written at a time where a filesystem cannot punch holes.
const ZEROES_BYTES: usize = 1 << 20;
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// An operation on the store under way.
pub(crate) struct DiskJob {
    op: OpId,
    step: Step,
}

/// A transfer between a buffer and a file.
struct Transfer {
    buffer: Buffer,
    at: usize,
    left: usize,
    offset: u64,
}

enum Step {
    Read(Transfer),
    Write(Transfer),
    /// A write past the page cache.
    WriteDirect(Transfer),
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
    },
    SyncMap {
        before: MapLog,
    },
}

/// Runs disk jobs on a ring.
pub(super) struct Disk<'a> {
    pub(super) ring: &'a mut Ring<Purpose>,
    pub(super) store: &'a mut Store,
    pub(super) pool: &'a Pool,
}

impl Disk<'_> {
    pub(super) fn read(&mut self, op: OpId, range: ByteRange, buffer: Buffer, at: usize) {
        let left = range.len_bytes() as usize;
        self.submit(op, Step::Read(Transfer { buffer, at, left, offset: range.offset() }));
    }

    pub(super) fn write(&mut self, op: OpId, range: ByteRange, buffer: Buffer, at: usize) {
        let left = range.len_bytes() as usize;
        self.submit(op, Step::Write(Transfer { buffer, at, left, offset: range.offset() }));
    }

    /// Keeps what arrived from the source: past the page cache where that is possible, so that a guest's flush does
    /// not have to wait for what the background has copied.
    pub(super) fn copy_in(&mut self, op: OpId, range: ByteRange, buffer: Buffer, at: usize) {
        let left = range.len_bytes() as usize;
        let transfer = Transfer { buffer, at, left, offset: range.offset() };
        let aligned = [at as u64, left as u64, range.offset()].iter().all(|n| n.is_multiple_of(BLOCK_BYTES));
        let step = if aligned { Step::WriteDirect(transfer) } else { Step::Write(transfer) };
        self.submit(op, step);
    }

    pub(super) fn zero(&mut self, op: OpId, range: ByteRange, punch: bool) {
        let mode = if punch { PUNCH } else { ZERO };
        let job = DiskJob { op, step: Step::Zero { range } };
        self.ring.fallocate(&self.store.data, mode, range.offset(), range.len_bytes(), Purpose::Disk(job));
    }

    pub(super) fn sync(&mut self, op: OpId) {
        self.submit(op, Step::Sync);
    }

    /// Appends a frame to the map. At most one is under way (the engine's promise).
    pub(super) fn persist(&mut self, op: OpId, records: &[MapRecord]) {
        let before = self.store.log;
        let frame = self.store.log.append(records);
        assert!(frame.len() <= BUFFER_BYTES_MAX, "a frame of {} bytes is beyond all limits", frame.len());
        let buffer = self.pool.take(frame.len());
        buffer.copy_in(0, &frame);
        let transfer = Transfer { buffer, at: 0, left: frame.len(), offset: before.bytes_valid() };
        self.submit(op, Step::Frame { transfer, before });
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
            Step::WriteDirect(t) => {
                let (buffer, at, left, offset) = t.parts();
                let direct = self.store.direct.clone().unwrap_or(data);
                self.ring.write_at(&direct, &buffer, at, left, offset, Purpose::Disk(DiskJob { op, step }));
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
            Step::Zero { .. } => unreachable!("submitted by `zero`, which knows the mode"),
        }
    }

    /// Takes note of a completion; gives what the engine must be told when the operation is over.
    pub(super) fn completed(
        &mut self,
        job: DiskJob,
        result: io::Result<u32>,
    ) -> Option<(OpId, Result<(), Errno>)> {
        let DiskJob { op, step } = job;
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
            (Err(e), Step::WriteDirect(_)) if e.raw_os_error() == Some(libc::EINVAL) => {
                // The filesystem wants another alignment than ours: the page cache takes any.
                self.store.direct = None;
                let Step::WriteDirect(transfer) = step else { unreachable!("just matched") };
                return self.again(op, Step::Write(transfer));
            }
            (Err(e), Step::Frame { before, .. } | Step::SyncMap { before }) => {
                return Some((op, Err(self.take_back(*before, &e))));
            }
            (Err(e), _) => return Some((op, Err(Errno(e.raw_os_error().unwrap_or(libc::EIO))))),
        };
        match step {
            Step::Zero { .. } | Step::Sync => Some((op, Ok(()))),
            Step::Read(transfer) => match transfer.went_on(count) {
                Moved::All => Some((op, Ok(()))),
                Moved::Nothing => Some((op, Err(Errno(libc::EIO)))),
                Moved::Some(rest) => self.again(op, Step::Read(rest)),
            },
            Step::Write(transfer) => match transfer.went_on(count) {
                Moved::All => Some((op, Ok(()))),
                Moved::Nothing => Some((op, Err(Errno(libc::EIO)))),
                Moved::Some(rest) => self.again(op, Step::Write(rest)),
            },
            // What is left of a short write need not be aligned any more.
            Step::WriteDirect(transfer) => match transfer.went_on(count) {
                Moved::All => Some((op, Ok(()))),
                Moved::Nothing => Some((op, Err(Errno(libc::EIO)))),
                Moved::Some(rest) => self.again(op, Step::Write(rest)),
            },
            Step::WriteZeroes { zeroes, offset, left } => match left - count as u64 {
                0 => Some((op, Ok(()))),
                left => self.again(op, Step::WriteZeroes { zeroes, offset: offset + count as u64, left }),
            },
            Step::Frame { transfer, before } => match transfer.went_on(count) {
                Moved::All => self.again(op, Step::SyncMap { before }),
                Moved::Nothing => Some((op, Err(self.take_back(before, &io::ErrorKind::WriteZero.into())))),
                Moved::Some(transfer) => self.again(op, Step::Frame { transfer, before }),
            },
            Step::SyncMap { .. } => {
                if let Err(e) = self.store.compact_map() {
                    // The long map is as good as a short one; it is tried again after the next frame.
                    tracing::warn!(error = %e, "the map could not be compacted");
                }
                Some((op, Ok(())))
            }
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

enum Moved {
    All,
    Nothing,
    Some(Transfer),
}

impl Transfer {
    fn parts(&self) -> (Buffer, usize, usize, u64) {
        (self.buffer.clone(), self.at, self.left, self.offset)
    }

    fn went_on(mut self, count: usize) -> Moved {
        self.at += count;
        self.left -= count;
        self.offset += count as u64;
        match (count, self.left) {
            (_, 0) => Moved::All,
            (0, _) => Moved::Nothing,
            (_, _) => Moved::Some(self),
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
}
