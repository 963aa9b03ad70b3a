//! How long the journal of a move that has ended is kept.
//!
//! Invariant: nothing is forgotten of a move while anything it made is still there, here or on its target: the journal
//! is what tells whose that is and whether it may go.

use crate::line::{MoveStep, Plan};
use crate::moving::memo_of;
use crate::records::{MachineRecord, Standing as MachineStanding, VolumeRecord};
use ferry_api::{JobId, Ownership, VolumeKey};
use ferry_fsm::{Standing, StepState};

/// How much history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// How long a job is kept after it ended, in milliseconds.
    pub for_ms: u64,
    /// How many jobs that ended are kept at most.
    pub jobs: u64,
}

impl Keep {
    /// Whether a job that ended at `ended_ms` has had its time, given that `newer` others ended. A clock that was set back
    /// makes it younger, not older.
    #[must_use]
    pub fn is_over(&self, ended_ms: u64, newer: u64, now_ms: u64) -> bool {
        newer >= self.jobs || now_ms.saturating_sub(ended_ms) > self.for_ms
    }
}

/// The copies that a move had on its source.
#[must_use]
pub fn copies(standing: &Standing<MoveStep>) -> Vec<VolumeKey> {
    memo_of::<Plan>(standing, MoveStep::Plan).map(|plan| plan.keys()).unwrap_or_default()
}

/// Whether something of a move that has ended is still on its source: a machine whose going it recorded, or a copy that
/// it left behind. `machine` and `volumes` are those it was about, as the records have them now.
#[must_use]
pub fn is_needed_here(
    job: JobId,
    standing: &Standing<MoveStep>,
    machine: Option<&MachineRecord>,
    volumes: &[VolumeRecord],
) -> bool {
    let went = machine.is_some_and(|machine| match &machine.standing {
        MachineStanding::HandedOver { job: by, .. } => *by == job,
        MachineStanding::Ours => machine.job == Some(job),
    });
    let keys = copies(standing);
    went || volumes.iter().filter(|volume| keys.contains(&volume.key())).any(|volume| {
        match &volume.ownership {
            Ownership::Sealed { job: by } | Ownership::HandedOver { job: by, .. } => *by == job,
            Ownership::Retired { .. } => standing.past_no_return(),
            Ownership::Reserved { .. } | Ownership::Prepared { .. } | Ownership::Ours => false,
        }
    })
}

/// Whether the target of a move that was undone must have forgotten it first: it asks the journal whether it may.
#[must_use]
pub fn may_be_expected_there(standing: &Standing<MoveStep>) -> bool {
    let asked = |step: MoveStep| {
        standing.steps.iter().any(|found| found.step == Some(step) && found.state != StepState::Ahead)
    };
    !standing.past_no_return() && asked(MoveStep::Reserve)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Keep = Keep { for_ms: 1_000, jobs: 10 };

    #[test]
    fn a_job_is_kept_for_its_time_and_while_there_are_not_too_many() {
        assert!(!KEEP.is_over(5_000, 9, 6_000));
        assert!(KEEP.is_over(5_000, 9, 6_001));
        assert!(KEEP.is_over(5_000, 10, 5_000));
    }

    #[test]
    fn a_clock_that_is_set_back_ages_nothing() {
        assert!(!KEEP.is_over(5_000, 0, 1_000));
    }
}
