//! How two machines of one group are kept from being down for their moves at the same time, without anybody who decides that
//! for all workers.
//!
//! ```text
//!   mover    before it stops the machine: asks every worker that it knows, itself too, one after the other by name
//!   worker   nothing given ──▶ gives, durably
//!            given to another ──▶ asks the worker that leads that one whether it is still needed
//!                                   no ──▶ gives it to whoever asks now;  yes, or no answer ──▶ says who is in the way
//!   mover    all have given ──▶ stops the machine; when it runs again, here or there, tells all of them
//! ```
//!
//! Invariants: a worker has given the lease of a group to one attempt of one move at most. Two movers of one group both need it
//! of either's worker, so one of them waits. They ask in the same order, so they never wait for each other. A lease has
//! no time of its own: it is over when the worker that leads its move says so, and what is over is never needed again, so that
//! words that come late change nothing. One that a dead worker has is taken from it by a person alone.

use crate::line::{MoveStep, Prepared};
use crate::records::WorkerRecord;
use crate::refusal::ChangeRefused;
use ferry_api::{ApiError, GroupName, Lease, LeaseAnswer, LeaseId, WorkerName};
use ferry_fsm::{Standing, StepState};
use std::collections::BTreeSet;

/// How long a worker may say nothing until the move is given up, in milliseconds: its machine still runs, and others wait.
pub const SILENT_MAX_MS: u64 = 30_000;

/// Whom a mover asks, and in which order: the same for all movers.
#[must_use]
pub fn order(own: &WorkerName, others: impl IntoIterator<Item = WorkerName>) -> Vec<WorkerName> {
    let all: BTreeSet<WorkerName> = others.into_iter().chain([own.clone()]).collect();
    all.into_iter().collect()
}

/// What a worker that is asked does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It gives the lease.
    Give,
    /// It has given it to this very one.
    Given,
    /// It asks the worker that leads this one whether it is still needed.
    AskFirst(Lease),
}

/// What a worker that has given a lease, or none, does when it is asked for one.
#[must_use]
pub fn asked(given: Option<&Lease>, wish: &Lease) -> Asked {
    match given {
        None => Asked::Give,
        Some(given) if given.id == wish.id => Asked::Given,
        Some(given) => Asked::AskFirst(given.clone()),
    }
}

/// What it answers when the worker that leads `given` has said whether that is needed, or what was heard instead; none: it
/// gives the lease in the place of that one.
#[must_use]
pub fn after_asking(given: Lease, needed: Result<bool, String>, force: bool) -> Option<LeaseAnswer> {
    match needed {
        Ok(false) => None,
        Ok(true) => Some(LeaseAnswer::Held { by: given, silent: None }),
        Err(_) if force => None,
        Err(heard) => Some(LeaseAnswer::Held { by: given, silent: Some(heard) }),
    }
}

/// Whether a move that stands like this needs that lease; `asking` is the one that its agent asks others for since it was started.
/// Once it does not, it never does again: the next attempt has another lease.
#[must_use]
pub fn needs(standing: &Standing<MoveStep>, asking: Option<LeaseId>, lease: LeaseId) -> bool {
    let stands = |step: MoveStep| standing.steps.iter().find(|found| found.step == Some(step));
    let is = |step, state: StepState| stands(step).is_some_and(|found| found.state == state);
    let has = |memo: &serde_json::Value| match serde_json::from_value::<Prepared>(memo.clone()) {
        Ok(prepared) => prepared.lease == Some(lease),
        // Another version wrote it. That one knows.
        Err(_) => true,
    };
    let is_its = asking == Some(lease) || standing.memo(MoveStep::Prepare).is_some_and(has);
    let is_up_again = is(MoveStep::Boot, StepState::Done) || is(MoveStep::Prepare, StepState::Undone);
    is_its && standing.outcome.is_none() && !is_up_again
}

/// What a mover does with the answer of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It asks the next one.
    Goes,
    /// It asks again in a moment; why it waits, in one sentence.
    Waits(String),
    /// It gives up, with the machine running at home, for this reason.
    Fails(String),
}

