//! What a worker remembers for ever of what it handed over: the fence that outlives copies, and records that come back
//! from a backup.
//!
//! Invariant: a fence only rises. At its generation and below, what it is about is never written, started or taken in
//! here again, whatever the records say and however late a call arrives; above it, it has come back and is ours.

pub use ferry_api::Subject;
use ferry_api::{Generation, JobId, WorkerName};
use std::fmt;

/// The last hand-over of something by this worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The generation that was handed over: the highest that ever was.
    pub generation: Generation,
    /// The owner of the next generation.
    pub to: WorkerName,
    /// The move.
    pub job: JobId,
}

impl Fence {
    /// Whether something of this generation is no longer ours.
    #[must_use]
    pub fn bars(&self, generation: Generation) -> bool {
        generation <= self.generation
    }

    /// Whether this is news where `known` is what is remembered so far. What is not news is not to be written.
    #[must_use]
    pub fn rises_above(&self, known: Option<&Self>) -> bool {
        known.is_none_or(|known| !known.bars(self.generation))
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, to, job } = self;
        write!(f, "generation {generation} was handed over to worker {to} by job {job}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(generation: u64) -> Fence {
        Fence { generation: Generation(generation), to: "w2".parse().unwrap(), job: JobId::fresh() }
    }

    #[test]
    fn what_was_handed_over_is_barred_and_what_has_come_back_is_not() {
        let barred = |generation| fence(3).bars(Generation(generation));
        assert_eq!([1, 2, 3, 4, 5].map(barred), [true, true, true, false, false]);
    }

    #[test]
    fn a_fence_rises_only() {
        assert!(fence(1).rises_above(None));
        assert!(fence(3).rises_above(Some(&fence(1))));
        assert!(!fence(3).rises_above(Some(&fence(3))));
        assert!(!fence(1).rises_above(Some(&fence(3))));
    }
}
