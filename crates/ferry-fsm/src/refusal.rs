//! Why a journal, or one entry of it, is not accepted: each rule that can be broken has its own sentence.

/// What this version of the program does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    /// A form of journals.
    #[error(
        "the journal has form {found}, this version of ferry knows up to {known}; resume the job with a version that does"
    )]
    Format {
        /// The journal's.
        found: u16,
        /// The last one known here.
        known: u16,
    },
    /// Another kind of job, or a later line of the same.
    #[error(
        "the journal is of line {found}, this version of ferry knows {known}; resume the job with a version that does"
    )]
    Line {
        /// The journal's, with its version.
        found: String,
        /// The one known here.
        known: String,
    },
    /// A step.
    #[error("this version of ferry does not know the step {0}; resume the job with a version that does")]
    Step(String),
    /// An entry of a kind, or of a version, that came later.
    #[error("entry {index} was written by another version of ferry; resume the job with that version")]
    Entry {
        /// Its place in the journal, from 0.
        index: usize,
    },
}

/// Why an entry may not stand where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// A journal begins with `started`, once.
    #[error("a job is started exactly once, at the beginning")]
    NotStartedOnce,
    /// Nothing follows `finished`.
    #[error("the job is over")]
    Over,
    /// A job that waits for its time or its turn begins nothing.
    #[error("the job was not let in yet")]
    NotAdmitted,
    /// A job is let in once, before its first step.
    #[error("the job has begun already, or does not wait to be let in")]
    NotWaiting,
    /// The line has no step of that name.
    #[error("the line has no step {0}")]
    NotInLine(String),
    /// A line that holds a name twice, or nothing.
    #[error("the line is empty or names {0:?} twice")]
    BadLine(String),
    /// A parked job must be resumed first.
    #[error("the job is parked")]
    IsParked,
    /// Only a parked or waiting job can be resumed.
    #[error("the job is neither parked nor waiting for a time")]
    NotParked,
    /// Steps are done in order, and the turn is another step's.
    #[error("it is the turn of {0}")]
    NotItsTurn(String),
    /// No step is left.
    #[error("no step is left to do")]
    NothingLeft,
    /// The attempt's number does not follow from the failures so far.
    #[error("attempt {expected} comes next, not {found}")]
    WrongAttempt {
        /// What the journal's failures give.
        expected: u32,
        /// What the entry says.
        found: u32,
    },
    /// A step ends only if it was begun.
    #[error("the step was not begun")]
    NotBegun,
    /// A deed has no body to begin.
    #[error("a deed is not begun; it is done by its entry")]
    DeedHasNoBody,
    /// Cancelled jobs begin nothing.
    #[error("the job was cancelled before its point of no return")]
    Cancelled,
    /// Nothing is undone after the deed.
    #[error("the job is past its point of no return")]
    PastNoReturn,
    /// The job is unwinding and does no more steps.
    #[error("the job is unwinding")]
    Unwinding,
    /// Undoing needs an announcement first.
    #[error("the job is not unwinding")]
    NotUnwinding,
    /// The outcome does not follow from the journal.
    #[error("the job cannot end like this here")]
    WrongOutcome,
}

/// Why a journal is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// No entry at all.
    #[error("the journal is empty; a job's first entry is started")]
    Empty,
    /// An entry that the rules do not allow.
    #[error("entry {index} ({kind}) of the journal is illegal: {reason}")]
    Illegal {
        /// Its place in the journal, from 0.
        index: usize,
        /// Its kind.
        kind: &'static str,
        /// The rule it breaks.
        #[source]
        reason: Illegal,
    },
}
