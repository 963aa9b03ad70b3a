//! Where a job stands, computed from its journal and from nothing else.
//!
//! Invariant: `Standing::apply` is the only way forward, for a running job as for a replayed one, and refuses
//! every entry that the rules of this crate do not allow at that point.
//!
//! ```text
//!   Ahead ─begun─▶ Running ─done─▶ Done ─undo_begun─▶ Undoing ─undone─▶ Undone
//!                  │     ▲          ▲                  │    ▲
//!                  failed begun     done (deed)        undo_failed, undo_begun
//!                  ▼     │          │                  ▼    │
//!                  Failed ── (Ahead)┘                  UndoFailed
//! ```

use serde_json::Value;

use crate::entry::{
    ENTRY_VERSION, Entry, Event, FailureClass, JOURNAL_FORMAT, Outcome, StepError, UnwindReason,
};
use crate::refusal::{Foreign, Illegal, ReplayError};
use crate::step::{Body, Step, Undo};
use crate::terms::Terms;

/// Where a job stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing<S> {
    /// What was asked for.
    pub input: Value,
    /// When it begins and by when it must be across.
    pub terms: Terms,
    /// Set when it was let in, for jobs whose terms ask for that.
    pub admitted: bool,
    /// Set when a person had it begin before its time.
    pub is_time_waived: bool,
    /// The steps in order.
    pub steps: Vec<StepStanding<S>>,
    /// Set while the job unwinds, and kept after.
    pub unwinding: Option<UnwindReason>,
    /// Whether somebody asked to cancel.
    pub cancel_asked: bool,
    /// Set while the job waits for a person.
    pub parked: Option<String>,
    /// Set when the job is over.
    pub outcome: Option<Outcome>,
    /// What another version wrote and this one does not know; such a job parks.
    pub foreign: Option<Foreign>,
    /// When the job was started, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// When the last entry was appended, in milliseconds since the Unix epoch.
    pub last_ms: u64,
}

/// Where one step stands.
#[derive(Debug, Clone, PartialEq)]
pub struct StepStanding<S> {
    /// The name in the journal.
    pub name: String,
    /// The step, if this version knows the name.
    pub step: Option<S>,
    /// How far it is.
    pub state: StepState,
    /// Failures in all; the next attempt has this number plus one.
    pub failures: u32,
    /// Failures since the job was last resumed; what the policy counts.
    pub failures_since_resume: u32,
    /// Failed undos in all; the next attempt at undoing has this number plus one.
    pub undo_failures: u32,
    /// Failed undos since the job was last resumed.
    pub undo_failures_since_resume: u32,
    /// When it was first begun, in milliseconds since the Unix epoch.
    pub started_ms: Option<u64>,
    /// When its latest attempt, or attempt at undoing, was begun, in milliseconds since the Unix epoch. Being repeated
    /// after a crash does not make it another attempt.
    pub begun_ms: Option<u64>,
    /// When it was done, or undone, in milliseconds since the Unix epoch.
    pub finished_ms: Option<u64>,
    /// The latest failure, of the step or of its undo.
    pub error: Option<StepError>,
    /// What the step found out.
    pub memo: Option<Value>,
}

/// What a person's request leads to.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It was asked before; nothing is appended.
    Already,
    /// This entry is appended, then the person is answered.
    Append(Event),
    /// The job no longer can.
    Refuse,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    /// Not begun.
    Ahead,
    /// Begun; after a crash, to be repeated.
    Running,
    /// Failed at that time (milliseconds since the Unix epoch).
    Failed {
        /// When.
        at_ms: u64,
    },
    /// Done.
    Done,
    /// Its undo is begun; after a crash, to be repeated.
    Undoing,
    /// Its undo failed at that time (milliseconds since the Unix epoch).
    UndoFailed {
        /// When.
        at_ms: u64,
    },
    /// Undone.
    Undone,
}

