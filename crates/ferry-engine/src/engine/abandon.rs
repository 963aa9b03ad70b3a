//! Giving up a source that is gone for good: what is remote reads as zeroes from then on.
//!
//! ```text
//!  asked ─▶ frozen ─▶ torn blocks are zeroed ─▶ SyncLocal ─▶ Persist [abandoned] ─▶ all is local
//!              │ what writes to remote blocks ends; nothing new begins
//! ```
//!
//! One record of the map is the deed: before it is durable nothing has changed, after it no block is remote. For that
//! nothing may turn local, and nothing may be written where blocks are remote, from the freeze to the record: a
//! crash in between would leave a part of it. So guest writes of remote blocks wait for two fsyncs here; it is the
//! only time that they wait for anything. Invariant: when the record is written, the store holds zeroes, durably,
//! wherever blocks are remote.

use crate::event::{Command, Errno};
use crate::geometry::{Blocks, ByteRange};
use crate::map::Phase;
use crate::operation::{Notice, Operation};
use crate::truth::Residence;

use super::bad::Bad;
use super::{Engine, Op};

impl Engine {
    /// The ranges that only the source has, in order: what giving it up would cost.
    pub fn remote_ranges(&self) -> impl Iterator<Item = ByteRange> + '_ {
        let all = self.truth.byte_runs(self.geometry().all_bytes());
        all.filter(|(_, residence)| *residence == Residence::Remote).map(|(range, _)| range)
    }

    /// Whether the source is being given up: nothing remote may change.
    pub(super) fn is_abandoning(&self) -> bool {
        self.deeds.front() == Some(&Command::AbandonSource)
            && self.has_source
            && self.phase != Phase::Standby
            && self.durability.failed().is_none()
    }

    /// Whether the store holds zeroes wherever blocks are remote, up to a sync.
    pub(super) fn may_abandon(&self) -> bool {
        self.locks.is_empty() && self.torn.is_empty()
    }

    /// Zeroes what the store may hold where blocks are remote.
    pub(super) fn pump_abandon(&mut self, out: &mut Vec<Operation>) {
        if !self.is_abandoning() || !self.locks.is_empty() {
            return;
        }
        let torn: Vec<Blocks> = self.torn.runs().collect();
        for blocks in torn {
            self.lock(blocks);
            let op = self.ops.insert(Op::ZeroAbandoned { blocks });
            let range = self.geometry().bytes_of(blocks);
            out.push(Operation::ZeroLocal { op, range, punch: true });
        }
    }

    pub(super) fn abandoned_zeroed(
        &mut self,
        blocks: Blocks,
        result: Result<(), Errno>,
        out: &mut Vec<Operation>,
    ) {
        self.unlock(blocks);
        match result {
            Ok(()) => self.torn.remove(blocks),
            Err(errno) if self.is_abandoning() => {
                let command = Command::AbandonSource;
                self.deeds.pop_front();
                self.abandon_failed();
                out.push(Operation::Notice(Notice::CommandFailed { command, errno }));
            }
            // Several were under way, and the first that failed has ended it.
            Err(_) => {}
        }
    }

    /// Everything is as before, and goes on.
    pub(super) fn abandon_failed(&mut self) {
        self.hydration.leave_behind();
        self.wake = true;
    }

    /// The map says that nothing is remote any more. Those who wait for the source read zeroes.
    pub(super) fn abandoned(&mut self, out: &mut Vec<Operation>) {
        self.lose_snapshots_that_need_the_source(out);
        let all = self.geometry().all_blocks();
        let lost: Vec<Blocks> = self.truth.remote_runs(all).collect();
        lost.into_iter().for_each(|run| self.dirty.change(run));
        self.truth.mark_local(all);
        self.has_source = false;
        self.complete = false;
        self.bad = Bad::new();
        self.hydration.heal(all);
        self.wake = true;
        for piece in self.take_fetch_waiters() {
            self.plan_piece(piece, out);
        }
    }
}
