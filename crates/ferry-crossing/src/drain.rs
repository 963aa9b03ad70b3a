//! Emptying a worker as one job, whose children are moves.
//!
//! ```text
//!   Cordon ─▶ Lead ─▶ Settle
//! ```
//!
//! Invariant: a child is born with its parent's name, in one transaction with its hold on the machine. So a drain that is led on
//! after a crash finds all its children in the records, and never begins a second move of a machine that has one. The drain
//! does nothing to a machine itself.

use ferry_api::{AskDrain, DrainPlan, WorkerName};
use ferry_fsm::{Backoff, Body, OnFailure, Policy, Step, Undo};
use serde::{Deserialize, Serialize};

/// Pauses between two looks at what still keeps the worker.
const PAUSE: Backoff = Backoff { first_ms: 250, cap_ms: 5_000 };

/// The steps of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainStep {
    /// The worker takes no machines: from the opening entry on, until the job ends. Says how it was before.
    Cordon,
    /// Its machines leave. Undone by cancelling the moves that are not past their hand-over.
    Lead,
    /// Nothing runs there and nothing is owed.
    Settle,
}

impl Step for DrainStep {
    const NAME: &'static str = "drain";
    const VERSION: u16 = 1;
    const LINE: &'static [Self] = &[Self::Cordon, Self::Lead, Self::Settle];

    fn name(self) -> &'static str {
        match self {
            Self::Cordon => "Cordon",
            Self::Lead => "Lead",
            Self::Settle => "Settle",
        }
    }

    fn policy(self) -> Policy {
        let (failure, undo) = match self {
            Self::Cordon | Self::Settle => (OnFailure::RetryForever, Undo::Nothing),
            // What is in the way of a machine a person knows how to mend: nothing is undone for that.
            Self::Lead => (OnFailure::Park { attempts: 1 }, Undo::Needed),
        };
        Policy { body: Body::Work, failure, undo, backoff: PAUSE }
    }
}

/// What is asked of a drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainInput {
    /// The worker that is emptied, on which the job runs.
    pub from: WorkerName,
    /// What was asked for.
    pub ask: AskDrain,
    /// The plan that is carried out as it stands; none: each machine goes to whichever worker fits when its turn comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<DrainPlan>,
    /// How long the copies that stay behind are kept, in milliseconds.
    pub retention_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_keeps_the_rules_of_all_lines() {
        ferry_fsm::check_line::<DrainStep>().unwrap();
    }
}
