//! In what a source differs from a base: how a fetch is cut between the two, and what both know of zeroes.
//!
//! A base is a copy of what the source was itself made from. What the source's guest has not changed since is in both, and
//! need not be asked of the source. Invariant: what was told to differ always counts as different; where there is too much
//! to remember, its surroundings do, too, which costs the source work and nothing else.

use crate::event::SourceExtent;
use crate::geometry::{BLOCK_BYTES, ByteRange};
use crate::limits::DIFFERENCES_MAX;

/// Who has the bytes of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// Only the source: the base may hold others there.
    Source,
    /// The source and the base hold the same.
    Both,
}

/// What a source may differ in from a base.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Differences {
    /// Start and end in bytes: in order, and none touches the next.
    runs: Vec<(u64, u64)>,
    /// Runs begin and end at multiples of this.
    unit_bytes: u64,
    runs_max: usize,
}

impl Differences {
    /// They are the same.
    #[must_use]
    pub const fn none() -> Differences {
        Differences::none_in(DIFFERENCES_MAX)
    }

    const fn none_in(runs_max: usize) -> Differences {
        Differences { runs: Vec::new(), unit_bytes: BLOCK_BYTES, runs_max }
    }

    /// They may differ in this range, which does not begin before those that were added earlier.
    pub fn add(&mut self, range: ByteRange) {
        self.add_run(range.offset(), range.end());
        while self.runs.len() > self.runs_max {
            self.unit_bytes *= 2;
            let finer = std::mem::take(&mut self.runs);
            finer.into_iter().for_each(|(start, end)| self.add_run(start, end));
        }
    }

    fn add_run(&mut self, start: u64, end: u64) {
        let start = start - start % self.unit_bytes;
        let end = end.checked_next_multiple_of(self.unit_bytes).unwrap_or(u64::MAX);
        match self.runs.last_mut() {
            Some(last) if last.1 >= start => last.1 = last.1.max(end),
            Some(_) | None => self.runs.push((start, end)),
        }
    }

    /// The parts of a range, in order, each as long as can be, and who has them. `base_bytes`: so long is the base; behind its
    /// last whole block there is only the source.
    pub fn cut(&self, range: ByteRange, base_bytes: u64) -> impl Iterator<Item = (ByteRange, Holder)> + '_ {
        let base_end = base_bytes - base_bytes % BLOCK_BYTES;
        let mut at = range.offset();
        std::iter::from_fn(move || {
            let (holder, until) = self.at(at, base_end);
            let part = ByteRange::between(at, until.min(range.end()))?;
            at = part.end();
            Some((part, holder))
        })
    }

    /// Who has the byte at `at`, and up to where that is so.
    fn at(&self, at: u64, base_end: u64) -> (Holder, u64) {
        if at >= base_end {
            return (Holder::Source, u64::MAX);
        }
        let next = self.runs.partition_point(|&(_, end)| end <= at);
        match self.runs.get(next) {
            Some(&(start, end)) if start <= at => {
                (Holder::Source, if end >= base_end { u64::MAX } else { end })
            }
            Some(&(start, _)) => (Holder::Both, start.min(base_end)),
            None => (Holder::Both, base_end),
        }
    }

    /// What is zero from `from` on, by what the source and the base say of it, as far as both do. Where they are the same, it
    /// is enough that either knows: a source that has not copied all of itself yet takes what it lacks for data.
    #[must_use]
    pub fn zeroes(
        &self,
        from: u64,
        source: &[SourceExtent],
        base: &[SourceExtent],
        base_bytes: u64,
    ) -> Vec<SourceExtent> {
        let base_end = base_bytes - base_bytes % BLOCK_BYTES;
        let mut known: Vec<SourceExtent> = Vec::new();
        let (mut source, mut base) = (ends(from, source).peekable(), ends(from, base).peekable());
        let mut at = from;
        while let (Some(&(source_end, source_zero)), Some(&(base_end_here, base_zero))) =
            (source.peek(), base.peek())
        {
            let (holder, until) = self.at(at, base_end);
            let end = source_end.min(base_end_here).min(until);
            let zero = source_zero || (base_zero && holder == Holder::Both);
            match known.last_mut() {
                Some(last) if last.zero == zero => last.len_bytes += end - at,
                Some(_) | None => known.push(SourceExtent { len_bytes: end - at, zero }),
            }
            at = end;
            source.next_if(|&(end, _)| end == at);
            base.next_if(|&(end, _)| end == at);
        }
        known
    }
}

