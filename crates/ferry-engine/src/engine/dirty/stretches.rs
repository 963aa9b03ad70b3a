//! How much the map is told of at once, so that a steady writer hardly ever waits for it.
//!
//! A guest that writes in sequence is followed: each stretch is twice as long as the one before, and the next one is
//! told of while the guest is still in the last half of this one. Any other write has the neighbourhood told of that
//! it lies in, which grows with the number of frames since the mark; so a mark costs a bounded number of waits
//! however the guest writes, and a volume in which little changes has little listed.

use crate::blockmap::BlockMap;
use crate::geometry::{BLOCK_BYTES, Blocks, Geometry};
use crate::limits::{FRAMES_PER_DOUBLING, RUNS_MAX, STRETCH_BYTES_MAX, STRETCHES_MIN};

/// Where the guest writes in sequence, and how much it has been listing lately.
#[derive(Debug)]
pub(super) struct Stretches {
    /// Latest last.
    runs: Vec<Run>,
    frames: u32,
}

/// The latest stretch of a sequence of writes: `step` blocks before `end`.
#[derive(Clone, Copy, Debug)]
struct Run {
    end: u64,
    step: u64,
}

impl Stretches {
    pub(super) const fn new() -> Stretches {
        Stretches { runs: Vec::new(), frames: 0 }
    }

    /// A mark was set: nothing is listed any more, but the guest writes as before.
    pub(super) fn begin_anew(&mut self) {
        self.frames = 0;
    }

    pub(super) fn count_frame(&mut self) {
        self.frames = self.frames.saturating_add(1);
    }

    /// What to tell of for a write of these blocks, which are not listed.
    pub(super) fn over(&mut self, blocks: Blocks, geometry: Geometry) -> Blocks {
        let region = geometry.region_blocks();
        let follows = |run: &Run| {
            blocks.end() + 2 * run.step > run.end && blocks.first() < run.end.saturating_add(run.step)
        };
        let (stretch, step) = match self.runs.iter().position(follows) {
            Some(at) => {
                let step = longer(self.runs.remove(at).step, geometry);
                let first = blocks.first() / region * region;
                let end = blocks.end().max(first + step);
                (clip(first, end.next_multiple_of(region), geometry), step)
            }
            None => (aligned(blocks, self.neighbourhood(geometry), geometry), region),
        };
        self.follow(Run { end: stretch.end(), step });
        stretch
    }

    /// What to tell of next if a write of these blocks, which are listed, follows its sequence.
    pub(super) fn ahead_of(&mut self, blocks: Blocks, geometry: Geometry) -> Option<Blocks> {
        let nears_end = |run: &Run| blocks.first() + run.step / 2 >= run.end && blocks.end() <= run.end;
        let run = self.runs.iter().position(nears_end).map(|at| self.runs.remove(at))?;
        let step = longer(run.step, geometry);
        let next = Blocks::between(run.end, (run.end + step).min(geometry.block_count()))?;
        self.follow(Run { end: next.end(), step });
        Some(next)
    }

    fn follow(&mut self, run: Run) {
        if self.runs.len() == RUNS_MAX {
            self.runs.remove(0);
        }
        self.runs.push(run);
    }

    /// Blocks of the neighbourhood that a write out of sequence has listed: a power of two.
    fn neighbourhood(&self, geometry: Geometry) -> u64 {
        let doublings = (self.frames / FRAMES_PER_DOUBLING).min(40);
        let share = geometry.block_count().div_ceil(STRETCHES_MIN).next_power_of_two();
        (geometry.region_blocks() << doublings).min(share.max(STRETCH_BYTES_MAX / BLOCK_BYTES))
    }
}

fn longer(step: u64, geometry: Geometry) -> u64 {
    (step * 2).min((STRETCH_BYTES_MAX / BLOCK_BYTES).max(geometry.region_blocks()))
}

/// The blocks as few runs, by taking in what lies around them.
pub(super) fn coarse(map: &BlockMap, runs_max: usize) -> Vec<Blocks> {
    let geometry = map.geometry();
    let mut unit = geometry.region_blocks();
    loop {
        let mut runs: Vec<Blocks> = Vec::new();
        for run in map.within(geometry.all_blocks()) {
            let run = aligned(run, unit, geometry);
            match runs.last_mut() {
                Some(last) if last.end() >= run.first() => *last = clip(last.first(), run.end(), geometry),
                Some(_) | None => runs.push(run),
            }
        }
        if runs.len() <= runs_max {
            return runs;
        }
        unit *= 2;
    }
}

fn aligned(blocks: Blocks, unit: u64, geometry: Geometry) -> Blocks {
    clip(blocks.first() / unit * unit, blocks.end().next_multiple_of(unit), geometry)
}

fn clip(first: u64, end: u64, geometry: Geometry) -> Blocks {
    Blocks::between(first, end.min(geometry.block_count())).expect("it begins within the volume")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_scattered_blocks_become_few_runs_that_hold_them() {
        let mut map = BlockMap::new(Geometry::new(1 << 30, 1 << 20).unwrap());
        let scattered = (0..1_000).map(|i| i * 257 % 262_144);
        scattered.clone().for_each(|block| drop(map.insert(Blocks::one(block))));
        let runs = coarse(&map, 10);
        assert!(runs.len() <= 10, "{runs:?}");
        assert!(scattered.clone().all(|block| runs.iter().any(|run| run.contains(block))));
        assert!(runs.iter().zip(&runs[1..]).all(|(a, b)| a.end() < b.first()));
    }

    #[test]
    fn a_neighbourhood_never_grows_beyond_its_share_of_the_volume() {
        let geometry = Geometry::new(8 << 40, 1 << 20).unwrap();
        let mut stretches = Stretches::new();
        assert_eq!(stretches.neighbourhood(geometry), 256);
        (0..1_000).for_each(|_| stretches.count_frame());
        assert_eq!(stretches.neighbourhood(geometry), geometry.block_count() / STRETCHES_MIN);
        let small = Geometry::new(1 << 30, 1 << 20).unwrap();
        assert_eq!(stretches.neighbourhood(small) * BLOCK_BYTES, STRETCH_BYTES_MAX);
    }
}