/// What a mover does when the worker `at` has said this, and, if that is nothing, for so long. `force` passes those that say
/// nothing.
#[must_use]
pub fn next(
    at: &WorkerName,
    group: &GroupName,
    said: Result<LeaseAnswer, ApiError>,
    silent_ms: u64,
    force: bool,
) -> Next {
    match said {
        Ok(LeaseAnswer::Given) => Next::Goes,
        Ok(LeaseAnswer::Held { by, silent: None }) => Next::Waits(format!(
            "machine {} of its group {group} moves from worker {} with job {}; it waits until that one runs again",
            by.machine_name, by.from, by.job
        )),
        Ok(LeaseAnswer::Held { by, silent: Some(heard) }) => Next::Waits(format!(
            "machine {} of its group {group} may be down for job {}, whose worker {} does not tell worker {at} ({heard}); \
             bring that worker back, or move the machine with --force",
            by.machine_name, by.job, by.from
        )),
        Err(_) if force => Next::Goes,
        Err(error) => {
            let why = silent(at, group, &error.message);
            if silent_ms < SILENT_MAX_MS { Next::Waits(why) } else { Next::Fails(why) }
        }
    }
}

/// Why a machine of a group stays where it is while a worker says nothing, in one sentence.
#[must_use]
pub fn silent(worker: &WorkerName, group: &GroupName, heard: &str) -> String {
    format!(
        "worker {worker} may have a machine of its group {group} that is down for a move, and does not answer ({heard}); \
         bring that worker back, take it from the peers if it is gone for good, or use --force"
    )
}

/// Gives the lease of a group, in the place of another one if that is over.
///
/// # Errors
/// Another one is given.
pub fn give(
    worker: &mut WorkerRecord,
    group: &GroupName,
    lease: &Lease,
    instead_of: Option<LeaseId>,
) -> Result<(), ChangeRefused> {
    let given = worker.leases.get(group);
    let may = given.is_none_or(|given| given.id == lease.id || Some(given.id) == instead_of);
    if !may {
        return Err(ChangeRefused::LeaseGiven(group.clone()));
    }
    worker.leases.insert(group.clone(), lease.clone());
    Ok(())
}

