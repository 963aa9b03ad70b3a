//! Hooks: commands of a machine that a move runs inside it, so that what runs there is not surprised.

use crate::{HealthCheck, Probe};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How long a hook may take when nothing else is asked for, in milliseconds.
const TIMEOUT_MS_DEFAULT: u64 = 10_000;

/// What a machine is told of its moves. Each command is run where the machine is: in its namespaces, as its user. A crash of
/// the agent may have it run twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    /// Once the target is ready, before anything is copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_move: Option<Hook>,
    /// Right before the machine is asked to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiesce: Option<Hook>,
    /// When the move was given up, and the machine runs on where it was, whether the hooks before were run or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Hook>,
    /// On the target, from when the machine was started there: again and again until it succeeds or its time is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_move: Option<Hook>,
}

impl Hooks {
    /// The longest time that a hook can be given, in milliseconds.
    pub const TIMEOUT_MS_MAX: u64 = 10 * 60 * 1000;

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The hook of that name, if the machine has it.
    #[must_use]
    pub fn get(&self, name: HookName) -> Option<&Hook> {
        match name {
            HookName::BeforeMove => self.before_move.as_ref(),
            HookName::Quiesce => self.quiesce.as_ref(),
            HookName::Resume => self.resume.as_ref(),
            HookName::AfterMove => self.after_move.as_ref(),
        }
    }

    /// Those that there are.
    pub fn iter(&self) -> impl Iterator<Item = (HookName, &Hook)> {
        HookName::ALL.into_iter().filter_map(|name| Some((name, self.get(name)?)))
    }
}

/// Which hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookName {
    /// [`Hooks::before_move`].
    BeforeMove,
    /// [`Hooks::quiesce`].
    Quiesce,
    /// [`Hooks::resume`].
    Resume,
    /// [`Hooks::after_move`].
    AfterMove,
}

impl HookName {
    /// All of them, in the order of a move.
    pub const ALL: [Self; 4] = [Self::BeforeMove, Self::Quiesce, Self::Resume, Self::AfterMove];

    /// Whether a move can still be given up when it is run, so that its failure may ask for that.
    #[must_use]
    pub fn may_abort(self) -> bool {
        match self {
            Self::BeforeMove | Self::Quiesce => true,
            Self::Resume | Self::AfterMove => false,
        }
    }

    /// Its name in files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BeforeMove => "before_move",
            Self::Quiesce => "quiesce",
            Self::Resume => "resume",
            Self::AfterMove => "after_move",
        }
    }
}

impl fmt::Display for HookName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A command that is run inside a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// The program and its arguments. It has succeeded if it exits with 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Instead of a command: its guest agent holds what is written to its file systems until all of it is on its disks, and
    /// these are flushed. Only of [`HookName::Quiesce`], and of VMs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub freeze: bool,
    /// How long it may take before it is killed, in milliseconds; at most [`Hooks::TIMEOUT_MS_MAX`].
    #[serde(default = "timeout_ms_default")]
    pub timeout_ms: u64,
    /// What becomes of the move if it does not succeed.
    #[serde(default)]
    pub on_failure: OnHookFailure,
}

fn timeout_ms_default() -> u64 {
    TIMEOUT_MS_DEFAULT
}

impl Hook {
    /// A command with everything else by default.
    #[must_use]
    pub fn new(command: Vec<String>) -> Self {
        Self { command, freeze: false, timeout_ms: TIMEOUT_MS_DEFAULT, on_failure: OnHookFailure::default() }
    }

    /// One that freezes file systems, with everything else by default.
    #[must_use]
    pub fn freeze() -> Self {
        Self { freeze: true, ..Self::new(Vec::new()) }
    }

