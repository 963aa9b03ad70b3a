//! What a job does next, decided from where it stands.
//!
//! Invariant: whatever `decide` answers, the entry that `Act::announce` gives for it is legal at that standing.

use crate::entry::{Entry, Event, Outcome, UnwindReason};
use crate::refusal::Illegal;
use crate::standing::{Standing, StepStanding, StepState};
use crate::step::{Body, OnFailure, Step};

/// The next act of a job that is doing nothing at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act<S> {
    /// Append `admitted` as soon as it is the job's turn in its queue, if it has one. If the records do not allow it,
    /// append `unwind_begun`: there is nothing to undo.
    Admit {
        /// Decide again at that time if the turn has not come, in milliseconds since the Unix epoch.
        until_ms: Option<u64>,
    },
    /// Append `begun`, do the step, append `done` or `failed`.
    Begin {
        /// The step.
        step: S,
        /// Its attempt.
        attempt: u32,
    },
    /// Append `done` together with the change of records that it means: this is the deed. If the records do
    /// not allow it, append `failed` with this attempt.
    Commit {
        /// The deed.
        step: S,
        /// Its attempt.
        attempt: u32,
    },
    /// Append `unwind_begun`.
    Unwind {
        /// What led to it.
        reason: UnwindReason,
    },
    /// Append `undo_begun`, undo the step, append `undone` or `undo_failed`.
    Undo {
        /// The step.
        step: S,
        /// The attempt at undoing.
        attempt: u32,
    },
    /// Decide again at that time, or when something is appended.
    WaitUntil {
        /// Milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// Append `parked`.
    Park {
        /// Why, in one sentence.
        reason: String,
    },
    /// Decide again when a person has resumed or cancelled the job, or at that time.
    WaitForPerson {
        /// Milliseconds since the Unix epoch.
        until_ms: Option<u64>,
    },
    /// Append `finished`.
    Finish {
        /// How the job ends.
        outcome: Outcome,
    },
    /// Nothing is left to do.
    Rest,
}

impl<S: Step> Act<S> {
    /// The entry that must be durable before the shell acts. None for acts that are waiting, and for those whose
    /// entry is the act: a deed, and letting a job in.
    pub fn announce(&self) -> Option<Event> {
        match self {
            Self::Begin { step, attempt } => {
                Some(Event::Begun { step: step.name().to_owned(), attempt: *attempt })
            }
            Self::Unwind { reason } => Some(Event::UnwindBegun { reason: reason.clone() }),
            Self::Undo { step, attempt } => {
                Some(Event::UndoBegun { step: step.name().to_owned(), attempt: *attempt })
            }
            Self::Park { reason } => Some(Event::Parked { reason: reason.clone() }),
            Self::Finish { outcome } => Some(Event::Finished { outcome: outcome.clone() }),
            Self::Admit { .. }
            | Self::Commit { .. }
            | Self::WaitUntil { .. }
            | Self::WaitForPerson { .. }
            | Self::Rest => None,
        }
    }
}

/// Decides what a job does next, given that it is doing nothing at the moment: a step that stands as begun was
/// cut off by a crash and is repeated.
pub fn decide<S: Step>(standing: &Standing<S>, now_ms: u64) -> Act<S> {
    if standing.outcome.is_some() {
        return Act::Rest;
    }
    if let Some(foreign) = &standing.foreign {
        return match standing.parked {
            Some(_) => Act::WaitForPerson { until_ms: None },
            None => Act::Park { reason: foreign.to_string() },
        };
    }
    if standing.cancel_asked && standing.can_cancel() && standing.turn().is_some() {
        return Act::Unwind { reason: UnwindReason::Cancelled };
    }
    let deadline_ms = standing.deadline_ms();
    if deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now_ms)
        && let Some(turn) = standing.turn()
    {
        return Act::Unwind { reason: too_late(standing, &standing.steps[turn]) };
    }
    if standing.parked.is_some() {
        return Act::WaitForPerson { until_ms: deadline_ms };
    }
    match &standing.unwinding {
        Some(reason) => decide_unwinding(standing, reason, now_ms),
        None if standing.is_waiting() => decide_waiting(standing, now_ms),
        None => decide_forward(standing, now_ms),
    }
}

fn decide_waiting<S: Step>(standing: &Standing<S>, now_ms: u64) -> Act<S> {
    match standing.waits_until_ms() {
        Some(at_ms) if now_ms < at_ms => Act::WaitUntil { at_ms },
        Some(_) | None => Act::Admit { until_ms: standing.deadline_ms() },
    }
}

