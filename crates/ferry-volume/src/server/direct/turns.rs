//! Who may change the store now, where what covers a unit in part is loaded, changed and stored.
//!
//! Changes of whole units are free; that guests let such overlap is their affair. One that covers a unit in part has that
//! unit for itself: it would put back what it loaded over what another has stored there meanwhile. Those that hinder each
//! other are let in as they came. Invariant: what waits knows how many that came before it are still to end.

use crate::store::UNIT_BYTES;
use ferry_engine::{ByteRange, OpId};
use std::collections::HashMap;

/// Changes under way and those that wait, each with its job `J`.
pub(in crate::server) struct Turns<J> {
    under_way: HashMap<u64, ByteRange>,
    waiting: Vec<Waiting<J>>,
    /// Of those under way, how many cover a unit in part.
    partial: usize,
}

struct Waiting<J> {
    op: OpId,
    range: ByteRange,
    job: J,
    hindered_by: usize,
}

impl<J> Default for Turns<J> {
    fn default() -> Self {
        Self { under_way: HashMap::new(), waiting: Vec::new(), partial: 0 }
    }
}

impl<J> Turns<J> {
    /// A change of this range wants to begin; gives its job back if it may.
    pub(in crate::server) fn ask(&mut self, op: OpId, range: ByteRange, job: J) -> Option<J> {
        let hindered_by = match is_partial(range) || self.partial > 0 || !self.waiting.is_empty() {
            true => self.before().filter(|other| hinder_each_other(range, *other)).count(),
            false => 0,
        };
        if hindered_by == 0 {
            self.enter(op, range);
            return Some(job);
        }
        self.waiting.push(Waiting { op, range, job, hindered_by });
        None
    }

    /// A change is over; gives those that may begin now.
    pub(in crate::server) fn over(&mut self, op: OpId) -> Vec<(OpId, J)> {
        let range = self.under_way.remove(&op.as_u64()).expect("it was let in");
        self.partial -= usize::from(is_partial(range));
        for waiting in &mut self.waiting {
            waiting.hindered_by -= usize::from(hinder_each_other(range, waiting.range));
        }
        let free: Vec<Waiting<J>> = self.waiting.extract_if(.., |waiting| waiting.hindered_by == 0).collect();
        free.iter().for_each(|next| self.enter(next.op, next.range));
        free.into_iter().map(|next| (next.op, next.job)).collect()
    }

    fn enter(&mut self, op: OpId, range: ByteRange) {
        self.partial += usize::from(is_partial(range));
        self.under_way.insert(op.as_u64(), range);
    }

    fn before(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.under_way.values().copied().chain(self.waiting.iter().map(|waiting| waiting.range))
    }
}

fn is_partial(range: ByteRange) -> bool {
    edges(range).next().is_some()
}

/// The units that a range covers in part.
fn edges(range: ByteRange) -> impl Iterator<Item = u64> {
    let edge = |at: u64| (!at.is_multiple_of(UNIT_BYTES)).then_some(at / UNIT_BYTES);
    [edge(range.offset()), edge(range.end())].into_iter().flatten()
}

fn hinder_each_other(one: ByteRange, other: ByteRange) -> bool {
    let touches = |range: ByteRange, unit| {
        range.offset() / UNIT_BYTES <= unit && unit < range.end().div_ceil(UNIT_BYTES)
    };
    edges(one).any(|unit| touches(other, unit)) || edges(other).any(|unit| touches(one, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(offset: u64, len_bytes: u64) -> ByteRange {
        ByteRange::new(offset, len_bytes).unwrap()
    }

    fn op(number: u64) -> OpId {
        OpId::from_u64(number)
    }

    #[test]
    fn whole_units_never_wait_for_each_other() {
        let mut turns = Turns::default();
        assert_eq!(turns.ask(op(1), range(0, 8192), "a"), Some("a"));
        assert_eq!(turns.ask(op(2), range(4096, 8192), "b"), Some("b"));
        assert_eq!(turns.over(op(1)), []);
    }

    #[test]
    fn a_part_of_a_unit_waits_for_all_that_came_before_it_there_and_others_go_on() {
        let mut turns = Turns::default();
        turns.ask(op(1), range(0, 8192), "whole");
        assert_eq!(turns.ask(op(2), range(4096, 512), "part"), None);
        assert_eq!(turns.ask(op(3), range(5120, 512), "other part"), None);
        assert_eq!(turns.ask(op(4), range(4096, 4096), "whole again"), None, "it came after them");
        assert_eq!(turns.ask(op(5), range(8192, 100), "elsewhere"), Some("elsewhere"));
        assert_eq!(turns.over(op(5)), []);
        assert_eq!(turns.over(op(1)), [(op(2), "part")]);
        assert_eq!(turns.over(op(2)), [(op(3), "other part")]);
        assert_eq!(turns.over(op(3)), [(op(4), "whole again")]);
    }

    #[test]
    fn a_long_change_waits_only_for_what_is_at_its_own_edges_or_has_edges_in_it() {
        let mut turns = Turns::default();
        turns.ask(op(1), range(4096, 4096), "inside");
        assert_eq!(turns.ask(op(2), range(100, 20_000), "long"), Some("long"), "its edges are elsewhere");
        assert_eq!(turns.ask(op(3), range(8192, 4096), "inside, too"), Some("inside, too"));
        assert_eq!(turns.ask(op(4), range(8192, 512), "a part inside"), None);
        assert_eq!(turns.over(op(2)), []);
        assert_eq!(turns.over(op(3)), [(op(4), "a part inside")]);
    }
}
