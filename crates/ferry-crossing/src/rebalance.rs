//! A worker's part in making workers alike, as one job whose children are moves.
//!
//! ```text
//!   Lead ─▶ Check
//! ```
//!
//! Invariant: a child is born with its parent's name, in one transaction with its hold on the machine, and the plan names each
//! machine once. So one that is led on after a crash finds all its children in the records, and begins none of them again.

use ferry_api::{AskRebalance, RebalancePart};
use ferry_fsm::{Backoff, Body, OnFailure, Policy, Step, Undo};
use serde::{Deserialize, Serialize};

/// Pauses between attempts: only the records can be in the way.
const PAUSE: Backoff = Backoff { first_ms: 250, cap_ms: 10_000 };

/// The steps of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebalanceStep {
    /// Its machines leave. Undone by cancelling the moves that are not past their hand-over.
    Lead,
    /// All of them have left, or the job fails and says which have not. Those that have stay where they are.
    Check,
}

impl Step for RebalanceStep {
    const NAME: &'static str = "rebalance";
    const VERSION: u16 = 1;
    const LINE: &'static [Self] = &[Self::Lead, Self::Check];

    fn name(self) -> &'static str {
        match self {
            Self::Lead => "Lead",
            Self::Check => "Check",
        }
    }

    fn policy(self) -> Policy {
        let undo = match self {
            Self::Lead => Undo::Needed,
            Self::Check => Undo::Nothing,
        };
        Policy { body: Body::Work, failure: OnFailure::RetryForever, undo, backoff: PAUSE }
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalanceInput {
    /// What was asked of the whole plan.
    pub ask: AskRebalance,
    /// The part of it that is carried out as it stands, on the worker that it names.
    pub part: RebalancePart,
    /// How long the copies that stay behind are kept, in milliseconds.
    pub retention_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_keeps_the_rules_of_all_lines() {
        ferry_fsm::check_line::<RebalanceStep>().unwrap();
    }
}
