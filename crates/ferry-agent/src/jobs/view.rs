//! How a job and its journal look from outside: the words of the API for the words of the journal.

use ferry_api::{Job, JobEvent, JobEventKind, JobId, JobKind, JobState, JobStep, StepState, Waiting};
use ferry_fsm::{Entry, Event, FailureClass, Outcome, ReplayError, Standing, Step, UnwindReason};
use serde_json::Value;

use super::task::Shows;
use crate::records::JobRecord;

/// The job as its standing tells it.
pub(super) fn job<S: Step>(
    id: JobId,
    kind: &JobKind,
    standing: &Standing<S>,
    shows: Shows,
    last_seq: u64,
) -> Job {
    let state = match (&standing.outcome, &standing.parked, &standing.unwinding) {
        (Some(outcome), _, _) => state_of(outcome),
        (None, Some(_), _) => JobState::Parked,
        (None, None, Some(_)) => JobState::Unwinding,
        (None, None, None) if standing.is_waiting() => JobState::Waiting,
        (None, None, None) => JobState::Running,
    };
    Job {
        id,
        kind: kind.clone(),
        state,
        steps: standing.steps.iter().map(|found| step(found, standing.unwinding.is_some())).collect(),
        reason: reason_of(standing).or(shows.waits_for),
        progress: shows.progress,
        waiting: (state == JobState::Waiting).then(|| Waiting {
            until_ms: standing.waits_until_ms(),
            queue: standing.terms.queue.clone(),
            place: None,
        }),
        deadline_at_ms: standing.deadline_ms(),
        children: Vec::new(),
        parent: standing.terms.parent.as_ref().and_then(|id| id.parse().ok()),
        created_at_ms: standing.started_ms,
        finished_at_ms: standing.outcome.as_ref().map(|_| standing.last_ms),
        last_seq,
    }
}

/// A job whose journal cannot be replayed: it holds its machine and waits for a person.
pub(super) fn unreadable(record: &JobRecord, error: &ReplayError, last_seq: u64) -> Job {
    Job {
        id: record.id,
        kind: record.kind.clone(),
        state: JobState::Parked,
        steps: Vec::new(),
        reason: Some(error.to_string()),
        progress: None,
        waiting: None,
        deadline_at_ms: None,
        parent: None,
        children: Vec::new(),
        created_at_ms: record.created_at_ms,
        finished_at_ms: None,
        last_seq,
    }
}

/// Entry number `seq` of a journal; none for what does not concern people.
pub(super) fn event(job: JobId, seq: u64, entry: &Entry) -> Option<JobEvent> {
    let what = match &entry.event {
        Event::Started { .. } => JobEventKind::Started,
        Event::Admitted => JobEventKind::Admitted,
        Event::Begun { step, attempt } => JobEventKind::Begun { step: step.clone(), attempt: *attempt },
        Event::Done { step, memo } => JobEventKind::Done { step: step.clone(), memo: present(memo) },
        Event::Failed { step, attempt, error } => JobEventKind::Failed {
            step: step.clone(),
            attempt: *attempt,
            error: error.message.clone(),
            retry: error.class == FailureClass::Retry,
        },
        Event::UnwindBegun { reason } => JobEventKind::UnwindBegun { reason: sentence(reason) },
        Event::Undone { step } => JobEventKind::Undone { step: step.clone() },
        Event::UndoFailed { step, error, .. } => {
            JobEventKind::UndoFailed { step: step.clone(), error: error.message.clone() }
        }
        Event::CancelAsked => JobEventKind::CancelAsked,
        Event::Parked { reason } => JobEventKind::Parked { reason: reason.clone() },
        Event::Resumed => JobEventKind::Resumed,
        Event::Finished { outcome } => JobEventKind::Finished { outcome: state_of(outcome) },
        Event::UndoBegun { .. } | Event::Unknown => return None,
    };
    Some(JobEvent { job, seq, at_ms: entry.at_ms, what })
}

fn state_of(outcome: &Outcome) -> JobState {
    match outcome {
        Outcome::Succeeded => JobState::Succeeded,
        Outcome::Failed { .. } => JobState::Failed,
        Outcome::Cancelled => JobState::Cancelled,
    }
}

fn sentence(reason: &UnwindReason) -> String {
    match reason {
        UnwindReason::Failed { step, message } => format!("{step}: {message}"),
        UnwindReason::Cancelled => "it was cancelled".to_owned(),
    }
}

fn present(memo: &Value) -> Option<Value> {
    (!memo.is_null()).then(|| memo.clone())
}

fn reason_of<S>(standing: &Standing<S>) -> Option<String> {
    if let Some(reason) = &standing.parked {
        return Some(reason.clone());
    }
    if let Some(reason) = &standing.unwinding {
        return Some(sentence(reason));
    }
    let waiting = standing.steps.iter().find(|step| match step.state {
        ferry_fsm::StepState::Failed { .. } => true,
        ferry_fsm::StepState::Ahead
        | ferry_fsm::StepState::Running
        | ferry_fsm::StepState::Done
        | ferry_fsm::StepState::Undoing
        | ferry_fsm::StepState::UndoFailed { .. }
        | ferry_fsm::StepState::Undone => false,
    })?;
    waiting.error.as_ref().map(|error| format!("{}: {}", waiting.name, error.message))
}

fn step<S>(found: &ferry_fsm::StepStanding<S>, unwinding: bool) -> JobStep {
    use ferry_fsm::StepState as Stands;
    let (state, begun_now) = match found.state {
        Stands::Ahead => (StepState::Waiting, 0),
        Stands::Running => (StepState::Running, 1),
        Stands::Failed { .. } if unwinding => (StepState::Failed, 0),
        Stands::Failed { .. } => (StepState::Running, 0),
        Stands::Done => (StepState::Done, 1),
        Stands::Undoing | Stands::UndoFailed { .. } => (StepState::Done, u32::from(found.memo.is_some())),
        Stands::Undone => (StepState::Undone, u32::from(found.memo.is_some())),
    };
    JobStep {
        step: found.name.clone(),
        state,
        attempts: found.failures.saturating_add(begun_now),
        started_at_ms: found.started_ms,
        finished_at_ms: found.finished_ms,
        error: found.error.as_ref().map(|error| error.message.clone()),
        memo: found.memo.as_ref().and_then(present),
    }
}