/// A lease is over.
pub fn end(worker: &mut WorkerRecord, group: &GroupName, id: LeaseId) {
    if worker.leases.get(group).is_some_and(|given| given.id == id) {
        worker.leases.remove(group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::MoveInput;
    use ferry_api::{ErrorCode, JobId, MachineId, MoveMode};
    use ferry_fsm::{Entry, Event, StepError, Terms, UnwindReason};
    use serde_json::json;

    fn lease() -> Lease {
        let machine_name = "pg-1".parse().unwrap();
        Lease { id: LeaseId::fresh(), job: JobId::fresh(), from: "w1".parse().unwrap(), machine_name }
    }

    /// A move after these events.
    fn standing(events: Vec<Event>) -> Standing<MoveStep> {
        let input = MoveInput {
            machine: MachineId::fresh(),
            machine_name: "pg-1".parse().unwrap(),
            from: "w1".parse().unwrap(),
            to: "w2".parse().unwrap(),
            retention_ms: 0,
            mode: MoveMode::Cold,
            undo_unhealthy: false,
            way_back: false,
            force: false,
        };
        let opening =
            Standing::<MoveStep>::opening(0, serde_json::to_value(input).unwrap(), Terms::default());
        let mut standing = Standing::start(&opening).unwrap();
        for event in events {
            standing.apply(&Entry::new(1, event)).unwrap();
        }
        standing
    }

    fn begun(step: &str) -> Event {
        Event::Begun { step: step.to_owned(), attempt: 1 }
    }

    fn done(step: &str, memo: serde_json::Value) -> [Event; 2] {
        [begun(step), Event::Done { step: step.to_owned(), memo }]
    }

    fn until_prepared(lease: LeaseId) -> Vec<Event> {
        let prepared = json!({ "sources": [], "lease": lease });
        let steps = [("Plan", json!({})), ("Reserve", json!({})), ("Prepare", prepared)];
        steps.into_iter().flat_map(|(step, memo)| done(step, memo)).collect()
    }

    #[test]
    fn a_move_needs_its_lease_from_when_it_asks_until_the_machine_runs_again() {
        let (id, other) = (LeaseId::fresh(), LeaseId::fresh());
        let preparing = standing([until_prepared(id)[..4].to_vec(), vec![begun("Prepare")]].concat());
        assert!(needs(&preparing, Some(id), id));
        assert!(!needs(&preparing, None, id), "its agent was started anew and asks for another one");
        assert!(!needs(&preparing, Some(other), id), "its next attempt asks for another one");
        let mut events = until_prepared(id);
        assert!(needs(&standing(events.clone()), None, id));
        assert!(!needs(&standing(events.clone()), None, other));
        for step in ["Stop", "Seal"] {
            events.extend(done(step, json!({})));
            assert!(needs(&standing(events.clone()), None, id), "{step}");
        }
        events.push(Event::Done { step: "HandOver".to_owned(), memo: json!({}) });
        events.extend(done("Activate", json!({})));
        events.push(begun("Boot"));
        assert!(needs(&standing(events.clone()), None, id), "it is about to start");
        events.push(Event::Done { step: "Boot".to_owned(), memo: json!({}) });
        assert!(!needs(&standing(events), None, id));
    }

    #[test]
    fn a_move_that_is_undone_needs_its_lease_until_the_machine_runs_at_home() {
        let id = LeaseId::fresh();
        let mut events = until_prepared(id);
        let error = StepError::fatal("no");
        events.push(begun("Stop"));
        events.push(Event::Failed { step: "Stop".to_owned(), attempt: 1, error });
        events.push(Event::UnwindBegun { reason: UnwindReason::Cancelled });
        for step in ["Stop", "Prepare"] {
            events.push(Event::UndoBegun { step: step.to_owned(), attempt: 1 });
            assert!(needs(&standing(events.clone()), Some(id), id), "{step}");
            events.push(Event::Undone { step: step.to_owned() });
        }
        assert!(!needs(&standing(events), Some(id), id));
    }

    #[test]
    fn a_lease_is_given_once_and_taken_only_from_one_that_is_over() {
        let (first, second) = (lease(), lease());
        let group: GroupName = "pg".parse().unwrap();
        let mut worker = WorkerRecord::default();
        assert_eq!(asked(None, &first), Asked::Give);
        give(&mut worker, &group, &first, None).unwrap();
        give(&mut worker, &group, &first, None).unwrap();
        assert_eq!(asked(worker.leases.get(&group), &first), Asked::Given);
        assert_eq!(asked(worker.leases.get(&group), &second), Asked::AskFirst(first.clone()));
        assert!(give(&mut worker, &group, &second, None).is_err());
        assert!(give(&mut worker, &group, &second, Some(second.id)).is_err());
        give(&mut worker, &group, &second, Some(first.id)).unwrap();
        end(&mut worker, &group, first.id);
        assert_eq!(worker.leases.get(&group), Some(&second), "a word that comes late ends nothing");
        end(&mut worker, &group, second.id);
        assert_eq!(worker, WorkerRecord::default());
    }

    #[test]
    fn force_passes_those_that_say_nothing_and_nobody_else() {
        let (w3, pg): (WorkerName, GroupName) = ("w3".parse().unwrap(), "pg".parse().unwrap());
        let away = || Err(ApiError::new(ErrorCode::Unreachable, "no route"));
        let held =
            |silent: Option<&str>| Ok(LeaseAnswer::Held { by: lease(), silent: silent.map(str::to_owned) });
        assert_eq!(next(&w3, &pg, Ok(LeaseAnswer::Given), 0, false), Next::Goes);
        assert_eq!(next(&w3, &pg, away(), 0, true), Next::Goes);
        assert!(matches!(next(&w3, &pg, away(), 0, false), Next::Waits(_)));
        let Next::Fails(why) = next(&w3, &pg, away(), SILENT_MAX_MS, false) else { panic!("it gives up") };
        assert!(why.contains("worker w3 may have a machine of its group pg"), "{why}");
        for said in [held(None), held(Some("no route"))] {
            assert!(matches!(next(&w3, &pg, said, SILENT_MAX_MS, true), Next::Waits(_)));
        }
        let given = lease();
        let by = |silent: Option<&str>| {
            Some(LeaseAnswer::Held { by: given.clone(), silent: silent.map(str::to_owned) })
        };
        for force in [false, true] {
            assert_eq!(after_asking(given.clone(), Ok(true), force), by(None));
            assert_eq!(after_asking(given.clone(), Ok(false), force), None);
        }
        assert_eq!(after_asking(given.clone(), Err("no route".to_owned()), false), by(Some("no route")));
        assert_eq!(after_asking(given.clone(), Err("no route".to_owned()), true), None);
    }

    #[test]
    fn all_movers_ask_in_the_same_order() {
        let name = |name: &str| name.parse::<WorkerName>().unwrap();
        let all = [name("w1"), name("w2"), name("w3")];
        assert_eq!(order(&name("w3"), [name("w2"), name("w1")]), all);
        assert_eq!(order(&name("w1"), [name("w3"), name("w1"), name("w2")]), all);
    }
}
