//! What an entry of a journal adds to the figures about all jobs of a line: how often each step was done and how long it
//! took, what failed and was undone, how jobs ended.
//!
//! Invariant: a count follows from an entry and from where the job stood, and from nothing else. So whoever adds it up in
//! the transaction of the entry counts everything once, whatever dies in between.

use crate::entry::{Event, Outcome};
use crate::standing::Standing;
use crate::step::Step;

/// The upper bounds of the classes into which durations fall, in milliseconds; what took longer falls behind the last.
pub const DURATION_BOUNDS_MS: [u64; 16] =
    [1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 60_000, 600_000, 3_600_000, 21_600_000];

/// Something to be added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The name of the line.
    pub line: &'static str,
    /// The step, if it is about one.
    pub step: Option<String>,
    /// What happened.
    pub what: Counted,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// A job was taken on.
    Started,
    /// A job waits for a person.
    Parked,
    /// A job did what it was asked.
    Succeeded,
    /// A job failed.
    Failed,
    /// A job was cancelled.
    Cancelled,
    /// A step was done.
    Done {
        /// How long its last attempt took, in milliseconds; for a deed, which has no body, nothing. An attempt goes on while
        /// nobody runs the job, and may look longer or shorter when the clock is set.
        took_ms: u64,
    },
    /// An attempt at a step failed.
    StepFailed,
    /// A step was undone.
    Undone,
    /// An attempt at undoing a step failed.
    UndoFailed,
}

impl<S: Step> Standing<S> {
    /// What the entry that was applied last, of `at_ms`, adds.
    pub fn counted(&self, at_ms: u64, event: &Event) -> Option<Count> {
        let what = match event {
            Event::Started { .. } => Counted::Started,
            Event::Parked { .. } => Counted::Parked,
            Event::Finished { outcome: Outcome::Succeeded } => Counted::Succeeded,
            Event::Finished { outcome: Outcome::Failed { .. } } => Counted::Failed,
            Event::Finished { outcome: Outcome::Cancelled } => Counted::Cancelled,
            Event::Done { step, .. } => Counted::Done { took_ms: self.took_ms(step, at_ms) },
            Event::Failed { .. } => Counted::StepFailed,
            Event::Undone { .. } => Counted::Undone,
            Event::UndoFailed { .. } => Counted::UndoFailed,
            Event::Admitted
            | Event::Begun { .. }
            | Event::UnwindBegun { .. }
            | Event::UndoBegun { .. }
            | Event::CancelAsked
            | Event::Resumed
            | Event::Unknown => return None,
        };
        Some(Count { line: S::NAME, step: event.step().map(str::to_owned), what })
    }

    fn took_ms(&self, step: &str, at_ms: u64) -> u64 {
        let begun_ms = self.steps.iter().find(|found| found.name == step).and_then(|found| found.begun_ms);
        at_ms.saturating_sub(begun_ms.unwrap_or(at_ms))
    }
}
