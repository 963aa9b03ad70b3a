//! A job's line: its steps as an enum, and what is to happen when one fails, as data.
//!
//! Invariant (`check_line`): at most one deed; nothing at or behind it may be undone or unwind the job.

use std::fmt::Debug;

/// The steps of one kind of job. Implemented by an enum, so that a step has exactly one name and a name that
/// is not among them cannot be run.
pub trait Step: Copy + Eq + Debug + Send + Sync + 'static {
    /// The name under which the line stands in journals. Never changes once released.
    const NAME: &'static str;

    /// Rises when the meaning of a step or of its memo changes so that earlier versions must not go on with it. Jobs of
    /// earlier lines go on; those of later ones park.
    const VERSION: u16;

    /// All steps in the order in which they are done.
    const LINE: &'static [Self];

    /// The name under which the step stands in journals. Never changes once released.
    fn name(self) -> &'static str;

    /// What happens when the step fails, and how it is undone.
    fn policy(self) -> Policy;

    /// The step of that name, if this version knows it.
    fn parse(name: &str) -> Option<Self> {
        Self::LINE.iter().copied().find(|step| step.name() == name)
    }
}

/// How one step behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether the step does work or is a journal entry only.
    pub body: Body,
    /// What a failure leads to.
    pub failure: OnFailure,
    /// Whether unwinding has something to undo.
    pub undo: Undo,
    /// The pause between attempts, of the step and of its undo.
    pub backoff: Backoff,
}

/// What a step consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Idempotent work: begun, then done or failed; repeated after a crash.
    Work,
    /// No work: the `Done` entry itself is the act, the point of no return.
    Deed,
}

/// What a failure that is worth retrying leads to. A fatal failure skips the attempts that are left: it unwinds
/// the job before the deed and parks it behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Try again until it works.
    RetryForever,
    /// Try this many times in all, then undo everything in reverse. Only before the deed.
    Unwind {
        /// Attempts in all, at least 1.
        attempts: u32,
    },
    /// Try this many times in all, then wait for a person.
    Park {
        /// Attempts in all, at least 1.
        attempts: u32,
    },
}

/// Whether a step that was begun needs undoing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// The step leaves nothing behind.
    Nothing,
    /// The step must be undone; an undo that fails is retried for ever.
    Needed,
}

/// Pauses between attempts: doubling from `first_ms` up to `cap_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure, in milliseconds.
    pub first_ms: u64,
    /// The longest pause, in milliseconds.
    pub cap_ms: u64,
}

impl Backoff {
    /// The pause after `failures` failures in a row, in milliseconds. No failure, no pause.
    pub fn delay_ms(self, failures: u32) -> u64 {
        let Some(doublings) = failures.checked_sub(1) else { return 0 };
        let factor = 1u64.checked_shl(doublings).unwrap_or(u64::MAX);
        self.first_ms.saturating_mul(factor).min(self.cap_ms)
    }
}

/// Why a line of steps cannot be a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// A job without steps.
    #[error("the line has no steps")]
    Empty,
    /// Two steps share a name, so a journal could not tell them apart.
    #[error("the name {0} stands for two steps")]
    NameTwice(&'static str),
    /// More than one point of no return.
    #[error("{0} is a second deed; a line has at most one point of no return")]
    SecondDeed(&'static str),
    /// Undo at or behind the point of no return.
    #[error("{0} stands at or behind the deed and cannot have an undo")]
    UndoBehindDeed(&'static str),
    /// Unwinding from behind the point of no return.
    #[error("{0} stands behind the deed and cannot unwind the job")]
    UnwindBehindDeed(&'static str),
    /// A policy with no attempt at all.
    #[error("{0} is given no attempt")]
    NoAttempt(&'static str),
}

/// Checks that the line keeps this crate's rules. For the tests of every job.
///
/// # Errors
/// The first rule that is broken.
pub fn check_line<S: Step>() -> Result<(), LineError> {
    if S::LINE.is_empty() {
        return Err(LineError::Empty);
    }
    let mut past_deed = false;
    for (index, step) in S::LINE.iter().copied().enumerate() {
        let (name, policy) = (step.name(), step.policy());
        if S::LINE[..index].iter().any(|other| other.name() == name) {
            return Err(LineError::NameTwice(name));
        }
        let is_deed = policy.body == Body::Deed;
        if is_deed && past_deed {
            return Err(LineError::SecondDeed(name));
        }
        if (is_deed || past_deed) && policy.undo == Undo::Needed {
            return Err(LineError::UndoBehindDeed(name));
        }
        match policy.failure {
            OnFailure::RetryForever => {}
            OnFailure::Unwind { attempts } | OnFailure::Park { attempts } if attempts == 0 => {
                return Err(LineError::NoAttempt(name));
            }
            OnFailure::Unwind { .. } if past_deed => return Err(LineError::UnwindBehindDeed(name)),
            OnFailure::Unwind { .. } | OnFailure::Park { .. } => {}
        }
        past_deed |= is_deed;
    }
    Ok(())
}
