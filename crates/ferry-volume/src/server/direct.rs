//! The disk's work on a store past the page cache: transfers are cut into what direct I/O can do, and take turns.

mod transfer;
mod turns;

use super::Purpose;
use super::disk::{Disk, DiskJob, PUNCH, Step, ZERO};
use ferry_engine::{ByteRange, Errno, OpId};
use std::io;
use transfer::Act;
pub(super) use transfer::{Deed, Direct, Place};
pub(super) use turns::Turns;

impl Disk<'_> {
    /// Begins a transfer, or lets it wait for its turn.
    pub(super) fn begin_direct(&mut self, op: OpId, range: ByteRange, deed: Deed, memory_bytes: u64) {
        let direct = Direct::new(deed, range, memory_bytes, self.pool);
        let direct = match direct.changes_the_store() {
            true => self.turns.ask(op, range, direct),
            false => Some(direct),
        };
        if let Some(direct) = direct {
            self.act(op, direct);
        }
    }

    fn act(&mut self, op: OpId, direct: Direct) {
        let data = self.store.data.clone();
        let job = |direct| Purpose::Disk(DiskJob { op, step: Step::Direct(direct) });
        match direct.act() {
            Act::Read { buffer, at, len, offset } => {
                let buffer = buffer.clone();
                self.ring.read_at(&data, &buffer, at, len, offset, job(direct));
            }
            Act::Write { buffer, at, len, offset } => {
                let buffer = buffer.clone();
                self.ring.write_at(&data, &buffer, at, len, offset, job(direct));
            }
            Act::Zero { range, punch } => {
                let mode = if punch { PUNCH } else { ZERO };
                self.ring.fallocate(&data, mode, range.offset(), range.len_bytes(), job(direct));
            }
        }
    }

    /// Goes on with a transfer, or tells its end and lets in those that waited for it.
    pub(super) fn direct_went_on(
        &mut self,
        op: OpId,
        mut direct: Direct,
        result: io::Result<u32>,
    ) -> Option<(OpId, Result<(), Errno>)> {
        let Some(end) = direct.went_on(result, self.pool) else {
            self.act(op, direct);
            return None;
        };
        if direct.changes_the_store() {
            for (next, direct) in self.turns.over(op) {
                self.act(next, direct);
            }
        }
        Some((op, end))
    }
}
