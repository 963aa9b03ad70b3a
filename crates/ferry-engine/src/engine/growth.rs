//! A volume that becomes larger while it is in use.
//!
//! ```text
//!  shell: data file longer ─▶ Grow ─▶ commit: SyncLocal (the length), Persist (the size) ─▶ geometry ─▶ Grown
//! ```
//!
//! The record in the map is the deed: what the data file has beyond it is cut off when the volume is opened. New blocks
//! are local from the first, so only one thing can stand against the new geometry: a fetch of a last block that was
//! short, whose buffer ends where the block did. Invariant: no fetch that was asked for under one geometry is kept under
//! another in which its last block is longer.

use crate::geometry::{BLOCK_BYTES, Geometry};
use crate::map::Phase;
use crate::operation::{Notice, Operation, Refusal};

use super::Engine;
use super::phases::Verdict;

impl Engine {
    pub(super) fn judge_growth(&self, size_bytes: u64) -> Verdict {
        if self.growth.is_some() {
            return Verdict::NotYet;
        }
        let former = self.geometry();
        match (self.phase, Geometry::new(size_bytes, former.region_bytes())) {
            (Phase::Standby, _) => Verdict::Refused(Refusal::Standby),
            _ if size_bytes == former.size_bytes() => Verdict::Already,
            (Phase::Sealed, _) => Verdict::Refused(Refusal::Sealed),
            (Phase::Open, Err(_)) => Verdict::Refused(Refusal::Impossible),
            (Phase::Open, Ok(_)) if size_bytes < former.size_bytes() => Verdict::Refused(Refusal::Smaller),
            (Phase::Open, Ok(_)) => Verdict::Ready,
        }
    }

    /// The map says that the volume has this size.
    pub(super) fn growth_is_durable(&mut self, size_bytes: u64) {
        let region_bytes = self.geometry().region_bytes();
        self.growth = Some(Geometry::new(size_bytes, region_bytes).expect("it was judged before"));
    }

    pub(super) fn grow_if_nothing_hinders(&mut self, out: &mut Vec<Operation>) {
        let Some(geometry) = self.growth else { return };
        let former = self.geometry();
        let is_short = !former.size_bytes().is_multiple_of(BLOCK_BYTES);
        let fetch = self.fetches.over(former.block_count() - 1);
        if is_short && fetch.is_some_and(|(fetch, _)| self.fetch_is_out(fetch)) {
            return;
        }
        self.growth = None;
        self.truth.grow(geometry);
        self.dirty.grow(geometry);
        self.wake = true;
        if !self.has_source {
            self.source_bytes = geometry.size_bytes();
        }
        out.push(Operation::Notice(Notice::Grown { size_bytes: geometry.size_bytes() }));
    }
}
