//! The tables `[hooks.…]` of a machine's file.

use ferry_api::{Hook, HookName, Hooks, OnHookFailure};
use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::machine_file::{span, span_text};

/// The hooks of a machine as a person writes them down.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HooksInFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before_move: Option<HookInFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quiesce: Option<HookInFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resume: Option<HookInFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after_move: Option<HookInFile>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HookInFile {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    freeze: bool,
    #[serde(default = "timeout_default", deserialize_with = "span", serialize_with = "span_text")]
    timeout: Duration,
    #[serde(default)]
    on_failure: OnHookFailure,
}

fn timeout_default() -> Duration {
    Duration::from_millis(Hook::new(Vec::new()).timeout_ms)
}

impl HooksInFile {
    pub(super) fn is_empty(&self) -> bool {
        let Self { before_move, quiesce, resume, after_move } = self;
        [before_move, quiesce, resume, after_move].into_iter().all(Option::is_none)
    }

    /// The hooks that are meant.
    ///
    /// # Errors
    /// Which of them is none, and why.
    pub(super) fn hooks(self) -> Result<Hooks, (HookName, &'static str)> {
        let meant = |name: HookName, hook: Option<HookInFile>| {
            hook.map(|hook| hook.meant(name)).transpose().map_err(|why| (name, why))
        };
        Ok(Hooks {
            before_move: meant(HookName::BeforeMove, self.before_move)?,
            quiesce: meant(HookName::Quiesce, self.quiesce)?,
            resume: meant(HookName::Resume, self.resume)?,
            after_move: meant(HookName::AfterMove, self.after_move)?,
        })
    }
}

impl HookInFile {
    fn meant(self, name: HookName) -> Result<Hook, &'static str> {
        let Self { command, freeze, timeout, on_failure } = self;
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let hook = Hook { command, freeze, timeout_ms, on_failure };
        hook.check(name).map(|()| hook)
    }
}

impl From<Hooks> for HooksInFile {
    fn from(hooks: Hooks) -> Self {
        let written = |hook: Option<Hook>| {
            hook.map(|Hook { command, freeze, timeout_ms, on_failure }| HookInFile {
                command,
                freeze,
                timeout: Duration::from_millis(timeout_ms),
                on_failure,
            })
        };
        Self {
            before_move: written(hooks.before_move),
            quiesce: written(hooks.quiesce),
            resume: written(hooks.resume),
            after_move: written(hooks.after_move),
        }
    }
}