/// Computes where a job stands.
///
/// # Errors
/// The first entry that is not allowed where it stands.
pub fn replay<'a, S: Step>(entries: impl IntoIterator<Item = &'a Entry>) -> Result<Standing<S>, ReplayError> {
    let mut standing: Option<Standing<S>> = None;
    for (index, entry) in entries.into_iter().enumerate() {
        let applied = match &mut standing {
            Some(standing) => standing.apply_at(index, entry),
            None => Standing::start(entry).map(|started| standing = Some(started)),
        };
        applied.map_err(|reason| ReplayError::Illegal { index, kind: entry.event.kind(), reason })?;
    }
    standing.ok_or(ReplayError::Empty)
}

impl<S: Step> Standing<S> {
    /// The entry that starts a job of this kind with its whole line.
    pub fn opening(at_ms: u64, input: Value, terms: Terms) -> Entry {
        let started = Event::Started {
            format: JOURNAL_FORMAT,
            job: S::NAME.to_owned(),
            line_version: S::VERSION,
            line: S::LINE.iter().map(|step| step.name().to_owned()).collect(),
            input,
            terms: Box::new(terms),
        };
        Entry::new(at_ms, started)
    }

    /// Where a job stands after its first entry.
    ///
    /// # Errors
    /// The entry is not `started`, or its line is no line.
    pub fn start(entry: &Entry) -> Result<Self, Illegal> {
        let Event::Started { format, job, line_version, line, input, terms } = &entry.event else {
            return Err(Illegal::NotStartedOnce);
        };
        if line.is_empty() {
            return Err(Illegal::BadLine(String::new()));
        }
        if let Some(twice) = line.iter().enumerate().find(|(index, name)| line[..*index].contains(name)) {
            return Err(Illegal::BadLine(twice.1.clone()));
        }
        let steps: Vec<_> = line.iter().map(|name| StepStanding::ahead(name)).collect();
        let unknown = steps.iter().find(|step| step.step.is_none());
        let foreign = if entry.v > ENTRY_VERSION {
            Some(Foreign::Entry { index: 0 })
        } else if *format > JOURNAL_FORMAT {
            Some(Foreign::Format { found: *format, known: JOURNAL_FORMAT })
        } else if (!job.is_empty() && job != S::NAME) || *line_version > S::VERSION {
            let name = |job: &str, version: u16| format!("{job} {version}");
            Some(Foreign::Line { found: name(job, *line_version), known: name(S::NAME, S::VERSION) })
        } else {
            unknown.map(|step| Foreign::Step(step.name.clone()))
        };
        Ok(Self {
            input: input.clone(),
            terms: terms.as_ref().clone(),
            admitted: false,
            is_time_waived: false,
            steps,
            unwinding: None,
            cancel_asked: false,
            parked: None,
            outcome: None,
            foreign,
            started_ms: entry.at_ms,
            last_ms: entry.at_ms,
        })
    }

