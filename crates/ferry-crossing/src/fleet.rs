//! Several moves as one job: its children are the moves, each with a journal of its own.
//!
//! Invariant: the ids of the children stand in what was asked for, so that a child is begun once, however often the step
//! is repeated. The parent does nothing to a machine: whether one may be taken back its own move decides.

use crate::line::MoveInput;
use ferry_api::{JobId, JobState, MachineId, MachineName, MoveMode, WorkerName};
use ferry_fsm::{Backoff, Body, OnFailure, Policy, Step, Terms, Undo};
use serde::{Deserialize, Serialize};

/// Pauses between attempts: only the records can be in the way.
const PAUSE: Backoff = Backoff { first_ms: 250, cap_ms: 10_000 };

/// The steps of a job that has moves as children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FleetStep {
    /// The children are taken on. Undone by cancelling those that are not past their hand-over, and waiting for all.
    Begin,
    /// The children end.
    Arrive,
}

impl Step for FleetStep {
    const NAME: &'static str = "moves";
    const VERSION: u16 = 1;
    const LINE: &'static [Self] = &[Self::Begin, Self::Arrive];

    fn name(self) -> &'static str {
        match self {
            Self::Begin => "Begin",
            Self::Arrive => "Arrive",
        }
    }

    fn policy(self) -> Policy {
        let undo = match self {
            Self::Begin => Undo::Needed,
            Self::Arrive => Undo::Nothing,
        };
        Policy { body: Body::Work, failure: OnFailure::RetryForever, undo, backoff: PAUSE }
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetInput {
    /// The source: the worker on which the jobs run.
    pub from: WorkerName,
    /// The target.
    pub to: WorkerName,
    /// The children in order.
    pub moves: Vec<FleetMove>,
    /// How long the source keeps its copies after nobody needs them, in milliseconds.
    pub retention_ms: u64,
    /// What of each machine crosses before it stops.
    #[serde(default = "MoveMode::unsaid", skip_serializing_if = "MoveMode::is_cold")]
    pub mode: MoveMode,
    /// Whether the target takes each of them back whose health check fails there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undo_unhealthy: bool,
    /// Whether each of them passes workers that do not answer, as in [`MoveInput`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// When each of them begins and by when it must be handed over.
    pub terms: Terms,
}

/// A child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetMove {
    /// Its id.
    pub job: JobId,
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub machine_name: MachineName,
}

impl FleetInput {
    /// What is asked of a child of the job `parent`, and under which terms.
    #[must_use]
    pub fn child(&self, parent: JobId, child: &FleetMove) -> (MoveInput, Terms) {
        let input = MoveInput {
            machine: child.machine,
            machine_name: child.machine_name.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            retention_ms: self.retention_ms,
            mode: self.mode,
            undo_unhealthy: self.undo_unhealthy,
            way_back: false,
            force: self.force,
        };
        (input, Terms { parent: Some(parent.to_string()), ..self.terms.clone() })
    }
}

/// Memo of `Begin`: moves that could not be taken on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// One for each.
    pub refused: Vec<ChildEnd>,
}

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildEnd {
    /// Its machine.
    pub machine_name: MachineName,
    /// How; one that could not be taken on failed.
    pub state: JobState,
    /// Why, in one sentence, if it did not succeed.
    pub reason: Option<String>,
}

/// What the ends of all children come to: an error that names those that did not succeed, if there are any.
///
/// # Errors
/// One sentence for people.
pub fn verdict(ends: &[ChildEnd]) -> Result<(), String> {
    let short = |end: &ChildEnd| {
        let reason = end.reason.as_deref().unwrap_or("it was cancelled");
        format!("{}: {reason}", end.machine_name)
    };
    let bad: Vec<String> = ends.iter().filter(|end| end.state != JobState::Succeeded).map(short).collect();
    match bad.len() {
        0 => Ok(()),
        count => Err(format!("{count} of {} machines did not move ({})", ends.len(), bad.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_keeps_the_rules_of_all_lines() {
        ferry_fsm::check_line::<FleetStep>().unwrap();
    }

    #[test]
    fn the_parent_tells_which_machines_did_not_move_and_why() {
        let end = |name: &str, state: JobState, reason: Option<&str>| ChildEnd {
            machine_name: name.parse().unwrap(),
            state,
            reason: reason.map(str::to_owned),
        };
        let good = end("a", JobState::Succeeded, None);
        assert_eq!(verdict(std::slice::from_ref(&good)), Ok(()));
        let ends = [good, end("b", JobState::Failed, Some("no room")), end("c", JobState::Cancelled, None)];
        let said = "2 of 3 machines did not move (b: no room; c: it was cancelled)";
        assert_eq!(verdict(&ends), Err(said.to_owned()));
    }
}
