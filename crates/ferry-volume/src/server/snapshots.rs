//! Snapshots of the volume: their side files, their readers, and what the engine wants kept.
//!
//! A side file `snapshot-ID` is as long as the volume was, and sparse: it holds what was overwritten since, and what the
//! source gave where the guest had overwritten it already. It is worth nothing without the engine that knows which parts it holds, so it is removed when a server begins. Invariant: there is
//! a side file for each snapshot that the engine has or is about to take.

use super::command::{refused, whole_story};
use super::doors::Door;
use super::task::is_zero;
use super::{Purpose, Server};
use crate::buffer::Buffer;
use crate::control::{Answer, SnapshotStatus};
use crate::directory::{DirectoryError, SIDE_FILE};
use crate::extents::file_extents;
use crate::ring::Descriptor;
use ferry_engine::{ByteRange, Command, Errno, Event, Notice, OpId, SnapshotId};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Bytes copied to a side file at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// An operation on a side file under way.
pub(crate) struct KeptJob {
    op: OpId,
    side: Descriptor,
    buffer: Buffer,
    /// Of the buffer, what is to be read or written, and from where on it still is.
    start: usize,
    at: usize,
    end: usize,
    /// Where that begins in the files.
    offset: u64,
    step: Step,
}

enum Step {
    /// Fills the buffer from the store; up to `end` is to be kept.
    Load { end: u64 },
    /// Writes the buffer to the side file.
    Store { end: u64 },
    /// Writes what came from the source to the side file.
    Give,
    /// Fills a reader's buffer from the side file.
    Read,
}

impl Server {
    pub(super) fn take_snapshot(&mut self, asker: u64, id: &str) -> Option<Answer> {
        let id = match id.parse::<ulid::Ulid>() {
            Ok(id) => SnapshotId(id.0),
            Err(_) => return Some(refused(format!("{id:?} is no name for a snapshot; give a ULID"))),
        };
        if !self.sides.contains_key(&id) {
            match self.make_side_file(id) {
                Ok(side) => drop(self.sides.insert(id, side)),
                Err(e) => return Some(refused(whole_story(&e))),
            }
        }
        self.command(asker, Command::Snapshot { id })
    }

    pub(super) fn forget_snapshot(&mut self, asker: u64, id: &str) -> Option<Answer> {
        match id.parse::<ulid::Ulid>() {
            Ok(id) => self.command(asker, Command::ForgetSnapshot { id: SnapshotId(id.0) }),
            Err(_) => Some(refused(format!("{id:?} is no name of a snapshot; give a ULID"))),
        }
    }

    /// What a notice means for side files and readers.
    pub(super) fn follow_snapshots(&mut self, notice: &Notice) {
        if let Notice::SnapshotLost { id, errno } = *notice {
            let why = io::Error::from_raw_os_error(errno.0);
            tracing::error!(snapshot = %ulid::Ulid(id.0), %why, "a snapshot is lost; fork again");
            self.end_snapshot(id);
        }
        if let Notice::SnapshotForgotten { id }
        | Notice::CommandRefused { command: Command::Snapshot { id }, .. } = *notice
        {
            self.end_snapshot(id);
        }
    }

    fn end_snapshot(&mut self, id: SnapshotId) {
        if self.sides.remove(&id).is_none() {
            return;
        }
        if let Err(e) = fs::remove_file(side_path(&self.store.dir, id)) {
            tracing::warn!(error = %e, "the side file of a snapshot cannot be removed");
        }
        let readers: Vec<u64> = self.readers_of(id).collect();
        for reader in readers {
            self.with_connection(reader, super::Connection::close);
        }
    }

