//! Read-ahead: what a guest that reads in sequence will want next is fetched before it asks.
//!
//! ```text
//!   read   read   read │ wanted ahead: 64 KiB, doubling up to a region │
//!  ────────────────────┼─────────────────┬─────────────────────────────┼──▶
//!                      next              frontier (asked for)          goal
//! ```
//!
//! A run begins with a cold read and goes on with every read, cold or not, that begins where its last one ended. The
//! goal moves on when the guest has used up half of what lies ahead. Nothing is queued: a goal that cannot be asked for
//! now waits in its run, and is forgotten with it, when other runs have taken its place. Invariants: read-ahead has
//! buffers of its own, so that it never holds back a fetch that the guest waits for; it begins only when none of those
//! waits for its turn; it asks for nothing that is local or that anybody fetches or writes.

use std::collections::VecDeque;

use crate::geometry::{BLOCK_BYTES, Blocks, ByteRange, Geometry};
use crate::limits::{AHEAD_BYTES_FIRST, AHEAD_REGIONS_MAX, RUNS_MAX};
use crate::operation::Operation;

use super::Engine;

/// What the guest reads in sequence, and how much is under way ahead of it.
#[derive(Debug)]
pub(super) struct Ahead {
    /// The one that went on last is the last.
    runs: VecDeque<Run>,
    /// Of fetches ahead that are under way or held.
    bytes_in_flight: u64,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    /// The byte at which the next read of the run begins.
    next: u64,
    /// The block up to which it was asked for.
    frontier: u64,
    /// The block up to which it shall be asked for.
    goal: u64,
    /// How far ahead of the guest the next goal is.
    window_blocks: u64,
}

impl Ahead {
    pub(super) const fn new() -> Ahead {
        Ahead { runs: VecDeque::new(), bytes_in_flight: 0 }
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.bytes_in_flight > 0
    }

    pub(super) fn ended(&mut self, bytes: u64) {
        self.bytes_in_flight -= bytes;
    }

    /// The guest reads; `cold` if it must wait for the source.
    pub(super) fn guest_reads(&mut self, range: ByteRange, cold: bool, geometry: Geometry) {
        let next = range.end();
        let here = next.div_ceil(BLOCK_BYTES);
        let Some(at) = self.runs.iter().position(|run| run.next == range.offset()) else {
            if cold {
                let window_blocks = (AHEAD_BYTES_FIRST / BLOCK_BYTES).min(geometry.region_blocks());
                if self.runs.len() == RUNS_MAX {
                    self.runs.pop_front();
                }
                self.runs.push_back(Run { next, frontier: here, goal: here, window_blocks });
            }
            return;
        };
        let mut run = self.runs.remove(at).expect("it was just found");
        run.next = next;
        run.frontier = run.frontier.max(here);
        if run.goal.max(here) - here <= run.window_blocks / 2 {
            run.goal = (here + run.window_blocks).min(geometry.block_count());
            run.window_blocks = (2 * run.window_blocks).min(geometry.region_blocks());
        }
        self.runs.push_back(run);
    }

    /// What is to be asked for next, within a region: of the run that went on last.
    fn wish(&mut self, geometry: Geometry) -> Option<(&mut Run, Blocks)> {
        self.runs.iter_mut().rev().find_map(|run| {
            let end = run.goal.min(geometry.region_end(run.frontier));
            Blocks::between(run.frontier, end).map(|blocks| (run, blocks))
        })
    }
}

impl Engine {
    /// Asks ahead of the guest, as far as the limits allow.
    pub(super) fn pump_ahead(&mut self, out: &mut Vec<Operation>) {
        let geometry = self.geometry();
        if self.ahead.wish(geometry).is_none() || !self.may_hydrate() {
            return;
        }
        let most = AHEAD_REGIONS_MAX * geometry.region_bytes();
        while !self.fetches.has_queue() && self.budget.allows() {
            let Some((_, wanted)) = self.ahead.wish(geometry) else { break };
            let found = self.first_to_fetch(wanted);
            let bytes = found.map_or(0, |blocks| geometry.bytes_of(blocks).len_bytes());
            if self.ahead.bytes_in_flight + bytes > most {
                break;
            }
            let (run, _) = self.ahead.wish(geometry).expect("nothing has changed");
            run.frontier = found.unwrap_or(wanted).end();
            if let Some(blocks) = found {
                self.ahead.bytes_in_flight += bytes;
                self.tally.bytes_read_ahead += bytes;
                self.fetch_ahead(blocks, out);
            }
        }
    }
}
