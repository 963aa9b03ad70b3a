//! What stands in a journal: one entry for each thing that was decided or that happened.
//!
//! Invariant: entries are only ever appended. Steps are named by text here, so that a journal written by
//! another version can be read, shown and parked; everything else of this crate deals in the job's enum.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::terms::Terms;

/// The version this crate writes. Entries of a higher version are kept, and park the job.
pub const ENTRY_VERSION: u16 = 1;

/// The version of the journal's form as a whole that this crate writes. Journals of an earlier one go on; those of a
/// later one are kept, and park the job.
pub const JOURNAL_FORMAT: u16 = 2;

/// The form of journals that do not say theirs.
fn first_format() -> u16 {
    1
}

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The version of the entry's form.
    pub v: u16,
    /// When it was appended, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What it says.
    #[serde(flatten)]
    pub event: Event,
}

impl Entry {
    /// An entry of this version.
    pub fn new(at_ms: u64, event: Event) -> Self {
        Self { v: ENTRY_VERSION, at_ms, event }
    }
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Event {
    /// The job exists. Always the first entry, and only that.
    Started {
        /// The form of the journal, see [`JOURNAL_FORMAT`].
        #[serde(default = "first_format")]
        format: u16,
        /// The name of the line, like `move`; empty in the first form.
        #[serde(default)]
        job: String,
        /// The version of that line; 0 in the first form.
        #[serde(default)]
        line_version: u16,
        /// The names of the steps, in order. The job keeps this line, whatever later versions do.
        line: Vec<String>,
        /// What was asked for.
        input: Value,
        /// When it begins and by when it must be across.
        #[serde(default)]
        terms: Box<Terms>,
    },
    /// The job's time has come, and its turn: it begins. Only for jobs whose terms ask for it, and once.
    Admitted,
    /// The step is about to be done. Repeated with the same attempt after a crash.
    Begun {
        /// The step.
        step: String,
        /// Counts from 1 and rises with each failure.
        attempt: u32,
    },
    /// The step is done. For a deed, this entry is the act.
    Done {
        /// The step.
        step: String,
        /// What the step found out and later steps build on.
        memo: Value,
    },
    /// The step failed.
    Failed {
        /// The step.
        step: String,
        /// The attempt that failed.
        attempt: u32,
        /// What went wrong.
        error: StepError,
    },
    /// From here on everything that was begun is undone, in reverse.
    UnwindBegun {
        /// What led to it.
        reason: UnwindReason,
    },
    /// The step is about to be undone. Repeated with the same attempt after a crash.
    UndoBegun {
        /// The step.
        step: String,
        /// Counts from 1 and rises with each failed undo.
        attempt: u32,
    },
    /// The step is undone.
    Undone {
        /// The step.
        step: String,
    },
    /// Undoing failed; it will be tried again.
    UndoFailed {
        /// The step.
        step: String,
        /// The attempt that failed.
        attempt: u32,
        /// What went wrong.
        error: StepError,
    },
    /// A person asked to cancel. Has no effect behind the deed.
    CancelAsked,
    /// Nothing happens until a person resumes.
    Parked {
        /// Why, in one sentence.
        reason: String,
    },
    /// A person told the job to go on: it is no longer parked, and the step has all its attempts again.
    Resumed,
    /// The job is over. Always the last entry.
    Finished {
        /// How it ended.
        outcome: Outcome,
    },
    /// An entry this version does not know. Never written, only read.
    #[serde(other)]
    Unknown,
}

impl Event {
    /// The kind of the entry as it stands in the journal.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Admitted => "admitted",
            Self::Begun { .. } => "begun",
            Self::Done { .. } => "done",
            Self::Failed { .. } => "failed",
            Self::UnwindBegun { .. } => "unwind_begun",
            Self::UndoBegun { .. } => "undo_begun",
            Self::Undone { .. } => "undone",
            Self::UndoFailed { .. } => "undo_failed",
            Self::CancelAsked => "cancel_asked",
            Self::Parked { .. } => "parked",
            Self::Resumed => "resumed",
            Self::Finished { .. } => "finished",
            Self::Unknown => "unknown",
        }
    }

    /// The step the entry is about, if it is about one.
    pub fn step(&self) -> Option<&str> {
        match self {
            Self::Begun { step, .. }
            | Self::Done { step, .. }
            | Self::Failed { step, .. }
            | Self::UndoBegun { step, .. }
            | Self::Undone { step }
            | Self::UndoFailed { step, .. } => Some(step),
            Self::Started { .. }
            | Self::Admitted
            | Self::UnwindBegun { .. }
            | Self::CancelAsked
            | Self::Parked { .. }
            | Self::Resumed
            | Self::Finished { .. }
            | Self::Unknown => None,
        }
    }
}

/// Why a step failed. The one place where an error becomes text, because it must outlive the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    /// Whether trying again can help.
    pub class: FailureClass,
    /// What was wrong and what to do, in one sentence.
    pub message: String,
}

impl StepError {
    /// A failure that may be gone at the next attempt.
    pub fn retry(message: impl Into<String>) -> Self {
        Self { class: FailureClass::Retry, message: message.into() }
    }

    /// A failure that no further attempt can mend.
    pub fn fatal(message: impl Into<String>) -> Self {
        Self { class: FailureClass::Fatal, message: message.into() }
    }
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The next attempt may succeed.
    Retry,
    /// It will not.
    Fatal,
}

/// What led to unwinding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum UnwindReason {
    /// A step failed and its attempts are used up.
    Failed {
        /// The step.
        step: String,
        /// Its last failure.
        message: String,
    },
    /// A person asked for it.
    Cancelled,
}

impl UnwindReason {
    /// How a job ends that has unwound for this reason.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Failed { step, message } => {
                Outcome::Failed { step: step.clone(), message: message.clone() }
            }
            Self::Cancelled => Outcome::Cancelled,
        }
    }
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum Outcome {
    /// Every step is done.
    Succeeded,
    /// A step failed, and everything begun is undone.
    Failed {
        /// The step.
        step: String,
        /// Its last failure.
        message: String,
    },
    /// It was cancelled, and everything begun is undone.
    Cancelled,
}