    fn readers_of(&self, id: SnapshotId) -> impl Iterator<Item = u64> + '_ {
        self.connections.keys().copied().filter(move |&reader| self.snapshot_read_by(reader) == Some(id))
    }

    /// The snapshot that a connection agreed to read, whether there still is one or not.
    pub(super) fn snapshot_read_by(&self, connection: u64) -> Option<SnapshotId> {
        let (door, connection) = self.connections.get(&connection)?;
        if *door != Door::Reader {
            return None;
        }
        let (_, id) = connection.negotiated()?.export.name.split_once('~')?;
        id.parse().ok().map(|id: ulid::Ulid| SnapshotId(id.0))
    }

    /// The name and the size of each snapshot, for those who want to read it.
    pub(super) fn snapshot_exports(&self) -> Vec<(String, u64)> {
        self.engine.snapshots().map(|(id, size_bytes)| (ulid::Ulid(id.0).to_string(), size_bytes)).collect()
    }

    pub(super) fn snapshot_status(&self) -> Vec<SnapshotStatus> {
        let status = |(id, size_bytes): (SnapshotId, u64)| SnapshotStatus {
            id: ulid::Ulid(id.0).to_string(),
            size_bytes,
            bytes_kept: self.sides.get(&id).map_or(0, allocated),
            bytes_owed: self.engine.bytes_owed(id),
            readers: self.readers_of(id).count() as u32,
        };
        self.engine.snapshots().map(status).collect()
    }

    fn make_side_file(&self, id: SnapshotId) -> Result<Descriptor, DirectoryError> {
        let path = side_path(&self.store.dir, id);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(DirectoryError::io("create", &path))?;
        file.set_len(self.store.config.size_bytes).map_err(DirectoryError::io("size", &path))?;
        Ok(Rc::new(OwnedFd::from(file)))
    }

    /// Copies a range of the store to a side file; tells the end at once when it is a hole.
    pub(super) fn keep(&mut self, op: OpId, id: SnapshotId, range: ByteRange) {
        let side = self.side(id);
        if let Some(result) = self.keep_on(op, side, range.offset(), range.end()) {
            self.inbox.push_back(Event::Done { op, result });
        }
    }

    /// Goes on with what is left to keep; tells the result if it is at its end.
    fn keep_on(&mut self, op: OpId, side: Descriptor, mut at: u64, end: u64) -> Option<Result<(), Errno>> {
        while at < end {
            let extents = match file_extents(&*self.store.data, at, end, 1) {
                Ok(extents) => extents,
                Err(e) => return Some(Err(errno_of(&e))),
            };
            let Some(extent) = extents.first() else { break };
            let next = self.store.read_start(extent.end);
            if !extent.data && next > at {
                at = next;
                continue;
            }
            let len = (self.store.read_end(extent.end) - at).min(PIECE_BYTES) as usize;
            let buffer = self.pool.take(len);
            let step = Step::Load { end };
            self.submit_kept(KeptJob { op, side, buffer, start: 0, at: 0, end: len, offset: at, step });
            return None;
        }
        Some(Ok(()))
    }

    /// Writes what came from the source to a side file.
    pub(super) fn keep_fetched(
        &mut self,
        op: OpId,
        id: SnapshotId,
        range: ByteRange,
        from: Buffer,
        at: usize,
    ) {
        let (side, end) = (self.side(id), at + range.len_bytes() as usize);
        let (offset, step) = (range.offset(), Step::Give);
        self.submit_kept(KeptJob { op, side, buffer: from, start: at, at, end, offset, step });
    }

    pub(super) fn read_kept(&mut self, op: OpId, id: SnapshotId, range: ByteRange, to: Buffer, at: usize) {
        let (side, end) = (self.side(id), at + range.len_bytes() as usize);
        let (offset, step) = (range.offset(), Step::Read);
        self.submit_kept(KeptJob { op, side, buffer: to, start: at, at, end, offset, step });
    }

    fn side(&self, id: SnapshotId) -> Descriptor {
        self.sides.get(&id).expect("the engine names snapshots that there are").clone()
    }

    fn submit_kept(&mut self, job: KeptJob) {
        let (buffer, at, left) = (job.buffer.clone(), job.at, job.end - job.at);
        let offset = job.offset + (at - job.start) as u64;
        let (side, data) = (job.side.clone(), self.store.data.clone());
        match job.step {
            Step::Load { .. } => self.ring.read_at(&data, &buffer, at, left, offset, Purpose::Kept(job)),
            Step::Store { .. } | Step::Give => {
                self.ring.write_at(&side, &buffer, at, left, offset, Purpose::Kept(job))
            }
            Step::Read => self.ring.read_at(&side, &buffer, at, left, offset, Purpose::Kept(job)),
        }
    }

    /// Takes note of a completion.
    pub(super) fn kept(&mut self, mut job: KeptJob, result: io::Result<u32>) {
        let op = job.op;
        let result = match result {
            Err(e) => Some(Err(errno_of(&e))),
            Ok(0) => Some(Err(Errno::EIO)),
            Ok(count) => {
                job.at += count as usize;
                if job.at < job.end {
                    self.submit_kept(job);
                    None
                } else {
                    self.kept_piece(job)
                }
            }
        };
        if let Some(result) = result {
            self.feed(Event::Done { op, result });
        }
    }

    fn kept_piece(&mut self, mut job: KeptJob) -> Option<Result<(), Errno>> {
        let next = job.offset + (job.end - job.start) as u64;
        match job.step {
            Step::Read | Step::Give => Some(Ok(())),
            Step::Load { end } if job.buffer.with_bytes(0, job.end, is_zero) => {
                self.keep_on(job.op, job.side, next, end)
            }
            Step::Load { end } => {
                (job.at, job.step) = (0, Step::Store { end });
                self.submit_kept(job);
                None
            }
            Step::Store { end } => self.keep_on(job.op, job.side, next, end),
        }
    }
}

fn side_path(dir: &Path, id: SnapshotId) -> PathBuf {
    dir.join(format!("{SIDE_FILE}{}", ulid::Ulid(id.0)))
}

fn allocated(side: &Descriptor) -> u64 {
    rustix::fs::fstat(&**side).map_or(0, |stat| stat.st_blocks as u64 * 512)
}

fn errno_of(error: &io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}
