//! The hottest first: what the source says its guest touched often crosses before the rest.
//!
//! Whether a hot range holds data must be known before it is fetched, so with heat at hand the whole source is asked
//! first, as far as the window goes (fetching goes on meanwhile, in order). What lies beyond that comes in order, too.

use std::cmp::Reverse;
use std::collections::VecDeque;

use crate::event::RequestKind;
use crate::geometry::Blocks;
use crate::heat::{HEAT_RUNS_MAX, Heat, Hot};
use crate::limits::WINDOW_RUNS_MAX;
use crate::map::Phase;

use super::Engine;

/// What is to be fetched before the rest.
#[derive(Debug)]
pub(super) struct Hottest {
    /// The hottest first, then in order.
    ranges: VecDeque<Blocks>,
}

impl Hottest {
    pub(super) const fn new() -> Hottest {
        Hottest { ranges: VecDeque::new() }
    }

    pub(super) fn len(&self) -> u64 {
        self.ranges.len() as u64
    }
}

impl Engine {
    /// What the guest has touched.
    #[must_use]
    pub fn heat(&self) -> &Heat {
        &self.heat
    }

    /// What the guest had touched before this engine came to be.
    pub fn warm_up(&mut self, heat: Heat) {
        self.heat = heat;
    }

    /// The guest touches something. What other volumes read of a sealed one heats nothing.
    pub(super) fn feel(&mut self, kind: RequestKind) {
        match kind {
            RequestKind::Read { range } | RequestKind::Write { range, .. }
                if self.phase == Phase::Open && self.limits.count_heat =>
            {
                self.heat.touch(range);
            }
            RequestKind::Read { .. }
            | RequestKind::Write { .. }
            | RequestKind::Flush
            | RequestKind::Trim { .. }
            | RequestKind::WriteZeroes { .. }
            | RequestKind::ReadSnapshot { .. }
            | RequestKind::Cache { .. } => {}
        }
    }

    /// The source has told how hot it is.
    pub(super) fn heard_heat(&mut self, mut hot: Vec<Hot>) {
        let geometry = self.geometry();
        hot.truncate(HEAT_RUNS_MAX);
        hot.sort_by_key(|hot| (Reverse(hot.class), hot.range.offset()));
        let within = hot.into_iter().filter_map(|hot| hot.range.intersect(geometry.all_bytes()));
        self.hottest.ranges = within.map(|range| geometry.blocks_touched(range)).collect();
    }

    /// Whether more of the source should be asked about than what is fetched next.
    pub(super) fn wants_to_know_all(&self) -> bool {
        (!self.hottest.ranges.is_empty() || self.finish.is_set()) && !self.knows_all()
    }

    pub(super) fn knows_all(&self) -> bool {
        let is_asked = self.hydration.asked_up_to() == self.geometry().block_count();
        is_asked || self.hydration.window_runs() >= WINDOW_RUNS_MAX
    }

    /// The next hot blocks to fetch, within a region.
    pub(super) fn next_hot(&mut self, most_blocks: u64) -> Option<Blocks> {
        if !self.knows_all() {
            return None;
        }
        while let Some(hot) = self.hottest.ranges.pop_front() {
            let known = Blocks::between(hot.first(), hot.end().min(self.hydration.asked_up_to()));
            let Some((found, rest)) = known.map(|known| self.carve(known, most_blocks)) else { continue };
            rest.into_iter().for_each(|rest| self.hottest.ranges.push_front(rest));
            if found.is_some() {
                return found;
            }
        }
        None
    }
}