/// Where each extent ends that holds anything, and whether it is zero.
fn ends(from: u64, extents: &[SourceExtent]) -> impl Iterator<Item = (u64, bool)> + '_ {
    let mut at = from;
    extents.iter().filter(|extent| extent.len_bytes > 0).map_while(move |extent| {
        let end = at.checked_add(extent.len_bytes)?;
        at = end;
        Some((end, extent.zero))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MODEL_BLOCKS: u64 = 64;

    fn range(first: u64, end: u64) -> ByteRange {
        ByteRange::between(first * BLOCK_BYTES, end * BLOCK_BYTES).unwrap()
    }

    fn told(blocks: &[bool], runs_max: usize) -> Differences {
        let mut differences = Differences::none_in(runs_max);
        let changed = (0..).zip(blocks).filter(|(_, changed)| **changed);
        changed.for_each(|(block, _)| differences.add(range(block, block + 1)));
        differences
    }

    fn extents(blocks: &[bool]) -> Vec<SourceExtent> {
        blocks.iter().map(|&zero| SourceExtent { len_bytes: BLOCK_BYTES, zero }).collect()
    }

    #[test]
    fn what_lies_between_two_differences_is_the_bases_and_nothing_behind_its_end() {
        let mut differences = Differences::none();
        differences.add(range(2, 3));
        differences.add(range(5, 7));
        let cut: Vec<_> = differences.cut(range(1, 12), 10 * BLOCK_BYTES + 512).collect();
        assert_eq!(
            cut,
            [
                (range(1, 2), Holder::Both),
                (range(2, 3), Holder::Source),
                (range(3, 5), Holder::Both),
                (range(5, 7), Holder::Source),
                (range(7, 10), Holder::Both),
                (range(10, 12), Holder::Source),
            ]
        );
    }

    #[test]
    fn a_part_of_a_block_that_differs_makes_all_of_it_differ() {
        let mut differences = Differences::none();
        differences.add(ByteRange::new(5000, 10).unwrap());
        let cut: Vec<_> = differences.cut(range(1, 2), u64::MAX).collect();
        assert_eq!(cut, [(range(1, 2), Holder::Source)]);
    }

    #[test]
    fn what_the_source_has_not_copied_yet_is_zero_if_the_base_says_so() {
        let mut differences = Differences::none();
        differences.add(range(1, 2));
        let known = differences.zeroes(0, &extents(&[false; 4]), &extents(&[true; 3]), u64::MAX);
        let lens: Vec<_> = known.iter().map(|e| (e.len_bytes / BLOCK_BYTES, e.zero)).collect();
        assert_eq!(lens, [(1, true), (1, false), (1, true)]);
    }

    #[test]
    fn extents_without_end_are_taken_within_reason() {
        let strange = [(u64::MAX, true), (u64::MAX, false), (0, true)]
            .map(|(len_bytes, zero)| SourceExtent { len_bytes, zero });
        assert!(Differences::none().zeroes(7 * BLOCK_BYTES, &strange, &strange, u64::MAX).is_empty());
        let mut differences = Differences::none();
        differences.add(ByteRange::between(u64::MAX - 1, u64::MAX).unwrap());
        assert_eq!(differences.cut(range(0, 1), u64::MAX).count(), 1);
    }

    proptest! {
        #[test]
        fn nothing_that_differs_is_ever_the_bases_however_little_is_remembered(
            changed in prop::collection::vec(any::<bool>(), MODEL_BLOCKS as usize),
            runs_max in 1_usize..40,
            (first, len) in (0..MODEL_BLOCKS - 1, 1..MODEL_BLOCKS),
            base_blocks in 0..MODEL_BLOCKS + 1,
        ) {
            let differences = told(&changed, runs_max);
            prop_assert!(differences.runs.len() <= runs_max);
            let asked = range(first, (first + len).min(MODEL_BLOCKS));
            let mut at = asked.offset();
            let mut last = None;
            let is_exact = runs_max >= MODEL_BLOCKS as usize / 2;
            for (part, holder) in differences.cut(asked, base_blocks * BLOCK_BYTES) {
                prop_assert_eq!(part.offset(), at);
                prop_assert!(last != Some(holder), "each is as long as can be");
                for block in part.offset() / BLOCK_BYTES..part.end() / BLOCK_BYTES {
                    let only_source = changed[block as usize] || block >= base_blocks;
                    prop_assert!(!only_source || holder == Holder::Source);
                    prop_assert!(!is_exact || only_source || holder == Holder::Both);
                }
                (at, last) = (part.end(), Some(holder));
            }
            prop_assert_eq!(at, asked.end());
        }

        #[test]
        fn a_block_is_zero_only_if_one_says_so_who_has_it(
            changed in prop::collection::vec(any::<bool>(), MODEL_BLOCKS as usize),
            source in prop::collection::vec(any::<bool>(), 1..MODEL_BLOCKS as usize),
            base in prop::collection::vec(any::<bool>(), 1..MODEL_BLOCKS as usize),
            base_blocks in 0..MODEL_BLOCKS,
        ) {
            let differences = told(&changed, DIFFERENCES_MAX);
            let known = differences.zeroes(0, &extents(&source), &extents(&base), base_blocks * BLOCK_BYTES);
            let mut block = 0;
            for extent in &known {
                for _ in 0..extent.len_bytes / BLOCK_BYTES {
                    let both = !changed[block] && (block as u64) < base_blocks;
                    prop_assert_eq!(extent.zero, source[block] || (both && base[block]));
                    block += 1;
                }
            }
            prop_assert_eq!(block, source.len().min(base.len()));
        }
    }
}
