//! The way back: where a machine is taken when its last move is undone, and which move can still be cancelled.
//!
//! Invariant: only the worker that owns a machine answers for it; what was handed over is asked for where it is now.

use crate::records::{CrossingRecord, MachineRecord, Standing};
use ferry_api::{ApiError, CrossingState, ErrorCode, JobId, WorkerName};

/// The move that brought a machine here, and the worker that it came from.
///
/// # Errors
/// The machine is not here any more, is about to move, or never came here with a move; or it is not `of` that brought it.
pub fn came_from(
    machine: &MachineRecord,
    crossings: &[CrossingRecord],
    of: Option<JobId>,
) -> Result<(JobId, WorkerName), ApiError> {
    let name = &machine.name;
    if let Standing::HandedOver { to, .. } = &machine.standing {
        let message = format!("machine {name} is on worker {to} now; ask the agent there to take it back");
        return Err(ApiError::new(ErrorCode::HandedOver, message));
    }
    if let Some(job) = machine.job {
        let message = format!(
            "machine {name} is about to move with job {job} and has not been handed over; cancel that with: ferry \
             move --cancel {name}"
        );
        return Err(ApiError::new(ErrorCode::Busy, message));
    }
    let brought = crossings.iter().find_map(|crossing| brought_by(machine, crossing));
    let Some((job, from)) = brought else {
        let message =
            format!("machine {name} did not come here with a move, so there is nothing to take back");
        return Err(ApiError::new(ErrorCode::Conflict, message));
    };
    match of {
        Some(of) if of != job => {
            let message = format!(
                "machine {name} has moved on since job {of}: job {job} brought it here from worker {from}; say which \
                 worker it shall go to (--to)"
            );
            Err(ApiError::new(ErrorCode::Conflict, message))
        }
        Some(_) | None => Ok((job, from)),
    }
}

fn brought_by(machine: &MachineRecord, crossing: &CrossingRecord) -> Option<(JobId, WorkerName)> {
    let reserve = crossing.reserve.as_ref()?;
    let is_it = reserve.machine == machine.id && reserve.machine_generation == machine.generation;
    let is_ours = match crossing.state {
        CrossingState::Activated | CrossingState::Booted | CrossingState::Settled => true,
        CrossingState::Reserved | CrossingState::Prepared | CrossingState::Released => false,
    };
    (is_it && is_ours).then(|| (crossing.job, reserve.from.clone()))
}

/// The job that is to be cancelled so that a machine stays.
///
/// # Errors
/// The machine does not move, or was handed over already.
pub fn cancellable(machine: &MachineRecord) -> Result<JobId, ApiError> {
    let name = &machine.name;
    match (&machine.standing, machine.job) {
        (Standing::Ours, Some(job)) => Ok(job),
        (Standing::Ours, None) => {
            let message = format!("machine {name} is not about to move; there is nothing to cancel");
            Err(ApiError::new(ErrorCode::Conflict, message))
        }
        (Standing::HandedOver { to, job }, _) => {
            let message = format!(
                "machine {name} was handed over to worker {to} by job {job}, which cannot be cancelled any more; take \
                 the machine back with: ferry move --undo {name}"
            );
            Err(ApiError::new(ErrorCode::Conflict, message))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ferry_api::{Desired, Generation, MachineId, MachineSpec, Reserve};

    fn w(name: &str) -> WorkerName {
        name.parse().unwrap()
    }

    pub(crate) fn machine(standing: Standing, job: Option<JobId>) -> MachineRecord {
        MachineRecord {
            id: MachineId::fresh(),
            name: "web".parse().unwrap(),
            spec: MachineSpec::process("sleep", ["1"]),
            volumes: Vec::new(),
            desired: Desired::Running,
            generation: Generation(3),
            standing,
            job,
            halted: false,
            doomed: false,
            process: None,
            memory: None,
            last_exit: None,
            start_ms: None,
            created_at_ms: 0,
        }
    }

    fn crossing(
        machine: &MachineRecord,
        generation: u64,
        from: &str,
        state: CrossingState,
    ) -> CrossingRecord {
        let job = JobId::fresh();
        let reserve = Reserve {
            job,
            from: w(from),
            api_version: ferry_api::API_VERSION,
            machine: machine.id,
            machine_name: machine.name.clone(),
            machine_generation: Generation(generation),
            spec: machine.spec.clone(),
            created_at_ms: 0,
            volumes: Vec::new(),
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
    fn a_machine_goes_back_to_where_its_last_move_brought_it_from() {
        let here = machine(Standing::Ours, None);
        let earlier = crossing(&here, 1, "w1", CrossingState::Settled);
        let undone = crossing(&here, 3, "w4", CrossingState::Released);
        let last = crossing(&here, 3, "w2", CrossingState::Activated);
        let crossings = [earlier.clone(), undone, last.clone()];
        assert_eq!(came_from(&here, &crossings, None), Ok((last.job, w("w2"))));
        assert_eq!(came_from(&here, &crossings, Some(last.job)), Ok((last.job, w("w2"))));
        let refusal = came_from(&here, &crossings, Some(earlier.job)).unwrap_err();
        assert!(refusal.message.contains("has moved on since"), "{refusal}");
        let refusal = came_from(&here, &crossings[..2], None).unwrap_err();
        assert!(refusal.message.contains("did not come here"), "{refusal}");
    }

    #[test]
    fn what_is_not_here_is_taken_back_from_where_it_is_and_what_has_not_left_is_cancelled() {
        let job = JobId::fresh();
        let gone = machine(Standing::HandedOver { to: w("w2"), job }, None);
        let refusal = came_from(&gone, &[], None).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::HandedOver);
        assert!(cancellable(&gone).unwrap_err().message.contains("ferry move --undo web"));
        let leaving = machine(Standing::Ours, Some(job));
        let refusal = came_from(&leaving, &[], None).unwrap_err();
        assert!(refusal.message.contains("ferry move --cancel web"), "{refusal}");
        assert_eq!(cancellable(&leaving), Ok(job));
        assert_eq!(cancellable(&machine(Standing::Ours, None)).unwrap_err().code, ErrorCode::Conflict);
    }
}