    /// Whether it can be the hook of that name.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, name: HookName) -> Result<(), &'static str> {
        if self.freeze {
            match (name, self.command.is_empty()) {
                (HookName::Quiesce, true) => {}
                (HookName::Quiesce, false) => {
                    return Err("it is a command or freeze, not both; leave one out");
                }
                (_, _) => return Err("only quiesce can freeze; leave freeze out"),
            }
        } else if self.command.is_empty() {
            return Err("command is empty; write the program and its arguments");
        }
        if !(1..=Hooks::TIMEOUT_MS_MAX).contains(&self.timeout_ms) {
            return Err("timeout is at least 1ms and at most 10m");
        }
        if self.on_failure == OnHookFailure::Abort && !name.may_abort() {
            return Err("no move can be given up any more when it runs; leave on_failure out");
        }
        Ok(())
    }

    /// The same as a try whether the machine is well: it is made in the same place and way.
    #[must_use]
    pub fn as_try(&self) -> HealthCheck {
        HealthCheck { timeout_ms: self.limit_ms(), ..Probe::Command(self.command.clone()).into() }
    }

    /// How long it may take, in milliseconds, whatever was asked for.
    #[must_use]
    pub fn limit_ms(&self) -> u64 {
        self.timeout_ms.min(Hooks::TIMEOUT_MS_MAX)
    }
}

/// What becomes of a move whose hook does not succeed in its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnHookFailure {
    /// It goes on.
    #[default]
    GoOn,
    /// It is given up, and the machine runs on where it is. Only of hooks for which [`HookName::may_abort`].
    Abort,
}

/// What came of a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRun {
    /// Which.
    pub hook: HookName,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Why it did not succeed; none: it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl fmt::Display for HookRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.failure {
            None => write!(f, "{} in {} ms", self.hook, self.took_ms),
            Some(why) => write!(f, "{} failed after {} ms: {why}", self.hook, self.took_ms),
        }
    }
}

/// What a machine is told with a hook, in its environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Which hook.
    pub hook: HookName,
    /// The move.
    pub job: crate::JobId,
    /// The worker that the machine leaves.
    pub from: crate::WorkerName,
    /// The worker that it goes to.
    pub to: crate::WorkerName,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_says_only_what_differs_from_the_default() {
        let hooks: Hooks = serde_json::from_str(
            r#"{"quiesce": {"command": ["sync"]}, "before_move": {"command": ["x"], "on_failure": "abort"}}"#,
        )
        .unwrap();
        assert_eq!(hooks.quiesce, Some(Hook::new(vec!["sync".to_owned()])));
        let names: Vec<_> = hooks.iter().map(|(name, hook)| (name, hook.on_failure)).collect();
        let expected =
            [(HookName::BeforeMove, OnHookFailure::Abort), (HookName::Quiesce, OnHookFailure::GoOn)];
        assert_eq!(names, expected);
        let endless = Hook { timeout_ms: u64::MAX, ..Hook::new(Vec::new()) };
        assert_eq!(endless.limit_ms(), Hooks::TIMEOUT_MS_MAX);
    }

    #[test]
    fn what_cannot_be_a_hook_is_refused() {
        let hook = Hook::new(vec!["sync".to_owned()]);
        assert_eq!(hook.check(HookName::AfterMove), Ok(()));
        let asking = Hook { on_failure: OnHookFailure::Abort, ..hook.clone() };
        assert_eq!(HookName::ALL.map(|name| asking.check(name).is_ok()), [true, true, false, false]);
        let empty = Hook::new(Vec::new());
        assert_eq!(HookName::ALL.map(|name| Hook::freeze().check(name).is_ok()), [false, true, false, false]);
        assert!(Hook { freeze: true, ..hook.clone() }.check(HookName::Quiesce).is_err());
        let endless = Hook { timeout_ms: Hooks::TIMEOUT_MS_MAX + 1, ..hook.clone() };
        let hasty = Hook { timeout_ms: 0, ..hook };
        for hook in [empty, endless, hasty] {
            assert!(hook.check(HookName::Quiesce).is_err(), "{hook:?}");
        }
    }
}
