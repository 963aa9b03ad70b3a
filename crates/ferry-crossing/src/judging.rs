//! Whether a machine that has arrived stays, of a move that is to be undone if its health check fails.
//!
//! ```text
//!   booted ──▶ Wait ──▶ Well · Unwell, so it goes back · Stays, since somebody else has decided
//! ```
//!
//! Invariant: of each move this is decided once, and what was decided is in the records with the job that comes of it. A machine that
//! was well once is not taken back by what becomes of it later.

use crate::records::CrossingRecord;
use ferry_api::{CrossingState, Desired, Health, Machine};

/// What becomes of a machine that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is not known yet how it is.
    Wait,
    /// It is well, and stays.
    Well,
    /// It is not, and why, in one sentence: it is taken back.
    Unwell(String),
    /// Somebody else has decided what becomes of it, and what, in one sentence.
    Stays(String),
}

/// Whether a move waits for a judgement here.
#[must_use]
pub fn waits(crossing: &CrossingRecord) -> bool {
    let is_asked = crossing.reserve.as_ref().is_some_and(|reserve| reserve.undo_unhealthy);
    let has_booted = matches!(crossing.state, CrossingState::Booted | CrossingState::Settled);
    is_asked && has_booted && crossing.judged.is_none()
}

/// Judges the machine of a move that [`waits`], by what it is `now`; none if it is not here any more as it arrived.
#[must_use]
pub fn judge(now: Option<&Machine>) -> Judgement {
    let Some(machine) = now else {
        return Judgement::Stays("it has left here since, or was destroyed".to_owned());
    };
    if machine.desired != Desired::Running {
        return Judgement::Stays("it was not to run here".to_owned());
    }
    if let Some(job) = machine.job {
        return Judgement::Stays(format!("job {job} moves it already"));
    }
    match (&machine.health, machine.last_exit) {
        (Some(Health::Healthy { .. }), _) => Judgement::Well,
        (Some(Health::Unhealthy { why, .. }), _) => Judgement::Unwell(why.clone()),
        // Before it was well once: with each start it would have all its time again. That its disk was lost is not its own fault.
        (_, Some(exit)) if !exit.lost_its_disk => Judgement::Unwell(match (exit.code, exit.signal) {
            _ if exit.out_of_memory => "it wanted more memory than its limit".to_owned(),
            (Some(code), _) => format!("it ended with code {code}"),
            (None, Some(signal)) => format!("it ended by signal {signal}"),
            (None, None) => "it ended".to_owned(),
        }),
        (Some(Health::Starting { .. }) | None, _) => Judgement::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stopping::tests::machine;
    use ferry_api::{Exit, JobId, MachineState};

    fn now(health: Option<Health>) -> Machine {
        Machine {
            health,
            desired: Desired::Running,
            job: None,
            last_exit: None,
            ..machine(MachineState::Stopped)
        }
    }

    #[test]
    fn it_is_judged_once_its_health_is_known() {
        assert_eq!(judge(Some(&now(Some(Health::Starting { why: None })))), Judgement::Wait);
        assert_eq!(judge(Some(&now(Some(Health::Healthy { since_ms: 1 })))), Judgement::Well);
        let ill = Health::Unhealthy { since_ms: 1, why: "its head aches".to_owned() };
        assert_eq!(judge(Some(&now(Some(ill)))), Judgement::Unwell("its head aches".to_owned()));
    }

    #[test]
    fn one_that_ended_before_it_was_well_is_not() {
        let exit = Exit {
            code: Some(3),
            signal: None,
            at_ms: 1,
            out_of_memory: false,
            lost_its_disk: false,
            asked: None,
        };
        let starting = Some(Health::Starting { why: None });
        let lost = Machine { last_exit: Some(Exit { lost_its_disk: true, ..exit }), ..now(starting.clone()) };
        assert_eq!(judge(Some(&lost)), Judgement::Wait);
        let ended = Machine { last_exit: Some(exit), ..now(starting) };
        assert_eq!(judge(Some(&ended)), Judgement::Unwell("it ended with code 3".to_owned()));
        let well = Machine { health: Some(Health::Healthy { since_ms: 2 }), ..ended };
        assert_eq!(judge(Some(&well)), Judgement::Well);
    }

    #[test]
    fn what_somebody_else_has_decided_stands() {
        let ill = Health::Unhealthy { since_ms: 1, why: "its head aches".to_owned() };
        let stopped = Machine { desired: Desired::Stopped, ..now(Some(ill.clone())) };
        let moving = Machine { job: Some(JobId::fresh()), ..now(Some(ill)) };
        for machine in [None, Some(&stopped), Some(&moving)] {
            assert!(matches!(judge(machine), Judgement::Stays(_)), "{machine:?}");
        }
    }
}
