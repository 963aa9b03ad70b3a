//! One of many moves there and back, by turns cold and warm, with the source's agent killed in the middle of every second one.

use super::cluster::Worker;
use super::until;
use ferry_api::{Job, JobState, StepState};

impl Worker {
    /// Moves a machine to `to`. In every second move, by turns again, `restart` is to kill this worker's agent and start it again:
    /// while the machine stops, or right after.
    pub fn hops(&self, machine: &str, to: &Self, number: u64, restart: impl FnOnce()) {
        let mode = if number.is_multiple_of(2) { "cold" } else { "warm" };
        let begun: Job = self.ask(&["move", machine, "--to", &to.name, "--mode", mode, "--detach"]);
        let job = || self.ask::<Job>(&["job", "show", &begun.id.to_string()]);
        let is_at = |job: &Job, name: &str, is_it: fn(StepState) -> bool| {
            job.steps.iter().any(|step| step.step == name && is_it(step.state))
        };
        if matches!(number % 4, 1 | 2) {
            until("the machine stops", || {
                is_at(&job(), "Stop", |state| state != StepState::Waiting).then_some(())
            });
            restart();
        }
        let ended = until("the move ends", || Some(job()).filter(|job| job.state.is_final()));
        assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
        assert!(is_at(&ended, "Boot", |state| state == StepState::Done));
    }
}
