//! Under which terms a job is taken on: when it begins, whose turn it awaits, by when it must be across.
//!
//! Invariant: terms stand in the opening entry and never change. They decide only when a job begins and whether it
//! gives up before its deed; a clock that jumps makes that earlier or later, and never anything else.

use serde::{Deserialize, Serialize};

/// What a job waits for before its first step, and how long it may take.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// It does not begin before that time, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before_ms: Option<u64>,
    /// The queue in which it waits for its turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// How long it may take from when it is due until its deed is done, or until its end if it has none, in
    /// milliseconds. What it has not done by then it undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_ms: Option<u64>,
    /// The id of the job whose child it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

impl Terms {
    /// Whether a job must be let in (`admitted`) before its first step.
    pub fn ask_for_admission(&self) -> bool {
        self.not_before_ms.is_some() || self.queue.is_some()
    }

    /// When a job that was started at `started_ms` is due, in milliseconds since the Unix epoch.
    pub fn due_ms(&self, started_ms: u64) -> u64 {
        self.not_before_ms.map_or(started_ms, |not_before_ms| not_before_ms.max(started_ms))
    }

    /// By when a job that was started at `started_ms` must be past its deed, in milliseconds since the Unix epoch.
    pub fn deadline_ms(&self, started_ms: u64) -> Option<u64> {
        self.within_ms.map(|within_ms| self.due_ms(started_ms).saturating_add(within_ms))
    }

    /// The allowed time as a person would say it.
    pub(crate) fn within(&self) -> String {
        match self.within_ms.unwrap_or_default() {
            ms if ms % 60_000 == 0 => format!("{} min", ms / 60_000),
            ms if ms % 1_000 == 0 => format!("{} s", ms / 1_000),
            ms => format!("{ms} ms"),
        }
    }
}
