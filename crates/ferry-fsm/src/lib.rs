//! Jobs that survive crashes: a job is a line of steps, and its journal decides where it stands.
//!
//! ```text
//!   journal ──replay──▶ Standing ──decide──▶ Act ──announce──▶ entry appended ──▶ the shell acts
//!      ▲                                                                              │
//!      └───────────────── Done · Failed · Undone · UndoFailed appended ◀──────────────┘
//! ```
//!
//! ```text
//!   waiting    until its time, then for its turn  ─admitted─▶ forward
//!                ▼ cancel, deadline: nothing to undo
//!   forward    step … step  DEED  step … step  ─▶ Finished(succeeded)
//!                │ failure, cancel,    │
//!                │ deadline            │ failure: retry, or park for a person
//!                ▼                     ▼
//!   unwinding  undo in reverse       Parked ──Resumed──▶ forward
//!                ▼
//!              Finished(failed | cancelled)
//! ```
//!
//! Invariants: nothing happens that the journal did not announce first; no step begins before all steps ahead
//! of it are done; nothing is undone after the deed (the point of no return); undoing goes in reverse order and
//! covers every step that was begun, also one that failed halfway; a step, or an entry, that this version does
//! not know parks the job.
//!
//! This crate is a pure heart: no I/O, no clock, no randomness. Times come in as data, in milliseconds since
//! the Unix epoch.

mod count;
mod decide;
mod entry;
mod queue;
mod refusal;
mod standing;
mod step;
mod terms;

pub use count::{Count, Counted, DURATION_BOUNDS_MS};
pub use decide::{Act, conclude, decide};
pub use entry::{
    ENTRY_VERSION, Entry, Event, FailureClass, JOURNAL_FORMAT, Outcome, StepError, UnwindReason,
};
pub use queue::Queue;
pub use refusal::{Foreign, Illegal, ReplayError};
pub use standing::{Answer, Standing, StepStanding, StepState, replay};
pub use step::{Backoff, Body, LineError, OnFailure, Policy, Step, Undo, check_line};
pub use terms::Terms;
