//! Emptying a worker as one job, whose children are moves.
//!
//! ```text
//!   Cordon ─▶ Lead ─▶ Settle
//! ```
//!
//! Invariant: a child is born with its parent's name, in one transaction with its hold on the machine. So a drain that is led on
//! after a crash finds all its children in the records, and never begins a second move of a machine that has one. The drain
//! does nothing to a machine itself.

use ferry_api::{AskDrain, DrainPlan, MachineName, WorkerName};
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

/// So many machines are named in a sentence.
const NAMED_MAX: usize = 4;

/// What a drain had not done when its time was over: machines that are `here` still, and those that were handed over and whose moves
/// go on, with what each waits for, if it says so.
#[must_use]
pub fn not_in_time(here: &[MachineName], follow: &[(MachineName, Option<String>)]) -> String {
    let here: Vec<String> = here.iter().map(ToString::to_string).collect();
    let follow: Vec<String> = follow
        .iter()
        .map(|(name, why)| why.as_ref().map_or_else(|| name.to_string(), |why| format!("{name} ({why})")))
        .collect();
    let parts = [("not handed over by then", here), ("handed over, while disks still follow", follow)];
    let told: Vec<String> =
        parts.iter().filter(|(_, names)| !names.is_empty()).map(|(what, names)| named(what, names)).collect();
    match told.is_empty() {
        true => "something was on its way here, or kept the worker, until then".to_owned(),
        false => told.join("; "),
    }
}

fn named(what: &str, names: &[String]) -> String {
    let more = match names.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{what}: {}{more}", names[..names.len().min(NAMED_MAX)].join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_whose_time_is_over_names_what_is_still_here_and_what_only_follows_and_why() {
        let name = |name: &str| name.parse::<MachineName>().unwrap();
        let slow = || Some("the source of volume data is slow".to_owned());
        assert_eq!(
            not_in_time(&[name("log"), name("spare")], &[(name("db"), slow()), (name("web"), None)]),
            "not handed over by then: log, spare; handed over, while disks still follow: db (the source of volume data is \
             slow), web"
        );
        assert_eq!(not_in_time(&[], &[(name("db"), None)]), "handed over, while disks still follow: db");
        let many: Vec<MachineName> = (0..6).map(|at| name(&format!("m{at}"))).collect();
        assert_eq!(not_in_time(&many, &[]), "not handed over by then: m0, m1, m2, m3 and 2 more");
        assert!(not_in_time(&[], &[]).contains("on its way here"));
    }

    #[test]
    fn the_line_keeps_the_rules_of_all_lines() {
        ferry_fsm::check_line::<DrainStep>().unwrap();
    }
}
