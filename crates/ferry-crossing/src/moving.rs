//! The source's side of a move: what it asks of the target, and which changes of the records come with which entry
//! of its journal.
//!
//! Invariant: the change of the records that a step stands for is in the transaction of the entry that begins it, or,
//! for the deed, is it.

use crate::change::Change;
use crate::line::{
    HandedOver, MoveInput, MoveStep, Plan, PlannedVolume, Prepared, Reserved, ReservedVolume, Retired,
    Stopped,
};
use crate::reckoning::target_key;
use ferry_api::{
    API_VERSION, Activate, ActivateVolume, ApiError, Crossing, Desired, JobId, MachineId, MoveMode,
    Ownership, Reserve, ReserveVolume, VolumeKey,
};
use ferry_fsm::{Event, Standing, Step, StepError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What was asked of a move.
///
/// # Errors
/// Another version wrote it.
pub fn input(standing: &Standing<MoveStep>) -> Result<MoveInput, StepError> {
    serde_json::from_value(standing.input.clone())
        .map_err(|error| StepError::fatal(format!("what was asked of this move is not understood: {error}")))
}

/// What a step that is done left for later ones.
///
/// # Errors
/// Another version wrote it, or the step is not done.
pub fn memo_of<T: DeserializeOwned>(standing: &Standing<MoveStep>, step: MoveStep) -> Result<T, StepError> {
    let value = standing.memo(step).cloned().unwrap_or(Value::Null);
    serde_json::from_value(value).map_err(|error| {
        StepError::fatal(format!("what {step:?} left in the journal is not understood: {error}"))
    })
}

/// The marks as of which the target holds what was copied ahead, in the order of the plan's volumes: those of the last round, which
/// may have been one beside the memory of the machine. None if nothing is held.
#[must_use]
pub fn marks(standing: &Standing<MoveStep>) -> Vec<u64> {
    // A journal of before disks kept up with memory says nothing of that.
    let kept_up = memo_of::<Stopped>(standing, MoveStep::Stop).ok().and_then(|stopped| stopped.kept_up);
    let ahead = || memo_of::<Prepared>(standing, MoveStep::Prepare).ok()?.ahead;
    kept_up.map(|kept_up| kept_up.marks).or_else(|| Some(ahead()?.marks)).unwrap_or_default()
}

/// A memo as it stands in the journal.
///
/// # Panics
/// What is left is no plain data.
pub fn memo(left: impl Serialize) -> Value {
    serde_json::to_value(left).expect("memos are plain data and always encode")
}

/// What the target is asked to set aside.
#[must_use]
pub fn reserve(job: JobId, input: &MoveInput, plan: &Plan) -> Reserve {
    Reserve {
        job,
        from: input.from.clone(),
        api_version: API_VERSION,
        machine: input.machine,
        machine_name: input.machine_name.clone(),
        machine_generation: plan.generation.next(),
        spec: plan.spec.clone(),
        created_at_ms: plan.created_at_ms,
        volumes: reserved_volumes(plan),
        undo_unhealthy: input.undo_unhealthy,
    }
}

/// The disks of a machine as its target is asked to make room for them.
#[must_use]
pub fn reserved_volumes(plan: &Plan) -> Vec<ReserveVolume> {
    let volumes = plan.volumes.iter().map(|planned| ReserveVolume {
        id: planned.id,
        name: planned.name.clone(),
        generation: planned.generation.next(),
        size_bytes: planned.size_bytes,
        region_bytes: planned.region_bytes,
        bytes_in_use: planned.bytes_in_use,
        direct: planned.direct,
        born_from: planned.born_from,
        origin: planned.origin.clone(),
    });
    volumes.collect()
}

/// What the target has of the volumes, by its answer to that.
#[must_use]
pub fn reserved(crossing: &Crossing) -> Reserved {
    let volumes = crossing.volumes.iter().map(|reserved| ReservedVolume {
        key: reserved.key,
        base: reserved.volume.as_ref().and_then(|volume| volume.lineage.base.clone()),
    });
    Reserved { volumes: volumes.collect() }
}

/// The source's copies whose readers have a base: they need of them only what has changed there.
fn read_beside_a_base(standing: &Standing<MoveStep>) -> Vec<VolumeKey> {
    let Ok(plan) = memo_of::<Plan>(standing, MoveStep::Plan) else { return Vec::new() };
    // A journal of before there were bases says nothing.
    let reserved: Reserved = memo_of(standing, MoveStep::Reserve).unwrap_or_default();
    let has_base =
        |key: VolumeKey| reserved.volumes.iter().any(|volume| volume.key == key && volume.base.is_some());
    let planned = plan.volumes.iter().filter(|planned| has_base(target_key(planned)));
    planned.map(PlannedVolume::key).collect()
}

/// What the target is told of when it owns machine and volumes; `sources` in the order of the plan, each with whether its
/// clone holds what is right of it; `here` what is wanted of the machine by the source's records.
///
/// They know it no longer when it came back and was destroyed here: the target was told long ago then, and it does not
/// matter what it hears once more.
#[must_use]
pub fn activate(job: JobId, here: Option<Desired>, plan: &Plan, sources: Vec<(String, bool)>) -> Activate {
    let desired = here.unwrap_or(Desired::Stopped);
    let volumes = plan.volumes.iter().zip(sources).map(|(planned, (source, holds))| ActivateVolume {
        id: planned.id,
        generation: planned.generation.next(),
        source,
        holds,
    });
    Activate { job, desired, volumes: volumes.collect() }
}

/// What the deed leaves in the journal: who owns what from now on.
///
/// # Errors
/// What the plan left is not understood.
pub fn deed(standing: &Standing<MoveStep>) -> Result<Value, StepError> {
    let plan: Plan = memo_of(standing, MoveStep::Plan)?;
    Ok(memo(HandedOver {
        to: input(standing)?.to,
        machine_generation: plan.generation.next(),
        volumes: plan.volumes.iter().map(target_key).collect(),
    }))
}

/// The changes of the records that come with an entry, in its transaction. `standing` is before the entry.
#[must_use]
pub fn changes(job: JobId, standing: &Standing<MoveStep>, event: &Event) -> Vec<Change> {
    let Ok(MoveInput { machine, to, mode, .. }) = input(standing) else { return Vec::new() };
    let own = |ownership: Ownership| {
        let keys = memo_of::<Plan>(standing, MoveStep::Plan).map(|plan| plan.keys()).unwrap_or_default();
        keys.into_iter().map(|key| Change::Own { key, ownership: ownership.clone() }).collect()
    };
    match event {
        // Taken on for later, it does not hold the machine until it begins.
        Event::Admitted => vec![Change::Claim { machine, job }],
        Event::Finished { .. } => vec![Change::Unclaim { machine, job }, Change::FinishJob(job)],
        Event::Begun { step, .. } if is(step, MoveStep::Stop) => {
            vec![keep_down(machine, job, mode, true)]
        }
        Event::UndoBegun { step, .. } if is(step, MoveStep::Stop) => {
            vec![keep_down(machine, job, mode, false)]
        }
        Event::Begun { step, .. } if is(step, MoveStep::Seal) => own(Ownership::Sealed { job }),
        Event::UndoBegun { step, .. } if is(step, MoveStep::Seal) => own(Ownership::Ours),
        Event::Done { step, .. } if is(step, MoveStep::HandOver) => {
            let rest = read_beside_a_base(standing).into_iter().map(Change::Rest);
            [Change::HandOver { job, machine, to }].into_iter().chain(rest).collect()
        }
        Event::Done { step, .. } if is(step, MoveStep::Boot) && mode.is_live() => {
            vec![Change::MemoryLeft(machine)]
        }
        Event::Done { step, memo } if is(step, MoveStep::Retire) => {
            match serde_json::from_value::<Retired>(memo.clone()) {
                Ok(Retired { until_ms }) => own(Ownership::Retired { to, until_ms }),
                Err(_) => unreachable!("this very step has just written its memo"),
            }
        }
        Event::Started { .. }
        | Event::Begun { .. }
        | Event::Done { .. }
        | Event::Failed { .. }
        | Event::UnwindBegun { .. }
        | Event::UndoBegun { .. }
        | Event::Undone { .. }
        | Event::UndoFailed { .. }
        | Event::CancelAsked
        | Event::Parked { .. }
        | Event::Resumed
        | Event::Unknown => Vec::new(),
    }
}

/// The machine is kept down, or no longer; one that moves live by pausing it.
fn keep_down(machine: MachineId, job: JobId, mode: MoveMode, down: bool) -> Change {
    match mode.is_live() {
        true => Change::Pause { machine, job, paused: down },
        false => Change::Halt { machine, job, halted: down },
    }
}

/// A refusal before the hand-over: what was refused stays refused, what was unlucky may be tried again.
#[must_use]
pub fn refusal(error: ApiError) -> StepError {
    match error.code.is_transient() {
        true => StepError::retry(error.message),
        false => StepError::fatal(error.message),
    }
}

/// Behind the hand-over, and while undoing, nothing is final: somebody will mend what is in the way.
#[must_use]
pub fn later(error: ApiError) -> StepError {
    StepError::retry(error.message)
}

fn is(name: &str, step: MoveStep) -> bool {
    step.name() == name
}