/// What a job that is not past its deed in time fails with.
fn too_late<S: Step>(standing: &Standing<S>, turn: &StepStanding<S>) -> UnwindReason {
    let within = standing.terms.within();
    let mut message = match standing.deed() {
        Some(deed) => format!("the job was to be past {} within {within} and was not", deed.name),
        None => format!("the job was to be done within {within} and was not"),
    };
    if let Some(error) = &turn.error {
        message = format!("{message}; what failed last: {}", error.message);
    }
    UnwindReason::Failed { step: turn.name.clone(), message }
}

/// What a job appends when something has happened: that, and the announcement of what follows from it, as one.
/// Answers the act that is announced.
///
/// # Errors
/// What happened is not allowed where the job stands.
pub fn conclude<S: Step>(
    standing: &Standing<S>,
    mut happened: Vec<Event>,
    now_ms: u64,
) -> Result<(Vec<Event>, Act<S>), Illegal> {
    let mut next = standing.clone();
    for event in &happened {
        next.apply(&Entry::new(now_ms, event.clone()))?;
    }
    let act = decide(&next, now_ms);
    happened.extend(act.announce());
    Ok((happened, act))
}

fn decide_forward<S: Step>(standing: &Standing<S>, now_ms: u64) -> Act<S> {
    let Some(found) = standing.turn().map(|turn| &standing.steps[turn]) else {
        return Act::Finish { outcome: Outcome::Succeeded };
    };
    let step = known(found);
    let policy = step.policy();
    let attempt = found.failures.saturating_add(1);
    let go = match policy.body {
        Body::Work => Act::Begin { step, attempt },
        Body::Deed => Act::Commit { step, attempt },
    };
    match found.state {
        StepState::Failed { .. } if found.failures_since_resume == 0 => go,
        StepState::Failed { at_ms } => {
            if let Some(give_up) = gives_up(standing, found, policy.failure) {
                return give_up;
            }
            let delay_ms = policy.backoff.delay_ms(found.failures_since_resume);
            match (pause_or(go, at_ms, delay_ms, now_ms), standing.deadline_ms()) {
                (Act::WaitUntil { at_ms }, Some(deadline_ms)) => {
                    Act::WaitUntil { at_ms: at_ms.min(deadline_ms) }
                }
                (act, _) => act,
            }
        }
        StepState::Ahead
        | StepState::Running
        | StepState::Done
        | StepState::Undoing
        | StepState::UndoFailed { .. }
        | StepState::Undone => go,
    }
}

fn decide_unwinding<S: Step>(standing: &Standing<S>, reason: &UnwindReason, now_ms: u64) -> Act<S> {
    let Some(found) = standing.undo_turn().map(|turn| &standing.steps[turn]) else {
        return Act::Finish { outcome: reason.outcome() };
    };
    let step = known(found);
    let go = Act::Undo { step, attempt: found.undo_failures.saturating_add(1) };
    match found.state {
        StepState::UndoFailed { at_ms } => {
            let delay_ms = step.policy().backoff.delay_ms(found.undo_failures_since_resume);
            pause_or(go, at_ms, delay_ms, now_ms)
        }
        StepState::Ahead
        | StepState::Running
        | StepState::Failed { .. }
        | StepState::Done
        | StepState::Undoing
        | StepState::Undone => go,
    }
}

/// What a failed step leads to when it is not to be tried again.
fn gives_up<S: Step>(
    standing: &Standing<S>,
    found: &StepStanding<S>,
    on_failure: OnFailure,
) -> Option<Act<S>> {
    let message = found.error.as_ref().map_or_else(String::new, |error| error.message.clone());
    let used_up = |attempts: u32| !found.may_retry() || found.failures_since_resume >= attempts;
    let unwinds = match on_failure {
        OnFailure::RetryForever if found.may_retry() => return None,
        OnFailure::RetryForever => !standing.past_no_return(),
        OnFailure::Unwind { attempts } if used_up(attempts) => !standing.past_no_return(),
        OnFailure::Park { attempts } if used_up(attempts) => false,
        OnFailure::Unwind { .. } | OnFailure::Park { .. } => return None,
    };
    Some(if unwinds {
        Act::Unwind { reason: UnwindReason::Failed { step: found.name.clone(), message } }
    } else {
        Act::Park { reason: format!("{} failed: {message}", found.name) }
    })
}

/// A wall clock that was set back ends the pause: it must not stretch to the time the clock once showed.
fn pause_or<S>(go: Act<S>, failed_ms: u64, delay_ms: u64, now_ms: u64) -> Act<S> {
    let due_ms = failed_ms.saturating_add(delay_ms);
    if due_ms <= now_ms || now_ms < failed_ms { go } else { Act::WaitUntil { at_ms: due_ms } }
}

fn known<S: Step>(found: &StepStanding<S>) -> S {
    found.step.expect("a standing with an unknown step is foreign, and parked before anything is decided")
}
