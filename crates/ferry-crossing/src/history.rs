//! How long the journal of a move that has ended is kept, and what its target remembers of it.
//!
//! Invariants: nothing is forgotten of a move while anything it made is still there, here or on its target: the journal
//! is what tells whose that is and whether it may go. A target forgets a move only when the marks of what it has handed over
//! since, which stay for ever, refuse every call of it that is still to come.

use crate::fence::{Fence, Subject};
use crate::line::{MoveStep, Plan};
use crate::moving::memo_of;
use crate::records::{CrossingRecord, MachineRecord, Standing as MachineStanding, VolumeRecord};
use crate::target::{is_over, subjects_of};
use ferry_api::{JobId, Ownership, VolumeKey};
use ferry_fsm::{Standing, StepState};
use std::collections::BTreeMap;

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

/// Whether nobody needs what is remembered here of a move to here, once its source has ended the job: it is over, and what
/// it brought, or would have, was handed over again. The one that brought a machine that is here still tells where it came
/// from; one that brought a machine that was destroyed here is all that refuses a call which arrives late.
#[must_use]
pub fn is_spent(crossing: &CrossingRecord, fences: &BTreeMap<Subject, Fence>) -> bool {
    let is_barred = |(subject, generation)| fences.get(&subject).is_some_and(|fence| fence.bars(generation));
    is_over(crossing.state)
        && crossing.reserve.as_ref().is_some_and(|reserve| subjects_of(reserve).into_iter().all(is_barred))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::{CrossingState, Generation, MachineId, MachineSpec, Reserve, ReserveVolume, VolumeId};

    fn crossing(state: CrossingState) -> CrossingRecord {
        let (job, id) = (JobId::fresh(), VolumeId::fresh());
        let reserve = Reserve {
            job,
            from: "w1".parse().unwrap(),
            api_version: 1,
            machine: MachineId::fresh(),
            machine_name: "web".parse().unwrap(),
            machine_generation: Generation(4),
            spec: MachineSpec::process("sleep", ["1000"]),
            created_at_ms: 1,
            volumes: vec![ReserveVolume {
                id,
                name: "data".parse().unwrap(),
                generation: Generation(7),
                size_bytes: 1 << 20,
                region_bytes: 1 << 20,
                bytes_in_use: 0,
                direct: false,
                born_from: None,
                origin: None,
            }],
            undo_unhealthy: false,
        };
        CrossingRecord {
            job,
            state,
            reserve: Some(reserve),
            activated_at_ms: None,
            booted_at_ms: None,
            judged: None,
            awaited: None,
            after_move: None,
        }
    }

    #[test]
    fn what_is_remembered_of_a_move_to_here_is_spent_when_all_it_brought_has_gone_on() {
        let settled = crossing(CrossingState::Settled);
        let reserve = settled.reserve.clone().unwrap();
        let (machine, volume) = (Subject::Machine(reserve.machine), Subject::Volume(reserve.volumes[0].id));
        let fence = |generation| Fence {
            generation: Generation(generation),
            to: "w3".parse().unwrap(),
            job: JobId::fresh(),
        };
        let with = |machine_went, volume_went| {
            BTreeMap::from([(machine, fence(machine_went)), (volume, fence(volume_went))])
        };
        assert!(is_spent(&settled, &with(4, 7)));
        assert!(is_spent(&settled, &with(6, 9)));
        // It went at an earlier generation, and came back with this move.
        assert!(!is_spent(&settled, &with(2, 7)));
        assert!(!is_spent(&settled, &with(4, 5)));
        // Destroyed here: no mark refuses a call that comes late.
        assert!(!is_spent(&settled, &BTreeMap::new()));
        for state in [CrossingState::Prepared, CrossingState::Activated, CrossingState::Booted] {
            assert!(!is_spent(&CrossingRecord { state, ..settled.clone() }, &with(4, 7)), "{state:?}");
        }
        let unknown = CrossingRecord { state: CrossingState::Released, reserve: None, ..settled };
        assert!(!is_spent(&unknown, &with(4, 7)));
    }

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
