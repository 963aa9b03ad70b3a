//! Moments at which an agent can be told to die, or a step to fail, so that tests reach each of them exactly.
//!
//! `FERRY_CRASH_AT=WHEN:WHAT:WHICH` kills the agent as `kill -9` would, the first time it gets there:
//!
//! ```text
//!   before|after : begun|done|undo_begun|undone|...  : STEP or nothing   an entry of a journal becomes durable
//!   before|after : crossing                          : STATE             a move to this worker becomes it durably
//!   before|after : machine                           : starts            a machine's process becomes durable
//!   before|after : call                              : NAME              a peer's call was heard / is answered next
//! ```
//!
//! `FERRY_FAIL_AT=STEP` makes that step of every job fail for good after it was done.
//!
//! Invariant: only debug builds know any of this; in a release build each function here is empty.

#[cfg(debug_assertions)]
pub(crate) use armed::{call, spoil, write};
#[cfg(not(debug_assertions))]
pub(crate) use unarmed::{call, spoil, write};

/// Which side of a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// It is about to happen.
    Before,
    /// It has happened, and nobody has acted on it yet.
    After,
}

#[cfg(debug_assertions)]
mod armed {
    use super::When;
    use crate::records::Change;
    use ferry_fsm::StepError;
    use serde_json::Value;
    use std::sync::LazyLock;

    static CRASH_AT: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("FERRY_CRASH_AT").ok());
    static FAIL_AT: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("FERRY_FAIL_AT").ok());

    /// Records are written in one transaction: entries of a journal, changes, or both.
    pub(crate) fn write(when: When, entries: &[String], changes: &[Change]) {
        if CRASH_AT.is_none() {
            return;
        }
        for entry in entries.iter().filter_map(|entry| serde_json::from_str::<Value>(entry).ok()) {
            let word = |name| entry.get(name).and_then(Value::as_str).unwrap_or_default();
            reached(when, word("entry"), word("step"));
        }
        for change in changes {
            if let Change::Crossing(crossing) = change {
                let state = serde_json::to_value(crossing.state).unwrap_or_default();
                reached(when, "crossing", state.as_str().unwrap_or_default());
            }
            if let Change::ProcessStarts { .. } = change {
                reached(when, "machine", "starts");
            }
        }
    }

    /// A peer calls.
    pub(crate) fn call(when: When, name: &str) {
        reached(when, "call", name);
    }

    /// How a step ended, unless it is to fail.
    pub(crate) fn spoil(step: &str, ended: Result<Value, StepError>) -> Result<Value, StepError> {
        match FAIL_AT.as_deref() {
            Some(told) if told == step && ended.is_ok() => Err(StepError::fatal("it was told to fail")),
            Some(_) | None => ended,
        }
    }

    fn reached(when: When, what: &str, which: &str) {
        let when = match when {
            When::Before => "before",
            When::After => "after",
        };
        if CRASH_AT.as_deref().is_some_and(|at| at == format!("{when}:{what}:{which}")) {
            // Cannot fail: a process may always kill itself.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            unreachable!("nobody lives on after SIGKILL");
        }
    }
}

#[cfg(not(debug_assertions))]
mod unarmed {
    use super::When;
    use crate::records::Change;
    use ferry_fsm::StepError;
    use serde_json::Value;

    #[inline(always)]
    pub(crate) fn write(_: When, _: &[String], _: &[Change]) {}

    #[inline(always)]
    pub(crate) fn call(_: When, _: &str) {}

    #[inline(always)]
    pub(crate) fn spoil(_: &str, ended: Result<Value, StepError>) -> Result<Value, StepError> {
        ended
    }
}