    /// Takes the next entry in.
    ///
    /// # Errors
    /// The rule that forbids the entry here; the standing is then unchanged.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), Illegal> {
        self.apply_at(usize::MAX, entry)
    }

    /// Whether the deed is done, so that the job only goes forward.
    pub fn past_no_return(&self) -> bool {
        self.steps.iter().any(|step| step.is_deed() && step.state == StepState::Done)
    }

    /// Whether asking to cancel still has an effect.
    pub fn can_cancel(&self) -> bool {
        self.outcome.is_none() && self.unwinding.is_none() && !self.past_no_return()
    }

    /// What asking to cancel leads to now.
    pub fn ask_to_cancel(&self) -> Answer {
        let already = self.unwinding.is_some() || self.cancel_asked;
        if already && self.outcome.is_none() {
            Answer::Already
        } else if self.can_cancel() {
            Answer::Append(Event::CancelAsked)
        } else {
            Answer::Refuse
        }
    }

    /// What asking to go on leads to now.
    pub fn ask_to_resume(&self) -> Answer {
        if self.can_resume() { Answer::Append(Event::Resumed) } else { Answer::Refuse }
    }

    /// Whether `Resumed` is allowed now: the job is parked, pauses between two attempts, or waits for its time.
    pub fn can_resume(&self) -> bool {
        let waits = self.waits_until_ms().is_some() && self.unwinding.is_none();
        self.outcome.is_none() && (self.parked.is_some() || self.is_pausing() || waits)
    }

    /// Whether the job waits to be let in: for its time, or for its turn in a queue.
    pub fn is_waiting(&self) -> bool {
        self.terms.ask_for_admission() && !self.admitted
    }

    /// The time for which the job waits, in milliseconds since the Unix epoch; none when nothing keeps it but its turn.
    pub fn waits_until_ms(&self) -> Option<u64> {
        self.terms.not_before_ms.filter(|_| self.is_waiting() && !self.is_time_waived)
    }

    /// Since when the job is due, in milliseconds since the Unix epoch: what orders a queue.
    pub fn due_ms(&self) -> u64 {
        self.terms.due_ms(self.started_ms)
    }

    /// By when the job must be past its deed, in milliseconds since the Unix epoch, while that still matters.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.terms.deadline_ms(self.started_ms).filter(|_| self.can_cancel())
    }

    /// The step behind which the job cannot be undone, if its line has one.
    pub(crate) fn deed(&self) -> Option<&StepStanding<S>> {
        self.steps.iter().find(|step| step.is_deed())
    }

    /// What the step found out, if it is done.
    pub fn memo(&self, step: S) -> Option<&Value> {
        self.steps.iter().find(|standing| standing.step == Some(step)).and_then(|found| found.memo.as_ref())
    }

    /// The step whose turn it is while the job goes forward: the first that is not done.
    pub(crate) fn turn(&self) -> Option<usize> {
        self.steps.iter().position(|step| step.state != StepState::Done)
    }

    /// The step to be undone next while the job unwinds: the last that was begun and has an undo.
    pub(crate) fn undo_turn(&self) -> Option<usize> {
        self.steps.iter().rposition(StepStanding::owes_undo)
    }

    fn is_pausing(&self) -> bool {
        self.steps.iter().any(|step| match step.state {
            StepState::Failed { .. } => self.unwinding.is_none(),
            StepState::UndoFailed { .. } => true,
            StepState::Ahead
            | StepState::Running
            | StepState::Done
            | StepState::Undoing
            | StepState::Undone => false,
        })
    }

    fn apply_at(&mut self, index: usize, entry: &Entry) -> Result<(), Illegal> {
        if self.outcome.is_some() {
            return Err(Illegal::Over);
        }
        let at_ms = entry.at_ms;
        if entry.v > ENTRY_VERSION || entry.event == Event::Unknown {
            self.foreign.get_or_insert(Foreign::Entry { index });
        } else if self.foreign.is_some() {
            self.apply_unjudged(&entry.event);
        } else {
            self.apply_judged(at_ms, &entry.event)?;
        }
        self.last_ms = at_ms;
        Ok(())
    }

    /// With something unknown in the journal the order of steps cannot be judged: such a job is only parked,
    /// shown, and kept.
    fn apply_unjudged(&mut self, event: &Event) {
        match event {
            Event::Parked { reason } => self.parked = Some(reason.clone()),
            Event::Resumed => self.parked = None,
            Event::CancelAsked => self.cancel_asked = true,
            Event::Finished { outcome } => self.outcome = Some(outcome.clone()),
            Event::Done { step, memo } => {
                if let Some(found) = self.steps.iter_mut().find(|found| found.name == *step) {
                    (found.state, found.memo) = (StepState::Done, Some(memo.clone()));
                }
            }
            Event::Started { .. }
            | Event::Admitted
            | Event::Begun { .. }
            | Event::Failed { .. }
            | Event::UnwindBegun { .. }
            | Event::UndoBegun { .. }
            | Event::Undone { .. }
            | Event::UndoFailed { .. }
            | Event::Unknown => {}
        }
    }

    fn apply_judged(&mut self, at_ms: u64, event: &Event) -> Result<(), Illegal> {
        match event {
            Event::Started { .. } => return Err(Illegal::NotStartedOnce),
            Event::Admitted => self.admit()?,
            Event::Begun { step, attempt } => self.begin(step, *attempt, at_ms)?,
            Event::Done { step, memo } => self.finish_step(step, memo, at_ms)?,
            Event::Failed { step, attempt, error } => self.fail_step(step, *attempt, error, at_ms)?,
            Event::UnwindBegun { reason } => self.begin_unwinding(reason)?,
            Event::UndoBegun { step, attempt } => self.begin_undo(step, *attempt, at_ms)?,
            Event::Undone { step } => {
                let found = self.undoing(step)?;
                (found.state, found.finished_ms) = (StepState::Undone, Some(at_ms));
            }
            Event::UndoFailed { step, attempt, error } => {
                let found = self.undoing(step)?;
                found.expect_attempt(found.undo_failures, *attempt)?;
                found.state = StepState::UndoFailed { at_ms };
                found.undo_failures = found.undo_failures.saturating_add(1);
                found.undo_failures_since_resume = found.undo_failures_since_resume.saturating_add(1);
                found.error = Some(error.clone());
            }
            Event::CancelAsked => self.cancel_asked = true,
            Event::Parked { reason } if self.parked.is_none() => self.parked = Some(reason.clone()),
            Event::Parked { .. } => return Err(Illegal::IsParked),
            Event::Resumed => self.resume()?,
            Event::Finished { outcome } => self.finish(outcome)?,
            Event::Unknown => {}
        }
        Ok(())
    }

    fn admit(&mut self) -> Result<(), Illegal> {
        if self.parked.is_some() {
            return Err(Illegal::IsParked);
        }
        if self.cancel_asked {
            return Err(Illegal::Cancelled);
        }
        if self.unwinding.is_some() {
            return Err(Illegal::Unwinding);
        }
        if !self.is_waiting() {
            return Err(Illegal::NotWaiting);
        }
        self.admitted = true;
        Ok(())
    }

    fn begin(&mut self, name: &str, attempt: u32, at_ms: u64) -> Result<(), Illegal> {
        if self.cancel_asked && !self.past_no_return() {
            return Err(Illegal::Cancelled);
        }
        let found = self.in_turn(name)?;
        if found.is_deed() {
            return Err(Illegal::DeedHasNoBody);
        }
        found.expect_attempt(found.failures, attempt)?;
        if found.state != StepState::Running {
            found.begun_ms = Some(at_ms);
        }
        found.state = StepState::Running;
        found.started_ms.get_or_insert(at_ms);
        Ok(())
    }

    fn finish_step(&mut self, name: &str, memo: &Value, at_ms: u64) -> Result<(), Illegal> {
        let cancelled = self.cancel_asked;
        let found = self.in_turn(name)?;
        if found.is_deed() {
            if cancelled {
                return Err(Illegal::Cancelled);
            }
            found.started_ms.get_or_insert(at_ms);
            found.begun_ms = Some(at_ms);
        } else if found.state != StepState::Running {
            return Err(Illegal::NotBegun);
        }
        found.state = StepState::Done;
        found.finished_ms = Some(at_ms);
        found.memo = Some(memo.clone());
        Ok(())
    }

    fn fail_step(&mut self, name: &str, attempt: u32, error: &StepError, at_ms: u64) -> Result<(), Illegal> {
        let found = self.in_turn(name)?;
        if !found.is_deed() && found.state != StepState::Running {
            return Err(Illegal::NotBegun);
        }
        found.expect_attempt(found.failures, attempt)?;
        found.state = StepState::Failed { at_ms };
        found.failures = found.failures.saturating_add(1);
        found.failures_since_resume = found.failures_since_resume.saturating_add(1);
        found.error = Some(error.clone());
        Ok(())
    }

    fn begin_unwinding(&mut self, reason: &UnwindReason) -> Result<(), Illegal> {
        if self.unwinding.is_some() {
            return Err(Illegal::Unwinding);
        }
        if self.past_no_return() {
            return Err(Illegal::PastNoReturn);
        }
        if self.turn().is_none() {
            return Err(Illegal::NothingLeft);
        }
        self.unwinding = Some(reason.clone());
        self.parked = None;
        Ok(())
    }

    fn begin_undo(&mut self, name: &str, attempt: u32, at_ms: u64) -> Result<(), Illegal> {
        let found = self.in_undo_turn(name)?;
        found.expect_attempt(found.undo_failures, attempt)?;
        if found.state != StepState::Undoing {
            found.begun_ms = Some(at_ms);
        }
        found.state = StepState::Undoing;
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Illegal> {
        if !self.can_resume() {
            return Err(Illegal::NotParked);
        }
        self.is_time_waived |= self.parked.is_none() && self.is_waiting();
        self.parked = None;
        for step in &mut self.steps {
            (step.failures_since_resume, step.undo_failures_since_resume) = (0, 0);
        }
        Ok(())
    }

    fn finish(&mut self, outcome: &Outcome) -> Result<(), Illegal> {
        if self.parked.is_some() {
            return Err(Illegal::IsParked);
        }
        let expected = match &self.unwinding {
            Some(reason) if self.undo_turn().is_none() => reason.outcome(),
            None if self.turn().is_none() => Outcome::Succeeded,
            Some(_) | None => return Err(Illegal::WrongOutcome),
        };
        if *outcome != expected {
            return Err(Illegal::WrongOutcome);
        }
        self.outcome = Some(expected);
        Ok(())
    }

    /// The step of that name, if the job goes forward and its turn has come.
    fn in_turn(&mut self, name: &str) -> Result<&mut StepStanding<S>, Illegal> {
        if self.unwinding.is_some() {
            return Err(Illegal::Unwinding);
        }
        if self.is_waiting() {
            return Err(Illegal::NotAdmitted);
        }
        let turn = self.turn().ok_or(Illegal::NothingLeft);
        self.claim(name, turn)
    }

    /// The step of that name, if the job unwinds and it is the last one still to be undone.
    fn in_undo_turn(&mut self, name: &str) -> Result<&mut StepStanding<S>, Illegal> {
        if self.unwinding.is_none() {
            return Err(Illegal::NotUnwinding);
        }
        let turn = self.undo_turn().ok_or(Illegal::NothingLeft);
        self.claim(name, turn)
    }

    fn undoing(&mut self, name: &str) -> Result<&mut StepStanding<S>, Illegal> {
        let found = self.in_undo_turn(name)?;
        if found.state == StepState::Undoing { Ok(found) } else { Err(Illegal::NotBegun) }
    }

    fn claim(&mut self, name: &str, turn: Result<usize, Illegal>) -> Result<&mut StepStanding<S>, Illegal> {
        if self.parked.is_some() {
            return Err(Illegal::IsParked);
        }
        if !self.steps.iter().any(|step| step.name == name) {
            return Err(Illegal::NotInLine(name.to_owned()));
        }
        let found = &mut self.steps[turn?];
        if found.name == name { Ok(found) } else { Err(Illegal::NotItsTurn(found.name.clone())) }
    }
}

impl<S: Step> StepStanding<S> {
    fn ahead(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            step: S::parse(name),
            state: StepState::Ahead,
            failures: 0,
            failures_since_resume: 0,
            undo_failures: 0,
            undo_failures_since_resume: 0,
            started_ms: None,
            begun_ms: None,
            finished_ms: None,
            error: None,
            memo: None,
        }
    }

    /// Whether the last failure can be mended by trying again.
    pub(crate) fn may_retry(&self) -> bool {
        self.error.as_ref().is_none_or(|error| error.class == FailureClass::Retry)
    }

    fn is_deed(&self) -> bool {
        self.step.is_some_and(|step| step.policy().body == Body::Deed)
    }

    fn owes_undo(&self) -> bool {
        let begun = !matches!(self.state, StepState::Ahead | StepState::Undone);
        begun && self.step.is_some_and(|step| step.policy().undo == Undo::Needed)
    }

    fn expect_attempt(&self, failures: u32, found: u32) -> Result<(), Illegal> {
        let expected = failures.saturating_add(1);
        if found == expected { Ok(()) } else { Err(Illegal::WrongAttempt { expected, found }) }
    }
}
